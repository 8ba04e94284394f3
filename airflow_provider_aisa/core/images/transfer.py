"""From links to S3. All images that can be stored are stored, before the first failure is told.

Uploads can be repeated: an image's key is decided by the job, and its bytes are checked on both ways.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import logging
import mimetypes
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from airflow_provider_aisa.core.gateway.response import GeneratedImage, GenerationResponse
from airflow_provider_aisa.core.images.download import MAX_IMAGE_BYTES, FetchedImage, Fetcher
from airflow_provider_aisa.core.images.inspect import inspect
from airflow_provider_aisa.core.images.stored import StoredImage
from airflow_provider_aisa.core.layout import SUFFIXES, Target
from airflow_provider_aisa.core.s3 import Bucket
from airflow_provider_aisa.core.threads import or_undone
from airflow_provider_aisa.exceptions import AisaError, ImageUnusable

log = logging.getLogger(__name__)

#: Images of one response on their way at once.
MAX_TRANSFERS: Final = 8
#: Of them those that are being downloaded: with two at a time, the first are uploaded while the next arrive.
MAX_DOWNLOADS: Final = 2


class Lanes:
    """How many images are on their way at once, of one response or of a batch's. For one event loop."""

    def __init__(self, *, transfers: int = MAX_TRANSFERS, downloads: int = MAX_DOWNLOADS) -> None:
        self.transfers = asyncio.Semaphore(transfers)
        self.downloads = asyncio.Semaphore(downloads)


@dataclass(frozen=True, slots=True)
class Moved:
    """What became of a response's images.

    :param stored: those that are in S3, in their order.
    :param failed: the others, and why.
    """

    stored: tuple[StoredImage, ...]
    failed: tuple[tuple[GeneratedImage, AisaError], ...] = ()


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
    """Fetch and upload a response's images side by side."""
    images = response.available[:asked]

    async def store_one(image: GeneratedImage) -> StoredImage:
        path = folder / uuid.uuid4().hex
        move = _Move(target, metadata, bucket, image, path, claim_id, asked > 1)
        async with lanes.transfers:
            found = await asyncio.to_thread(move.find) if paid_before is not None else None
            if found is not None:
                return found
            try:
                async with lanes.downloads:
                    fetched = await move.fetch(fetcher)
                return await asyncio.to_thread(move.upload, fetched)
            except BaseException:
                await asyncio.to_thread(path.unlink, missing_ok=True)
                raise

    outcomes = await asyncio.gather(*map(store_one, images), return_exceptions=True)
    stored = tuple(outcome for outcome in outcomes if isinstance(outcome, StoredImage))
    failed = []
    for image, outcome in zip(images, outcomes, strict=True):
        if isinstance(outcome, AisaError):
            failed.append((image, outcome))
        elif isinstance(outcome, BaseException):
            raise outcome
    for one in stored:
        log.info("Stored %s: %s, %s, %d bytes.", one.uri, one.size, one.content_type, one.bytes)
    return Moved(stored, tuple(failed))


def verify(
    images: Sequence[StoredImage], *, claim_id: str, bucket: Bucket
) -> tuple[tuple[StoredImage, str], ...]:
    """Look at images in S3; return those that are not this purchase's any more, and what is there."""
    lost = []
    for image in images:
        head = bucket.head_image(image.key)
        if head is None:
            lost.append((image, "was deleted"))
        elif head["Metadata"].get("claim") != claim_id or head["Metadata"].get("index") != str(image.index):
            by = {name: head["Metadata"].get(name) for name in ("dag-id", "task-id", "run-id")}
            lost.append((image, f"was replaced by {by}"))
    return tuple(lost)


@dataclass(frozen=True, slots=True)
class _Move:
    """One image on its way: through a file at ``path`` into the bucket."""

    target: Target
    metadata: Mapping[str, str]
    bucket: Bucket
    image: GeneratedImage
    path: Path
    claim_id: str
    several: bool

    def find(self) -> StoredImage | None:
        """Return the image if an earlier attempt of this very purchase has stored it."""
        if "{sha256}" in self.target.template:
            return None  # Its key is not known before it is fetched, which is free.
        endings = [suffixes[0][1:] for suffixes in SUFFIXES.values()]
        for ext in endings if "{ext}" in self.target.template else endings[:1]:
            key = self._key(ext, "")
            head = self.bucket.head_image(key)
            if head is None or head["Metadata"].get("claim") != self.claim_id:
                continue
            if head["Metadata"].get("index") == str(self.image.index):
                width, height = map(int, head["Metadata"]["size"].split("x"))
                return StoredImage(
                    self.image.index,
                    self.bucket.uri(key),
                    self.bucket.name,
                    key,
                    width,
                    height,
                    head["Metadata"]["size"],
                    head["ContentType"],
                    int(head["ContentLength"]),
                    head["Metadata"]["sha256"],
                )
        return None

    async def fetch(self, fetcher: Fetcher) -> FetchedImage:
        """Bring the image to its file."""
        if self.image.url is not None:
            return await fetcher.fetch(self.image.url, self.path)
        return await asyncio.to_thread(_decode, self.image.b64_json or "", self.path)

    def upload(self, fetched: FetchedImage) -> StoredImage:
        """Put the file into the bucket, and delete it."""
        info = fetched.info
        key = self._key(info.ext, fetched.sha256)
        named = mimetypes.guess_type(key)[0]
        if named in SUFFIXES and named != info.content_type:
            log.warning("%s is %s: write {ext} in s3_key to get its own ending.", key, info.content_type)
        size = f"{info.width}x{info.height}"
        own = {
            "claim": self.claim_id,
            "index": str(self.image.index),
            "sha256": fetched.sha256,
            "size": size,
        }
        etag = self.bucket.put_image(
            self.path,
            key=key,
            content_type=info.content_type,
            sha256=fetched.sha256,
            metadata={**self.metadata, **own},
        )
        self.path.unlink()
        return StoredImage(
            index=self.image.index,
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

    def _key(self, ext: str, sha256: str) -> str:
        return self.target.key(index=self.image.index, ext=ext, sha256=sha256, several=self.several)


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


def _decode(b64_json: str, path: Path) -> FetchedImage:
    """Write an image that came inside the response to a file."""
    if len(b64_json) > MAX_IMAGE_BYTES * 4 // 3 + 4:
        raise ImageUnusable(f"the image is larger than {MAX_IMAGE_BYTES // 1024**2} MiB")
    try:
        content = base64.b64decode(b64_json, validate=True)
    except binascii.Error:
        raise ImageUnusable("the response holds broken base64 in place of the image") from None
    path.write_bytes(content)
    return FetchedImage(path, len(content), hashlib.sha256(content).hexdigest(), inspect(path))
