"""A batch never sends more than its budget could pay for, all attempts and all lost responses counted."""

from __future__ import annotations

import contextlib
from decimal import Decimal

import pytest

from airflow_provider_aisa.core.layout import Owner
from airflow_provider_aisa.exceptions import (
    ItemsFailed,
    JournalUnreadable,
    OverBudget,
)
from tests.core.batch.scene import Scene, items
from tests.fakes.gateway import (
    CONTENT_REFUSED,
    LOST,
    PRICE,
    TIMED_OUT,
    images,
)


def test_a_batch_that_costs_more_than_it_may_sends_nothing(scene: Scene) -> None:
    with pytest.raises(OverBudget, match=r"is 0.239 USD, and 6 image\(s\) to buy cost 0.240 USD") as caught:
        scene.run(items(3, n=2), max_cost_usd=Decimal("0.239"))
    assert not caught.value.retryable
    assert scene.gateway.sent == []


def test_one_item_that_costs_more_than_the_whole_batch_may_is_not_sent(scene: Scene) -> None:
    with pytest.raises(OverBudget):
        scene.run([{"prompt": "a", "n": 26}], max_cost_usd=Decimal(1))
    assert scene.gateway.sent == []


def test_a_batch_may_cost_exactly_what_it_may(scene: Scene) -> None:
    assert scene.run(items(3, n=2), max_cost_usd=Decimal("0.24"))["cost_usd"] == 0.24


def test_what_earlier_attempts_have_paid_counts(scene: Scene) -> None:
    scene.run(items(2))
    with pytest.raises(OverBudget, match=r"3 image\(s\) to buy cost 0.120 USD. Earlier requests cost 0.08"):
        scene.run(items(5), max_cost_usd=Decimal("0.19"))
    assert len(scene.gateway.sent) == 2

    assert scene.run(items(5), max_cost_usd=Decimal("0.20"))["stored"] == 5


def test_what_may_have_been_billed_counts_as_billed(scene: Scene) -> None:
    scene.gateway.script["i0"] = [LOST]
    with pytest.raises(ItemsFailed):
        scene.run(items(2), max_cost_usd=Decimal("0.08"))
    with pytest.raises(OverBudget, match=r"Earlier requests cost 0\.08"):
        scene.run(items(2), max_cost_usd=Decimal("0.08"))
    assert scene.gateway.bill.total() == 2

    assert scene.run(items(2), max_cost_usd=Decimal("0.12"))["stored"] == 2
    with pytest.raises(OverBudget, match=r"Earlier requests cost 0\.12"):
        scene.run(items(3), max_cost_usd=Decimal("0.15"))


def test_a_finished_batch_needs_no_budget(scene: Scene) -> None:
    scene.run(items(3))
    assert scene.run(items(3), max_cost_usd=Decimal("0.05"))["reused"] == 3


def test_what_was_refused_leaves_the_budget_as_it_was(scene: Scene) -> None:
    scene.gateway.script = {f"i{number}": [CONTENT_REFUSED] for number in range(3)}
    for _ in range(2):
        scene.run(items(5), max_cost_usd=Decimal("0.20"), on_item_failure="keep")
    assert scene.gateway.bill.total() == 5


def test_new_images_that_a_person_asks_for_are_a_new_account(scene: Scene) -> None:
    arguments = {"max_cost_usd": Decimal("0.08"), "on_existing": "regenerate"}
    scene.run(items(2), **arguments)
    assert scene.run(items(2), max_tries=1, **arguments)["stored"] == 2
    assert scene.gateway.bill.total() == 4
    with pytest.raises(OverBudget):
        scene.run(items(3), max_tries=1, **arguments)


def test_what_another_run_with_the_same_key_has_paid_is_not_on_this_ones_account(scene: Scene) -> None:
    scene.run(items(3), idempotency_key="refresh", max_cost_usd=Decimal("0.12"))
    result = scene.run(
        items(5),
        idempotency_key="refresh",
        owner=Owner("dag", "later", "task"),
        max_cost_usd=Decimal("0.08"),
    )
    assert (result["stored"], result["reused"]) == (5, 3)


def test_never_more_is_sent_than_the_budget_could_pay_for_if_all_of_it_were_billed(scene: Scene) -> None:
    for number in range(0, 20, 3):
        scene.gateway.script[f"i{number}"] = [TIMED_OUT, TIMED_OUT]
    limit = Decimal("0.90")
    may_be_billed = 0
    for _ in range(3):
        before = sum(len(script) for script in scene.gateway.script.values())
        with contextlib.suppress(OverBudget):
            scene.run(items(20), max_cost_usd=limit)
        timed_out = before - sum(len(script) for script in scene.gateway.script.values())
        may_be_billed += timed_out
        assert (may_be_billed + scene.gateway.bill.total()) * Decimal(str(PRICE)) <= limit
    assert may_be_billed > 0


def test_what_is_paid_for_is_stored_even_when_the_rest_costs_too_much(scene: Scene) -> None:
    scene.cdn.script["i0"] = [500]
    with pytest.raises(ItemsFailed):
        scene.run(items(2))
    with pytest.raises(OverBudget):
        scene.run(items(5), max_cost_usd=Decimal("0.10"))
    assert len(scene.images) == 2


def test_a_damaged_entry_is_its_items_failure_also_when_there_is_a_budget(scene: Scene) -> None:
    scene.run(items(3))
    assert scene.meddler.garble(scene.meddler.keys("/items/")[0])
    try:
        result = scene.run(items(4), max_cost_usd=Decimal(1), on_item_failure="keep")
    except JournalUnreadable:
        pytest.fail("the whole batch failed")
    assert (result["stored"], result["failed"]) == (3, 1)


def test_a_lost_request_for_two_images_counts_two_images_even_if_one_came_later(scene: Scene) -> None:
    scene.gateway.script["i0"] = [LOST, images(1)]
    arguments = {"on_partial": "keep", "max_cost_usd": Decimal("0.16")}
    with pytest.raises(ItemsFailed):
        scene.run(items(1, n=2), **arguments)
    scene.run(items(1, n=2), **arguments)
    # 0.08 may have been billed, and 0.04 was: 0.04 is left.
    with pytest.raises(OverBudget, match=r"Earlier requests cost 0\.12"):
        scene.run([*items(1, n=2), "new", "newer"], **arguments)
