"""Buying images: claim, send, record. Between the send and the record lies the one window nobody can close.

Each send is one unit in a thread of its own: it claims the journal's entry, sends, and writes down what came
of it. What is in the answer itself is put beside the entry first: see ``journal/kept.py``. A cancelled task
stops waiting for it, but never interrupts it. A response that has arrived is never a
reason to send again, whatever has become of the entry meanwhile.
"""

from __future__ import annotations

import logging
import time
import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

import httpx

from airflow_provider_aisa.core.gateway.response import GenerationResponse
from airflow_provider_aisa.core.gateway.retries import Call, Outcome, may_be_billed
from airflow_provider_aisa.core.gateway.routes import generation
from airflow_provider_aisa.core.job import Job
from airflow_provider_aisa.core.journal.entry import Claim, Entry, EntryState, with_claims, without_claim
from airflow_provider_aisa.core.journal.store import AlreadyBought, EntryChanged, Found, Journal
from airflow_provider_aisa.core.references import attach
from airflow_provider_aisa.core.threads import to_the_end
from airflow_provider_aisa.core.workbench import Workbench
from airflow_provider_aisa.exceptions import ImageRefused, JournalUnreadable, OutcomeUnknown, StorageFailed

log = logging.getLogger(__name__)

_MOST_CLAIMS: Final = 5  # for one send


@dataclass(frozen=True, slots=True)
class Bought:
    """A response in hand, and the entry that records it.

    :param entry: in state ``paid``.
    :param etag: of the object that the next write follows; None when there is nothing to write, because
        nothing was billed.
    :param is_recorded: S3 has confirmed the entry.
    """

    entry: Entry
    etag: str | None
    is_recorded: bool = True


class PaidTwice(Exception):
    """A response arrived after another copy had recorded its own for the same purchase.

    :ivar entry: ours, which is in no journal.
    :ivar found: theirs, which is.
    """

    def __init__(self, entry: Entry, found: Found) -> None:
        super().__init__(entry.claim.id)
        self.entry = entry
        self.found = found


class Purchase:
    """One request that is to be paid for, and the entry of the journal that it owns while it is sent.

    :param found: the entry that the claim follows; None when there must be none.
    :param unknown: claims of earlier sends that may have been billed.
    """

    def __init__(
        self, job: Job, bench: Workbench, journal: Journal, *, found: Found | None, unknown: tuple[str, ...]
    ) -> None:
        self._job = job
        self._bench = bench
        self._journal = journal
        self._etag = found.etag if found else None
        self._history = found.entry.history if found else ()
        self._previous = (found.entry.stored or found.entry.previous) if found else None
        self._is_ours = True
        self._billed = 0  # images of the last send that are, or may be, on the bill
        #: Claims of this and earlier sends that may have been billed without a response.
        self.unknown = unknown
        #: A request has left, or may have.
        self.was_sent = False

    async def buy(self) -> Bought:
        """Send the request until it is answered, and return what is recorded of the response.

        :raises EntryChanged: somebody else has claimed the entry; nothing is under way.
        :raises PaidTwice: somebody else has paid as well.
        :raises OverBudget: the request costs more than the budget still allows; it was not sent again.
        :raises AisaError: as :meth:`AisaClient.generate`; the entry says whether anything may be billed.
        """
        client, pause = self._bench.client, self._bench.pause
        call = generation(self._job.request, at_most_once=self._job.policy.delivery == "at-most-once")
        retries = client.retries(call)
        while True:
            async with client.aslot(call, patience=retries.patience, sleep=pause):
                outcome, bought = await self._send_within_budget(call)
            delay = client.next_delay(outcome, retries)
            if bought is not None:
                return bought
            if not self._is_ours:
                raise EntryChanged
            if may_be_billed(outcome):
                log.warning(
                    "The request was sent and may have been billed, but brought no images (%s). It is sent "
                    "again in %.0f s, which may be billed as well. Such requests so far: %d.",
                    _described(outcome),
                    delay or 0.0,
                    len(self.unknown),
                )
            await pause(delay or 0.0)

    async def _send_within_budget(self, call: Call) -> tuple[Outcome, Bought | None]:
        budget, price = self._bench.budget, self._job.price_usd or Decimal(0)
        budget.reserve(self._job.cost_usd, images=self._job.request.n)
        self._billed = 0
        try:
            return await to_the_end(lambda: self._send(call), self._journal.uri)
        finally:
            budget.settle(self._job.cost_usd, price * self._billed)

    def _send(self, call: Call) -> tuple[Outcome, Bought | None]:
        """Claim, send and record. Blocks, and is not interrupted."""
        call = self._with_references(call)
        claimed = self._claim()
        request = self._job.request
        log.info(
            "Sending a billable request: %d image(s) of %s, %s, about %s.",
            request.n,
            request.model,
            request.size or ", ".join(request.options.values()) or "its own size",
            self._job.cost_text(request.n),
        )
        log.debug("Its journal is %s.", self._journal.uri)
        self.was_sent, self._billed = True, request.n
        try:
            outcome = self._bench.client.exchange(call)
        except BaseException:
            self._lose(claimed, "an unexpected error")
            raise
        if isinstance(outcome, httpx.Response) and outcome.is_success:
            return outcome, self._record(claimed, outcome)
        if may_be_billed(outcome):
            self._lose(claimed, f"no images ({_described(outcome)})")
        else:
            self._release(claimed, f"not billed ({_described(outcome)})")
        return outcome, None

    def _with_references(self, call: Call) -> Call:
        """Return the call with what stands for the reference images, which only this send keeps."""
        request, bench = self._job.request, self._bench
        if not request.reference_images:
            return call
        lifetime = bench.client.settings.timeout + bench.timing.claim_margin
        attachments = attach(request, client=bench.bucket.client, fetcher=bench.fetcher, lifetime=lifetime)
        return generation(request, at_most_once=call.at_most_once, attachments=attachments)

    def _claim(self) -> Found:
        """Write a claim until it is fresh: one whose answer came late may be stale, and another's by now."""
        margin = self._bench.timing.claim_margin
        for _ in range(_MOST_CLAIMS):
            began = time.monotonic()
            claimed = self._journal.claim(self._new_claim(), self._etag)
            self._etag = claimed.etag
            if time.monotonic() - began <= margin / 2:
                return claimed
        self._release(claimed, "not sent")  # It would count as a request that may have been billed.
        raise StorageFailed(
            f"Try again: the journal takes too long to write, so nothing was sent ({self._journal.uri})."
        )

    def _new_claim(self) -> Entry:
        job = self._job
        lifetime = self._bench.client.settings.timeout + self._bench.timing.claim_margin
        return Entry(
            state=EntryState.CLAIMED,
            buyer=job.buyer,
            fingerprint=job.request.fingerprint(),
            request=job.request.summary(),
            claim=Claim(uuid.uuid4().hex, lifetime=lifetime),
            price_usd=job.price_usd,
            idempotency_key=job.idempotency_key,
            item=job.batch.item_id if job.batch else None,
            unknown=self.unknown,
            previous=self._previous,
            history=self._history,
        ).noted(f"{_now()} claimed by {job.buyer.owner.path()}, about to send")

    def _record(self, claimed: Found, outcome: httpx.Response) -> Bought:
        """Write down a response before anything else is done with it."""
        try:
            response = self._bench.client.read(outcome, self._job.request)
        except OutcomeUnknown as e:
            is_refused = isinstance(e, ImageRefused)
            self._lose(claimed, "an answer without an image" if is_refused else "an unreadable response")
            raise
        response = self._journal.keeper.keep(response, claimed.entry.claim.id, self._bench.folder)
        paid = self._paid_entry(claimed.entry, response)
        if response.is_known_unbilled:
            self._release(claimed, "no images, and not billed")
            return Bought(paid, None)
        self._billed = response.billed
        try:
            recorded = self._journal.record(paid, claimed.etag)
        except AlreadyBought as e:
            raise PaidTwice(paid, e.found) from None
        except (StorageFailed, JournalUnreadable) as e:
            # The images can still be saved; without the record only this process can do it.
            log.warning("The paid response could not be recorded in the journal: %s", e)
            return Bought(paid, claimed.etag, is_recorded=False)
        self.unknown = recorded.entry.unknown
        return Bought(recorded.entry, recorded.etag)

    def _paid_entry(self, claimed: Entry, response: GenerationResponse) -> Entry:
        unknown = without_claim(self.unknown, claimed.claim.id)
        entry = replace(claimed, state=EntryState.PAID, response=response, unknown=unknown)
        return entry.noted(f"{_now()} paid: {response.billed} image(s), request {response.request_id}")

    def _lose(self, claimed: Found, what: str) -> None:
        """Write down that the request ended without images: nobody need wait for it, but it may be billed."""
        self.unknown = with_claims(self.unknown, (claimed.entry.claim.id,))
        self._end(claimed, f"{what}: it may have been billed")

    def _release(self, claimed: Found, what: str) -> None:
        """Write down that the request cannot have been billed.

        The entry stays, ended and counting nothing. To delete it would take a permission that many buckets
        do not give, and conditional deletes, which many stores do not know.
        """
        self._billed = 0
        self._end(claimed, what)

    def _end(self, claimed: Found, what: str) -> None:
        entry = claimed.entry
        ended = replace(entry, claim=replace(entry.claim, ended=True), unknown=self.unknown)
        ended = ended.noted(f"{_now()} {what}")
        try:
            stands = self._journal.record(ended, claimed.etag)
        except (StorageFailed, JournalUnreadable) as e:
            # Then the claim stands until it is stale, and counts as a request that may have been billed.
            log.warning("The journal could not be told that the request has ended: %s", e)
            return
        self._etag, self._history = stands.etag, stands.entry.history
        # Another copy, whose own entry is gone, may have noted its lost response in ours.
        self.unknown = with_claims(self.unknown, stands.entry.unknown)
        self._is_ours = stands.entry.claim.id == entry.claim.id


def _described(outcome: Outcome) -> str:
    if isinstance(outcome, httpx.Response):
        return f"HTTP {outcome.status_code}"
    return type(outcome).__name__


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
