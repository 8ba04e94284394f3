"""What an author wants done with all items of a batch, and what makes a job of each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, Literal, Self

from airflow_provider_aisa.core.batch.items import BatchItem, Defaults
from airflow_provider_aisa.core.batch.plan import Plan, PlannedItem
from airflow_provider_aisa.core.batch.source import RawItem
from airflow_provider_aisa.core.job import Item, Job, OnPartial, journal_root
from airflow_provider_aisa.core.journal.entry import Buyer, Policy, batch_name, journal_name
from airflow_provider_aisa.exceptions import InvalidRequest

OnItemFailure = Literal["keep", "fail"]

_MOST_SHOWN: Final = 20
_LONGEST_PROBLEM: Final = 500  # characters: an author's value may be of any length


@dataclass(frozen=True, slots=True)
class BatchOrder:
    """All that is the same for each item.

    :param defaults: what an item has that does not say otherwise; its target has a bucket.
    :param prices: USD per image by model, as in :meth:`ImageRequest.price_usd`.
    :param max_failures: how many items, or which share of them, may fail before the batch stops.
    :param max_cost_usd: for all attempts together.
    """

    defaults: Defaults
    attempt: Buyer
    policy: Policy = field(default_factory=Policy)
    on_partial: OnPartial = "fail"
    on_item_failure: OnItemFailure = "fail"
    max_failures: int | float | None = None
    max_cost_usd: Decimal | None = None
    idempotency_key: str | None = None
    s3_extra_args: Mapping[str, Any] = field(default_factory=dict)
    prices: Mapping[str, Decimal] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """The folder of everything that is not an image, with its ``/``."""
        root = journal_root(self.defaults.target, self.idempotency_key)
        return f"{root}{batch_name(self.attempt.owner, self.idempotency_key)}/"

    @property
    def entries(self) -> str:
        """The folder of the items' journals, with its ``/``."""
        return f"{self.folder}items/"

    @property
    def manifest_key(self) -> str:
        """The key of the manifest: one for each task instance, also where several share a journal."""
        return f"{self.folder}manifest-{batch_name(self.attempt.owner, None)[:16]}.jsonl"

    def in_bucket(self, name: str) -> Self:
        """Return the order once its bucket is known."""
        target = replace(self.defaults.target, bucket=name)
        return replace(self, defaults=replace(self.defaults, target=target))

    def job(self, item: PlannedItem) -> Job:
        """Return the job of an item."""
        return Job(
            item.request,
            item.target,
            self.attempt,
            price_usd=item.price_usd,
            policy=self.policy,
            on_partial=self.on_partial,
            idempotency_key=self.idempotency_key,
            s3_extra_args=self.s3_extra_args,
            is_first_try=True,  # The batch itself finds out what the store's conditions are worth.
            item=Item(item.id, self.entries),
        )

    def allowed_failures(self, total: int) -> float:
        """Return how many of so many items may fail before the batch stops."""
        if self.max_failures is None:
            return math.inf
        return self.max_failures * total if isinstance(self.max_failures, float) else self.max_failures

    def plan(self, raws: Iterable[RawItem], folder: Path) -> Plan:
        """Check and price every item before the first is paid for; close what is returned.

        :param folder: an empty one, for what is kept of the items.
        :raises InvalidRequest: with the first bad items and their number.
        """
        plan = Plan(folder, self.defaults.target.bucket)
        try:
            self._fill(plan, raws)
        except BaseException:
            plan.close()
            raise
        return plan

    def _fill(self, plan: Plan, raws: Iterable[RawItem]) -> None:
        problems: list[str] = []
        bad = 0
        for raw in raws:
            try:
                self._add(plan, raw)
            except InvalidRequest as e:
                bad += 1
                if bad <= _MOST_SHOWN:
                    problems.append(f"{raw.where}: {str(e)[:_LONGEST_PROBLEM]}")
        if bad:
            total = plan.total + bad
            shown = "" if bad <= _MOST_SHOWN else f"; the first {_MOST_SHOWN}"
            raise InvalidRequest(
                f"{bad:,} of {total:,} items are wrong{shown}:\n"
                + "\n".join(problems)
                + "\nNothing was sent."
            )

    def _add(self, plan: Plan, raw: RawItem) -> None:
        if isinstance(raw.value, InvalidRequest):
            raise raw.value
        item = self.defaults.read(raw.value)
        price = item.request.price_usd(self.prices)
        if price is None:
            item.request.check_budget(self.max_cost_usd, price)  # What all cost is checked when it is known.
        if not item.request.is_known_model:
            plan.unknown_models.add(item.request.model)
        plan.add(raw.where, item, price=price, journal=self._journal(item))

    def _journal(self, item: BatchItem) -> str:
        owner, fingerprint = self.attempt.owner, item.request.fingerprint()
        return journal_name(owner, fingerprint, self.idempotency_key, item.id)


def parse_max_failures(value: object) -> int | float | None:
    """Return a count (a whole number from 0), a share (a float from 0.0 to 1.0), or None for no limit."""
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value
    if isinstance(value, float) and 0.0 <= value <= 1.0:
        return value
    raise InvalidRequest(
        f"max_failures {value!r} is neither a number of items nor a share of them: use a whole number such "
        "as 10, a float such as 0.05, or None"
    )


def parse_max_concurrency(value: object) -> int | None:
    """Return how many requests may be in flight at once, or None for the connection's own limit."""
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise InvalidRequest(
        f"max_concurrency {value!r} is no number of requests: use a whole number from 1, or None"
    )
