"""From links to S3. All images that can be stored are stored, before a failure is told.

One thread takes an image all the way: it downloads, hashes, inspects and uploads it, through a file without a
name, which is gone when the thread ends, however it ends. Uploads can be repeated: an image's key is decided
by the job, and its bytes are checked on both ways.
"""

from __future__ import annotations

import asyncio
import io
import logging
import mimetypes
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import BinaryIO, Final, TypeVar, cast

from airflow_provider_aisa.core.gateway.response import GeneratedImage, GenerationResponse
from airflow_provider_aisa.core.images.download import (
    FetchedImage,
    Fetcher,
    HashedFile,
)
from airflow_provider_aisa.core.images.finding import Earlier
from airflow_provider_aisa.core.images.inline import decode, finish, nameless_file
from airflow_provider_aisa.core.images.stored import StoredImage
from airflow_provider_aisa.core.layout import SUFFIXES, Target
from airflow_provider_aisa.core.s3.bucket import Bucket
from airflow_provider_aisa.core.threads import Stop, or_undone, until_stopped
from airflow_provider_aisa.exceptions import AisaError, ImageLinkExpired, ImageUnavailable, ImageUnusable

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Images of one response on their way at once.
MAX_TRANSFERS: Final = 8
#: Of them those that are being downloaded: with two at a time, the first are uploaded while the next arrive.
MAX_DOWNLOADS: Final = 2
_BLOCK: Final = 256 * 1024  # bytes that are handed to the network at once


class Lanes:
    """How many images are on their way at once, of one response or of a batch's. For one event loop."""

    def __init__(self, *, transfers: int = MAX_TRANSFERS, downloads: int = MAX_DOWNLOADS) -> None:
        self.transfers = asyncio.Semaphore(transfers)
        self.downloads = asyncio.Semaphore(downloads)


@dataclass(frozen=True, slots=True)
class Moved:
    """What became of a response's images.

    :param failed: the images that are not stored and why, in their order; empty when all are stored.
    """

    stored: tuple[StoredImage, ...]
    failed: tuple[tuple[GeneratedImage, AisaError], ...]


async def store_images(
    response: GenerationResponse,
    *,
    target: Target,
    metadata: Mapping[str, str],
    asked: int,
    claim_id: str,
    paid_before: float | None,
    fetcher: Fetcher,
    bucket: Bucket,
    folder: Path,
    lanes: Lanes,
) -> Moved:
    """Fetch and upload the images of a response side by side.

    :param metadata: of each image's object, besides what tells the purchase and the image.
    :param asked: how many images the request was for. No more of them are stored, whatever came.
    :param claim_id: of the purchase; it tells its images from others under the same key.
    :param paid_before: seconds since the journal says that the response was paid for, when an earlier
        attempt may have stored some of its images; None when this attempt has bought them.
    :param folder: where the files lie that the images pass through; they have no name there.
    :param lanes: may be shared with other responses of the same event loop.
    :raises Exception: what is no AisaError, after all images have ended.
    """
    images = response.available[:asked]
    if surplus := len(response.available) - len(images):
        log.warning(
            "Request %s was for %d image(s), and %d more came: those are not stored.",
            response.request_id,
            asked,
            surplus,
        )
    earlier = (
        None if paid_before is None else Earlier(bucket, target, claim_id, paid_before, several=asked > 1)
    )
    move = _Move(target, metadata, asked > 1, claim_id, earlier, fetcher, bucket, folder)
    indices = [image.index for image in images]

    async def store_one(position: int, image: GeneratedImage) -> StoredImage:
        if image.index in indices[:position]:
            raise ImageUnusable(f"the response holds two images {image.index}", retryable=False)
        async with lanes.transfers:
            return await _in_lane(lanes.downloads, lambda stop, downloaded: move(image, stop, downloaded))

    outcomes = await asyncio.gather(*map(store_one, count(), images), return_exceptions=True)
    stored = tuple(outcome for outcome in outcomes if isinstance(outcome, StoredImage))
    for one in stored:
        log.info("Stored %s: %s, %s, %d bytes.", one.uri, one.size, one.content_type, one.bytes)
    failed: list[tuple[GeneratedImage, AisaError]] = []
    for image, outcome in zip(images, outcomes, strict=True):
        if isinstance(outcome, AisaError):
            failed.append((image, outcome))
        elif isinstance(outcome, BaseException):
            raise outcome
    return Moved(stored, tuple(failed))


@dataclass(frozen=True, slots=True)
class _Move:
    """Takes one image after the other from its link, or its base64, to its object in S3."""

    target: Target
    metadata: Mapping[str, str]
    several: bool
    claim_id: str
    earlier: Earlier | None
    fetcher: Fetcher
    bucket: Bucket
    folder: Path

    def __call__(self, image: GeneratedImage, stop: Stop, downloaded: Callable[[], None]) -> StoredImage:
        """Move one image, in the thread that calls this.

        :param downloaded: called when the next image may be downloaded.
        """
        earlier = self.earlier
        if earlier is not None and (found := earlier.find(image.index)):
            return found
        with nameless_file(self.folder) as file:
            try:
                fetched = self._fetch(image, file, stop)
            except ImageUnavailable:
                if earlier is not None and (found := earlier.search(image.index)):
                    return found
                raise
            downloaded()
            key = self.target.key(
                index=image.index, ext=fetched.info.ext, sha256=fetched.sha256, several=self.several
            )
            if earlier is not None and (found := earlier.look_at(key, image.index)):
                return found
            return self._upload(image, fetched, key, file, stop)

    def _fetch(self, image: GeneratedImage, file: BinaryIO, stop: Stop) -> FetchedImage:
        if image.url is not None:
            return self.fetcher.fetch(image.url, file, stop)
        if image.kept is not None:
            return self._fetch_kept(image.kept, file, stop)
        return decode(image.b64_json or "", file, stop.check)

    def _fetch_kept(self, key: str, file: BinaryIO, stop: Stop) -> FetchedImage:
        """Read an image that was in the answer itself, and that was put beside the journal at once."""
        blocks = self.bucket.blocks(key, _BLOCK)
        if blocks is None:
            raise ImageLinkExpired(f"somebody has deleted the object that held it ({self.bucket.uri(key)})")
        written = HashedFile(file)
        for block in blocks:
            stop.check()
            written.write(block)
        return finish(written, file)

    def _upload(
        self, image: GeneratedImage, fetched: FetchedImage, key: str, file: BinaryIO, stop: Stop
    ) -> StoredImage:
        info = fetched.info
        named = mimetypes.guess_type(key)[0]
        if named in SUFFIXES and named != info.content_type:
            log.warning("%s is %s: write {ext} in s3_key to get its own ending.", key, info.content_type)
        size = f"{info.width}x{info.height}"
        own = {
            "claim": self.claim_id,
            "index": str(image.index),
            "sha256": fetched.sha256,
            "size": size,
        }
        file.seek(0)
        etag = self.bucket.put_image(
            cast("BinaryIO", _Upload(file, stop)),
            key=key,
            content_type=info.content_type,
            sha256=fetched.sha256,
            metadata={**self.metadata, **own},
        )
        return StoredImage(
            index=image.index,
            uri=self.bucket.uri(key),
            bucket=self.bucket.name,
            key=key,
            width=info.width,
            height=info.height,
            size=size,
            content_type=info.content_type,
            bytes=fetched.bytes,
            sha256=fetched.sha256,
            etag=etag,
        )


class _Upload(io.RawIOBase):
    """A file on its way to S3. Reading it raises Stopped when nobody waits for it any more."""

    def __init__(self, file: BinaryIO, stop: Stop) -> None:
        super().__init__()
        self._file = file
        self._stop = stop

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, empty at the end: more than asked for.

        http.client asks for 16 KiB at a time and sends whatever it gets. Each read and each send gives up the
        GIL and waits to get it back.
        """
        self._stop.check()
        return self._file.read(max(size, _BLOCK))


async def _in_lane(lane: asyncio.Semaphore, work: Callable[[Stop, Callable[[], None]], T]) -> T:
    """Run a function in a thread, in a lane that it leaves when it calls its second argument, or ends."""
    loop = asyncio.get_running_loop()
    is_in_lane = True

    def leave() -> None:
        nonlocal is_in_lane
        if is_in_lane:
            is_in_lane = False
            lane.release()

    def leave_from_thread() -> None:
        with suppress(RuntimeError):  # The loop is closed when whoever waited is gone.
            loop.call_soon_threadsafe(leave)

    await lane.acquire()
    try:
        return await until_stopped(lambda stop: work(stop, leave_from_thread))
    finally:
        leave()


@asynccontextmanager
async def temporary_folder(given: Path | None = None) -> AsyncIterator[Path]:
    """Yield an empty folder for images on their way, or the one that is given.

    Made and removed in threads: a disk can be slow, and hundreds of tasks wait.
    """
    if given is not None:
        yield given
        return
    folder = await or_undone(lambda: tempfile.mkdtemp(prefix="aisa-"), _remove)
    try:
        yield Path(folder)
    finally:
        await asyncio.to_thread(_remove, folder)


def _remove(folder: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
