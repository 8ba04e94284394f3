"""A gateway that is down, lost responses, bugs: the batch ends, and says what each item may have cost."""

from __future__ import annotations

import logging
from decimal import Decimal
from typing import Any

import pytest

from airflow_provider_aisa.exceptions import (
    AisaError,
    GatewayFailed,
    OverBudget,
    QuotaExceeded,
)
from tests.core.batch.scene import STOPPED, Scene, block_until, items
from tests.fakes.gateway import (
    CONTENT_REFUSED,
    HTML,
    LOST,
    QUOTA_EXCEEDED,
    RATE_LIMITED,
    SERVER_ERROR,
    TIMED_OUT,
    UNREACHABLE,
    Answer,
    FakeGateway,
    Post,
    images,
    refused,
)


@pytest.mark.parametrize("answer", [UNREACHABLE, SERVER_ERROR])
def test_ten_items_in_a_row_that_the_gateway_fails_are_enough(scene: Scene, answer: Answer) -> None:
    scene.one_at_a_time(max_retries=0)
    scene.gateway.otherwise = answer
    with pytest.raises(
        GatewayFailed, match=r"0 of 100 items are stored, 10 failed, 90 were not sent"
    ) as caught:
        scene.run(items(100), on_item_failure="keep")
    assert caught.value.retryable
    assert len(scene.gateway.sent) == 10
    assert list(scene.statuses().values()) == ["failed"] * 10 + ["not_sent"] * 90


@pytest.mark.parametrize("between", [images(), CONTENT_REFUSED])
def test_a_gateway_that_answers_now_and_then_is_not_down(scene: Scene, between: Answer) -> None:
    scene.one_at_a_time(max_retries=0)
    scene.gateway.otherwise = SERVER_ERROR
    for number in range(7, 100, 8):
        scene.gateway.script[f"i{number}"] = [between]

    def all_is_stored() -> bool:
        states = [entry["state"] for entry in scene.entries()]
        return states.count("stored") == scene.gateway.bill.total()

    if between is not CONTENT_REFUSED:
        scene.gateway.on_request = lambda _post: block_until(all_is_stored)
    result = scene.run(items(100), on_item_failure="keep")
    assert (len(scene.gateway.sent), result["errors"]["GatewayFailed"]) == (100, 88)


def test_a_slow_download_is_no_sign_of_a_gateway_that_is_down(scene: Scene) -> None:
    scene.one_at_a_time(max_retries=0)
    for number in range(15):
        if number != 6:
            scene.gateway.script[f"i{number}"] = [SERVER_ERROR]
    scene.cdn.is_ready = lambda _prompt: len(scene.gateway.sent) >= 11
    result = scene.run(items(15), on_item_failure="keep")
    assert (result["stored"], result["failed"]) == (1, 14)


@pytest.mark.parametrize("answer", [LOST, HTML])
def test_a_gateway_whose_responses_are_all_lost_is_not_paid_a_hundred_times(
    scene: Scene, answer: Answer
) -> None:
    scene.one_at_a_time()
    scene.gateway.otherwise = answer
    with pytest.raises(AisaError):
        scene.run(items(100), on_item_failure="keep")
    assert scene.gateway.bill.total() < 100


def test_at_most_once_what_earlier_attempts_have_lost_does_not_keep_the_rest_from_being_bought(
    scene: Scene,
) -> None:
    scene.one_at_a_time()
    for number in range(0, 30, 2):
        scene.gateway.script[f"i{number}"] = [LOST]
    arguments = {"delivery": "at-most-once", "on_item_failure": "keep"}
    scene.run(items(30), **arguments)
    result = scene.run(items(35), **arguments)
    assert (result["stored"], result["failed"]) == (20, 15)


# Money.


def test_a_budget_that_lost_responses_have_used_up_stops_the_batch(scene: Scene) -> None:
    scene.one_at_a_time()
    scene.gateway.script["i0"] = [TIMED_OUT]
    with pytest.raises(
        OverBudget, match=r"1 image\(s\) to buy cost 0\.040 USD\. Earlier requests cost"
    ) as caught:
        scene.run(items(5), max_cost_usd=Decimal("0.20"))
    assert not caught.value.retryable
    may_be_billed = scene.gateway.bill.total() + 1
    assert may_be_billed * Decimal("0.04") <= Decimal("0.20")
    assert [line["unknown_outcomes"] for line in scene.manifest] == [1, 0, 0, 0, 0]
    assert [line["status"] for line in scene.manifest] == ["failed", *["stored"] * 4]


@pytest.mark.parametrize("answer", [TIMED_OUT, refused(504)])
def test_an_item_that_was_sent_and_may_be_billed_is_not_called_not_sent(scene: Scene, answer: Answer) -> None:
    scene.one_at_a_time()
    scene.gateway.script["i0"] = [answer]
    scene.gateway.script["i1"] = [QUOTA_EXCEEDED]
    with pytest.raises(QuotaExceeded):
        scene.run(items(2))
    # The entry of what was refused stays and counts nothing.
    assert {entry["item"]: len(entry["unknown"]) for entry in scene.entries()} == {"i0": 1, "i1": 0}
    assert (scene.line("i0")["status"], scene.line("i0")["unknown_outcomes"]) == ("failed", 1)


# What nobody has foreseen.


def test_a_bug_in_one_item_stops_the_sending_stores_what_is_paid_for_and_is_told(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    class BugError(Exception):
        """Nobody has foreseen it."""

    scene.cdn.script["i0"] = [BugError("it was impossible")]

    def after_the_bug(prompt: str) -> bool:
        return scene.gateway.billed >= 3 if prompt == "i0" else STOPPED in caplog.messages

    scene.cdn.is_ready = after_the_bug
    with caplog.at_level(logging.INFO), pytest.raises(BugError, match="it was impossible"):
        scene.run(items(100))

    paid = scene.gateway.bill.total()
    assert paid < 100
    assert len(scene.images) == paid - 1
    assert list(scene.statuses().values()).count("stored") == paid - 1
    assert f"The batch stopped: {paid - 1} of 100 items are stored" in caplog.text

    assert scene.run(items(100))["stored"] == 100
    assert scene.gateway.bill.total() == 100


def test_an_item_that_is_paid_for_when_it_meets_a_bug_is_not_called_not_sent(scene: Scene) -> None:
    scene.cdn.script["i0"] = [RuntimeError("it was impossible")]
    with pytest.raises(RuntimeError):
        scene.run(items(1))
    assert (scene.line("i0")["status"], scene.line("i0")["cost_usd"]) == ("failed", 0.04)


def test_a_bug_while_a_request_is_sent_is_told_too(scene: Scene) -> None:
    def bug(_gateway: FakeGateway, _post: Post) -> Any:
        raise ZeroDivisionError

    scene.gateway.script["i1"] = [bug]
    with pytest.raises(ZeroDivisionError):
        scene.run(items(3))
    scene.outdate_claims()
    assert scene.run(items(3))["stored"] == 3
    assert scene.line("i1")["unknown_outcomes"] == 1


def test_a_bug_before_anything_is_sent_leaves_its_item_not_sent(scene: Scene) -> None:
    def bug(operation: str, key: str) -> None:
        if operation == "PutObject" and "/items/" in key:
            raise ZeroDivisionError

    scene.on_store = bug
    with pytest.raises(ZeroDivisionError):
        scene.run(items(3))
    assert set(scene.statuses().values()) == {"not_sent"}
    assert scene.gateway.sent == []


def test_of_several_reasons_to_stop_the_first_is_told(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    scene.gateway.script["i0"] = [QUOTA_EXCEEDED]
    scene.gateway.otherwise = refused(401, "invalid_api_key")

    def in_turn(post: Post) -> None:
        if post.prompt != "i0":
            block_until(lambda: len(scene.gateway.sent) == 4 and "Nothing more is sent" in caplog.text)

    scene.gateway.on_request = in_turn
    with pytest.raises(QuotaExceeded):
        scene.run(items(10))


def test_a_rate_limit_is_no_reason_to_stop_ever(scene: Scene) -> None:
    scene.gateway.script["i0"] = [RATE_LIMITED] * 50
    assert scene.run(items(5), max_failures=0)["stored"] == 5
