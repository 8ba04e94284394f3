"""What a batch leaves behind: images, a manifest, a small XCom, metrics, a readable log, and no secret."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from airflow_provider_aisa import metrics
from airflow_provider_aisa.core import workbench
from airflow_provider_aisa.core.gateway.client import AisaClient
from airflow_provider_aisa.core.gateway.request import ImageRequest
from airflow_provider_aisa.core.layout import BatchLayout, Owner, Target
from airflow_provider_aisa.exceptions import ItemsFailed, QuotaExceeded
from airflow_provider_aisa.sandbox import Fault
from tests.operators.conftest import SMALL

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.operators.conftest import Desk

FOLDER = "seedream/dag/run/generate/"
FIELDS = {
    "id",
    "status",
    "images",
    "usage",
    "cost_usd",
    "reused",
    "request_id",
    "unknown_outcomes",
    "error",
    "code",
    "message",
    "journal_uri",
}


def foxes(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [
        {"id": f"fox-{number:03}", "prompt": f"fox number {number:03}", **fields} for number in range(count)
    ]


def test_the_result_counts_what_is_in_s3_and_what_it_cost(desk: Desk) -> None:
    result = desk.run_batch(foxes(3), n=2)

    manifest_uri = result.pop("manifest_uri")
    assert re.fullmatch(
        rf"s3://{desk.bucket}/{FOLDER}_aisa/[0-9a-f]{{40}}/manifest-[0-9a-f]{{16}}\.jsonl", manifest_uri
    )
    assert result == {
        "items": 3,
        "stored": 3,
        "reused": 0,
        "failed": 0,
        "not_sent": 0,
        "unmatched": 0,
        "images": 6,
        "cost_usd": 0.24,
        "usage": {"generated_images": 6, "output_tokens": 86400, "total_tokens": 86400},
        "unknown_outcomes": 0,
        "errors": {},
    }
    assert desk.keys() == [
        f"{FOLDER}fox-{number:03}/{index}.png" for number in range(3) for index in range(2)
    ]


def test_the_manifest_has_a_line_per_item_in_the_order_of_the_requests(desk: Desk) -> None:
    requests = foxes(12)[::-1]
    desk.connect(max_retries=0)
    desk.gateway.latency = 0.01
    desk.gateway.inject(
        Fault("content_refused", prompt="003"),
        Fault("html_ok", prompt="005"),
        Fault("missing_image", prompt="007"),
    )

    result = desk.run_batch(requests, on_item_failure="keep")

    lines = desk.manifest(result["manifest_uri"])
    assert [line["id"] for line in lines] == [request["id"] for request in requests]
    assert all(set(line) == FIELDS for line in lines)
    by_id = {line["id"]: line for line in lines}
    refused, lost, gone = (by_id[name] for name in ("fox-003", "fox-005", "fox-007"))
    assert (refused["error"], refused["code"]) == ("ContentRefused", "content_policy_violation")
    assert (refused["cost_usd"], refused["journal_uri"]) == (0.0, None)
    assert (lost["error"], lost["unknown_outcomes"], lost["images"]) == ("OutcomeUnknown", 1, [])
    assert len(desk.journal(lost["journal_uri"])["unknown"]) == 1
    assert (gone["error"], gone["cost_usd"], gone["usage"]["generated_images"]) == (
        "ImageLinkExpired",
        0.04,
        1,
    )
    for line in lines:
        if line["status"] == "stored":
            [image] = line["images"]
            content = desk.read(image["uri"])
            assert hashlib.sha256(content).hexdigest() == image["sha256"]
            assert desk.journal(line["journal_uri"])["state"] == "stored"
            assert (line["cost_usd"], line["error"], line["message"]) == (0.04, None, None)
    assert {name: result[name] for name in ("stored", "failed", "images", "errors", "unknown_outcomes")} == {
        "stored": 9,
        "failed": 3,
        "images": 9,
        "errors": {"ContentRefused": 1, "OutcomeUnknown": 1, "ImageLinkExpired": 1},
        "unknown_outcomes": 1,
    }
    assert result["cost_usd"] == 0.4


def test_failures_fail_the_task_when_all_other_items_are_stored(desk: Desk) -> None:
    desk.gateway.inject(Fault("content_refused", prompt="001"))

    with pytest.raises(ItemsFailed) as caught:
        desk.run_batch(foxes(4))

    [manifest] = [key for key in desk.all_keys() if "/manifest-" in key]
    assert str(caught.value) == (
        "Fix the items that say so; a retry pays only for what is not paid yet. "
        "1 item failed (ContentRefused 1), and on_item_failure is 'fail': 'fox-001' (ContentRefused). "
        "3 of 4 items are stored, 1 failed, 0 were not sent. "
        f"Manifest: s3://{desk.bucket}/{manifest}."
    )
    assert [line["status"] for line in desk.manifest()] == ["stored", "failed", "stored", "stored"]


def test_fewer_images_than_asked_are_an_items_failure_unless_they_are_kept(desk: Desk) -> None:
    desk.gateway.inject(Fault("fewer_images", prompt="001"))
    failed = desk.run_batch(foxes(2, n=3), on_item_failure="keep")
    assert (failed["errors"], failed["images"], failed["cost_usd"]) == ({"FewerImages": 1}, 5, 0.2)
    assert len(desk.manifest()[1]["images"]) == 2

    kept = desk.run_batch(foxes(2, n=3), tries=2, on_partial="keep")

    assert (kept["stored"], kept["reused"], kept["images"]) == (2, 2, 5)
    assert desk.gateway.billed == 5


def test_the_xcom_stays_small_at_any_number_of_items(desk: Desk) -> None:
    """995 items that an earlier attempt has stored, as it would have left them, and five more."""
    count = 1_000
    desk.run_batch(foxes(5))
    entry, owner = desk.journal(desk.manifest()[0]["journal_uri"]), Owner("dag", "run", "generate")
    layout = BatchLayout.of(
        Target.parse(None, None, default_folder=owner.path(), has_items=True), owner, None
    )

    def put(request: dict[str, Any]) -> None:
        fingerprint = ImageRequest.parse(prompt=request["prompt"], size=SMALL).fingerprint()
        name = layout.journal_name(request["id"], fingerprint, None)
        body = json.dumps({**entry, "item": request["id"], "fingerprint": fingerprint}).encode()
        desk.s3.put_object(Bucket=desk.bucket, Key=f"{layout.entries}{name}", Body=body)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, foxes(count)[5:]))

    result = desk.run_batch(foxes(count), tries=2)

    assert len(json.dumps(result)) < 4096
    assert (result["stored"], result["reused"], result["images"]) == (count, count, count)
    assert result["cost_usd"] == 40.0
    assert [line["id"] for line in desk.manifest()] == [request["id"] for request in foxes(count)]
    assert desk.gateway.billed == 5


def test_no_secret_and_no_link_is_anywhere(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    """Logs, XCom, manifest, journals, and the images' metadata."""
    desk.connect(max_retries=0)
    desk.gateway.inject(
        Fault("missing_image", prompt="001"),
        Fault("html_ok", prompt="002"),
        Fault("fewer_images", prompt="003"),
    )
    with caplog.at_level(logging.DEBUG):
        result = desk.run_batch(foxes(6, n=2), on_item_failure="keep")

    journals = [desk.read(f"s3://{desk.bucket}/{key}").decode() for key in desk.all_keys() if "_aisa/" in key]
    unfinished = [text for text in journals if '"state": "paid"' in text]
    images = desk.keys()
    heads = [desk.s3.head_object(Bucket=desk.bucket, Key=key)["Metadata"] for key in images]
    everywhere = "".join(set(journals) - set(unfinished)) + caplog.text + json.dumps([result, heads])
    assert len(journals) == 6 + 2
    for secret in (desk.gateway.api_key, desk.store.secret_key):
        assert secret not in everywhere + "".join(unfinished)
    for link in ("X-Signature", desk.gateway.cdn_url):
        assert link not in everywhere
    assert len(unfinished) == 1  # The image that could not be fetched: without its link it would be lost.
    assert all(request.credentials == () for request in desk.gateway.cdn_requests)


def test_a_refused_prompt_is_named_by_its_id_and_not_by_its_text(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    """The gateway's own message may repeat the prompt."""

    def refuse(_: object, call: Any) -> httpx.Response:
        error = {"code": "content_policy_violation", "message": f"refused: {call.json['prompt']}"}
        return httpx.Response(
            422, json={"error": error}, request=httpx.Request("POST", "https://gateway.test")
        )

    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.DEBUG):
        patch.setattr(AisaClient, "exchange", refuse)
        with pytest.raises(ItemsFailed) as caught:
            desk.run_batch([{"id": "sku-1", "prompt": "something unspeakable"}])

    assert "'sku-1'" in caplog.text
    assert "'sku-1'" in str(caught.value)
    assert desk.manifest()[0]["error"] == "ContentRefused"
    assert "unspeakable" not in caplog.text + str(caught.value) + json.dumps(desk.manifest())


def test_a_batchs_log_does_not_grow_with_its_items(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        desk.run_batch(foxes(25))

    ours = [record for record in caplog.records if record.name.startswith("airflow_provider_aisa")]
    assert len([record for record in ours if "items done" not in record.getMessage()]) < 5
    assert "25 items, 0 of them stored by earlier attempts. Journal and manifest: s3://" in caplog.text


def test_of_many_failures_the_first_are_logged(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.gateway.inject(Fault("content_refused", times=30))
    with caplog.at_level(logging.INFO):
        result = desk.run_batch(foxes(30), on_item_failure="keep")

    assert caplog.text.count(" failed: ContentRefused") == 20
    assert result["errors"] == {"ContentRefused": 30}


def test_progress_can_be_watched_in_the_log(
    desk: Desk, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert workbench.TIMING.report >= 10
    monkeypatch.setattr(workbench, "TIMING", replace(workbench.TIMING, report=0.05))
    desk.gateway.latency = 0.4
    desk.gateway.inject(Fault("content_refused", prompt="000"))

    with caplog.at_level(logging.INFO):
        desk.run_batch(foxes(15), on_item_failure="keep")

    lines = [message for message in caplog.messages if "items done" in message]
    assert lines
    for line in lines:
        assert re.fullmatch(
            r"\d+ of 15 items done \([01] failed, 0 reused\), \d+\.\d images/min, \$\d+\.\d\d so far, "
            r"(about \d+:\d\d:\d\d left|time left unknown|nothing left)\.",
            line,
        ), line


class Recorder:
    """What a batch tells Airflow's metrics."""

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self.timers: dict[str, timedelta] = {}
        self.tags: list[Mapping[str, str]] = []

    def incr(self, name: str, count: float, *, tags: Mapping[str, str]) -> None:
        assert count > 0
        self.counters[name] += count  # type: ignore[assignment]  # of USD
        self.tags.append(tags)

    def timing(self, name: str, value: timedelta, *, tags: Mapping[str, str]) -> None:
        self.timers[name] = value
        self.tags.append(tags)


@pytest.fixture
def stats(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(metrics, "Stats", recorder)
    return recorder


def test_metrics_count_images_cost_failures_rate_limits_and_seconds(desk: Desk, stats: Recorder) -> None:
    desk.gateway.inject(
        Fault("content_refused", prompt="001"), Fault("rate_limited", prompt="002", retry_after=0.1)
    )

    desk.run_batch(foxes(4), n=2, on_item_failure="keep")

    assert stats.counters == {
        "aisa.images": 6,
        "aisa.cost_usd": pytest.approx(0.24),
        "aisa.failures": 1,
        "aisa.rate_limits": 1,
    }
    assert set(stats.timers) == {"aisa.batch"}
    assert stats.timers["aisa.batch"] > timedelta(0)
    assert {(*tags, tags["task_id"]) for tags in stats.tags} == {("dag_id", "task_id", "generate")}


def test_metrics_of_a_retry_count_only_what_is_new(desk: Desk, stats: Recorder) -> None:
    desk.run_batch(foxes(3))
    desk.run_batch(foxes(5), tries=2)

    assert stats.counters["aisa.images"] == 5
    assert stats.counters["aisa.cost_usd"] == pytest.approx(0.2)


def test_metrics_are_told_of_a_batch_that_stops(desk: Desk, stats: Recorder) -> None:
    desk.gateway.inject(Fault("quota_exceeded", after=3, times=100))

    with pytest.raises(QuotaExceeded):
        desk.run_batch(foxes(10))

    assert stats.counters["aisa.images"] == 3
    assert set(stats.timers) == {"aisa.batch"}


def test_the_journals_folder_says_whose_it_is(desk: Desk) -> None:
    result = desk.run_batch(foxes(2), map_index=7, s3_key="catalogue/{id}.{ext}")

    folder = result["manifest_uri"].rpartition("/")[0]
    assert folder.startswith(f"s3://{desk.bucket}/catalogue/_aisa/")
    assert json.loads(desk.read(f"{folder}/batch.json")) == {
        "batch": {"dag_id": "dag", "run_id": "run", "task_id": "generate", "map_index": 7},
        "items": 2,
    }
    entries = [key for key in desk.all_keys() if "/items/" in key]
    assert sorted(desk.all_keys()) == sorted(
        [
            *(f"catalogue/fox-{number:03}.png" for number in range(2)),
            *entries,
            f"{folder}/batch.json".partition(f"{desk.bucket}/")[2],
            result["manifest_uri"].partition(f"{desk.bucket}/")[2],
        ]
    )
    assert len(entries) == 2


def test_s3_arguments_apply_to_images_and_those_for_encryption_to_everything(desk: Desk) -> None:
    arguments: dict[str, Any] = {"CacheControl": "max-age=60", "Metadata": {"team": "shop"}}
    desk.run_batch(foxes(1), s3_extra_args=arguments)

    [key] = desk.keys()
    head = desk.s3.head_object(Bucket=desk.bucket, Key=key)
    assert (head["CacheControl"], head["Metadata"]["team"]) == ("max-age=60", "shop")
    [manifest] = [key for key in desk.all_keys() if "/manifest-" in key]
    head = desk.s3.head_object(Bucket=desk.bucket, Key=manifest)
    assert ("CacheControl" in head, head["ContentType"]) == (False, "application/x-ndjson")
