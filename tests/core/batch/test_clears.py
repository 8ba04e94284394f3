"""What a person clears, shares or changes between attempts: what was bought is found, told and counted."""

from __future__ import annotations

import logging
from dataclasses import replace
from decimal import Decimal

import pytest

from airflow_provider_aisa.exceptions import ItemsFailed, OverBudget
from tests.core.batch.scene import OWNER, Scene, items
from tests.fakes.gateway import CONTENT_REFUSED, LOST, UNAVAILABLE

LATER = replace(OWNER, run_id="later")


# A Clear raises max_tries; on_existing decides.


def test_a_cleared_batch_reuses_what_is_stored(scene: Scene) -> None:
    scene.run(items(3))
    result = scene.run(items(3), max_tries=1)
    assert (result["reused"], scene.gateway.bill.total()) == (3, 3)
    assert scene.asked == {"ListObjectsV2": 2, "GetObject": 3, "PutObject": 2}


def test_a_cleared_batch_that_regenerates_pays_anew_once(scene: Scene) -> None:
    scene.run(items(3))

    result = scene.run(items(3), max_tries=1, on_existing="regenerate")
    assert (result["stored"], result["reused"], scene.gateway.bill.total()) == (3, 0, 6)

    # Its own retry finds what it has bought itself.
    result = scene.run(items(3), max_tries=1, on_existing="regenerate")
    assert (result["reused"], scene.gateway.bill.total()) == (3, 6)
    assert scene.asked == {"ListObjectsV2": 2, "GetObject": 3, "PutObject": 2}


def test_a_regeneration_that_is_lost_leaves_a_reusing_batch_what_there_was(scene: Scene) -> None:
    scene.run(items(3))
    before = scene.manifest
    scene.gateway.script["i1"] = [LOST]
    with pytest.raises(ItemsFailed, match="OutcomeUnknown 1"):
        scene.run(items(3), max_tries=1, on_existing="regenerate")

    result = scene.run(items(3), max_tries=2)

    assert (result["reused"], result["unknown_outcomes"]) == (3, 1)
    assert scene.line("i1")["images"] == before[1]["images"]
    assert scene.gateway.generated == {"i0": 2, "i1": 2, "i2": 2}


def test_a_cleared_batch_that_may_not_reuse_fails_each_finished_item(scene: Scene) -> None:
    scene.run(items(2))
    with pytest.raises(ItemsFailed, match=r"2 items failed \(AlreadyGenerated 2\)") as caught:
        scene.run(items(3), max_tries=1, on_existing="fail")
    assert not caught.value.retryable
    assert scene.statuses() == {"i0": "failed", "i1": "failed", "i2": "stored"}
    assert scene.gateway.bill.total() == 3


# One key for several runs.


def test_another_run_with_the_same_key_reuses_what_the_first_has_bought(scene: Scene) -> None:
    scene.run(items(3), idempotency_key="refresh")
    result = scene.run(items(3), idempotency_key="refresh", owner=LATER)
    assert (result["reused"], scene.gateway.bill.total()) == (3, 3)
    assert scene.asked == {"ListObjectsV2": 2, "GetObject": 3, "PutObject": 2}


def test_another_request_under_the_same_key_and_id_is_that_items_failure(scene: Scene) -> None:
    scene.run([{"id": "a", "prompt": "one"}], idempotency_key="refresh")
    with pytest.raises(ItemsFailed, match="InvalidRequest 1"):
        scene.run([{"id": "a", "prompt": "two"}], idempotency_key="refresh")
    assert "belongs to another request" in scene.line("a")["message"]
    assert scene.gateway.bill == {"one": 1}


def test_what_others_have_bought_with_the_same_key_is_neither_told_nor_counted(scene: Scene) -> None:
    scene.run(items(3), idempotency_key="refresh")
    requests = [{"id": "new", "prompt": "new"}]
    arguments = {"idempotency_key": "refresh", "owner": LATER, "max_cost_usd": Decimal("0.04")}
    result = scene.run(requests, **arguments)
    assert (result["stored"], result["unmatched"], result["unknown_outcomes"]) == (1, 0, 0)


def test_a_budget_counts_what_the_task_has_bought_with_its_key_for_items_that_are_gone(scene: Scene) -> None:
    arguments = {"idempotency_key": "refresh", "max_cost_usd": Decimal("0.08")}
    scene.run(items(2), **arguments)

    with pytest.raises(OverBudget, match=r"Earlier requests cost 0\.08"):
        scene.run([{"id": "new", "prompt": "new"}], **arguments)

    assert scene.gateway.bill.total() == 2
    # Without a budget nobody reads what may be thousands of other runs' entries.
    scene.run([{"id": "new", "prompt": "new"}], idempotency_key="refresh")
    assert scene.store.count("GetObject") == 0


# What no request asks for any more.


def test_what_no_request_asks_for_any_more_is_told_and_counts_in_the_budget(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    limit = {"max_cost_usd": Decimal("0.12")}
    scene.run([{"id": "a", "prompt": "old"}, {"id": "b", "prompt": "b"}], **limit)

    with caplog.at_level(logging.WARNING):
        result = scene.run([{"id": "a", "prompt": "new"}, {"id": "b", "prompt": "b"}], **limit)

    assert (result["items"], result["stored"], result["unmatched"]) == (2, 2, 1)
    assert (result["images"], result["cost_usd"]) == (2, 0.08)
    assert [(line["id"], line["status"]) for line in scene.manifest] == [
        ("a", "stored"),
        ("b", "stored"),
        ("a", "unmatched"),
    ]
    assert scene.manifest[-1]["cost_usd"] == 0.04
    assert "1 purchase(s) of earlier attempts belong to requests that have changed" in caplog.text

    with pytest.raises(OverBudget, match=r"Earlier requests cost 0\.12"):
        scene.run([{"id": "a", "prompt": "newest"}, {"id": "b", "prompt": "b"}], **limit)
    assert scene.gateway.bill == {"old": 1, "b": 1, "new": 1}


def test_a_request_that_is_put_back_is_found_again(scene: Scene) -> None:
    old = [{"id": "a", "prompt": "old", "s3_key": "{sha256}.png"}]
    scene.run(old)
    assert scene.run([{**old[0], "prompt": "new"}])["unmatched"] == 1
    result = scene.run(old)
    assert (result["reused"], result["unmatched"], scene.gateway.bill.total()) == (1, 1, 2)


def test_an_item_that_was_dropped_from_the_requests_is_not_in_the_figures(scene: Scene) -> None:
    scene.run(items(5))
    result = scene.run(items(2))
    assert (result["items"], result["stored"], result["cost_usd"], result["unmatched"]) == (2, 2, 0.08, 3)
    assert [line["id"] for line in scene.manifest[:2]] == ["i0", "i1"]
    assert {line["id"] for line in scene.manifest[2:]} == {"i2", "i3", "i4"}


def test_a_lost_request_that_nobody_repeats_is_told_and_a_refused_one_is_not(scene: Scene) -> None:
    scene.gateway.script |= {"i0": [LOST], "i1": [CONTENT_REFUSED], "i2": [UNAVAILABLE] * 3}
    with pytest.raises(ItemsFailed):
        scene.run(items(3))

    result = scene.run([{"id": "new", "prompt": "new"}])

    assert (result["unmatched"], result["unknown_outcomes"]) == (1, 1)
    [line] = [line for line in scene.manifest if line["status"] == "unmatched"]
    assert (line["id"], line["unknown_outcomes"], line["cost_usd"]) == ("i0", 1, 0.0)
    with pytest.raises(OverBudget, match=r"Earlier requests cost 0\.08"):
        scene.run([{"id": "new", "prompt": "new"}, "newer"], max_cost_usd=Decimal("0.10"))


def test_images_that_are_paid_for_and_not_stored_are_told_with_what_to_do(scene: Scene) -> None:
    scene.cdn.script["i0"] = [500]
    with pytest.raises(ItemsFailed):
        scene.run(items(1))

    scene.run([{"id": "new", "prompt": "new"}])

    [line] = [line for line in scene.manifest if line["status"] == "unmatched"]
    assert (line["images"], line["cost_usd"], line["request_id"]) == ([], 0.04, "req_0")
    assert "Put the request back" in line["message"]
    assert "https://" not in str(line)
    assert scene.run(items(1))["reused"] == 1
    assert scene.gateway.bill == {"i0": 1, "new": 1}


def test_hundreds_that_no_request_asks_for_are_told_in_one_line_of_the_log(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.pretend(items(300))
    with caplog.at_level(logging.WARNING):
        assert scene.run([{"id": "new", "prompt": "new"}])["unmatched"] == 300
    [told] = [text for text in caplog.messages if "belong to requests" in text]
    assert told.startswith("300 purchase(s)")
    assert len(told) < 2_000
    assert len(scene.manifest) == 301
