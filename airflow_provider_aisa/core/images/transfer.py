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
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

from airflow_provider_aisa.core.gateway.response import GeneratedImage, GenerationResponse
from airflow_provider_aisa.core.images.download import MAX_IMAGE_BYTES, FetchedImage, Fetcher
from airflow_provider_aisa.core.images.inspect import inspect
from airflow_provider_aisa.core.job import Job
from airflow_provider_aisa.core.layout import SUFFIXES
from airflow_provider_aisa.core.s3 import Bucket
from airflow_provider_aisa.core.threads import or_undone
from airflow_provider_aisa.exceptions import AisaError, ImageLinkExpired, ImageUnavailable, ImageUnusable

log = logging.getLogger(__name__)

#: Images of one response on their way at once.
MAX_TRANSFERS: Final = 8
#: Of them those that are being downloaded: with two at a time, the first are uploaded while the next arrive.
MAX_DOWNLOADS: Final = 2


@dataclass(frozen=True, slots=True)
class StoredImage:
    """One image in S3. Width and height are in pixels, ``bytes`` is its length, ``sha256`` 64 hex digits."""

    index: int
    uri: str
    bucket: str
    key: str
    width: int
    height: int
    size: str
    content_type: str
    bytes: int
    sha256: str

    @classmethod
    def from_head(cls, head: Mapping[str, Any], *, bucket: Bucket, key: str) -> Self:
        """Read an image back from what S3 says of its object. KeyError: another program wrote it."""
        metadata = head["Metadata"]
        width, height = map(int, metadata["size"].split("x"))
        return cls(
            index=int(metadata["index"]),
            uri=bucket.uri(key),
            bucket=bucket.name,
            key=key,
            width=width,
            height=height,
            size=metadata["size"],
            content_type=head["ContentType"],
            bytes=int(head["ContentLength"]),
            sha256=metadata["sha256"],
        )


class Lanes:
    """How many images are on their way at once, of one response or of a batch's. For one event loop."""

    def __init__(self, *, transfers: int = MAX_TRANSFERS, downloads: int = MAX_DOWNLOADS) -> None:
        self.transfers = asyncio.Semaphore(transfers)
        self.downloads = asyncio.Semaphore(downloads)


class Transfer:
    """Moves the images of one job's response into its bucket.

    :param folder: for the files that the images pass through; may be shared with other jobs.
    :param lanes: shared with other jobs; None for lanes of its own.
    """

    def __init__(
        self, job: Job, *, fetcher: Fetcher, bucket: Bucket, folder: Path, lanes: Lanes | None = None
    ) -> None:
        self._job = job
        self._fetcher = fetcher
        self._bucket = bucket
        self._folder = folder
        self._lanes = lanes or Lanes()
        #: What is in the bucket, as in the task's result: also when others of the response failed.
        self.stored: tuple[Mapping[str, Any], ...] = ()

    async def store(
        self, response: GenerationResponse, *, claim_id: str, is_resumed: bool
    ) -> tuple[Mapping[str, Any], ...]:
        """Fetch and upload all images concurrently; return them as they are in the task's result.

        :param claim_id: of the purchase; it tells its images from others under the same key.
        :param is_resumed: an earlier attempt may have stored some of them.
        :raises AisaError: of the first image that failed, after all others are stored.
        """
        several = max(self._job.request.n, len(response.available)) > 1

        async def store_one(image: GeneratedImage) -> StoredImage:
            path = self._folder / uuid.uuid4().hex
            move = _Move(self._job, self._bucket, image, path, claim_id, several)
            async with self._lanes.transfers:
                found = await asyncio.to_thread(move.find) if is_resumed else None
                if found is not None:
                    return found
                try:
                    async with self._lanes.downloads:
                        fetched = await move.fetch(self._fetcher)
                    return await asyncio.to_thread(move.upload, fetched)
                except BaseException:
                    await asyncio.to_thread(path.unlink, missing_ok=True)
                    raise

        outcomes = await asyncio.gather(*map(store_one, response.available), return_exceptions=True)
        stored = [outcome for outcome in outcomes if isinstance(outcome, StoredImage)]
        self.stored = tuple(asdict(one) for one in stored)
        for one in stored:
            log.info("Stored %s: %s, %s, %d bytes.", one.uri, one.size, one.content_type, one.bytes)
        for image, outcome in zip(response.available, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                raise self._explained(image, response, stored, outcome)
        return self.stored

    def _explained(
        self,
        image: GeneratedImage,
        response: GenerationResponse,
        stored: list[StoredImage],
        error: BaseException,
    ) -> BaseException:
        """Say which image an error is about, what was paid, and what is safe."""
        if not isinstance(error, AisaError):
            return error
        if isinstance(error, ImageLinkExpired):
            step = (
                "It is not bought again by itself: to pay anew, clear the task with on_existing='regenerate'."
            )
        elif isinstance(error, ImageUnavailable):
            step = "A retry fetches it again and pays nothing, as long as its link works."
        else:
            step = "A retry goes on from here and pays nothing."
        uris = ", ".join(one.uri for one in stored) or "none"
        return type(error)(
            f"image {image.index} of request {response.request_id}: {error}. {response.billed} image(s) are "
            f"paid for ({self._job.cost_text(response.billed)}); stored: {uris}. {step}",
            status=error.status,
            code=error.code,
            request_id=response.request_id,
        )


@dataclass(frozen=True, slots=True)
class _Move:
    """One image on its way: through a file at ``path`` into the bucket."""

    job: Job
    bucket: Bucket
    image: GeneratedImage
    path: Path
    claim_id: str
    several: bool

    def find(self) -> StoredImage | None:
        """Return the image if an earlier attempt of this very purchase has stored it."""
        if "{sha256}" in self.job.target.template:
            return None  # Its key is not known before it is fetched, which is free.
        endings = [suffixes[0][1:] for suffixes in SUFFIXES.values()]
        for ext in endings if "{ext}" in self.job.target.template else endings[:1]:
            key = self._key(ext, "")
            head = self.bucket.head_image(key)
            if head is None or head["Metadata"].get("claim") != self.claim_id:
                continue
            if head["Metadata"].get("index") == str(self.image.index):
                return StoredImage.from_head(head, bucket=self.bucket, key=key)
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
        self.bucket.put_image(
            self.path,
            key=key,
            content_type=info.content_type,
            sha256=fetched.sha256,
            metadata={**self.job.metadata(), **own},
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
        )

    def _key(self, ext: str, sha256: str) -> str:
        return self.job.target.key(index=self.image.index, ext=ext, sha256=sha256, several=self.several)


@asynccontextmanager
async def temporary_folder() -> AsyncIterator[Path]:
    """Yield an empty folder for images on their way.

    Made and removed in threads: a disk can be slow, and hundreds of tasks wait.
    """
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
