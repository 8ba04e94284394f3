"""One item's failure is its own, until there are more of them than the author takes."""

from __future__ import annotations

import logging
import sqlite3
from dataclasses import dataclass
from decimal import Decimal

import httpx
import pytest

from airflow_provider_aisa.core.batch.plan import Plan
from airflow_provider_aisa.exceptions import (
    ItemsFailed,
)
from tests.core.batch.scene import Scene, items
from tests.fakes.gateway import (
    CONTENT_REFUSED,
    HTML,
    LOST,
    PROXY_ERROR,
    SERVER_ERROR,
    TIMED_OUT,
    UNAVAILABLE,
    UNREACHABLE,
    Answer,
    FakeGateway,
    Post,
    answer_json,
    billed,
    broken,
    images,
    refused,
)

SECRET = "a prompt that nobody else may read"


@dataclass(frozen=True)
class Met:
    """What one request met, and what its line says then."""

    answer: Answer
    error: str
    code: str | None = None
    sent: int = 1
    on_bill: int = 0
    unknown: int = 0


@pytest.mark.parametrize(
    "met",
    [
        Met(CONTENT_REFUSED, "ContentRefused", "content_policy_violation"),
        Met(refused(400, "invalid_request"), "InvalidRequest", "invalid_request"),
        Met(refused(404, "openai_error"), "ModelNotRouted", "openai_error"),
        Met(UNAVAILABLE, "GatewayFailed", "upstream_unavailable", sent=3),
        Met(UNREACHABLE, "GatewayFailed", sent=3),
        Met(SERVER_ERROR, "GatewayFailed", "internal_error", sent=3, unknown=3),
        Met(PROXY_ERROR, "GatewayFailed", sent=3, on_bill=3, unknown=3),
        Met(TIMED_OUT, "GatewayFailed", "upstream_timeout", sent=3, unknown=3),
        Met(billed(TIMED_OUT), "GatewayFailed", "upstream_timeout", sent=3, on_bill=3, unknown=3),
        Met(LOST, "OutcomeUnknown", on_bill=1, unknown=1),
        Met(broken(httpx.RemoteProtocolError), "OutcomeUnknown", unknown=1),
        Met(HTML, "OutcomeUnknown", on_bill=1, unknown=1),
        Met(images(0), "FewerImages"),
    ],
    ids=lambda met: f"{met.error}-{met.code}-{met.on_bill}",
)
def test_whatever_one_request_meets_the_others_are_stored_and_its_line_says_what_it_was(
    scene: Scene, met: Met
) -> None:
    scene.gateway.script["i1"] = [met.answer] * 10

    result = scene.run(items(5), on_item_failure="keep")

    assert (result["stored"], result["failed"], result["not_sent"]) == (4, 1, 0)
    assert (result["errors"], result["unknown_outcomes"]) == ({met.error: 1}, met.unknown)
    line = scene.line("i1")
    assert (line["status"], line["error"], line["code"]) == ("failed", met.error, met.code)
    assert line["unknown_outcomes"] == met.unknown
    assert (scene.gateway.sent.count("i1"), scene.gateway.bill["i1"]) == (met.sent, met.on_bill)
    assert all(scene.gateway.bill[f"i{number}"] == 1 for number in (0, 2, 3, 4))


@pytest.mark.parametrize(
    ("instead", "error", "retryable"),
    [(500, "ImageUnavailable", True), (403, "ImageLinkExpired", False), (b"<html>", "ImageUnusable", True)],
)
def test_an_image_that_cannot_be_fetched_is_its_items_failure_and_stays_paid_for(
    scene: Scene, instead: int | bytes, error: str, retryable: bool
) -> None:
    scene.cdn.script["i1"] = [instead]

    with pytest.raises(ItemsFailed) as caught:
        scene.run(items(3))

    assert caught.value.retryable is retryable
    line = scene.line("i1")
    assert (line["status"], line["error"], line["cost_usd"]) == ("failed", error, 0.04)
    assert line["usage"] == {"generated_images": 1, "output_tokens": 100}
    assert scene.tally.cost_usd == Decimal("0.12")

    assert scene.run(items(3))["stored"] == 3
    assert scene.gateway.bill.total() == 3


def test_the_line_of_an_item_that_lost_one_image_names_those_that_are_stored(scene: Scene) -> None:
    scene.cdn.script["i0"] = [500]
    scene.run(items(1, n=3), on_item_failure="keep")
    assert len(scene.images) == 2
    assert len(scene.line("i0")["images"]) == 2


def test_fewer_images_than_asked_are_stored_and_are_the_items_failure_unless_kept(scene: Scene) -> None:
    scene.gateway.script["i0"] = [images(1)]
    result = scene.run(items(2, n=2), on_item_failure="keep")
    assert (result["stored"], result["failed"], result["images"], result["cost_usd"]) == (1, 1, 3, 0.12)
    assert [image["key"] for image in scene.line("i0")["images"]] == ["out/i0/0.png"]


def test_a_damaged_entry_is_its_items_failure(scene: Scene) -> None:
    scene.run(items(3))
    [key] = [key for key in scene.s3.objects if key in scene.line("i1")["journal_uri"]]
    assert scene.meddler.garble(key)

    result = scene.run(items(4), on_item_failure="keep")

    assert (result["stored"], result["errors"]) == (3, {"JournalUnreadable": 1})
    assert scene.gateway.bill.total() == 4


def test_a_batch_of_failures_that_are_kept_succeeds(scene: Scene) -> None:
    scene.gateway.otherwise = CONTENT_REFUSED
    result = scene.run(items(30), on_item_failure="keep")
    assert (result["stored"], result["failed"], result["cost_usd"]) == (0, 30, 0.0)
    assert scene.gateway.bill.total() == 0


def test_a_batch_with_a_failure_fails_once_all_others_are_stored(scene: Scene) -> None:
    scene.gateway.script["i0"] = [CONTENT_REFUSED]
    with pytest.raises(ItemsFailed) as caught:
        scene.run(items(20))
    [key] = scene.meddler.keys("/manifest-")
    assert str(caught.value) == (
        "Fix the items that say so; a retry pays only for what is not paid yet. "
        "1 item failed (ContentRefused 1), and on_item_failure is 'fail': 'i0' (ContentRefused). 19 of 20 "
        f"items are stored, 1 failed, 0 were not sent. Manifest: s3://bucket/{key}."
    )


@pytest.mark.parametrize(
    ("scripts", "retryable"),
    [
        ([CONTENT_REFUSED, CONTENT_REFUSED], False),
        ([CONTENT_REFUSED, SERVER_ERROR], True),
        ([SERVER_ERROR, SERVER_ERROR], True),
        ([LOST, CONTENT_REFUSED], True),
    ],
)
def test_a_retry_is_worth_it_if_it_is_for_one_of_the_failures(
    scene: Scene, scripts: list[Answer], retryable: bool
) -> None:
    for number, answer in enumerate(scripts):
        scene.gateway.script[f"i{number}"] = [answer] * 10
    with pytest.raises(ItemsFailed) as caught:
        scene.run(items(4))
    assert caught.value.retryable is retryable


def test_at_most_once_a_lost_response_is_no_reason_to_try_again(scene: Scene) -> None:
    scene.gateway.script["i0"] = [LOST]
    for _ in range(2):
        with pytest.raises(ItemsFailed, match="OutcomeUnknown 1") as caught:
            scene.run(items(2), delivery="at-most-once")
        assert not caught.value.retryable
    assert scene.gateway.bill == {"i0": 1, "i1": 1}


def test_at_most_once_each_attempt_says_what_may_have_been_billed_and_where_that_is_written(
    scene: Scene,
) -> None:
    scene.gateway.script["i0"] = [LOST]
    arguments = {"delivery": "at-most-once", "on_item_failure": "keep"}
    assert scene.run(items(2), **arguments)["unknown_outcomes"] == 1
    assert scene.run(items(2), **arguments)["unknown_outcomes"] == 1
    assert scene.line("i0")["journal_uri"] is not None


@pytest.mark.parametrize(
    ("limit", "failing", "is_stopped"),
    [
        (None, 10, False),
        (10, 10, False),
        (1.0, 10, False),
        (2, 2, False),
        (2, 3, True),
        (0.2, 2, False),
        (0.2, 3, True),
        (0.25, 3, True),
        (1, 1, False),
        (1, 2, True),
        (0, 1, True),
        (0.0, 1, True),
        (0, 0, False),
        (0.0, 0, False),
    ],
)
def test_the_batch_stops_sending_at_the_first_failure_beyond_the_limit(
    scene: Scene, limit: float | None, failing: int, is_stopped: bool
) -> None:
    scene.one_at_a_time()
    for number in range(failing):
        scene.gateway.script[f"i{number}"] = [CONTENT_REFUSED]
    if is_stopped:
        with pytest.raises(ItemsFailed, match="more than max_failures allows"):
            scene.run(items(10), max_failures=limit, on_item_failure="keep")
        assert len(scene.gateway.sent) == failing
        assert list(scene.statuses().values()) == ["failed"] * failing + ["not_sent"] * (10 - failing)
    else:
        result = scene.run(items(10), max_failures=limit, on_item_failure="keep")
        assert (result["failed"], result["stored"]) == (failing, 10 - failing)


def test_failures_of_earlier_attempts_do_not_count_towards_the_limit(scene: Scene) -> None:
    scene.one_at_a_time()
    for number in range(2):
        scene.gateway.script[f"i{number}"] = [CONTENT_REFUSED]
        with pytest.raises(ItemsFailed):
            scene.run(items(4), max_failures=0)
    assert scene.run(items(4), max_failures=0)["stored"] == 4


def test_the_error_names_the_first_ids_and_counts_all(scene: Scene) -> None:
    scene.one_at_a_time()
    scene.gateway.otherwise = CONTENT_REFUSED
    with pytest.raises(ItemsFailed) as caught:
        scene.run(items(1_200))
    assert "1,200 items failed (ContentRefused 1,200)" in str(caught.value)
    assert ": 'i0' (ContentRefused), 'i1' (ContentRefused), 'i2'" in str(caught.value)
    assert "'i4' (ContentRefused), …. 0 of 1,200 items are stored" in str(caught.value)
    assert "i5" not in str(caught.value)


def test_the_log_tells_the_first_twenty_failures(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    scene.gateway.otherwise = CONTENT_REFUSED
    scene.run(items(100), on_item_failure="keep")
    assert sum(record.getMessage().startswith("Item ") for record in caplog.records) == 20


def test_a_refused_prompt_is_nowhere_but_where_its_author_wrote_it(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.gateway.otherwise = refused(422, "content_policy_violation", f"'{SECRET}' is not allowed")
    with caplog.at_level(logging.DEBUG), pytest.raises(ItemsFailed) as caught:
        scene.run([{"id": "sku-1", "prompt": SECRET}])
    assert "'sku-1' (ContentRefused)" in str(caught.value)
    assert (
        "Item 'sku-1' failed: ContentRefused: Change the prompt: the gateway's content policy" in caplog.text
    )
    written = b"".join(found.body for key, found in scene.s3.objects.items() if "/items/" not in key)
    assert SECRET not in str(caught.value) + caplog.text + written.decode()
    # The entry of a refused request stays: with the author's prompt, and nothing of the gateway's words.
    [entry] = scene.entries()
    assert entry["request"].pop("prompt") == SECRET
    assert SECRET not in str(entry)
    assert scene.line("sku-1")["code"] == "content_policy_violation"


def test_a_refused_image_is_told_without_the_gateways_words(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(gateway: FakeGateway, post: Post) -> httpx.Response:
        error = {"code": "OutputImageSensitiveContentDetected", "message": f"'{SECRET}' is not allowed"}
        body = {**gateway.deliver(post, 1).json(), "data": [{"error": error}]}
        return answer_json(200, body)

    scene.gateway.otherwise = refuse
    scene.run([{"id": "sku-1", "prompt": SECRET}], on_item_failure="keep")
    assert scene.line("sku-1")["error"] == "FewerImages"
    assert SECRET not in f"{scene.manifest}{caplog.text}"


def test_an_item_whose_key_belongs_to_another_request_is_told_without_that_ones_prompt(scene: Scene) -> None:
    scene.run([{"id": "a", "prompt": SECRET}], idempotency_key="refresh")
    scene.run([{"id": "a", "prompt": "another"}], idempotency_key="refresh", on_item_failure="keep")
    assert scene.line("a")["error"] == "InvalidRequest"
    assert SECRET not in str(scene.manifest)


def test_half_a_character_in_the_gateways_words_is_no_reason_to_stop(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.gateway.script["i1"] = [refused(400, "invalid_request", "the prompt is too long: 'A fox \ud83d'")]
    result = scene.run(items(3), on_item_failure="keep")
    assert (result["stored"], result["failed"]) == (2, 1)
    assert "too long: 'A fox ?'" in caplog.text
    assert "too long: 'A fox ?'" in scene.line("i1")["message"]


def test_half_a_character_in_a_paid_response_does_not_lose_what_is_paid_for(scene: Scene) -> None:
    def answer(gateway: FakeGateway, post: Post) -> httpx.Response:
        body = gateway.deliver(post, 1).json()
        body["data"].append({"error": {"code": "refused", "message": "A fox \ud83d"}})
        body["usage"]["note \ud83d"] = "A fox \ud83d"
        return answer_json(200, body)

    scene.gateway.script["i1"] = [answer]
    assert scene.run(items(3), on_item_failure="keep", on_partial="keep")["stored"] == 3


def test_a_full_disk_is_an_error_and_no_item_vanishes(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    settle = Plan.settle

    def settle_some(plan: Plan, position: int, line: str) -> None:
        if position == 1:
            raise sqlite3.OperationalError("database or disk is full")
        settle(plan, position, line)

    monkeypatch.setattr(Plan, "settle", settle_some)
    with pytest.raises(sqlite3.OperationalError):
        scene.run(items(3))
    assert scene.gateway.bill.total() == 3
