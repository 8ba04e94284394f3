"""What the next item would run into as well stops the batch; what is paid for is stored all the same."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.stub import Stubber

from airflow_provider_aisa.core.batch.runner import TRANSFERS
from airflow_provider_aisa.core.storage import Bucket
from airflow_provider_aisa.exceptions import (
    AisaError,
    GatewayFailed,
    ImageUnavailable,
    InvalidConnection,
    ItemsFailed,
    KeyRefused,
    OverBudget,
    QuotaExceeded,
    StorageFailed,
)
from tests.batch.scene import (
    CONTENT_REFUSED,
    HTML,
    LOST,
    QUOTA_EXCEEDED,
    RATE_LIMITED,
    SERVER_ERROR,
    TIMED_OUT,
    UNREACHABLE,
    Answer,
    Asked,
    Gateway,
    Scene,
    block_until,
    images,
    items,
    refused,
    until,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def one_at_a_time(scene: Scene, **changes: Any) -> None:
    scene.settings = replace(scene.settings, max_concurrency=1, **changes)


def said(caplog: pytest.LogCaptureFixture, words: str) -> bool:
    return any(words in record.getMessage() for record in caplog.records)


STOPPED = "Nothing more is sent; what is paid for is being stored."


@pytest.mark.parametrize(
    ("answer", "error", "retryable"),
    [
        (QUOTA_EXCEEDED, QuotaExceeded, False),
        (refused(401, "invalid_api_key"), KeyRefused, False),
        (refused(403, "model_not_allowed"), KeyRefused, False),
        (refused(307, location="https://elsewhere.test/"), InvalidConnection, False),
    ],
)
def test_a_spend_cap_or_a_key_that_is_refused_stops_the_batch_at_the_first_item(
    scene: Scene, answer: Answer, error: type[AisaError], retryable: bool
) -> None:
    one_at_a_time(scene)
    scene.gateway.script["i3"] = [answer]

    with pytest.raises(error) as caught:
        scene.run(items(100), on_item_failure="keep")

    assert type(caught.value) is error
    assert caught.value.retryable is retryable
    assert str(caught.value).startswith("the batch stopped: AIsa answered ")
    assert "3 of 100 items are stored, 0 failed, 97 were not sent. Manifest: s3://memory/" in str(
        caught.value
    )
    assert str(caught.value).endswith("A retry pays only for what is not paid yet.")
    assert scene.gateway.sent == ["i0", "i1", "i2", "i3"]
    assert list(scene.statuses().values()) == ["stored"] * 3 + ["not_sent"] * 97


def test_the_error_that_stops_a_batch_keeps_what_the_gateway_said(scene: Scene) -> None:
    scene.gateway.otherwise = QUOTA_EXCEEDED
    with pytest.raises(QuotaExceeded) as caught:
        scene.run(items(3))
    assert (caught.value.status, caught.value.code, caught.value.request_id) == (
        429,
        "quota_exceeded",
        "req_1",
    )


def test_what_is_paid_for_when_the_batch_stops_is_stored_first(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.gateway.script["i3"] = [QUOTA_EXCEEDED]

    def after_three(prompt: str) -> None:
        if prompt == "i3":  # At least three others are billed, and none of them is stored.
            block_until(lambda: scene.gateway.bill.total() >= 3)

    scene.gateway.on_request = after_three
    scene.cdn.before = lambda _prompt: until(lambda: said(caplog, STOPPED))

    with pytest.raises(QuotaExceeded):
        scene.run(items(50))

    paid = set(scene.gateway.bill)
    assert 3 <= len(paid) < 50
    assert {item_id for item_id, status in scene.statuses().items() if status == "stored"} == paid
    assert len(scene.memory.images) == len(paid)


def test_what_is_in_flight_when_the_batch_stops_is_waited_for_and_stored(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.gateway.script["i3"] = [QUOTA_EXCEEDED]

    def answer_late(prompt: str) -> None:
        if prompt == "i3":
            block_until(lambda: len(scene.gateway.sent) == 4)
        else:
            block_until(lambda: said(caplog, STOPPED))

    scene.gateway.on_request = answer_late
    with pytest.raises(QuotaExceeded, match="3 of 50 items are stored"):
        scene.run(items(50))
    assert scene.gateway.bill == {"i0": 1, "i1": 1, "i2": 1}


def test_who_waits_for_a_rate_limit_when_the_batch_stops_is_not_waited_for(scene: Scene) -> None:
    scene.asleep = asyncio.sleep  # An hour would be an hour.
    scene.gateway.script["i0"] = [refused(429, "rate_limit_exceeded", retry_after="3600")]
    scene.gateway.script["i1"] = [QUOTA_EXCEEDED]

    def first_the_limit(prompt: str) -> None:
        if prompt == "i1":
            block_until(lambda: scene.client.rate_limits == 1)

    scene.gateway.on_request = first_the_limit
    scene.settings = replace(scene.settings, max_concurrency=2)
    with pytest.raises(QuotaExceeded):
        scene.run(items(50))
    assert sorted(scene.gateway.sent) == ["i0", "i1"]
    assert set(scene.statuses().values()) == {"not_sent"}


def test_who_waits_only_after_the_batch_has_stopped_is_not_waited_for_either(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.asleep = asyncio.sleep
    scene.gateway.script["i0"] = [refused(429, "rate_limit_exceeded", retry_after="3600")]
    scene.gateway.script["i1"] = [QUOTA_EXCEEDED]

    def first_the_stop(prompt: str) -> None:
        if prompt == "i0":
            block_until(lambda: said(caplog, STOPPED))
        else:
            block_until(lambda: "i0" in scene.gateway.sent)

    scene.gateway.on_request = first_the_stop
    scene.settings = replace(scene.settings, max_concurrency=2)
    with pytest.raises(QuotaExceeded):
        scene.run(items(50))
    assert scene.gateway.sent.count("i0") == 1


def test_items_that_earlier_attempts_have_paid_for_are_stored_even_when_nothing_can_be_bought(
    scene: Scene,
) -> None:
    one_at_a_time(scene)
    for number in range(40):
        scene.cdn.script[f"i{number}"] = [ImageUnavailable("the server failed")]
    with pytest.raises(ItemsFailed):
        scene.run(items(40))
    assert len(scene.memory.images) == 0

    scene.gateway.otherwise = QUOTA_EXCEEDED
    new = [{"id": "new", "prompt": "new"}]
    with pytest.raises(QuotaExceeded, match="40 of 41 items are stored"):
        scene.run([*new, *items(40)])

    assert len(scene.memory.images) == 40
    assert scene.statuses()["new"] == "not_sent"


def test_paid_items_beyond_those_under_way_are_stored_after_a_stop(scene: Scene) -> None:
    # The batch stops while it has only begun to look at what earlier attempts have left.
    count = scene.settings.max_concurrency + TRANSFERS + 20
    for number in range(count):
        scene.cdn.script[f"i{number}"] = [ImageUnavailable("the server failed")]
    scene.gateway.script["lost"] = [LOST]
    lost = [{"id": "lost", "prompt": "lost"}]
    with pytest.raises(ItemsFailed):
        scene.run([*lost, *items(count)])

    scene.gateway.otherwise = QUOTA_EXCEEDED
    scene.cdn.before = lambda _prompt: until(lambda: scene.gateway.sent.count("lost") == 2)
    with pytest.raises(QuotaExceeded):
        scene.run([*lost, *items(count)])
    assert len(scene.memory.images) == count


@pytest.mark.parametrize("operation", ["upload", "write"])
def test_a_store_that_fails_stops_the_batch_and_loses_nothing_that_is_paid_for(
    scene: Scene, operation: str
) -> None:
    def fail(done: str, key: str) -> None:
        if done == operation and "batch.json" not in key and len(scene.gateway.sent) > 5:
            raise StorageFailed("S3 says SlowDown", status=503, code="SlowDown")

    scene.on_store = fail
    with pytest.raises(StorageFailed) as caught:
        scene.run(items(100))
    assert (caught.value.code, caught.value.retryable) == ("SlowDown", True)
    assert len(scene.gateway.sent) < 100

    scene.on_store = lambda _op, _key: None
    scene.outdate_claims()
    assert scene.run(items(100))["stored"] == 100
    lost = {item_id: count - 1 for item_id, count in scene.gateway.bill.items() if count > 1}
    if operation == "upload":
        assert lost == {}
    # Images of a response that could not be recorded are stored by the process that has it.
    assert all(line["status"] == "stored" for line in scene.manifest)


def test_a_response_that_cannot_be_recorded_is_stored_by_who_has_it(scene: Scene) -> None:
    def fail(done: str, key: str) -> None:
        # Claims can be written, and nothing after that.
        if done == "write" and "/items/" in key and key in scene.memory.objects:
            raise StorageFailed("S3 says SlowDown")

    scene.on_store = fail
    assert scene.run(items(5))["stored"] == 5
    assert len(scene.memory.images) == 5
    assert scene.gateway.bill.total() == 5


def test_a_stopped_batch_whose_manifest_cannot_be_written_says_so_and_tells_what_stopped_it(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(operation: str, _key: str) -> None:
        if operation == "manifest":
            raise StorageFailed("S3 says AccessDenied")

    scene.on_store = fail
    scene.gateway.otherwise = QUOTA_EXCEEDED
    with pytest.raises(QuotaExceeded, match=r"\.jsonl \(not written by this attempt\)\. A retry pays"):
        scene.run(items(3))
    assert "There is no manifest of this attempt: S3 says AccessDenied" in caplog.text


def test_a_finished_batch_without_its_manifest_is_not_finished(scene: Scene) -> None:
    def fail(operation: str, _key: str) -> None:
        if operation == "manifest":
            raise StorageFailed("S3 says AccessDenied")

    scene.on_store = fail
    with pytest.raises(StorageFailed, match="AccessDenied"):
        scene.run(items(3))

    scene.on_store = lambda _op, _key: None
    assert scene.run(items(3))["reused"] == 3
    assert scene.gateway.bill.total() == 3


def test_a_bucket_that_cannot_be_written_is_found_out_before_anything_is_paid(scene: Scene) -> None:
    def fail(operation: str, _key: str) -> None:
        if operation == "write":
            raise StorageFailed("S3 says AccessDenied")

    scene.on_store = fail
    with pytest.raises(StorageFailed, match="AccessDenied"):
        scene.run(items(3))
    assert scene.gateway.sent == []


@pytest.mark.parametrize(("status", "code"), [(409, "OperationAborted"), (412, "x"), (501, "NotImplemented")])
def test_an_answer_to_a_condition_that_nobody_set_is_a_storage_failure(
    tmp_path: Path, status: int, code: str
) -> None:
    client = boto3.client(
        "s3", region_name="us-east-1", aws_access_key_id="key", aws_secret_access_key="secret"
    )
    bucket, path = Bucket(client, "b"), tmp_path / "lines"
    path.write_text("{}")
    requests: list[tuple[str, Callable[[], object]]] = [
        ("put_object", lambda: bucket.write("k", b"{}", only_if=None, is_conditional=False)),
        ("put_object", lambda: bucket.put_lines(path, key="k")),
        ("list_objects_v2", lambda: list(bucket.list_keys("p/"))),
        ("delete_object", lambda: bucket.delete("k", only_if=None)),
        ("get_object", lambda: bucket.read("k")),
    ]
    for operation, request in requests:
        with Stubber(client) as stub:
            stub.add_client_error(operation, code, http_status_code=status)
            with pytest.raises(StorageFailed, match=f"S3 says {code}"):
                request()


# A gateway that is down.


@pytest.mark.parametrize("answer", [UNREACHABLE, SERVER_ERROR])
def test_ten_items_in_a_row_that_the_gateway_fails_are_enough(scene: Scene, answer: Answer) -> None:
    one_at_a_time(scene, max_retries=0)
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
    one_at_a_time(scene, max_retries=0)
    scene.gateway.otherwise = SERVER_ERROR
    for number in range(7, 100, 8):
        scene.gateway.script[f"i{number}"] = [between]

    def all_is_stored() -> bool:
        states = [entry["state"] for entry in scene.entries()]
        return states.count("stored") == scene.gateway.bill.total()

    if between is not CONTENT_REFUSED:
        scene.gateway.on_request = lambda _prompt: block_until(all_is_stored)
    result = scene.run(items(100), on_item_failure="keep")
    assert (len(scene.gateway.sent), result["errors"]["GatewayFailed"]) == (100, 88)


def test_a_slow_download_is_no_sign_of_a_gateway_that_is_down(scene: Scene) -> None:
    one_at_a_time(scene, max_retries=0)
    for number in range(15):
        if number != 6:
            scene.gateway.script[f"i{number}"] = [SERVER_ERROR]
    scene.cdn.before = lambda _prompt: until(lambda: len(scene.gateway.sent) >= 11)
    result = scene.run(items(15), on_item_failure="keep")
    assert (result["stored"], result["failed"]) == (1, 14)


@pytest.mark.parametrize("answer", [LOST, HTML])
def test_a_gateway_whose_responses_are_all_lost_is_not_paid_a_hundred_times(
    scene: Scene, answer: Answer
) -> None:
    one_at_a_time(scene)
    scene.gateway.otherwise = answer
    with pytest.raises(AisaError):
        scene.run(items(100), on_item_failure="keep")
    assert scene.gateway.bill.total() < 100


@pytest.mark.xfail(
    reason="old claims that may not be sent again are taken for a gateway that is down", strict=True
)
def test_at_most_once_what_earlier_attempts_have_lost_does_not_keep_the_rest_from_being_bought(
    scene: Scene,
) -> None:
    one_at_a_time(scene)
    for number in range(0, 30, 2):
        scene.gateway.script[f"i{number}"] = [LOST]
    arguments = {"delivery": "at-most-once", "on_item_failure": "keep"}
    scene.run(items(30), **arguments)
    result = scene.run(items(35), **arguments)
    assert (result["stored"], result["failed"]) == (20, 15)


# Money.


def test_a_budget_that_lost_responses_have_used_up_stops_the_batch(scene: Scene) -> None:
    one_at_a_time(scene)
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
    one_at_a_time(scene)
    scene.gateway.script["i0"] = [answer]
    scene.gateway.script["i1"] = [QUOTA_EXCEEDED]
    with pytest.raises(QuotaExceeded):
        scene.run(items(2))
    assert [entry["unknown_outcomes"] for entry in scene.entries()] == [1]
    assert (scene.line("i0")["status"], scene.line("i0")["unknown_outcomes"]) == ("failed", 1)


# What nobody has foreseen.


def test_a_bug_in_one_item_stops_the_sending_stores_what_is_paid_for_and_is_told(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    class BugError(Exception):
        """Nobody has foreseen it."""

    scene.cdn.script["i0"] = [BugError("it was impossible")]

    async def after_the_bug(prompt: str) -> None:
        if prompt == "i0":
            await until(lambda: scene.gateway.bill.total() >= 3)
        else:
            await until(lambda: said(caplog, STOPPED))

    scene.cdn.before = after_the_bug
    with caplog.at_level(logging.INFO), pytest.raises(BugError, match="it was impossible"):
        scene.run(items(100))

    paid = scene.gateway.bill.total()
    assert paid < 100
    assert len(scene.memory.images) == paid - 1
    assert list(scene.statuses().values()).count("stored") == paid - 1
    assert said(caplog, f"The batch stopped: {paid - 1} of 100 items are stored")

    assert scene.run(items(100))["stored"] == 100
    assert scene.gateway.bill.total() == 100


def test_an_item_that_is_paid_for_when_it_meets_a_bug_is_not_called_not_sent(scene: Scene) -> None:
    scene.cdn.script["i0"] = [RuntimeError("it was impossible")]
    with pytest.raises(RuntimeError):
        scene.run(items(1))
    assert (scene.line("i0")["status"], scene.line("i0")["cost_usd"]) == ("failed", 0.04)


def test_a_bug_while_a_request_is_sent_is_told_too(scene: Scene) -> None:
    def bug(_gateway: Gateway, _asked: Asked) -> Any:
        raise ZeroDivisionError

    scene.gateway.script["i1"] = [bug]
    with pytest.raises(ZeroDivisionError):
        scene.run(items(3))
    scene.outdate_claims()
    assert scene.run(items(3))["stored"] == 3
    assert scene.line("i1")["unknown_outcomes"] == 1


def test_of_several_reasons_to_stop_the_first_is_told(scene: Scene) -> None:
    scene.gateway.script["i0"] = [QUOTA_EXCEEDED]
    scene.gateway.otherwise = refused(401, "invalid_api_key")

    def in_turn(prompt: str) -> None:
        if prompt != "i0":
            block_until(lambda: len(scene.gateway.sent) == 4 and scene.client.rate_limits == 1)

    scene.gateway.on_request = in_turn
    with pytest.raises(QuotaExceeded):
        scene.run(items(10))


def test_a_rate_limit_is_no_reason_to_stop_ever(scene: Scene) -> None:
    scene.gateway.script["i0"] = [RATE_LIMITED] * 50
    assert scene.run(items(5), max_failures=0)["stored"] == 5
