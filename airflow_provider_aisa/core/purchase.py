"""Buying images: claim, send, record. Between the send and the record lies the one window nobody can close.

Each send is one unit in a thread of its own: it claims the journal's entry, sends, and writes down what came
of it. A cancelled task stops waiting for it, but never interrupts it.
"""

from __future__ import annotations

import logging
import time
import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final, cast

import httpx

from airflow_provider_aisa.core.budget import Budget
from airflow_provider_aisa.core.gateway.client import AisaClient, generation
from airflow_provider_aisa.core.gateway.response import GenerationResponse
from airflow_provider_aisa.core.gateway.retries import Call, Outcome, may_be_billed
from airflow_provider_aisa.core.job import Job
from airflow_provider_aisa.core.journal.entry import Claim, Entry, EntryState
from airflow_provider_aisa.core.journal.store import EntryChanged, Found, Journal
from airflow_provider_aisa.core.threads import to_the_end
from airflow_provider_aisa.exceptions import OutcomeUnknown, StorageFailed

log = logging.getLogger(__name__)

#: Seconds beyond the request's timeout after which a claim is stale: connecting, and S3 on both sides.
CLAIM_MARGIN: Final = 60.0


@dataclass(frozen=True, slots=True)
class Paid:
    """A billed response, and the entry that records it.

    :param etag: of the journal's object, which ``entry`` follows when it is not recorded; None when there
        is nothing to record, as nothing was billed.
    :param is_recorded: S3 has confirmed the entry.
    """

    entry: Entry
    etag: str | None
    is_recorded: bool = True


class Purchase:
    """One request that is to be paid for, and the entry of the journal that it owns while it is sent.

    :param found: the entry that the claim replaces; None when there must be none.
    :param unknown_outcomes: earlier sends of the same request that may have been billed.
    :param budget: what each send has to fit into.
    """

    def __init__(
        self,
        job: Job,
        *,
        client: AisaClient,
        ledger: Journal,
        found: Found | None,
        unknown_outcomes: int,
        budget: Budget | None = None,
    ) -> None:
        self._job = job
        self._client = client
        self._ledger = ledger
        self._unknown = unknown_outcomes
        self._before = _without_open_claim(found.entry, unknown_outcomes) if found else None
        self._etag = found.etag if found else None
        self._paid: Paid | None = None
        self._budget = budget or Budget(None)
        self._sends = 0
        #: A request is under way, or paid for: whoever stops now may lose what it brings.
        self.is_committed = False

    @property
    def unknown_outcomes(self) -> int:
        """Sends of this request that may have been billed without a response, the earlier ones included."""
        return self._unknown

    async def buy(self) -> Paid:
        """Send the request until it is answered, and return what is recorded of the response.

        :raises EntryChanged: somebody else has claimed the entry; nothing was sent.
        :raises OverBudget: the request costs more than the budget still allows; it was not sent.
        :raises AisaError: as :meth:`AisaClient.generate`; the entry says whether anything may be billed.
        """
        call = generation(self._job.request, at_most_once=self._job.policy.delivery == "at-most-once")
        retries = self._client.retries(call)
        while True:
            async with self._client.aslot(patience=retries.patience):
                outcome = await self._exchange(call)
            delay = self._client.next_delay(outcome, retries)
            if delay is None:
                return cast("Paid", self._paid)  # Recorded by the exchange whose outcome is accepted here.
            await self._client.asleep(delay)

    async def _exchange(self, call: Call) -> Outcome:
        images = self._job.request.n
        price = self._job.price_usd or Decimal(0)
        self._budget.reserve(price * images, images=images)
        self.is_committed = True
        sends, billed = self._sends, 0
        try:
            outcome = await to_the_end(lambda: self._exchange_once(call), self._ledger.uri)
            billed = self._billed(outcome)
        except BaseException:
            billed = images if self._sends > sends else 0
            raise
        finally:
            self.is_committed = self._paid is not None
            self._budget.settle(price * images, price * billed)
        return outcome

    def _billed(self, outcome: Outcome) -> int:
        """Return how many images of an exchange are, or may be, on the bill."""
        if self._paid is not None:
            return GenerationResponse.from_dict(self._paid.entry.response or {}).billed
        return self._job.request.n if may_be_billed(outcome) else 0

    def _exchange_once(self, call: Call) -> Outcome:
        claimed = self._claim()
        self._write_claim(claimed)
        request = self._job.request
        log.info(
            "Sending a billable request: %d image(s) of %s, %s, about %s. Journal: %s.",
            request.n,
            request.model,
            request.size,
            self._job.cost_text(request.n),
            self._ledger.uri,
        )
        self._sends += 1
        try:
            outcome = self._client.exchange(call)
        except BaseException:
            self._end(claimed, "an unexpected error")
            raise
        if isinstance(outcome, httpx.Response) and outcome.is_success:
            self._record(claimed, outcome)
        elif may_be_billed(outcome):
            self._end(claimed, "no usable response")
        else:
            self._release()
        return outcome

    def _write_claim(self, claimed: Entry) -> None:
        """Write a claim until it is fresh: one whose answer came late may be stale, and another's by now."""
        took = CLAIM_MARGIN
        while took > CLAIM_MARGIN / 2:
            began = time.monotonic()
            self._etag = self._ledger.write(claimed, self._etag)
            took = time.monotonic() - began

    def _claim(self) -> Entry:
        job = self._job
        claim = Claim(uuid.uuid4().hex, lifetime=self._client.settings.timeout + CLAIM_MARGIN)
        before = self._before.history if self._before else ()
        entry = Entry(
            state=EntryState.CLAIMED,
            attempt=job.attempt,
            fingerprint=job.request.fingerprint(),
            request=job.request.summary(),
            claim=claim,
            idempotency_key=job.idempotency_key,
            unknown_outcomes=self._unknown,
            history=before,
        )
        return entry.noted(f"{_now()} claimed by {job.attempt.owner.path()}, about to send")

    def _record(self, claimed: Entry, outcome: httpx.Response) -> None:
        """Write down a response before anything else is done with it."""
        try:
            response = self._client.read(outcome, self._job.request)
        except OutcomeUnknown:
            self._end(claimed, "an unreadable response")
            raise
        if response.is_known_unbilled:
            self._release()
            self._paid = Paid(self._paid_entry(claimed, response), None)
            return
        entry = self._paid_entry(claimed, response)
        try:
            self._etag = self._ledger.write(entry, self._etag)
        except EntryChanged:
            where = self._ledger.keep_surplus(entry)
            log.warning(
                "Another copy of this task took over while the request was under way, and may have paid too. "
                "This response is kept in %s.",
                where,
            )
            raise
        except StorageFailed as e:
            # The images can still be saved; without the record only this process can do it.
            log.warning("The paid response could not be recorded in the journal: %s", e)
            self._paid = Paid(entry, self._etag, is_recorded=False)
        else:
            self._paid = Paid(entry, self._etag)

    def _paid_entry(self, claimed: Entry, response: GenerationResponse) -> Entry:
        cost = self._job.cost_usd(response.billed)
        entry = replace(claimed, state=EntryState.PAID, response=response.to_dict(), cost_usd=cost)
        return entry.noted(f"{_now()} paid: {response.billed} image(s), request {response.request_id}")

    def _end(self, claimed: Entry, what: str) -> None:
        """Write down that the request ended without images: nobody need wait for it, but it may be billed."""
        self._unknown += 1
        ended = replace(
            claimed, claim=replace(claimed.claim, ended=True), unknown_outcomes=self._unknown
        ).noted(f"{_now()} {what}: it may have been billed")
        self._put_back(ended)

    def _release(self) -> None:
        """Make the entry what it was before the claim: this request cannot have been billed."""
        self._put_back(self._before)

    def _put_back(self, entry: Entry | None) -> None:
        self._before = entry  # Also if S3 fails now: a later release must not forget a lost response.
        try:
            if entry is not None:
                self._etag = self._ledger.write(entry, self._etag)
            elif self._etag is not None:
                self._ledger.release(self._etag)
                self._etag = None
        except (EntryChanged, StorageFailed) as e:
            # Then the claim stands until it is stale, and counts as a request that may have been billed.
            log.warning("The claim in %s could not be given back: %s", self._ledger.uri, e)


def _without_open_claim(entry: Entry, unknown_outcomes: int) -> Entry:
    """Return what is put back when a claim is released: a stale one must not look like a live one again."""
    if entry.state is not EntryState.CLAIMED:
        return entry
    return replace(entry, claim=replace(entry.claim, ended=True), unknown_outcomes=unknown_outcomes)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
