"""The path itself: decide, buy, store. It begins wherever an earlier attempt stopped.

A job always ends in a receipt. Its error is told only after every image that could be fetched is in S3.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from decimal import Decimal

from airflow_provider_aisa.core.account import purchases
from airflow_provider_aisa.core.budget import SpendingStopped, spent_on
from airflow_provider_aisa.core.gateway.response import GenerationResponse
from airflow_provider_aisa.core.images.finding import verify
from airflow_provider_aisa.core.images.stored import StoredImage
from airflow_provider_aisa.core.job import Job
from airflow_provider_aisa.core.journal.entry import Entry, Stored, with_claims
from airflow_provider_aisa.core.journal.steps import Action, Step, next_step
from airflow_provider_aisa.core.journal.store import EntryChanged, Found, Journal
from airflow_provider_aisa.core.layout import proof_key
from airflow_provider_aisa.core.purchase import Bought, PaidTwice, Purchase
from airflow_provider_aisa.core.receipt import Receipt
from airflow_provider_aisa.core.s3.bucket import Bucket
from airflow_provider_aisa.core.storing import (
    PAY_ANEW,
    check_complete,
    describe_lost,
    store_bought,
    store_surplus,
)
from airflow_provider_aisa.core.workbench import Workbench
from airflow_provider_aisa.exceptions import (
    AisaError,
    ImageLinkExpired,
    ImageRefused,
    ImagesLost,
    OutcomeUnknown,
)

log = logging.getLogger(__name__)

#: Waits, in seconds, for somebody else's claim.
Wait = Callable[[float], Awaitable[None]]


async def generate(
    job: Job, bench: Workbench, *, is_known_new: bool = False, wait: Wait | None = None
) -> Receipt:
    """Do what is left to be done of a job, and return what it came to, errors included.

    :param is_known_new: somebody has seen that the journal has no entry. Should there be one by now, the
        claim fails and it is read.
    :param wait: None for the workbench's own way of waiting.
    """
    way = _Way(job, bench, wait or bench.pause)
    try:
        await way.go(is_known_new=is_known_new)
    except (AisaError, SpendingStopped) as e:
        return way.receipt(e)
    except Exception as e:
        log.exception("Unexpected: %s", way.journal.uri)
        return way.receipt(e)
    return way.receipt(None)


def look_up(job: Job, bucket: Bucket) -> Step:
    """Return what there is to do of a job, without doing it. Blocks; raises as :func:`next_step`."""
    journal = Journal(bucket, job.journal_key)
    return decide(job, journal.uri, journal.load())


def decide(job: Job, uri: str, found: Found | None) -> Step:
    """Return what follows from an entry for a job. Raises as :func:`next_step`."""
    return next_step(
        found.entry if found else None,
        buyer=job.buyer,
        fingerprint=job.request.fingerprint(),
        policy=job.policy,
        age=found.age if found else 0.0,
        uri=uri,
    )


class _Way:
    """One job on its way. What is known of it so far is what its receipt will say."""

    def __init__(self, job: Job, bench: Workbench, wait: Wait) -> None:
        self._job = job
        self._bench = bench
        self._wait = wait
        self._found: Found | None = None
        self._bought: Entry | Stored | None = None
        self._images: tuple[StoredImage, ...] = ()
        self._purchase: Purchase | None = None
        self._is_reused = False
        #: Another copy has written the entry since we decided to buy: it knows of requests that we do not.
        self._is_taken_over = False
        self.journal = Journal(bench.bucket, job.journal_key)

    async def go(self, *, is_known_new: bool) -> None:
        """Go to the end; raise what stops it."""
        found = await self._first_look(is_known_new=is_known_new)
        while True:
            step = decide(self._job, self.journal.uri, found)
            if step.action is Action.WAIT:
                log.info("Another copy of this task has claimed %s: waiting for it.", self.journal.uri)
                await self._wait(min(step.seconds + 1.0, self._bench.timing.poll))
                found = await self._load()
                continue
            if found is not None and await self._without_paying(found, step):
                return None
            try:
                bought = await self._buy(found, step)
            except EntryChanged:
                found = await self._load()
                self._is_taken_over = True
            except PaidTwice as e:
                await store_surplus(self._job, self._bench, self.journal, e.entry)
                found = self._found = e.found
            else:
                return await self._store(bought, age=None)

    def receipt(self, error: BaseException | None) -> Receipt:
        """Return what the job came to so far."""
        bought = self._bought
        unknown = self._unknown()
        is_refused = isinstance(error, ImageRefused)  # The same prompt would be refused again, and billed.
        if isinstance(error, OutcomeUnknown) and not is_refused and self._purchase is not None:
            # The next attempt of an at-most-once task would not send it either.
            error.retryable = self._job.policy.delivery == "at-least-once"
        if isinstance(error, AisaError) and unknown and error.unknown_outcomes != unknown:
            error = error.extended(
                f"{unknown} request(s) for these images may have been billed without a response: look at the "
                f"usage page of the AIsa console (journal {self.journal.uri}).",
                unknown_outcomes=unknown,
            )
        response = bought.response if bought else None
        return Receipt(
            self.journal.uri,
            response=response.without_links() if response else None,
            cost_usd=bought.cost_usd if bought else 0.0,
            images=self._images,
            unknown_outcomes=unknown,
            was_sent=self._purchase is not None and self._purchase.was_sent,
            is_reused=self._is_reused,
            error=error,
        )

    def _unknown(self) -> int:
        found = self._found.entry.may_be_billed if self._found else ()
        if isinstance(self._bought, Entry):
            return len(self._bought.unknown)
        if self._purchase is not None and self._bought is None:
            theirs = found if self._is_taken_over else ()
            return len(with_claims(self._purchase.unknown, theirs))
        return len(found)

    # What there is already

    async def _load(self) -> Found | None:
        self._found = await asyncio.to_thread(self.journal.load)
        return self._found

    async def _first_look(self, *, is_known_new: bool) -> Found | None:
        job = self._job
        if job.batch is not None or job.max_cost_usd is None:
            return None if is_known_new else await self._load()
        self._found, spent = await asyncio.to_thread(self._look_at_all)
        self._bench.budget.spent += spent
        return self._found

    def _look_at_all(self) -> tuple[Found | None, Decimal]:
        """Return the job's entry, and what the task instance has spent, other requests included."""
        job, found, spent = self._job, None, Decimal(0)
        for key, one in purchases(job, self._bench.bucket):
            spent += spent_on(one.entry, job.buyer, job.policy)
            found = one if key == job.journal_key else found
        return found, spent

    async def _without_paying(self, found: Found, step: Step) -> bool:
        """Return the images that there are, or fetch those that are paid for; False: there are none."""
        if step.action is Action.RESUME:
            log.info("Nothing is paid: the images of %s are paid for and are fetched now.", self.journal.uri)
            try:
                await self._store(Bought(found.entry, found.etag), age=found.age)
            except ImageLinkExpired as e:
                return await self._after_expiry(e, found.entry, step)
            return True
        if step.stored is None:
            return False
        return await self._return(step.stored, is_anew=step.is_anew)

    async def _after_expiry(self, error: ImageLinkExpired, entry: Entry, step: Step) -> bool:
        if step.is_anew:
            log.warning("Paying anew, as on_existing='regenerate' says: %s", error)
            return False
        previous = entry.previous
        if previous is None or previous.fingerprint != entry.fingerprint or entry.buyer == self._job.buyer:
            raise error
        log.warning("The images that were to replace the earlier ones are lost. %s", error)
        return await self._return(previous, is_anew=False)

    async def _return(self, stored: Stored, *, is_anew: bool) -> bool:
        """Return stored images, if what is at their URIs still is them; False: buy them anew."""
        lost = await asyncio.to_thread(
            verify, stored.images, claim_id=stored.claim_id, bucket=self._bench.bucket
        )
        if lost and is_anew:
            log.warning("Paying anew, as on_existing='regenerate' says: %s", describe_lost(lost))
            return False
        self._bought, self._is_reused = stored, True
        self._images = tuple(image for image in stored.images if all(image != gone for gone, _ in lost))
        if lost:
            raise ImagesLost(
                f"Restore the images, or {PAY_ANEW}: they were paid for and are not there any more. Nothing "
                f"was sent. {describe_lost(lost)} (journal {self.journal.uri}).",
                request_id=stored.response.request_id,
            )
        log.info("Nothing is paid: these images exist already: %s.", stored.uris)
        check_complete(self._job, stored.response, stored.images)
        return True

    # Paying

    async def _buy(self, found: Found | None, step: Step) -> Bought:
        job = self._job
        if step.unknown:
            log.warning(
                "%d earlier request(s) for the same images may have been billed without a response.",
                len(step.unknown),
            )
        self._bought, self._images, self._is_reused, self._is_taken_over = None, (), False, False
        self._purchase = purchase = Purchase(
            job, self._bench, self.journal, found=found, unknown=step.unknown
        )
        if job.batch is None:
            await asyncio.to_thread(self._prove_args)
        bought = await purchase.buy()
        response = bought.entry.response or GenerationResponse(job.request.model, None, (), {}, None)
        log.info(
            "AIsa billed %d image(s), %s; request %s.",
            response.billed,
            job.cost_text(response.billed),
            response.request_id,
        )
        return bought

    def _prove_args(self) -> None:
        job, bucket = self._job, self._bench.bucket
        job.check_metadata()
        if unproven := bucket.unproven_args:
            bucket.prove_args(proof_key(job.target, job.idempotency_key, unproven))

    async def _store(self, bought: Bought, *, age: float | None) -> None:
        """Store the images of a paid entry.

        :param age: seconds since an earlier attempt recorded it; None when this attempt has paid.
        """
        self._bought, self._is_reused = bought.entry, age is not None
        if bought.entry.stored is not None:
            # A copy of this task has gone on from our response, and was faster.
            try:
                await self._return(bought.entry.stored, is_anew=False)
            finally:
                self._bought, self._is_reused = bought.entry, age is not None
            return
        stored = await store_bought(self._job, self._bench, self.journal, bought, age=age)
        self._bought, self._images = stored.entry, stored.images
        if stored.error is not None:
            raise stored.error
