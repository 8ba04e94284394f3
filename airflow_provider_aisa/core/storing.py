"""What is paid for goes into S3 and is said in the journal, whatever fails on the way.

Every image that can be stored is stored before the first failure is told.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from typing import Final

from airflow_provider_aisa.core.gateway.response import GeneratedImage, GenerationResponse
from airflow_provider_aisa.core.images.finding import verify
from airflow_provider_aisa.core.images.stored import StoredImage
from airflow_provider_aisa.core.images.transfer import Moved, store_images
from airflow_provider_aisa.core.job import Job
from airflow_provider_aisa.core.journal.entry import Entry, EntryState
from airflow_provider_aisa.core.journal.store import AlreadyBought, Found, Journal
from airflow_provider_aisa.core.layout import Target, surplus_target
from airflow_provider_aisa.core.purchase import Bought
from airflow_provider_aisa.core.workbench import Workbench
from airflow_provider_aisa.exceptions import (
    AisaError,
    FewerImages,
    ImageLinkExpired,
    ImagesLost,
    ImageUnavailable,
    JournalUnreadable,
    StorageFailed,
)

log = logging.getLogger(__name__)

PAY_ANEW: Final = "clear the task with on_existing='regenerate' to pay anew"


@dataclass(frozen=True, slots=True)
class Kept:
    """What became of a paid response's images.

    :param entry: as the journal has it now.
    :param images: those that are in S3.
    :param error: why that is not all that was asked for; None when it is.
    """

    entry: Entry
    images: tuple[StoredImage, ...]
    error: AisaError | None = None


async def store_bought(
    job: Job, bench: Workbench, journal: Journal, bought: Bought, *, age: float | None
) -> Kept:
    """Store the images of a paid entry, and say so in the journal.

    :param age: seconds since an earlier attempt recorded it; None when this attempt has paid.
    """
    entry, etag = bought.entry, bought.etag
    response = entry.response
    if response is None:
        what = f"journal {journal.uri} is paid and has no response: look at it"
        return Kept(entry, (), JournalUnreadable(what))
    try:
        moved = await _move(job, bench, response, entry, job.target, age=age)
    finally:
        # Without its record, what is not stored yet would be lost with this process.
        if not bought.is_recorded:
            etag = await _record_late(journal, bought)
    if moved.failed:
        image, error = moved.failed[0]
        return Kept(entry, moved.stored, _explained(job, image, response, moved.stored, error))
    try:
        if etag is not None:
            entry = await _record_stored(bench, journal, entry, moved.stored, etag)
        check_complete(job, response, moved.stored)
    except AisaError as e:
        return Kept(entry, moved.stored, e)
    return Kept(entry, moved.stored)


async def store_surplus(job: Job, bench: Workbench, journal: Journal, entry: Entry) -> None:
    """Save the images of a response that came after another copy's: they are paid for."""
    response = entry.response
    if response is None:
        return
    target = surplus_target(job.journal_key, bench.bucket.name, entry.claim.id)
    log.warning(
        "Another copy of this task has paid for the same images, so they are paid for twice: request %s, "
        "%d image(s), %s. The images of this request are put into s3://%s/%s.",
        response.request_id,
        response.billed,
        job.cost_text(response.billed),
        target.bucket,
        target.folder,
    )
    moved = await _move(job, bench, response, entry, target, age=None)
    for image, error in moved.failed:
        log.error(
            "Image %d of request %s is lost: %s. Ask AIsa's support with the request id (journal %s).",
            image.index,
            response.request_id,
            error,
            journal.uri,
        )


def check_complete(job: Job, response: GenerationResponse, images: tuple[StoredImage, ...]) -> None:
    """Raise FewerImages when fewer came than were asked for, and nobody wants to keep so few."""
    asked, got = job.request.n, len(images)
    if got >= asked:
        return
    # Not the gateway's message, which may repeat the prompt.
    reasons = "; ".join(f"image {image.index}: {image.error_code}" for image in response.refused)
    what = (
        f"AIsa returned {got} of {asked} image(s) for request {response.request_id}"
        f"{f' ({reasons})' if reasons else ''}"
    )
    paid = f"{response.billed} are paid for ({job.cost_text(response.billed)}). Stored: {_uris(images)}."
    if got and job.on_partial == "keep":
        log.warning("%s. Kept, as on_partial='keep' says. %s", what, paid)
        return
    step = "Set on_partial='keep' to accept fewer, or" if got else "Change the prompt, or"
    raise FewerImages(
        f"{step} {PAY_ANEW} for all. {what}. {paid}", status=200, request_id=response.request_id
    )


def describe_lost(lost: tuple[tuple[StoredImage, str], ...]) -> str:
    """Say of each image what is at its URI instead."""
    return "; ".join(f"{image.uri} was {what}" for image, what in lost)


async def _move(
    job: Job,
    bench: Workbench,
    response: GenerationResponse,
    entry: Entry,
    target: Target,
    *,
    age: float | None,
) -> Moved:
    return await store_images(
        response,
        target=target,
        metadata=job.metadata(),
        asked=job.request.n,
        claim_id=entry.claim.id,
        paid_before=age,
        fetcher=bench.fetcher,
        bucket=bench.bucket,
        folder=bench.folder,
        lanes=bench.lanes,
    )


async def _record_late(journal: Journal, bought: Bought) -> str | None:
    """Record a response once more; return the ETag that the next write follows.

    S3 may have written it although it said that it had not: the repeated write recognizes its own.
    """
    try:
        found = await asyncio.to_thread(journal.record, bought.entry, bought.etag)
    except (AlreadyBought, JournalUnreadable, StorageFailed) as e:
        log.warning("The paid response still is not recorded in %s: %r", journal.uri, e)
        return bought.etag
    return found.etag


async def _record_stored(
    bench: Workbench, journal: Journal, entry: Entry, images: tuple[StoredImage, ...], etag: str
) -> Entry:
    """Say in the journal that all images are stored; return the entry as it then is.

    :raises ImagesLost: another copy, which has paid as well, has put its images in the place of ours.
    """
    response = entry.response.without_links() if entry.response else None
    stored = replace(entry, state=EntryState.STORED, images=images, response=response, previous=None).noted(
        f"stored {len(images)} image(s)"
    )

    def tell() -> Found:
        found = journal.record(stored, etag)
        if entry.response is not None:
            journal.keeper.empty(entry.response)
        return found

    try:
        found = await asyncio.to_thread(tell)
    except AlreadyBought:
        lost = await asyncio.to_thread(verify, images, claim_id=entry.claim.id, bucket=bench.bucket)
        if lost:
            raise ImagesLost(
                "Let the task retry, which returns the images of another copy of it: that one has paid as "
                f"well and replaced ours. {describe_lost(lost)} (journal {journal.uri}).",
                retryable=True,
            ) from None
    except (JournalUnreadable, StorageFailed) as e:
        # The images are there; the next attempt would only look at them again.
        log.warning("The images are stored, but the journal could not be told: %s", e)
    else:
        return found.entry if found.entry.state is EntryState.STORED else stored
    return stored


def _explained(
    job: Job,
    image: GeneratedImage,
    response: GenerationResponse,
    stored: tuple[StoredImage, ...],
    error: AisaError,
) -> AisaError:
    """Say which image an error is about, what was paid, and what is safe."""
    if isinstance(error, ImageLinkExpired):
        step = "Clear the task with on_existing='regenerate' to pay anew: no retry does that."
    elif isinstance(error, ImageUnavailable):
        step = "A retry fetches it again and pays nothing, as long as its link works."
    else:
        step = "A retry goes on from here and pays nothing."
    return type(error)(
        f"{step} Image {image.index} of request {response.request_id}: {error}. {response.billed} image(s) "
        f"are paid for ({job.cost_text(response.billed)}); stored: {_uris(stored)}.",
        status=error.status,
        code=error.code,
        request_id=response.request_id,
        retryable=error.retryable,
    )


def _uris(images: tuple[StoredImage, ...]) -> str:
    return ", ".join(image.uri for image in images) or "none"
