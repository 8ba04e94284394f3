"""The budget of a batch counts everything that is, or may be, on the bill, whichever attempt it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_aisa.core.batch.resume import Earlier, look_back
from airflow_provider_aisa.core.batch.source import RawRequest
from airflow_provider_aisa.core.budget import Budget, SpendingStopped
from airflow_provider_aisa.core.gateway.request import ImageRequest
from airflow_provider_aisa.core.gateway.response import GenerationResponse
from airflow_provider_aisa.core.images.stored import StoredImage
from airflow_provider_aisa.core.journal.entry import Buyer, Claim, Entry, EntryState, Stored
from airflow_provider_aisa.exceptions import OverBudget, StorageFailed
from tests.core.batch.scene import OWNER, make_spec
from tests.fakes.meddler import Meddler
from tests.fakes.s3 import BUCKET, FakeS3
from tests.fakes.s3_rules import s3_error

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
        "Raise max_cost_usd, or ask for fewer images: it is 1.00 USD, and 2 image(s) to buy cost 0.08 USD. "
        "Earlier requests cost 0.95 USD, or may have. Nothing more was sent."
    )


def test_a_refusal_before_anything_was_spent_speaks_of_no_earlier_requests() -> None:
    with pytest.raises(OverBudget, match=r"and 2 image\(s\) to buy cost 0\.08 USD\. Nothing more was sent"):
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


# What earlier attempts have spent on one item, by its entry, and whether it is bought again.

EARLIER = Buyer(OWNER, 0)
ITEM = {"id": "a", "prompt": "p", "n": 2}
REQUEST = ImageRequest.parse(prompt="p", n=2)
CLEARED: dict[str, Any] = {"max_tries": 1}
ANEW: dict[str, Any] = {**CLEARED, "on_existing": "regenerate"}
OPEN, ENDED = Claim("c", lifetime=70.0), Claim("c", lifetime=70.0, ended=True)
RESPONSE = GenerationResponse("m", None, (), {"generated_images": 2}, "req_1")
IMAGES = tuple(
    StoredImage(index, f"s3://{BUCKET}/{index}", BUCKET, str(index), 1, 1, "1x1", "image/png", 1, "0" * 64)
    for index in range(2)
)
OLD = Stored(EARLIER, REQUEST.fingerprint(), "c-old", COST / 2, RESPONSE, IMAGES)


def entry_of(state: EntryState, claim: Claim = ENDED, **changes: Any) -> Entry:
    entry = Entry(
        state=state,
        buyer=EARLIER,
        fingerprint=REQUEST.fingerprint(),
        request=REQUEST.summary(),
        claim=claim,
        price_usd=COST / 2,
        item="a",
        response=None if state is EntryState.CLAIMED else RESPONSE,
        images=IMAGES if state is EntryState.STORED else (),
    )
    return replace(entry, **changes)


def look(
    folder: Path,
    entry: Entry | bytes | None,
    *,
    age: float = 0.0,
    on_request: Callable[[FakeS3, str, str], object] = lambda _store, _operation, _key: None,
    **spec: Any,
) -> Earlier:
    """Return what an attempt finds out about one item, whose entry is as old as `age` (seconds)."""
    store, made = FakeS3(), make_spec(**spec)
    with made.plan([RawRequest("requests[0]", ITEM)], folder) as plan:
        [planned] = plan.left()
        if entry is not None:
            body = entry if isinstance(entry, bytes) else entry.to_json()
            store.put(made.job(planned.item).journal_key, body)
        store.clock.skip(age)
        bucket = store.client(partial(on_request, store)).bucket()
        return look_back(made, plan, bucket, tell=lambda _line: None)


NOTHING = Decimal(0)
CASES: list[tuple[str, Entry, float, dict[str, Any], tuple[Decimal, Decimal]]] = [
    ("stored", entry_of(EntryState.STORED), 0, {}, (COST, NOTHING)),
    (
        "stored after lost responses",
        entry_of(EntryState.STORED, unknown=("x", "y")),
        0,
        {},
        (3 * COST, NOTHING),
    ),
    (
        "stored, fewer images",
        entry_of(EntryState.STORED, response=replace(RESPONSE, usage={"generated_images": 1})),
        0,
        {},
        (COST / 2, NOTHING),
    ),
    ("stored, price unknown then", entry_of(EntryState.STORED, price_usd=None), 0, {}, (NOTHING, NOTHING)),
    ("paid", entry_of(EntryState.PAID, OPEN), 0, {}, (COST, NOTHING)),
    ("lost", entry_of(EntryState.CLAIMED, unknown=("c",)), 0, {}, (COST, COST)),
    ("refused", entry_of(EntryState.CLAIMED), 0, {}, (NOTHING, COST)),
    ("somebody is sending", entry_of(EntryState.CLAIMED, OPEN), 0, {}, (COST, NOTHING)),
    ("died while sending", entry_of(EntryState.CLAIMED, OPEN), 70, {}, (COST, COST)),
    (
        "died while sending again",
        entry_of(EntryState.CLAIMED, OPEN, unknown=("x",)),
        70,
        {},
        (2 * COST, COST),
    ),
    (
        "lost, at most once",
        entry_of(EntryState.CLAIMED, unknown=("c",)),
        0,
        {"delivery": "at-most-once"},
        (COST, NOTHING),
    ),
    ("cleared, reused", entry_of(EntryState.STORED), 0, CLEARED, (COST, NOTHING)),
    ("cleared, fails", entry_of(EntryState.STORED), 0, {**CLEARED, "on_existing": "fail"}, (COST, NOTHING)),
    ("cleared, anew: a new account", entry_of(EntryState.STORED), 0, ANEW, (NOTHING, COST)),
    ("cleared anew, lost before", entry_of(EntryState.CLAIMED, unknown=("c",)), 0, ANEW, (NOTHING, COST)),
    (
        "cleared anew, lost since",
        entry_of(EntryState.CLAIMED, unknown=("c",), buyer=Buyer(OWNER, 1), previous=OLD),
        0,
        ANEW,
        (COST, COST),
    ),
    (
        "a regeneration was lost, and what it was to replace stands",
        entry_of(EntryState.CLAIMED, unknown=("c",), previous=OLD),
        0,
        {},
        (2 * COST, NOTHING),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_what_an_entry_says_was_spent_and_what_is_left_to_buy(
    tmp_path: Path, case: tuple[str, Entry, float, dict[str, Any], tuple[Decimal, Decimal]]
) -> None:
    _, entry, age, spec, expected = case
    earlier = look(tmp_path, entry, age=age, **spec)
    assert (earlier.spent, earlier.to_buy) == expected
    assert earlier.images == (2 if earlier.to_buy else 0)


def test_what_is_paid_and_waits_is_not_bought_again_and_not_counted_for_who_asks_anew(tmp_path: Path) -> None:
    earlier = look(tmp_path, entry_of(EntryState.PAID, OPEN), **ANEW)
    assert (earlier.spent, earlier.to_buy) == (NOTHING, NOTHING)


def test_an_item_without_an_entry_costs_nothing_yet_and_no_request(tmp_path: Path) -> None:
    operations: list[str] = []
    earlier = look(tmp_path, None, on_request=lambda _store, operation, _key: operations.append(operation))
    assert (earlier.spent, earlier.to_buy, earlier.images) == (NOTHING, COST, 2)
    assert "GetObject" not in operations


def test_an_entry_that_is_gone_since_the_listing_is_none(tmp_path: Path) -> None:
    def delete(store: FakeS3, operation: str, key: str) -> None:
        if operation == "GetObject":
            assert Meddler(store).delete(key)

    earlier = look(tmp_path, entry_of(EntryState.STORED), on_request=delete)
    assert (earlier.spent, earlier.to_buy, earlier.images) == (NOTHING, COST, 2)


def test_what_another_batch_with_the_same_key_has_paid_is_on_its_account(tmp_path: Path) -> None:
    others = entry_of(EntryState.STORED, buyer=Buyer(replace(OWNER, run_id="another"), 0))
    earlier = look(tmp_path, others, idempotency_key="refresh")
    assert (earlier.spent, earlier.to_buy) == (NOTHING, NOTHING)


def test_an_entry_of_another_request_is_not_bought_over(tmp_path: Path) -> None:
    other = entry_of(EntryState.STORED, fingerprint="another")
    earlier = look(tmp_path, other, idempotency_key="refresh")
    assert (earlier.spent, earlier.to_buy) == (COST, NOTHING)


def test_nothing_is_bought_over_a_damaged_entry(tmp_path: Path) -> None:
    earlier = look(tmp_path, b"{")
    assert (earlier.spent, earlier.to_buy, earlier.images) == (NOTHING, NOTHING, 0)


def test_a_store_that_does_not_answer_is_an_error_and_not_nothing(tmp_path: Path) -> None:
    def fail(_store: FakeS3, operation: str, _key: str) -> None:
        if operation == "GetObject":
            raise s3_error("ServiceUnavailable", operation)

    with pytest.raises(StorageFailed, match="ServiceUnavailable"):
        look(tmp_path, entry_of(EntryState.STORED), on_request=fail)
