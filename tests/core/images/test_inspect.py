from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from airflow_provider_aisa.core.images.inspect import ImageInfo, inspect
from airflow_provider_aisa.core.layout import SUFFIXES
from airflow_provider_aisa.exceptions import ImageUnusable


def encode(kind: str, *, mode: str = "RGB", size: tuple[int, int] = (123, 45), **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture = Image.effect_noise(size, 60).convert(mode)
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def orientation(value: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif.tobytes()


FILES = {
    "png": (encode("PNG"), "image/png"),
    "png-palette": (encode("PNG", mode="P"), "image/png"),
    "png-alpha": (encode("PNG", mode="RGBA"), "image/png"),
    "png-16bit": (encode("PNG", mode="I;16"), "image/png"),
    "jpeg": (encode("JPEG"), "image/jpeg"),
    "jpeg-progressive": (encode("JPEG", progressive=True), "image/jpeg"),
    "jpeg-cmyk": (encode("JPEG", mode="CMYK"), "image/jpeg"),
    "jpeg-grey": (encode("JPEG", mode="L"), "image/jpeg"),
    "jpeg-rotated": (encode("JPEG", exif=orientation(6)), "image/jpeg"),
    "jpeg-comment": (encode("JPEG", comment=b"c" * 60_000), "image/jpeg"),
    "webp-vp8": (encode("WEBP", quality=50), "image/webp"),
    "webp-vp8l": (encode("WEBP", lossless=True), "image/webp"),
    "webp-vp8x": (encode("WEBP", mode="RGBA", exif=orientation(1)), "image/webp"),
}
CONTENTS = {name: content for name, (content, _) in FILES.items()}


def refusal(content: bytes) -> str:
    with pytest.raises(ImageUnusable) as caught:
        inspect(io.BytesIO(content))
    assert caught.value.retryable
    return str(caught.value)


def test_the_webp_files_are_of_the_three_kinds_that_exist() -> None:
    kinds = {name: content[12:16] for name, content in CONTENTS.items() if name.startswith("webp")}
    assert kinds == {"webp-vp8": b"VP8 ", "webp-vp8l": b"VP8L", "webp-vp8x": b"VP8X"}


@pytest.mark.parametrize("name", FILES)
def test_a_complete_image_is_known_by_its_bytes(name: str) -> None:
    """Size as stored: a rotation that EXIF asks for is the viewer's business."""
    content, content_type = FILES[name]
    assert inspect(io.BytesIO(content)) == ImageInfo(content_type, 123, 45)


@pytest.mark.parametrize(
    ("content_type", "ext"), [("image/png", "png"), ("image/jpeg", "jpg"), ("image/webp", "webp")]
)
def test_a_new_file_gets_the_usual_ending(content_type: str, ext: str) -> None:
    assert ImageInfo(content_type, 1, 1).ext == ext
    assert f".{ext}" in SUFFIXES[content_type]


@pytest.mark.parametrize("name", FILES)
def test_an_image_of_which_the_last_byte_is_missing_is_cut_short(name: str) -> None:
    content = CONTENTS[name][:-1]
    kind = name.partition("-")[0].upper()
    assert refusal(content) == f"the {kind} is cut short after {len(content):,} bytes"


@given(name=st.sampled_from(sorted(FILES)), share=st.floats(0, 1, exclude_max=True))
def test_no_part_of_an_image_passes_for_the_whole(name: str, share: float) -> None:
    content = CONTENTS[name]
    refusal(content[: int(len(content) * share)])


@pytest.mark.parametrize("name", ["png", "jpeg", "webp-vp8"])
def test_bytes_behind_the_end_are_allowed(name: str) -> None:
    assert inspect(io.BytesIO(CONTENTS[name] + bytes(100))).width == 123


@pytest.mark.parametrize(
    ("content", "begins"),
    [
        (b"", "nothing"),
        (b"<!DOCTYPE html><html>", "b'<!DOCTYPE ht'"),
        (b'{"error": 1}', "b'{\"error\": 1}'"),
        (b"GIF89a" + bytes(100), "b'GIF89a\\x00\\x00\\x00\\x00\\x00\\x00'"),
        (b"RIFF\x00\x00\x00\x00WAVE", "b'RIFF\\x00\\x00\\x00\\x00WAVE'"),
        (b"\x89PNG", "b'\\x89PNG'"),
    ],
)
def test_what_is_no_image_is_refused_with_how_it_begins(content: bytes, begins: str) -> None:
    assert refusal(content) == f"what came is no PNG, JPEG or WebP; it begins with {begins}"


@pytest.mark.parametrize(
    "content",
    [
        b"\x89PNG\r\n\x1a\n" + b"\x00\x00\x00\x00IEND\xaeB`\x82",
        b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(13) + b"\x00\x00\x00\x00IEND\xaeB`\x82",
        b"\xff\xd8\xff\xd9",
        b"\xff\xd8\xff\xe0\x00\x00\xff\xd9",
        b"RIFF\x04\x00\x00\x00WEBP",
        b"RIFF\x0c\x00\x00\x00WEBPVP8 \x00\x00\x00\x00",
    ],
)
def test_an_image_without_a_size_is_refused(content: bytes) -> None:
    assert "gives no width and height" in refusal(content)


@given(
    head=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\x00\x00\x00\x00WEBP"]),
    chunk=st.sampled_from(
        [
            b"",
            b"\x00\x00\x00\rIHDR",
            b"\x00\x00\x00\rCgBI",
            b"VP8 ",
            b"VP8L",
            b"VP8X",
            b"\xff\xc0",
            b"\xff\xe1",
        ]
    ),
    body=st.binary(max_size=60),
    end=st.sampled_from([b"", b"\x00\x00\x00\x00IEND\xaeB`\x82", b"\xff\xd9"]),
)
@example(
    head=b"\xff\xd8\xff",
    chunk=b"\xff\xe1",
    body=b"\x00\x10Exif\x00\x00MM\x00*\xff\xff\xff\xff",
    end=b"\xff\xd9",
)
def test_garbage_is_an_image_with_a_size_or_unusable_and_nothing_else(
    head: bytes, chunk: bytes, body: bytes, end: bytes
) -> None:
    try:
        info = inspect(io.BytesIO(head + chunk + body + end))
    except ImageUnusable:
        return
    assert info.width >= 1
    assert info.height >= 1


@given(
    name=st.sampled_from(sorted(FILES)),
    damage=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=30),
    start=st.integers(0, 300),
)
def test_a_damaged_image_is_an_image_with_a_size_or_unusable_and_nothing_else(
    name: str, damage: list[tuple[float, int]], start: int
) -> None:
    content = bytearray(CONTENTS[name])
    for place, value in damage:
        content[int(place * min(len(content), start + 1))] = value
    try:
        assert inspect(io.BytesIO(content)).width >= 1
    except ImageUnusable:
        return


def segments(length: int) -> bytes:
    """Return JPEG segments without an image, of the largest size that there is."""
    count = -(-length // 65_537)
    return (b"\xff\xfe\xff\xff" + bytes(65_533)) * count


def test_a_size_behind_long_colour_profiles_and_previews_is_found() -> None:
    content = CONTENTS["jpeg"]
    late = content[:2] + segments(900_000) + content[2:]
    assert inspect(io.BytesIO(late)) == ImageInfo("image/jpeg", 123, 45)


@pytest.mark.parametrize("filling", [b"\x00", b"\xff", b"\xff\x01", b"\xff\xfe\x00\x02"])
def test_the_search_for_a_size_reads_a_part_of_a_large_file_only(filling: bytes) -> None:
    """A search byte by byte through 64 MiB would keep a processor busy for a minute."""

    class Counting(io.BytesIO):
        taken = 0

        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size)
            self.taken += len(data)
            return data

    file = Counting(b"\xff\xd8\xff\xe0\x00\x02" + filling * (16 * 1024**2 // len(filling)) + b"\xff\xd9")
    with pytest.raises(ImageUnusable):
        inspect(file)
    assert file.taken < 2 * 1024**2
