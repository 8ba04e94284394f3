"""A batch as the operator runs it, with its own clients, the local gateway and a real store."""

from __future__ import annotations

import asyncio
import json
import logging
import tempfile
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_aisa.core.batch.runner import run_batch
from airflow_provider_aisa.core.batch.source import iter_requests
from airflow_provider_aisa.core.layout import Target
from airflow_provider_aisa.core.s3.bucket import Bucket
from airflow_provider_aisa.exceptions import ItemsFailed, QuotaExceeded
from airflow_provider_aisa.sandbox import Fault, Sandbox
from tests.core.batch.scene import make_spec
from tests.support import sandbox_settings

if TYPE_CHECKING:
    from airflow_provider_aisa.core.batch.progress import Tally
    from tools.seaweedfs import SeaweedFS


@dataclass
class Site:
    """A gateway and a bucket, and what the latest attempt has asked the store for."""

    gateway: Sandbox
    bucket: Bucket
    folder: Path
    asked: Counter[str] = field(default_factory=Counter)
    tallies: list[Tally] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.bucket.client.meta.events.register("before-call.s3", self._count)

    def run(self, requests: object, *, max_concurrency: int = 4, **changes: Any) -> dict[str, Any]:
        """Run one attempt."""
        self.asked.clear()
        spec = make_spec(s3_key="out/", **changes)
        spec = replace(spec, defaults=replace(spec.defaults, target=Target(None, "out/{id}/{index}.{ext}")))
        spec = spec.in_bucket(self.bucket.name)
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        settings = sandbox_settings(self.gateway, max_concurrency=max_concurrency, max_retries=1)
        with spec.plan(iter_requests(requests, self.bucket.client), folder) as plan:
            return asyncio.run(
                run_batch(
                    spec,
                    plan,
                    settings=settings,
                    bucket=self.bucket,
                    folder=folder,
                    report=self.tallies.append,
                )
            )

    def manifest(self, result: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the lines of an attempt's manifest."""
        key = result["manifest_uri"].removeprefix(f"s3://{self.bucket.name}/")
        body = self.bucket.client.get_object(Bucket=self.bucket.name, Key=key)["Body"].read()
        return [json.loads(line) for line in body.decode().splitlines()]

    def images(self) -> list[str]:
        pages = self.bucket.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket.name)
        keys = [found["Key"] for page in pages for found in page.get("Contents", ())]
        return [key for key in keys if "_aisa/" not in key and key.startswith("out/")]

    def _count(self, model: Any, **_: Any) -> None:
        self.asked[model.name] += 1


@pytest.fixture
def site(aisa_sandbox: Sandbox, s3_store: SeaweedFS, bucket: str, tmp_path: Path) -> Site:
    return Site(aisa_sandbox, Bucket(s3_store.client(), bucket), tmp_path)


def prompts(count: int) -> list[str]:
    return [f"A fox on a hill, number {number}" for number in range(count)]


def test_a_batch_is_paid_for_once_and_lies_in_the_store_as_its_manifest_says(site: Site) -> None:
    result = site.run([{"prompt": "A red panda", "n": 2, "id": "panda"}, *prompts(10)])

    assert (result["stored"], result["images"], result["cost_usd"]) == (11, 12, 0.48)
    assert result["usage"]["generated_images"] == 12
    assert (site.gateway.billed, float(site.gateway.cost_usd)) == (12, result["cost_usd"])
    lines = site.manifest(result)
    assert lines[0]["id"] == "panda"
    assert sorted(image["key"] for line in lines for image in line["images"]) == site.images()
    assert {(image["width"], image["height"]) for line in lines for image in line["images"]} == {(2048, 2048)}
    assert site.tallies[-1].paid_images == 12


def test_a_retry_reads_each_entry_once_lists_the_images_and_sends_only_what_is_missing(site: Site) -> None:
    site.gateway.inject(Fault("content_refused", prompt="number 7"))
    with pytest.raises(ItemsFailed):
        site.run(prompts(60))
    sent = len(site.gateway.requests)

    result = site.run(prompts(60))

    assert (result["stored"], result["reused"]) == (60, 59)
    assert len(site.gateway.requests) == sent + 1
    assert site.asked["ListObjectsV2"] == 2  # the journal and the images
    assert site.asked["HeadObject"] == 0
    assert site.asked["GetObject"] <= 60 + 1
    # One item's claim, record, image and end; the batch's description, its proof, and its manifest.
    assert site.asked["PutObject"] <= 4 + 3


@pytest.mark.parametrize("limit", [1, 3])
def test_the_limit_holds_at_the_gateway(site: Site, limit: int) -> None:
    site.gateway.change(latency=0.01)
    site.run(prompts(20), max_concurrency=limit)
    assert 1 <= site.gateway.max_in_flight_seen <= limit


def test_a_gateway_that_limits_the_rate_slows_the_batch_and_fails_nothing(site: Site) -> None:
    site.gateway.inject(Fault("rate_limited", times=6, retry_after=0.01))
    result = site.run(prompts(10), max_failures=0)
    assert result["stored"] == 10
    assert site.tallies[-1].rate_limits == 6


def test_more_requests_than_the_gateway_takes_at_once_are_only_slower(site: Site) -> None:
    site.gateway.change(max_in_flight=2)
    site.gateway.inject(Fault("upstream_rate_limit", times=2, retry_after=0.01))
    assert site.run(prompts(6), max_concurrency=2, max_failures=0)["stored"] == 6


def test_a_spend_cap_stops_the_batch_with_everything_paid_so_far_stored(site: Site) -> None:
    site.gateway.inject(Fault("quota_exceeded", after=5, times=100))
    with pytest.raises(QuotaExceeded):
        site.run(prompts(40))
    assert site.gateway.billed >= 5
    assert len(site.images()) == site.gateway.billed


def test_requests_are_read_from_a_file_in_the_store(site: Site) -> None:
    lines = [{"id": f"sku-{number}", "prompt": prompt} for number, prompt in enumerate(prompts(5))]
    body = "\n".join(map(json.dumps, lines)).encode()
    site.bucket.client.put_object(Bucket=site.bucket.name, Key="in/requests.jsonl", Body=body)

    result = site.run(f"s3://{site.bucket.name}/in/requests.jsonl")

    assert [line["id"] for line in site.manifest(result)] == [f"sku-{number}" for number in range(5)]
    assert site.images() == [f"out/sku-{number}/0.png" for number in range(5)]


def test_no_item_has_a_line_in_the_log_and_no_link_or_prompt_is_told(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        site.run(prompts(10))
    ours = [record for record in caplog.records if record.name.startswith(("airflow_provider_aisa", "http"))]
    assert len(ours) == 2  # how it begins, and how it ends
    assert "fox" not in caplog.text


def test_everything_that_can_go_wrong_at_once_ends_in_one_attempt_or_two(site: Site) -> None:
    site.gateway.inject(
        Fault("unavailable", prompt="number 0"),
        Fault("server_error", prompt="number 1"),
        Fault("gateway_timeout", billed=True, prompt="number 2"),
        Fault("cut_after_billing", prompt="number 3"),
        Fault("html_ok", prompt="number 4"),
        Fault("broken_json", prompt="number 5"),
        Fault("b64_json", prompt="number 6"),
        Fault("cdn_cut", prompt="number 7"),
        Fault("truncated_image", prompt="number 8"),
        Fault("rate_limited", prompt="number 9", retry_after=0.01),
    )
    with pytest.raises(ItemsFailed) as caught:
        site.run(prompts(10))
    assert caught.value.retryable
    result = site.run(prompts(10))

    assert result["stored"] == 10
    assert len(site.images()) == 10
    # A 500 may hide a bill as well as the four that did.
    assert result["unknown_outcomes"] == 4 + 1
    assert site.gateway.billed == 10 + 4
