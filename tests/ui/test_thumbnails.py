"""Thumbnails are small, made once, and never made of a file that would take more memory than is there."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from airflow_provider_aisa.ui import images, thumbnails
from airflow_provider_aisa.ui.thumbnails import SHORT_SIDE, NoThumbnail, draw
from tests.fakes.png import png
from tests.ui.world import picture

if TYPE_CHECKING:
    from tests.ui.world import World

GENERATE: dict[str, Any] = {"run_id": "run", "task_id": "generate"}


def size_of(content: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(content), formats=("WEBP",)) as image:
        return image.size


def add(world: World, content: bytes) -> dict[str, Any]:
    image = world.store("folder/0.png", content)
    world.add_task(run=world.add_run(), xcoms={"return_value": world.result(image)})
    return image


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((2048, 2048), (400, 400)),
        ((2560, 1440), (711, 400)),
        ((1440, 2560), (400, 711)),
        ((300, 200), (300, 200)),
        ((4000, 100), (1200, 30)),
    ],
)
def test_a_thumbnail_is_a_small_webp_of_the_same_shape(
    image_format: str, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    found = size_of(draw(io.BytesIO(picture(*size, image_format=image_format))))

    assert abs(found[0] - expected[0]) <= 1
    assert abs(found[1] - expected[1]) <= 1


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "I;16", "CMYK"])
def test_every_kind_of_colour_can_be_drawn(mode: str) -> None:
    file = io.BytesIO()
    image_format = "JPEG" if mode == "CMYK" else "PNG"
    Image.new(mode, (500, 500)).save(file, image_format)

    assert size_of(draw(file)) == (SHORT_SIDE, SHORT_SIDE)


def test_a_photograph_that_lies_on_its_side_is_put_upright() -> None:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (1000, 500)).save(file, "JPEG", exif=exif)

    assert size_of(draw(file)) == (400, 800)


@pytest.mark.parametrize(
    "size", [(2_147_483_647, 2_147_483_647), (2_147_483_647, 1), (6_000, 6_000), (0, 0), (1, 0)]
)
def test_a_file_that_claims_too_many_pixels_is_not_decoded(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    monkeypatch.setattr(Image.Image, "load", lambda image: decoded.append(image.size))
    content = png("bomb", width=size[0], height=size[1])

    with pytest.raises(NoThumbnail):
        draw(io.BytesIO(content))
    assert decoded == []


@pytest.mark.parametrize(
    "content", [b"", b"text", picture()[:60], b"\x89PNG\r\n\x1a\n" + bytes(100), png("empty")]
)
def test_a_file_that_cannot_be_decoded_is_no_thumbnail(content: bytes) -> None:
    with pytest.raises(NoThumbnail):
        draw(io.BytesIO(content))


def test_a_thumbnail_is_made_once_and_kept_next_to_the_journal(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = add(world, picture(1000, 1000))
    first = world.ask("thumbnail", **GENERATE)
    monkeypatch.setattr(thumbnails, "draw", None)
    second = world.ask("thumbnail", **GENERATE)

    assert size_of(first.content) == (400, 400)
    assert second.content == first.content
    assert first.headers["Content-Type"] == "image/webp"
    kept = world.s3.get_object(Bucket=world.bucket, Key=f"folder/_aisa/thumbnails/{image['sha256']}.webp")
    assert kept["Body"].read() == first.content


def test_the_thumbnail_of_a_deleted_image_is_not_shown(world: World) -> None:
    """Somebody had a reason to delete it."""
    add(world, picture(1000, 1000))
    assert world.ask("thumbnail", **GENERATE).status_code == 200
    world.s3.delete_object(Bucket=world.bucket, Key="folder/0.png")

    assert world.ask("thumbnail", **GENERATE).status_code == 404


def test_what_somebody_else_put_in_a_thumbnails_place_is_not_sent(world: World) -> None:
    image = add(world, picture(1000, 1000))
    key = f"folder/_aisa/thumbnails/{image['sha256']}.webp"
    for body in (b"<script>alert(1)</script>", b"RIFF1234WEBP" + bytes(600_000)):
        world.s3.put_object(Bucket=world.bucket, Key=key, Body=body, ContentType="text/html")
        answer = world.ask("thumbnail", **GENERATE)
        assert answer.headers["Content-Type"] == "image/webp"
        assert size_of(answer.content) == (400, 400)


def test_a_bucket_that_may_not_be_written_is_asked_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow_provider_aisa.exceptions import StorageFailed
    from airflow_provider_aisa.ui.stores import Store

    asked = []

    def refuse(*_: Any, **__: Any) -> None:
        asked.append(1)
        raise StorageFailed("S3 says AccessDenied")

    monkeypatch.setattr(Store, "write", refuse)
    images_ = [world.store(f"{index}.png", picture(500, 500), index=index) for index in range(3)]
    world.add_task(run=world.add_run(), xcoms={"return_value": world.result(*images_)})
    answers = [world.ask("thumbnail", index=index, **GENERATE) for index in range(3)]

    assert [size_of(answer.content) for answer in answers] == [(400, 400)] * 3
    assert asked == [1]


@pytest.mark.parametrize("content", [png("huge", width=2**31 - 1, height=2**31 - 1), picture()[:70]])
def test_an_image_without_a_thumbnail_is_sent_as_it_is(world: World, content: bytes) -> None:
    """The browser decides what it can show."""
    add(world, content)

    answer = world.ask("thumbnail", **GENERATE)
    assert answer.content == content
    assert answer.headers["Content-Type"] == "image/png"


def test_without_pillow_the_image_is_sent_as_it_is(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "is_possible", lambda: False)
    content = picture(1000, 1000)
    add(world, content)

    assert world.ask("thumbnail", **GENERATE).content == content


def test_a_browser_that_has_the_thumbnail_is_told_so(world: World) -> None:
    add(world, picture(1000, 1000))
    small, whole = (world.ask(path, **GENERATE).headers["ETag"] for path in ("thumbnail", "image"))

    assert world.ask("thumbnail", headers={"If-None-Match": small}, **GENERATE).status_code == 304
    assert world.ask("thumbnail", headers={"If-None-Match": whole}, **GENERATE).status_code == 200
