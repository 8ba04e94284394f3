from __future__ import annotations

import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import imagesize
import pytest

from airflow_provider_aisa.sandbox.drawing import Picture
from airflow_provider_aisa.sandbox.images import ImageFile, fitting_format, render
from airflow_provider_aisa.sandbox.settings import ImageFormat
from tests.sandbox.conftest import Api, opened

PICTURE = Picture(prompt="a red panda", width=1920, height=1920, index=0, count=2, request=1)
FORMATS: list[ImageFormat] = ["png", "jpeg", "webp"]


def content(file: ImageFile) -> bytes:
    data = b"".join(file.chunks())
    assert len(data) == file.length
    return data


@pytest.mark.parametrize("image_format", FORMATS)
@pytest.mark.parametrize(
    ("width", "height"), [(1920, 1920), (2304, 1600), (1600, 2304), (16000, 231), (231, 16000)]
)
def test_an_image_has_exactly_the_size_asked_for(width: int, height: int, image_format: ImageFormat) -> None:
    image = opened(content(render(replace(PICTURE, width=width, height=height, image_format=image_format))))
    assert image.size == (width, height)
    assert image.format == image_format.upper()


@pytest.mark.parametrize(("width", "height"), [(1, 3_686_400), (3_686_400, 1)])
def test_a_line_is_an_image_too(width: int, height: int) -> None:
    assert fitting_format("jpeg", width, height) == fitting_format("webp", width, height) == "png"
    assert opened(content(render(replace(PICTURE, width=width, height=height)))).size == (width, height)


@pytest.mark.parametrize("image_format", FORMATS)
@pytest.mark.parametrize("extra", [1, 3, 11, 12, 13, 65_536, 65_537, 65_538, 65_541, 4_000_000])
def test_a_padded_image_is_a_valid_file_of_the_size_asked_for(image_format: ImageFormat, extra: int) -> None:
    plain = replace(PICTURE, image_format=image_format)
    bare = content(render(plain))
    wanted = len(bare) + extra
    padded = content(render(replace(plain, image_bytes=wanted)))
    # A chunk has a smallest size, and WebP files are even: up to 12 bytes more, never less.
    assert wanted <= len(padded) < wanted + 12
    assert extra < 12 or len(padded) <= wanted + (image_format == "webp")
    assert opened(padded).tobytes() == opened(bare).tobytes()


@pytest.mark.parametrize("image_format", FORMATS)
def test_a_padded_image_ends_as_its_format_demands_and_its_header_is_found(
    image_format: ImageFormat, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = content(render(replace(PICTURE, image_format=image_format, image_bytes=1_000_000)))
    if image_format == "webp":
        assert int.from_bytes(data[4:8], "little") == len(data) - 8
    else:
        assert data.endswith({"png": b"IEND\xae\x42\x60\x82", "jpeg": b"\xff\xd9"}[image_format])
    path = tmp_path_factory.mktemp("image") / "x"
    path.write_bytes(data)
    assert imagesize.get(path) == (1920, 1920)


def test_an_image_above_image_bytes_stays_as_it_is() -> None:
    assert content(render(replace(PICTURE, image_bytes=1))) == content(render(PICTURE))


def test_prompt_index_and_request_can_be_seen() -> None:
    others = [{"prompt": "a blue panda"}, {"index": 1}, {"request": 2}, {"count": 3}]
    files = [content(render(PICTURE))] + [content(render(replace(PICTURE, **other))) for other in others]  # type: ignore[arg-type]
    captions = {opened(file).convert("RGB").crop((0, 1700, 1920, 1920)).tobytes() for file in files}
    assert len(captions) == len(files)


def test_a_limit_cuts_a_file_at_that_byte() -> None:
    file = ImageFile((b"abc", 4, b"de"))
    assert file.length == 9
    assert b"".join(file.chunks()) == b"abc\0\0\0\0de"
    assert [b"".join(file.chunks(limit)) for limit in (0, 2, 5, 8)] == [
        b"",
        b"ab",
        b"abc\0\0",
        b"abc\0\0\0\0d",
    ]


@pytest.mark.parametrize("image_format", FORMATS)
def test_a_download_has_the_format_and_size_that_were_set(api: Api, image_format: ImageFormat) -> None:
    api.sandbox.image_format, api.sandbox.image_bytes = image_format, 500_000
    response = api.cdn.get(api.links(size="2304x1600")[0])
    assert response.headers["Content-Type"] == f"image/{image_format}"
    assert int(response.headers["Content-Length"]) == len(response.content) == 500_000
    assert opened(response.content).size == (2304, 1600)
    assert opened(response.content).format == image_format.upper()


def test_a_change_of_format_leaves_earlier_links_alone(api: Api) -> None:
    link = api.links()[0]
    api.sandbox.image_format = "jpeg"
    assert opened(api.cdn.get(link).content).format == "PNG"


def test_memory_stays_flat_while_four_16_mb_images_are_served_at_once(api: Api) -> None:
    api.sandbox.image_bytes = 16_000_000
    links = api.links(n=4)
    api.cdn.get(links[0])  # fills the cache of scenes

    def fetch(link: str) -> int:
        with api.cdn.stream("GET", link) as response:
            return sum(len(piece) for piece in response.iter_raw(65_536))

    tracemalloc.start()
    try:
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(fetch, links)) == [16_000_000] * 4
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16_000_000
