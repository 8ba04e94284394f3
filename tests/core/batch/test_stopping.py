"""What the next item would run into as well stops the batch; what is paid for is stored all the same."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import boto3
import pytest
from botocore.stub import Stubber

from airflow_provider_aisa.core.batch.runner import TRANSFERS
from airflow_provider_aisa.core.s3.bucket import Bucket
from airflow_provider_aisa.exceptions import (
    AisaError,
    InvalidConnection,
    ItemsFailed,
    KeyRefused,
    QuotaExceeded,
    StorageFailed,
)
from tests.core.batch.scene import STOPPED, Scene, block_until, items
from tests.fakes.gateway import (
    LOST,
    QUOTA_EXCEEDED,
    Answer,
    Post,
    refused,
)
from tests.fakes.s3_rules import s3_error

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize(
    ("answer", "error", "retryable"),
    [
        (QUOTA_EXCEEDED, QuotaExceeded, False),
        (refused(401, "invalid_api_key"), KeyRefused, False),
        (refused(403, "model_not_allowed"), KeyRefused, False),
    ],
)
def test_a_spend_cap_or_a_key_that_is_refused_stops_the_batch_at_the_first_item(
    scene: Scene, answer: Answer, error: type[AisaError], retryable: bool
) -> None:
    scene.one_at_a_time()
    scene.gateway.script["i3"] = [answer]

    with pytest.raises(error) as caught:
        scene.run(items(100), on_item_failure="keep")

    assert type(caught.value) is error
    assert caught.value.retryable is retryable
    assert " AIsa answered " in str(caught.value)
    assert (
        " The batch stopped, and a retry pays only for what is not paid yet: 3 of 100 items are stored, "
        "0 failed, 97 were not sent. Manifest: s3://bucket/"
    ) in str(caught.value)
    assert scene.gateway.sent == ["i0", "i1", "i2", "i3"]
    assert list(scene.statuses().values()) == ["stored"] * 3 + ["not_sent"] * 97


def test_a_redirect_stops_the_batch_at_the_first_item_which_counts_as_one_that_may_be_billed(
    scene: Scene,
) -> None:
    """A filter leads to its block page after it has seen the response."""
    scene.one_at_a_time()
    scene.gateway.script["i3"] = [refused(307, location="https://elsewhere.test/")]

    with pytest.raises(InvalidConnection, match="3 of 100 items are stored, 1 failed, 96 were not") as caught:
        scene.run(items(100), on_item_failure="keep")

    assert (caught.value.retryable, caught.value.unknown_outcomes) == (False, 1)
    assert scene.gateway.sent == ["i0", "i1", "i2", "i3"]
    assert list(scene.statuses().values()) == ["stored"] * 3 + ["failed"] + ["not_sent"] * 96
    assert scene.line("i3")["unknown_outcomes"] == 1


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

    def after_three(post: Post) -> None:
        if post.prompt == "i3":  # At least three others are billed, and none of them is stored.
            block_until(lambda: scene.gateway.bill.total() >= 3)

    scene.gateway.on_request = after_three
    scene.cdn.is_ready = lambda _prompt: STOPPED in caplog.messages

    with pytest.raises(QuotaExceeded):
        scene.run(items(50))

    paid = set(scene.gateway.bill)
    assert 3 <= len(paid) < 50
    assert {item_id for item_id, status in scene.statuses().items() if status == "stored"} == paid
    assert len(scene.images) == len(paid)


def test_what_is_in_flight_when_the_batch_stops_is_waited_for_and_stored(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.gateway.script["i3"] = [QUOTA_EXCEEDED]

    def answer_late(post: Post) -> None:
        if post.prompt == "i3":
            block_until(lambda: len(scene.gateway.sent) == 4)
        else:
            block_until(lambda: STOPPED in caplog.messages)

    scene.gateway.on_request = answer_late
    with pytest.raises(QuotaExceeded, match="3 of 50 items are stored"):
        scene.run(items(50))
    assert scene.gateway.bill == {"i0": 1, "i1": 1, "i2": 1}


def test_who_waits_for_a_rate_limit_when_the_batch_stops_is_not_waited_for(scene: Scene) -> None:
    scene.asleep = asyncio.sleep  # An hour would be an hour.
    scene.gateway.script["i0"] = [refused(429, "rate_limit_exceeded", retry_after="3600")]
    scene.gateway.script["i1"] = [QUOTA_EXCEEDED]

    def first_the_limit(post: Post) -> None:
        if post.prompt == "i1":
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

    def first_the_stop(post: Post) -> None:
        if post.prompt == "i0":
            block_until(lambda: STOPPED in caplog.messages)
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
    scene.one_at_a_time()
    for number in range(40):
        scene.cdn.script[f"i{number}"] = [500]
    with pytest.raises(ItemsFailed):
        scene.run(items(40))
    assert len(scene.images) == 0

    scene.gateway.otherwise = QUOTA_EXCEEDED
    new = [{"id": "new", "prompt": "new"}]
    with pytest.raises(QuotaExceeded, match="40 of 41 items are stored"):
        scene.run([*new, *items(40)])

    assert len(scene.images) == 40
    assert scene.statuses()["new"] == "not_sent"


def test_paid_items_beyond_those_under_way_are_stored_after_a_stop(scene: Scene) -> None:
    # The batch stops while it has only begun to look at what earlier attempts have left.
    count = scene.settings.max_concurrency + TRANSFERS + 20
    for number in range(count):
        scene.cdn.script[f"i{number}"] = [500]
    scene.gateway.script["lost"] = [LOST]
    lost = [{"id": "lost", "prompt": "lost"}]
    with pytest.raises(ItemsFailed):
        scene.run([*lost, *items(count)])

    scene.gateway.otherwise = QUOTA_EXCEEDED
    scene.cdn.is_ready = lambda _prompt: scene.gateway.sent.count("lost") == 2
    with pytest.raises(QuotaExceeded):
        scene.run([*lost, *items(count)])
    assert len(scene.images) == count


@pytest.mark.parametrize("what", ["images", "entries"])
def test_a_store_that_fails_stops_the_batch_and_loses_nothing_that_is_paid_for(
    scene: Scene, what: str
) -> None:
    def fail(operation: str, key: str) -> None:
        is_hit = "_aisa/" not in key if what == "images" else "/items/" in key
        if operation == "PutObject" and is_hit and len(scene.gateway.sent) > 5:
            raise s3_error("SlowDown")

    scene.on_store = fail
    with pytest.raises(StorageFailed) as caught:
        scene.run(items(100))
    assert (caught.value.code, caught.value.retryable) == ("SlowDown", True)
    assert len(scene.gateway.sent) < 100

    scene.on_store = lambda _op, _key: None
    scene.outdate_claims()
    result = scene.run(items(100))
    assert result["stored"] == 100
    twice = sum(count - 1 for count in scene.gateway.bill.values())
    # The images of a response that could not be recorded were stored by the process that had it. Their entry
    # is a claim for ever, so they are bought anew, and that is admitted.
    assert twice <= (result["unknown_outcomes"] if what == "entries" else 0)
    assert all(line["status"] == "stored" for line in scene.manifest)


def test_a_response_that_cannot_be_recorded_is_stored_by_who_has_it(scene: Scene) -> None:
    def fail(operation: str, key: str) -> None:
        # Claims can be written, and nothing after that.
        if operation == "PutObject" and "/items/" in key and key in scene.s3.objects:
            raise s3_error("SlowDown")

    scene.on_store = fail
    assert scene.run(items(5))["stored"] == 5
    assert len(scene.images) == 5
    assert scene.gateway.bill.total() == 5


def deny_the_manifest(operation: str, key: str) -> None:
    if operation == "PutObject" and "/manifest-" in key:
        raise s3_error("AccessDenied")


def test_a_stopped_batch_whose_manifest_cannot_be_written_says_so_and_tells_what_stopped_it(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.on_store = deny_the_manifest
    scene.gateway.otherwise = QUOTA_EXCEEDED
    with pytest.raises(
        QuotaExceeded, match=r"The batch stopped, .*\.jsonl \(not written by this attempt\)\.$"
    ):
        scene.run(items(3))
    [told] = [text for text in caplog.messages if text.startswith("There is no manifest of this attempt: ")]
    assert "S3 says AccessDenied" in told


def test_a_finished_batch_without_its_manifest_is_not_finished(scene: Scene) -> None:
    scene.on_store = deny_the_manifest
    with pytest.raises(StorageFailed, match="AccessDenied"):
        scene.run(items(3))

    scene.on_store = lambda _op, _key: None
    assert scene.run(items(3))["reused"] == 3
    assert scene.gateway.bill.total() == 3


def test_a_bucket_that_cannot_be_written_is_found_out_before_anything_is_paid(scene: Scene) -> None:
    scene.s3.denied.add("s3:PutObject")
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
        ("head_object", lambda: bucket.head_image("k")),
        ("put_object", lambda: bucket.prove_args("k")),
        ("get_object", lambda: bucket.read("k")),
    ]
    for operation, request in requests:
        with Stubber(client) as stub:
            stub.add_client_error(operation, code, http_status_code=status)
            with pytest.raises(StorageFailed, match=f"S3 says {code}"):
                request()
