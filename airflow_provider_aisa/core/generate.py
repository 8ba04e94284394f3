"""The path itself: a job goes in, stored images come out. It begins wherever an earlier attempt stopped.

Errors are raised only after every image that could be fetched is in S3: they say what is there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from airflow_provider_aisa.core.budget import Budget
from airflow_provider_aisa.core.gateway.client import AisaClient
from airflow_provider_aisa.core.gateway.response import GenerationResponse
from airflow_provider_aisa.core.gateway.settings import ConnectionSettings
from airflow_provider_aisa.core.images.download import Fetcher, open_fetcher
from airflow_provider_aisa.core.images.old_transfer import Transfer
from airflow_provider_aisa.core.images.transfer import Lanes, temporary_folder
from airflow_provider_aisa.core.job import Job
from airflow_provider_aisa.core.journal.entry import Action, Entry, EntryState, Step, next_step
from airflow_provider_aisa.core.journal.store import EntryChanged, Found, Journal
from airflow_provider_aisa.core.purchase import Paid, Purchase
from airflow_provider_aisa.core.s3 import Bucket
from airflow_provider_aisa.exceptions import (
    FewerImages,
    ImageLinkExpired,
    OutcomeUnknown,
    StorageFailed,
)

log = logging.getLogger(__name__)

#: Seconds between looks at an entry that somebody else has claimed.
POLL: Final = 5.0


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """What a job came to.

    :param reused: nothing was paid by this attempt.
    :param cost_usd: what the images cost when they were bought; None when nobody knows their price.
    :param usage: the gateway's own, verbatim.
    :param unknown_outcomes: requests that may have been billed without a response being received.
    :param images: index, uri, bucket, key, width, height, size, content_type, bytes, sha256.
    """

    model: str
    created: int | None
    request_id: str | None
    reused: bool
    cost_usd: float | None
    usage: Mapping[str, Any]
    unknown_outcomes: int
    images: tuple[Mapping[str, Any], ...]
    journal_uri: str

    def to_dict(self) -> dict[str, Any]:
        """Return the value for XCom: small, JSON, and without anything that is secret."""
        return {**asdict(self), "images": [dict(image) for image in self.images]}


async def generate(job: Job, *, settings: ConnectionSettings, bucket: Bucket) -> GenerationResult:
    """Do what is left to be done of a job, with clients of its own. Raises as :meth:`Pipeline.run`."""
    bucket.check_args()
    # Not closed: when this is cancelled, a request may still be under way, and closing would cut it off.
    # Nothing stays open for long: each connection ends with its response.
    client = AisaClient(settings)
    with open_fetcher(settings) as fetcher:
        async with temporary_folder() as folder:
            return await Pipeline(job, client=client, fetcher=fetcher, bucket=bucket, folder=folder).run()


def look_up(job: Job, bucket: Bucket) -> Step:
    """Return what there is to do of a job, without doing it. Blocks; raises as :meth:`Pipeline.run`."""
    ledger = Journal(bucket, job.journal_key)
    return _decide(job, ledger, ledger.load())


def _decide(job: Job, ledger: Journal, found: Found | None) -> Step:
    return next_step(
        found.entry if found else None,
        attempt=job.attempt,
        fingerprint=job.request.fingerprint(),
        policy=job.policy,
        age=found.age if found else 0.0,
        uri=ledger.uri,
    )


class Pipeline:
    """The path of one job.

    :param folder: for the files that the images pass through; may be shared with other jobs.
    :param lanes: how many images are on their way at once; shared with other jobs of a batch.
    :param budget: what each send has to fit into; shared with other jobs of a batch.
    :param sleep: waits between looks at somebody else's claim, in seconds.
    """

    def __init__(
        self,
        job: Job,
        *,
        client: AisaClient,
        fetcher: Fetcher,
        bucket: Bucket,
        folder: Path,
        lanes: Lanes | None = None,
        budget: Budget | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._job = job
        self._client = client
        self._ledger = Journal(bucket, job.journal_key, probes=not job.is_first_try)
        self._transfer = Transfer(job, fetcher=fetcher, bucket=bucket, folder=folder, lanes=lanes)
        self._budget = budget
        self._sleep = sleep
        self._found: Found | None = None
        self._purchase: Purchase | None = None
        self._is_waiting = False
        #: The images were paid for by an earlier attempt.
        self.is_resumed = False
        #: The entry as this job knows it last; None before anything is paid for.
        self.entry: Entry | None = None
        #: The ETag of the entry, once the journal says ``stored``.
        self.stored_etag: str | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether nothing is under way or paid for: it waits for a turn to send, or for another's claim."""
        return self._is_waiting and not (self._purchase is not None and self._purchase.is_committed)

    @property
    def was_sent(self) -> bool:
        """Whether this attempt has wanted to pay."""
        return self._purchase is not None

    @property
    def unknown_outcomes(self) -> int:
        """Requests of this job that may have been billed without a response being received."""
        if self.entry is not None:
            return self.entry.unknown_outcomes
        if self._purchase is not None:
            return self._purchase.unknown_outcomes
        return self._found.entry.may_be_billed if self._found else 0

    @property
    def images(self) -> tuple[Mapping[str, Any], ...]:
        """The images that are in S3, as in the result: also when others are missing."""
        return self._transfer.stored or (self.entry.images if self.entry else ())

    @property
    def journal_uri(self) -> str:
        """Where the entry is."""
        return self._ledger.uri

    async def run(self, *, is_new: bool = False) -> GenerationResult:
        """Do what is left to be done of the job, and return its result.

        :param is_new: somebody has seen that there is no entry; should there be one by now, the claim fails
            and it is read.
        :raises FewerImages: the gateway returned fewer images than asked and ``on_partial`` is ``fail``,
            or it returned none.
        :raises AisaError: the other children, as their names say.
        """
        found = None if is_new else await self._load()
        while True:
            step = _decide(self._job, self._ledger, found)
            if step.action is Action.WAIT:
                log.info("Another copy of this task has claimed %s: waiting for it.", self._ledger.uri)
                self._is_waiting = True
                await self._sleep(min(step.seconds + 1.0, POLL))
                self._is_waiting = False
                found = await self._load()
                continue
            if found is not None and step.action is not Action.BUY:
                try:
                    return await self._without_paying(found, step)
                except ImageLinkExpired as e:
                    if not step.is_anew:
                        raise
                    log.warning("Paying anew, as on_existing='regenerate' says: %s", e)
            try:
                paid = await self._buy(found, step)
            except EntryChanged:
                found = await self._load()
                continue
            return await self._finish(paid, reused=False)

    async def _load(self) -> Found | None:
        self._found = await asyncio.to_thread(self._ledger.load)
        return self._found

    async def _without_paying(self, found: Found, step: Step) -> GenerationResult:
        self.entry = entry = found.entry
        self.is_resumed = True
        if step.action is Action.RETURN:
            self.stored_etag = found.etag
            log.info(
                "Nothing is paid: these images exist already, %s (journal %s).", entry.uris, self._ledger.uri
            )
            return self._complete(entry, reused=True)
        log.info("Nothing is paid: the images of %s are paid for and are fetched now.", self._ledger.uri)
        return await self._finish(Paid(entry, found.etag), reused=True)

    async def _buy(self, found: Found | None, step: Step) -> Paid:
        job = self._job
        if step.unknown_outcomes:
            log.warning(
                "%d earlier request(s) for the same images may have been billed without a response.",
                step.unknown_outcomes,
            )
        self.entry, self.is_resumed, self._is_waiting = None, False, True
        self._purchase = purchase = Purchase(
            job,
            client=self._client,
            ledger=self._ledger,
            found=found,
            unknown_outcomes=step.unknown_outcomes,
            budget=self._budget,
        )
        try:
            paid = await purchase.buy()
        except OutcomeUnknown as e:
            # The next attempt would not send it either.
            e.retryable = job.policy.delivery == "at-least-once"
            raise
        finally:
            self._is_waiting = False
        response = GenerationResponse.from_dict(paid.entry.response or {})
        log.info(
            "AIsa billed %d image(s), %s; request %s.",
            response.billed,
            job.cost_text(response.billed),
            response.request_id,
        )
        return paid

    async def _finish(self, paid: Paid, *, reused: bool) -> GenerationResult:
        """Store the images of a paid entry, and say so in the journal."""
        self.entry = entry = paid.entry
        response = GenerationResponse.from_dict(entry.response or {})
        try:
            images = await self._transfer.store(response, claim_id=entry.claim.id, is_resumed=reused)
        finally:
            # Without its record, what is not stored yet would be lost with this process.
            etag = paid.etag if paid.is_recorded else await self._record_late(paid)
        stored = replace(
            entry, state=EntryState.STORED, images=images, response=response.without_links().to_dict()
        ).noted(f"stored {len(images)} image(s)")
        self.entry = stored
        if etag is not None:
            self.stored_etag = await self._record_stored(stored, etag)
        return self._complete(stored, reused=reused)

    async def _record_late(self, paid: Paid) -> str | None:
        """Record a response once more; return the ETag that the next write follows.

        S3 may have written it although it said that it had not: the repeated write recognizes its own.
        """
        try:
            return await asyncio.to_thread(self._ledger.write, paid.entry, paid.etag)
        except (EntryChanged, StorageFailed) as e:
            log.warning("The paid response still is not recorded in %s: %r", self._ledger.uri, e)
            return paid.etag

    async def _record_stored(self, stored: Entry, etag: str) -> str | None:
        try:
            return await asyncio.to_thread(self._ledger.write, stored, etag)
        except EntryChanged:
            log.info("Another copy of this task has finished %s as well.", self._ledger.uri)
        except StorageFailed as e:
            # The images are there; the next attempt would only look at them again.
            log.warning("The images are stored, but the journal could not be told: %s", e)
        return None

    def _complete(self, entry: Entry, *, reused: bool) -> GenerationResult:
        """Return the result of a stored entry, or raise when it is not what was asked for."""
        response = GenerationResponse.from_dict(entry.response or {})
        self._check_complete(entry, response)
        return GenerationResult(
            model=response.model,
            created=response.created,
            request_id=response.request_id,
            reused=reused,
            cost_usd=entry.cost_usd,
            usage=response.usage,
            unknown_outcomes=entry.unknown_outcomes,
            images=entry.images,
            journal_uri=self._ledger.uri,
        )

    def _check_complete(self, entry: Entry, response: GenerationResponse) -> None:
        asked, got = self._job.request.n, len(entry.images)
        if got >= asked:
            return
        # Not the gateway's message, which may repeat the prompt.
        reasons = "; ".join(f"image {image.index}: {image.error_code}" for image in response.refused)
        what = (
            f"AIsa returned {got} of {asked} image(s) for request {response.request_id}"
            f"{f' ({reasons})' if reasons else ''}; {response.billed} are paid for "
            f"({self._job.cost_text(response.billed)}). Stored: {entry.uris}."
        )
        if got and self._job.on_partial == "keep":
            log.warning("%s Kept, as on_partial='keep' says.", what)
            return
        step = "Set on_partial='keep' to accept fewer, or clear" if got else "Change the prompt, or clear"
        raise FewerImages(
            f"{what} {step} the task with on_existing='regenerate' to pay for all anew.",
            status=200,
            request_id=response.request_id,
        )
