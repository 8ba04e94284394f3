"""The figures of a batch stay right and small, whatever the gateway counts and however many there are."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_aisa import exceptions
from airflow_provider_aisa.core.batch.manifest import (
    ManifestLine,
    dump,
    error_text,
    line_of,
    unmatched_line,
    write_manifest,
)
from airflow_provider_aisa.core.batch.progress import Speedometer, Tally
from airflow_provider_aisa.core.gateway.response import GenerationResponse
from airflow_provider_aisa.core.journal.entry import Entry, EntryState
from airflow_provider_aisa.core.receipt import Receipt
from airflow_provider_aisa.exceptions import AisaError, ContentRefused, GatewayFailed, ImageUnavailable
from tests.core.journal.entries import ENDED, IMAGE, OPEN, RESPONSE, make_entry

SMALL = 4096  # bytes that the XCom may have
URI = "s3://b/_aisa/j.json"
ONE, OTHER = replace(IMAGE, etag="e0"), replace(IMAGE, index=1, uri="s3://b/1.png", key="1.png", etag="e1")
SUCCESS = Receipt(
    URI,
    response=GenerationResponse("m", 1, (), {"generated_images": 2}, "req_1", delivered=2),
    cost_usd=0.08,
    images=(ONE, OTHER),
    unknown_outcomes=1,
    was_sent=True,
)


def stored(**changes: Any) -> dict[str, Any]:
    line = {"status": "stored", "images": [{}], "usage": {}, "cost_usd": 0.04, "reused": False}
    return {**line, "unknown_outcomes": 0, "error": None, **changes}


def failed(**changes: Any) -> dict[str, Any]:
    return stored(status="failed", images=[], usage=None, cost_usd=0.0, error="GatewayFailed") | changes


def tally_of(*lines: ManifestLine, total: int = 10) -> Tally:
    tally = Tally(total)
    for line in lines:
        tally.count(line)
    return tally


def test_each_figure_is_counted_where_it_belongs() -> None:
    tally = tally_of(
        stored(images=[{}, {}], cost_usd=0.08, usage={"generated_images": 2, "output_tokens": 200}),
        stored(reused=True, usage={"generated_images": 1}),
        failed(),
        failed(images=[{}], cost_usd=0.04, error="FewerImages", unknown_outcomes=2),
        failed(error="GatewayFailed", unknown_outcomes=1),
        total=7,
    )
    assert tally.result() == {
        "items": 7,
        "stored": 2,
        "reused": 1,
        "failed": 3,
        "not_sent": 2,
        "unmatched": 0,
        "images": 4,
        "cost_usd": 0.16,
        "usage": {"generated_images": 3, "output_tokens": 200},
        "unknown_outcomes": 3,
        "errors": {"GatewayFailed": 2, "FewerImages": 1},
    }
    # What this attempt has paid for is told to the metrics.
    assert (tally.paid_images, tally.paid_usd) == (3, Decimal("0.12"))


def test_what_no_request_asks_for_any_more_is_counted_and_is_no_item() -> None:
    tally = tally_of(
        stored(), unmatched_line(make_entry(EntryState.STORED, unknown=("c7", "c8")), URI), total=1
    )
    result = tally.result()
    assert (result["items"], result["stored"], result["failed"], result["not_sent"]) == (1, 1, 0, 0)
    assert (result["unmatched"], result["unknown_outcomes"]) == (1, 2)
    # Images and their cost are those of the items.
    assert (result["images"], result["cost_usd"], result["reused"]) == (1, 0.04, 0)


def test_cents_add_up_to_the_cent() -> None:
    tally = tally_of(*[stored(cost_usd=0.1)] * 1_000)
    assert tally.cost_usd == 100
    assert tally.result()["cost_usd"] == 100.0


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_cost_that_nobody_knows_makes_the_sum_unknown_and_never_lower(position: int) -> None:
    lines: list[ManifestLine] = [stored(), stored()]
    lines.insert(position, stored(cost_usd=None))
    tally = tally_of(*lines)
    assert tally.result()["cost_usd"] is None
    # Metrics count what is known.
    assert tally.paid_usd == Decimal("0.08")


def test_only_figures_of_the_usage_are_added_up() -> None:
    tally = tally_of(
        stored(usage={"a": 1, "b": 0.5, "c": True, "d": "7", "e": None, "f": {"g": 1}}),
        stored(usage={"b": 2}),
    )
    assert tally.usage == {"a": 1, "b": 2.5}


def test_the_result_stays_small_with_thousands_of_kinds_of_everything() -> None:
    tally = Tally(10**9)
    for number in range(5_000):
        tally.count(stored(usage={f"{name}_{number}": 10**12 for name in ("output_tokens", "input_tokens")}))
        tally.count(failed(error=every_error()[number % len(every_error())]))
    result = {**tally.result(), "manifest_uri": f"s3://{'b' * 63}/{'k' * 1_024}"}
    assert len(json.dumps(result).encode()) < SMALL
    assert tally.errors.total() == 5_000


def every_error() -> list[str]:
    return [
        name
        for name, kind in vars(exceptions).items()
        if isinstance(kind, type) and issubclass(kind, AisaError)
    ]


def test_the_result_stays_small_with_names_of_any_length() -> None:
    tally = tally_of(stored(usage={f"{number}{'x' * 1_000}": 1 for number in range(30)}))
    assert len(json.dumps(tally.result()).encode()) < SMALL


@pytest.mark.parametrize("figure", [float("nan"), float("inf")])
def test_the_result_is_json_whatever_the_gateway_counts(figure: float) -> None:
    json.dumps(tally_of(stored(usage={"a": figure})).result(), allow_nan=False)


def test_a_figure_of_hundreds_of_digits_is_none() -> None:
    assert tally_of(stored(usage={"a": 10**400, "b": 1})).usage == {"b": 1}


# The line of the log.


def text_after(minutes: float, tally: Tally, before: Tally | None = None) -> str:
    speed = Speedometer(1_000.0, before or Tally(tally.total))
    speed.sample(1_000.0 + 60 * minutes, tally)
    return speed.text(tally)


def test_progress_says_how_far_how_fast_how_much_and_how_long() -> None:
    tally = tally_of(*[stored(images=[{}, {}], cost_usd=0.08)] * 20, *[failed()] * 5, total=1_225)
    assert text_after(0.5, tally) == (
        "25 of 1,225 items done (5 failed, 0 reused), 80.0 images/min, $1.60 so far, about 0:24:00 left."
    )


def test_progress_names_rate_limits_once_there_are_any() -> None:
    tally = replace(tally_of(stored(), total=1), rate_limits=3)
    assert "(0 failed, 0 reused, 3 rate limits)" in text_after(1, tally)


def test_progress_knows_when_nothing_is_left_and_when_it_cannot_know() -> None:
    assert text_after(1, tally_of(stored(), total=1)).endswith("1.0 images/min, $0.04 so far, nothing left.")
    assert text_after(1, Tally(5)) == (
        "0 of 5 items done (0 failed, 0 reused), 0.0 images/min, $0.00 so far, time left unknown."
    )


def test_progress_says_when_nobody_knows_the_cost() -> None:
    assert ", cost unknown, " in text_after(1, tally_of(stored(cost_usd=None)))


def test_what_earlier_attempts_have_stored_is_no_speed_of_this_one() -> None:
    before = tally_of(*[stored(reused=True)] * 1_000, total=1_002)
    after = tally_of(*[stored(reused=True)] * 1_000, stored(), total=1_002)
    assert text_after(1, after, before).endswith("1.0 images/min, $40.04 so far, about 0:01:00 left.")


def test_the_speed_is_that_of_the_last_samples() -> None:
    tally = Tally(100)
    speed = Speedometer(0.0, tally)
    for minute in range(1, 100):
        if minute > 60:
            tally.count(stored())
        speed.sample(60.0 * minute, tally)
    assert "1.0 images/min" in speed.text(tally)
    assert "about 1:01:00 left" in speed.text(tally)


def test_two_samples_of_the_same_moment_are_no_division_by_zero() -> None:
    assert text_after(0, tally_of(stored())).startswith("1 of 10 items done")


def test_a_batch_of_days_is_told_in_days() -> None:
    assert "about 6 days, 22:38:00 left" in text_after(1, tally_of(stored(), total=9_999))


# Lines of the manifest.


def failure(error: BaseException, **changes: Any) -> Receipt:
    return replace(Receipt(URI, error=error), **changes)


def test_every_line_has_the_same_fields() -> None:
    error = GatewayFailed("down", status=500, code="internal_error", request_id="req_2")
    entry = make_entry(EntryState.STORED, item="c")
    lines = [line_of("a", SUCCESS), line_of("b", failure(error)), unmatched_line(entry, URI)]
    assert len({tuple(line) for line in lines}) == 1


def test_the_line_of_a_stored_item_says_where_what_and_how_much() -> None:
    assert line_of("a", SUCCESS) == {
        "id": "a",
        "status": "stored",
        "images": [ONE.to_dict(), OTHER.to_dict()],
        "usage": {"generated_images": 2},
        "cost_usd": 0.08,
        "reused": False,
        "request_id": "req_1",
        "unknown_outcomes": 1,
        "error": None,
        "code": None,
        "message": None,
        "journal_uri": URI,
    }


def test_the_line_of_an_item_that_failed_before_it_was_paid_for_says_why() -> None:
    error = GatewayFailed("down", status=500, code="internal_error", request_id="req_2")
    assert line_of("a", failure(error, was_sent=True)) == {
        "id": "a",
        "status": "failed",
        "images": [],
        "usage": None,
        "cost_usd": 0.0,
        "reused": False,
        "request_id": "req_2",
        "unknown_outcomes": 0,
        "error": "GatewayFailed",
        "code": "internal_error",
        "message": "down",
        "journal_uri": None,
    }


def test_the_line_of_an_item_that_failed_after_it_was_paid_for_says_what_was_paid() -> None:
    receipt = failure(
        ImageUnavailable("gone"), response=RESPONSE, cost_usd=None, images=(ONE,), is_reused=True
    )
    line = line_of("a", receipt)
    assert (line["usage"], line["cost_usd"], line["request_id"]) == ({"generated_images": 1}, None, "req_1")
    assert (line["reused"], line["journal_uri"], line["images"]) == (True, URI, [ONE.to_dict()])


def test_a_request_that_may_be_billed_names_its_journal() -> None:
    line = line_of("a", failure(GatewayFailed("down"), unknown_outcomes=2))
    assert (line["unknown_outcomes"], line["journal_uri"]) == (2, URI)


def test_a_refused_prompt_is_told_without_a_word_of_the_gateway() -> None:
    error = ContentRefused(
        "AIsa answered 422: 'a secret prompt' is not allowed", code="content_policy_violation"
    )
    line = line_of("sku-1", failure(error))
    assert "secret" not in dump(line)
    assert (line["error"], line["code"]) == ("ContentRefused", "content_policy_violation")
    assert line["message"] == error_text(error)
    assert error_text(GatewayFailed("down")) == "down"


@pytest.mark.parametrize(
    ("entry", "expected", "words"),
    [
        (make_entry(EntryState.STORED), ([IMAGE.to_dict()], 0.04, "req_1", 0), "no request asks for them"),
        (make_entry(EntryState.PAID, unknown=("c7",)), ([], 0.04, "req_1", 1), "Put the request back"),
        (make_entry(EntryState.CLAIMED, OPEN), ([], 0.0, None, 1), "may have been billed"),
        (
            make_entry(EntryState.CLAIMED, ENDED, unknown=("c7", "c1")),
            ([], 0.0, None, 2),
            "may have been billed",
        ),
        (
            make_entry(EntryState.CLAIMED, unknown=("c1",), previous=make_entry(EntryState.STORED).stored),
            ([IMAGE.to_dict()], 0.04, "req_1", 1),
            "no request asks for them",
        ),
    ],
)
def test_the_line_of_what_no_request_asks_for_any_more_says_what_there_is_and_what_to_do(
    entry: Entry, expected: tuple[Any, ...], words: str
) -> None:
    line = unmatched_line(replace(entry, item="mug-01"), URI)
    assert (line["id"], line["status"], line["journal_uri"]) == ("mug-01", "unmatched", URI)
    assert (line["images"], line["cost_usd"], line["request_id"], line["unknown_outcomes"]) == expected
    assert words in line["message"]
    assert (line["reused"], line["error"]) == (True, None)
    assert "https://" not in dump(line)


def test_the_manifest_has_a_line_for_each_item_in_order_and_says_what_was_not_sent(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    write_manifest(path, [("b\u2028", None), ("a", dump(line_of("a", SUCCESS)))])
    one, other = (json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1])
    assert (one["id"], one["status"], one["cost_usd"], one["images"]) == ("b\u2028", "not_sent", 0.0, [])
    assert other == line_of("a", SUCCESS)
    assert one.keys() == other.keys()
