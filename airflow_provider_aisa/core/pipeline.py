"""The path itself: a valid request goes in, stored images come out. Everything paid for is stored first.

Errors are raised only after every image that could be fetched is in S3: they say what is there.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import logging
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, Literal

from airflow_provider_aisa.core.client import AisaClient
from airflow_provider_aisa.core.fetch import MAX_IMAGE_BYTES, FetchedImage, Fetcher
from airflow_provider_aisa.core.image import inspect
from airflow_provider_aisa.core.keys import Target
from airflow_provider_aisa.core.request import ImageRequest
from airflow_provider_aisa.core.response import GeneratedImage, GenerationResponse
from airflow_provider_aisa.core.storage import Bucket
from airflow_provider_aisa.exceptions import AisaError, FewerImages, ImageUnavailable, ImageUnusable

log = logging.getLogger(__name__)

OnPartial = Literal["fail", "keep"]
#: Images of one process on their way at once, apart from the requests in flight.
MAX_TRANSFERS: Final = 8


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


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """What a request came to. ``usage`` is the gateway's own, verbatim; ``cost_usd`` None when unpriced."""

    model: str
    created: int | None
    request_id: str | None
    reused: bool
    cost_usd: float | None
    usage: Mapping[str, Any]
    images: tuple[StoredImage, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the value for XCom: small, JSON, and without anything that is secret."""
        return {**asdict(self), "usage": dict(self.usage), "images": [asdict(image) for image in self.images]}


@dataclass(frozen=True, slots=True)
class Job:
    """A request and where its images go.

    :param price_usd: per image; None when nobody knows it.
    """

    request: ImageRequest
    target: Target
    price_usd: Decimal | None = None
    on_partial: OnPartial = "fail"

    def cost_of(self, images: int) -> str:
        """Say what so many images cost, for a message."""
        if self.price_usd is None:
            return "an unknown amount"
        return f"${self.price_usd * images:.3f}"


async def generate(job: Job, *, client: AisaClient, fetcher: Fetcher, bucket: Bucket) -> GenerationResult:
    """Generate a job's images and store them.

    :raises FewerImages: the gateway returned fewer images than asked and ``on_partial`` is ``fail``,
        or it returned none.
    :raises AisaError: the other children, as their names say.
    """
    await asyncio.to_thread(bucket.check)
    request = job.request
    log.info(
        "Sending one billable request: %d image(s) of %s, %s, about %s.",
        request.n,
        request.model,
        request.size,
        job.cost_of(request.n),
    )
    response = await client.agenerate(request)
    billed = billed_images(response)
    log.info(
        "AIsa generated %d image(s) and billed %d (%s), request %s.",
        len(response.available),
        billed,
        job.cost_of(billed),
        response.request_id,
    )
    images = await store_images(job, response, fetcher=fetcher, bucket=bucket)
    _check_complete(job, response, images)
    return GenerationResult(
        model=response.model,
        created=response.created,
        request_id=response.request_id,
        reused=False,
        cost_usd=None if job.price_usd is None else float(job.price_usd * billed),
        usage=response.usage,
        images=images,
    )


def billed_images(response: GenerationResponse) -> int:
    """Return how many images are on the bill: the gateway's figure, or what it delivered without one."""
    figure = response.usage.get("generated_images")
    return figure if isinstance(figure, int) and figure >= 0 else len(response.available)


async def store_images(
    job: Job, response: GenerationResponse, *, fetcher: Fetcher, bucket: Bucket
) -> tuple[StoredImage, ...]:
    """Fetch and upload all images of a response concurrently; raise only after all that can be stored are."""
    room = asyncio.Semaphore(MAX_TRANSFERS)
    with tempfile.TemporaryDirectory(prefix="aisa-", ignore_cleanup_errors=True) as folder:

        async def store(image: GeneratedImage) -> StoredImage:
            async with room:
                return await _store_image(job, image, Path(folder), fetcher=fetcher, bucket=bucket)

        outcomes = await asyncio.gather(*map(store, response.available), return_exceptions=True)
    stored = tuple(outcome for outcome in outcomes if isinstance(outcome, StoredImage))
    for one in stored:
        log.info("Stored %s: %s, %s, %d bytes.", one.uri, one.size, one.content_type, one.bytes)
    for image, outcome in zip(response.available, outcomes, strict=True):
        if isinstance(outcome, BaseException):
            raise _with_place(job, image, response, stored, outcome)
    return stored


async def _store_image(
    job: Job, image: GeneratedImage, folder: Path, *, fetcher: Fetcher, bucket: Bucket
) -> StoredImage:
    path = folder / str(image.index)
    if image.url is not None:
        fetched = await fetcher.fetch(image.url, path)
    else:
        fetched = await asyncio.to_thread(_decode, image.b64_json or "", path)
    info = fetched.info
    key = job.target.key(index=image.index, ext=info.ext, sha256=fetched.sha256, several=job.request.n > 1)
    await asyncio.to_thread(
        bucket.put_image, path, key=key, content_type=info.content_type, sha256=fetched.sha256
    )
    await asyncio.to_thread(path.unlink)
    return StoredImage(
        index=image.index,
        uri=bucket.uri(key),
        bucket=bucket.name,
        key=key,
        width=info.width,
        height=info.height,
        size=f"{info.width}x{info.height}",
        content_type=info.content_type,
        bytes=fetched.bytes,
        sha256=fetched.sha256,
    )


def _decode(b64_json: str, path: Path) -> FetchedImage:
    """Write an image that came inside the response to a file."""
    if len(b64_json) > MAX_IMAGE_BYTES * 4 // 3 + 4:
        msg = f"the image is larger than {MAX_IMAGE_BYTES // 1024**2} MiB"
        raise ImageUnusable(msg)
    try:
        content = base64.b64decode(b64_json, validate=True)
    except binascii.Error:
        msg = "the response holds broken base64 in place of the image"
        raise ImageUnusable(msg) from None
    path.write_bytes(content)
    return FetchedImage(path, len(content), hashlib.sha256(content).hexdigest(), inspect(path))


def _with_place(
    job: Job,
    image: GeneratedImage,
    response: GenerationResponse,
    stored: tuple[StoredImage, ...],
    error: BaseException,
) -> BaseException:
    """Say which image an error is about, what was paid, and what is safe."""
    if not isinstance(error, AisaError):
        return error
    billed = billed_images(response)
    step = f" {_NEXT_FOR_IMAGE}" if isinstance(error, ImageUnavailable) else ""
    msg = (
        f"image {image.index} of request {response.request_id}: {error}. {billed} image(s) are paid for "
        f"({job.cost_of(billed)}); stored: {_uris(stored)}.{step}"
    )
    return type(error)(msg, status=error.status, code=error.code, request_id=response.request_id)


_NEXT_FOR_IMAGE: Final = "Give AIsa's support the request id; asking for it anew is a new purchase."


def _check_complete(job: Job, response: GenerationResponse, images: tuple[StoredImage, ...]) -> None:
    missing = job.request.n - len(images)
    if missing <= 0:
        return
    reasons = [
        f"image {image.index}: {image.error_code}: {image.error_message}" for image in response.refused
    ]
    billed = billed_images(response)
    what = (
        f"AIsa returned {len(images)} of {job.request.n} image(s) for request {response.request_id}"
        f"{f' ({chr(59).join(reasons)})' if reasons else ''}; {billed} are paid for ({job.cost_of(billed)}). "
        f"Stored: {_uris(images)}."
    )
    if images and job.on_partial == "keep":
        log.warning("%s Kept, as on_partial='keep' says.", what)
        return
    step = "Set on_partial='keep' to accept fewer." if images else "Change the prompt, or try again."
    msg = f"{what} {step}"
    raise FewerImages(msg, status=200, request_id=response.request_id)


def _uris(images: tuple[StoredImage, ...]) -> str:
    return ", ".join(image.uri for image in images) or "none"
