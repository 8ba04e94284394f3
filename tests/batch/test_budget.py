"""The budget of a batch counts everything that is, or may be, on the bill, whichever attempt it was."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.batch.store import Store
from tests.paying.memory import Memory

from airflow_provider_aisa.core.batch.plan import PlannedItem
from airflow_provider_aisa.core.batch.source import RawRequest
from airflow_provider_aisa.core.batch.spent import spent_on
from airflow_provider_aisa.core.budget import Budget, SpendingStopped
from airflow_provider_aisa.core.journal.entry import Buyer, Claim, Entry, EntryState
from airflow_provider_aisa.exceptions import OverBudget, StorageFailed
from tests.batch.scene import OWNER, make_spec

COST = Decimal("0.08")  # of the two images of an item below
CENT = Decimal("0.01")


def test_a_budget_is_spent_to_the_cent_and_no_further() -> None:
    budget = Budget(Decimal("0.12"))
    budget.reserve(COST, images=2)
    budget.reserve(COST / 2, images=1)
    with pytest.raises(OverBudget):
        budget.reserve(CENT, images=1)
    assert budget.spent == Decimal("0.12")


def test_a_refusal_says_what_was_wanted_what_is_spent_and_what_the_limit_is() -> None:
    budget = Budget(Decimal("1.00"), spent=Decimal("0.95"))
    with pytest.raises(OverBudget) as caught:
        budget.check(COST, images=2)
    assert str(caught.value) == (
        "2 image(s) to buy cost 0.08 USD. Earlier requests cost 0.95 USD, or may have. That is more than "
        "max_cost_usd of 1.00 USD for the whole batch: ask for fewer images or raise the limit. "
        "Nothing of it was sent."
    )


def test_a_refusal_before_anything_was_spent_speaks_of_no_earlier_requests() -> None:
    with pytest.raises(OverBudget, match=r"^2 image\(s\) to buy cost 0\.08 USD\. That is more than"):
        Budget(CENT).check(COST, images=2)


def test_a_check_reserves_nothing() -> None:
    budget = Budget(COST)
    for _ in range(3):
        budget.check(COST, images=2)
    assert budget.spent == 0


def test_what_was_not_billed_is_given_back() -> None:
    budget = Budget(COST)
    budget.reserve(COST, images=2)
    budget.settle(COST, Decimal(0))
    budget.reserve(COST, images=2)
    assert budget.spent == COST


def test_what_was_billed_beyond_expectation_counts_in_full() -> None:
    budget = Budget(COST)
    budget.reserve(COST, images=2)
    budget.settle(COST, 2 * COST)
    assert budget.spent == 2 * COST
    with pytest.raises(OverBudget):
        budget.check(CENT, images=1)


def test_who_buys_nothing_needs_no_budget() -> None:
    budget = Budget(COST)
    budget.reserve(COST, images=2)
    budget.settle(COST, 2 * COST)
    budget.check(Decimal(0), images=0)


def test_without_a_limit_everything_is_counted_and_nothing_refused() -> None:
    budget = Budget(None)
    budget.reserve(Decimal(10**9), images=1)
    assert budget.spent == 10**9


def test_nothing_is_reserved_once_the_batch_has_stopped() -> None:
    budget = Budget(None)
    budget.reserve(COST, images=2)
    budget.stop()
    with pytest.raises(SpendingStopped):
        budget.reserve(COST, images=2)
    budget.settle(COST, COST)  # What was under way ends all the same.
    assert budget.spent == COST


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["billed", "not billed", "under way"]))))
def test_whatever_is_reserved_and_settled_never_more_than_the_limit_is_under_way(
    requests: list[tuple[int, str]],
) -> None:
    limit = 5 * CENT
    budget, billed, open_ = Budget(limit), Decimal(0), Decimal(0)
    for images, fate in requests:
        cost = images * CENT
        try:
            budget.reserve(cost, images=images)
        except OverBudget:
            assert billed + open_ + cost > limit
            continue
        open_ += cost * (fate == "under way")
        if fate != "under way":
            budget.settle(cost, cost if fate == "billed" else Decimal(0))
            billed += cost * (fate == "billed")
        assert budget.spent == billed + open_ <= limit


# What earlier attempts have spent on one item, by its entry.

EARLIER = Buyer(OWNER, 0)
CLEARED = {"max_tries": 1}
OPEN, ENDED = Claim("c", lifetime=70.0), Claim("c", lifetime=70.0, ended=True)


def planned_item(folder: Path) -> PlannedItem:
    requests = [RawRequest("requests[0]", {"id": "a", "prompt": "p", "n": 2})]
    with make_spec().plan(requests, folder) as plan:
        [item] = plan.left()
    return replace(item, has_entry=True)


def entry_of(item: PlannedItem, state: EntryState, claim: Claim = ENDED, **changes: Any) -> Entry:
    response: dict[str, Any] = {"model": "m", "created": None, "images": [], "usage": {}, "request_id": None}
    entry = Entry(
        state=state,
        attempt=EARLIER,
        fingerprint=item.fingerprint,
        request=item.request.summary(),
        claim=claim,
        cost_usd=None if state is EntryState.CLAIMED else float(COST),
        response=None if state is EntryState.CLAIMED else response,
    )
    return replace(entry, **changes)


def spend(item: PlannedItem, entry: Entry | None, *, age: float = 0.0, **order: Any) -> tuple[Decimal, bool]:
    made, memory = make_spec(**order), Memory(now=age)
    if entry is not None:
        memory.objects[made.job(item).journal_key] = (entry.to_json(), "etag", 0.0)
    return spent_on(item, made, Store(memory))


CASES: list[tuple[str, EntryState, Claim, dict[str, Any], float, dict[str, Any], tuple[Decimal, bool]]] = [
    ("stored", EntryState.STORED, ENDED, {}, 0, {}, (COST, False)),
    (
        "stored after a lost response",
        EntryState.STORED,
        ENDED,
        {"unknown_outcomes": 2},
        0,
        {},
        (3 * COST, False),
    ),
    ("stored, fewer images", EntryState.STORED, ENDED, {"cost_usd": 0.04}, 0, {}, (COST / 2, False)),
    ("stored, price unknown then", EntryState.STORED, ENDED, {"cost_usd": None}, 0, {}, (Decimal(0), False)),
    ("paid", EntryState.PAID, OPEN, {}, 0, {}, (COST, False)),
    ("lost", EntryState.CLAIMED, ENDED, {"unknown_outcomes": 1}, 0, {}, (COST, True)),
    ("somebody is sending", EntryState.CLAIMED, OPEN, {}, 0, {}, (COST, False)),
    ("died while sending", EntryState.CLAIMED, OPEN, {}, 70, {}, (COST, True)),
    ("died while sending again", EntryState.CLAIMED, OPEN, {"unknown_outcomes": 1}, 70, {}, (2 * COST, True)),
    (
        "lost, at most once",
        EntryState.CLAIMED,
        ENDED,
        {"unknown_outcomes": 1},
        0,
        {"delivery": "at-most-once"},
        (COST, False),
    ),
    ("cleared, reused", EntryState.STORED, ENDED, {}, 0, CLEARED, (COST, False)),
    ("cleared, fails", EntryState.STORED, ENDED, {}, 0, {**CLEARED, "on_existing": "fail"}, (COST, False)),
    (
        "cleared, anew: a new account",
        EntryState.STORED,
        ENDED,
        {},
        0,
        {**CLEARED, "on_existing": "regenerate"},
        (Decimal(0), True),
    ),
    (
        "cleared, but only paid",
        EntryState.PAID,
        OPEN,
        {},
        0,
        {**CLEARED, "on_existing": "regenerate"},
        (COST, False),
    ),
    (
        "cleared, lost before",
        EntryState.CLAIMED,
        ENDED,
        {"unknown_outcomes": 1},
        0,
        {**CLEARED, "on_existing": "regenerate"},
        (COST, True),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_what_an_entry_says_was_spent_and_whether_more_will_be(
    tmp_path: Path,
    case: tuple[str, EntryState, Claim, dict[str, Any], float, dict[str, Any], tuple[Decimal, bool]],
) -> None:
    _, state, claim, changes, age, order, expected = case
    item = planned_item(tmp_path)
    assert spend(item, entry_of(item, state, claim, **changes), age=age, **order) == expected


def test_an_item_without_an_entry_costs_nothing_yet_and_no_request(tmp_path: Path) -> None:
    item = replace(planned_item(tmp_path), has_entry=False)
    store = Store(Memory())
    assert spent_on(item, make_spec(), store) == (Decimal(0), True)
    assert store.requests == []


def test_an_entry_that_is_gone_since_the_listing_is_none(tmp_path: Path) -> None:
    assert spend(planned_item(tmp_path), None) == (Decimal(0), True)


def test_what_another_batch_with_the_same_key_has_paid_is_on_its_account(tmp_path: Path) -> None:
    item = planned_item(tmp_path)
    others = entry_of(item, EntryState.STORED, attempt=Buyer(replace(OWNER, run_id="another"), 0))
    assert spend(item, others, idempotency_key="refresh") == (Decimal(0), False)


def test_an_entry_of_another_request_is_not_bought_over(tmp_path: Path) -> None:
    item = planned_item(tmp_path)
    other = entry_of(item, EntryState.STORED, fingerprint="another")
    assert spend(item, other, idempotency_key="refresh") == (COST, False)


def test_nothing_is_bought_over_a_damaged_entry(tmp_path: Path) -> None:
    item, order, memory = planned_item(tmp_path), make_spec(), Memory()
    memory.objects[order.job(item).journal_key] = (b"{", "etag", 0.0)
    assert spent_on(item, order, Store(memory)) == (Decimal(0), False)


def test_a_store_that_does_not_answer_is_an_error_and_not_nothing(tmp_path: Path) -> None:
    def fail(_operation: str, _key: str) -> None:
        raise StorageFailed("S3 does not answer")

    with pytest.raises(StorageFailed):
        spent_on(planned_item(tmp_path), make_spec(), Store(Memory(), fail))
