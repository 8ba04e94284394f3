from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from airflow_provider_aisa.core.gateway.response import GeneratedImage, GenerationResponse
from airflow_provider_aisa.core.images.download import MAX_IMAGE_BYTES
from airflow_provider_aisa.core.images.stored import StoredImage
from airflow_provider_aisa.core.images.transfer import Lanes, Moved, temporary_folder
from airflow_provider_aisa.core.s3.bucket import Bucket
from airflow_provider_aisa.exceptions import (
    AisaError,
    ImageLinkExpired,
    ImageUnusable,
    StorageFailed,
    error_from_dict,
)
from airflow_provider_aisa.sandbox import Fault, FaultKind
from tests.core.images.site import Site

MIB = 1024 * 1024
_buffer = io.BytesIO()
Image.new("RGB", (64, 48)).save(_buffer, "PNG")
PNG = _buffer.getvalue()
PNG64 = base64.b64encode(PNG).decode()


def response_of(*images: GeneratedImage) -> GenerationResponse:
    """Return a response as the journal may hold it."""
    return GenerationResponse("model", None, images, {}, "req_1")


def inline(*contents: str) -> GenerationResponse:
    return response_of(*(GeneratedImage(index, b64_json=text) for index, text in enumerate(contents)))


def failures(moved: Moved) -> dict[int, AisaError]:
    return {image.index: error for image, error in moved.failed}


def test_all_images_are_stored_as_they_were_served_and_nothing_is_left_behind(site: Site) -> None:
    response = site.buy(3)
    moved = site.store(response)
    assert moved.failed == ()
    assert [image.index for image in moved.stored] == [0, 1, 2]
    found = site.objects()
    for image in moved.stored:
        content = found.pop(image.key)
        head = site.client.head_object(Bucket=site.name, Key=image.key)
        assert image == StoredImage(
            index=image.index,
            uri=f"s3://{site.name}/a/{image.index}.png",
            bucket=site.name,
            key=f"a/{image.index}.png",
            width=1920,
            height=1920,
            size="1920x1920",
            content_type=head["ContentType"],
            bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            etag=head["ETag"].strip('"'),
        )
        assert head["Metadata"] == {
            "dag-id": "shop",
            "task-id": "draw",
            "run-id": "monday",
            "claim": "claim-1",
            "index": str(image.index),
            "sha256": image.sha256,
            "size": "1920x1920",
        }
    assert not found
    assert list(site.folder.iterdir()) == []
    assert site.downloads == 3


def test_an_image_on_its_way_has_no_name_that_a_killed_process_would_leave(site: Site) -> None:
    seen: list[list[Path]] = []

    class Looking(Bucket):
        def put_image(self, *arguments: Any, **options: Any) -> str:
            seen.append(list(site.folder.iterdir()))
            return super().put_image(*arguments, **options)

    site.store(site.buy(), bucket=Looking(site.client, site.name))
    assert seen == [[]]


@pytest.mark.parametrize(
    ("kind", "error", "retryable"),
    [
        ("expired_link", ImageLinkExpired, False),
        ("truncated_image", ImageUnusable, True),
        ("cdn_redirect_private", ImageUnusable, False),
        ("oversized_image", ImageUnusable, False),
    ],
)
def test_a_failed_image_is_told_after_all_others_are_stored(
    site: Site, kind: FaultKind, error: type[AisaError], retryable: bool
) -> None:
    """The class and whether to try again survive the way through a trigger's event."""
    response = site.buy(3)
    site.gateway.inject(Fault(kind))
    moved = site.store(response, lanes=Lanes(transfers=1, downloads=1))
    assert [image.index for image in moved.stored] == [1, 2]
    assert sorted(site.objects()) == ["a/1.png", "a/2.png"]
    for found in (*failures(moved).values(), *(error_from_dict(one.to_dict()) for _, one in moved.failed)):
        assert type(found) is error
        assert found.retryable is retryable
    assert list(failures(moved)) == [0]


def test_no_more_images_are_stored_than_were_asked_for(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    images = [GeneratedImage(index, b64_json=PNG64) for index in range(3_000)]
    moved = site.store(response_of(*images), key="banner.png", asked=1)
    assert [image.key for image in moved.stored] == ["banner.png"]
    assert list(site.objects()) == ["banner.png"]
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert warning.message == "Request req_1 was for 1 image(s), and 2999 more came: those are not stored."


def test_a_second_image_with_an_index_that_is_taken_does_not_replace_the_first(site: Site) -> None:
    moved = site.store(response_of(GeneratedImage(0, b64_json=PNG64), GeneratedImage(0, b64_json=PNG64)))
    assert [image.key for image in moved.stored] == ["a/0.png"]
    ((_, error),) = moved.failed
    assert isinstance(error, ImageUnusable)
    assert str(error) == "the response holds two images 0"


def test_two_images_of_the_same_bytes_share_a_key_that_is_made_of_them(site: Site) -> None:
    moved = site.store(inline(PNG64, PNG64), key="{sha256}.{ext}")
    assert moved.failed == ()
    assert len({image.key for image in moved.stored}) == 1
    assert [image.index for image in moved.stored] == [0, 1]
    assert len(site.objects()) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Лиса", "the response holds broken base64 in place of the image"),
        ("\ud83d", "the response holds broken base64 in place of the image"),
        ("a", "the response holds broken base64 in place of the image"),
        (PNG64[:40] + "====" + PNG64[40:], "the response holds broken base64 in place of the image"),
        ("A" * 3 + "=" + PNG64, "the response holds broken base64 in place of the image"),
        (PNG64.replace(PNG64[8], "*", 1), "the response holds broken base64 in place of the image"),
        ("https://cdn.test/image", "the response holds broken base64 in place of the image"),
        (base64.b64encode(b"<html>").decode(), "what came is no PNG, JPEG or WebP; it begins with b'<html>'"),
        (base64.b64encode(PNG[:-1]).decode(), f"the PNG is cut short after {len(PNG) - 1} bytes"),
        ("A" * (MAX_IMAGE_BYTES * 4 // 3 + 8), "the image is larger than 64 MiB"),
    ],
    ids=range(10),
)
def test_an_inline_image_that_is_none_fails_for_good_and_alone(site: Site, text: str, message: str) -> None:
    moved = site.store(inline(text, PNG64))
    assert [image.index for image in moved.stored] == [1]
    ((_, error),) = moved.failed
    assert type(error) is ImageUnusable
    assert str(error) == message
    assert not error.retryable
    assert site.objects() == {"a/1.png": PNG}


@pytest.mark.parametrize("length", [3, MIB * 3 // 4 - 1, MIB * 3 // 4, MIB * 3 // 4 + 1, 2 * MIB + 2])
def test_an_inline_image_of_any_length_is_stored_byte_by_byte(site: Site, length: int) -> None:
    content = PNG + bytes(range(256)) * (length // 256 + 1)
    content = content[:length] + PNG[-12:]
    content = PNG if length == 3 else content
    moved = site.store(inline(base64.b64encode(content).decode()))
    assert [error for _, error in moved.failed] == []
    assert site.objects() == {"a/0.png": content}


@pytest.mark.parametrize(
    "url",
    [
        "\ud83d",
        "https://cdn.test/\ud83d",
        "https://\ud83d/",
        "mailto:x",
        "https://",
        "\x00",
        "https://[::1",
        "x" * 70_000,
    ],
    ids=range(8),
)
def test_a_link_that_is_none_fails_for_good_and_alone(site: Site, url: str) -> None:
    response = site.buy(2)
    broken = replace(response, images=(replace(response.images[0], url=url), response.images[1]))
    moved = site.store(broken)
    assert [image.index for image in moved.stored] == [1]
    ((_, error),) = moved.failed
    assert type(error) is ImageUnusable
    assert not error.retryable
    assert len(str(error)) < 200


def test_what_is_no_error_of_this_package_is_raised_after_all_images_have_ended(site: Site) -> None:
    class Broken(Bucket):
        def put_image(self, *arguments: Any, **options: Any) -> str:
            if options["key"] == "a/0.png":
                raise LookupError("a mistake")
            return super().put_image(*arguments, **options)

    with pytest.raises(LookupError, match="a mistake"):
        site.store(site.buy(3), bucket=Broken(site.client, site.name), lanes=Lanes(transfers=1))
    assert sorted(site.objects()) == ["a/1.png", "a/2.png"]


def test_a_store_that_refuses_is_a_failure_of_each_image(site: Site) -> None:
    moved = site.store(site.buy(2), bucket=Bucket(site.client, "nowhere-at-all"))
    assert moved.stored == ()
    assert [type(error) for error in failures(moved).values()] == [StorageFailed, StorageFailed]
    assert list(site.folder.iterdir()) == []


def test_a_folder_that_is_gone_is_a_failure_of_the_image(site: Site) -> None:
    site.folder.rmdir()
    ((_, error),) = site.store(site.buy()).failed
    assert str(error).startswith("the temporary folder cannot hold the image: ")


class Watched(Bucket):
    """Counts how many uploads are under way, and how many of them at once."""

    def __init__(self, site: Site, before: Callable[[], None] = lambda: None) -> None:
        super().__init__(site.client, site.name)
        object.__setattr__(self, "_before", before)
        object.__setattr__(self, "_lock", threading.Lock())
        object.__setattr__(self, "counts", {"now": 0, "most": 0})

    counts: dict[str, int]

    def put_image(self, *arguments: Any, **options: Any) -> str:
        with self._lock:
            self.counts["now"] += 1
            self.counts["most"] = max(self.counts.values())
        try:
            self._before()
            return super().put_image(*arguments, **options)
        finally:
            with self._lock:
                self.counts["now"] -= 1

    _before: Callable[[], None]
    _lock: threading.Lock


def test_no_more_images_are_on_their_way_than_there_are_lanes(site: Site) -> None:
    bucket = Watched(site, before=lambda: time.sleep(0.05))
    moved = site.store(site.buy(8), bucket=bucket, lanes=Lanes(transfers=3, downloads=2))
    assert len(moved.stored) == 8
    assert bucket.counts["most"] == 3


def test_the_next_download_begins_while_the_last_image_is_still_uploaded(site: Site) -> None:
    both = threading.Barrier(2, timeout=30)
    moved = site.store(
        site.buy(2), bucket=Watched(site, before=lambda: void(both.wait())), lanes=Lanes(downloads=1)
    )
    assert len(moved.stored) == 2


def void(_: object) -> None:
    """Drop a result."""


def test_the_event_loop_is_free_while_an_image_is_on_its_way(site: Site) -> None:
    """It goes on counting while the upload waits for it."""
    is_counted = threading.Event()

    async def scenario() -> Moved:
        moving = asyncio.create_task(
            site.astore(site.buy(), bucket=Watched(site, before=lambda: void(is_counted.wait(30))))
        )
        for _ in range(100):
            await asyncio.sleep(0.001)
        is_counted.set()
        return await moving

    assert len(asyncio.run(scenario()).stored) == 1
    assert is_counted.is_set()


async def cancel_once(moving: asyncio.Task[Moved], is_time: Callable[[], bool]) -> None:
    await asyncio.to_thread(until, is_time)
    moving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await moving


def test_a_cancelled_download_is_broken_off_and_its_file_is_gone(site: Site) -> None:
    """The CDN sends for a minute; the thread must be free again long before, for the next image."""
    response = site.buy(2)
    site.gateway.inject(Fault("cdn_slow", delay=60.0, times=2))

    async def scenario() -> None:
        moving = asyncio.create_task(site.astore(response))
        await cancel_once(moving, lambda: open_files(site.folder) == 2)

    asyncio.run(scenario())
    until(lambda: open_files(site.folder) == 0)
    assert site.objects() == {}


def test_a_cancelled_upload_is_broken_off_and_nothing_of_it_is_stored(site: Site) -> None:
    site.gateway.image_bytes = 4 * MIB
    is_uploading, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        is_uploading.set()
        go_on.wait(30)

    async def scenario() -> None:
        moving = asyncio.create_task(site.astore(site.buy(), bucket=Watched(site, before=wait)))
        await cancel_once(moving, is_uploading.is_set)

    asyncio.run(scenario())
    go_on.set()
    until(lambda: open_files(site.folder) == 0)
    assert site.objects() == {}


def test_a_cancelled_image_that_has_no_thread_yet_is_never_begun(site: Site) -> None:
    response = site.buy(3)
    site.gateway.inject(Fault("cdn_slow", delay=60.0))

    async def scenario() -> None:
        moving = asyncio.create_task(site.astore(response, lanes=Lanes(transfers=1)))
        await cancel_once(moving, lambda: open_files(site.folder) == 1)

    asyncio.run(scenario())
    until(lambda: open_files(site.folder) == 0)
    assert site.downloads <= 1


def open_files(folder: Path) -> int:
    """Count the nameless files of a folder that this process has open."""
    links = []
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            links.append(str(descriptor.readlink()))
        except OSError:
            continue
    return sum(link.startswith(f"{folder}/") for link in links)


def until(is_so: Callable[[], bool]) -> None:
    """Wait for something that happens in another thread; a minute is for ever."""
    for _ in range(2_000):
        if is_so():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen")


def test_a_temporary_folder_is_removed_with_all_that_is_in_it() -> None:
    async def scenario() -> Path:
        async with temporary_folder() as folder:
            (folder / "file").write_bytes(b"x")
        return folder

    assert not asyncio.run(scenario()).exists()
