"""A task in Airflow pays once, says what it stored, and fails at once where a person has to act."""

from __future__ import annotations

import hashlib
import json
import secrets
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_aisa.sandbox import Fault
from tests.airflow.support import contents, paid

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from airflow_provider_aisa.sandbox import Sandbox
    from tests.airflow.support import Airflow, Run
    from tools.seaweedfs import SeaweedFS

TOKEN = secrets.token_hex(4)
RESULT = {
    "model": str,
    "created": int,
    "request_id": str,
    "reused": bool,
    "cost_usd": float,
    "usage": dict,
    "unknown_outcomes": int,
    "images": list,
    "journal_uri": str,
}
IMAGE = {
    "index": int,
    "uri": str,
    "bucket": str,
    "key": str,
    "width": int,
    "height": int,
    "size": str,
    "content_type": str,
    "bytes": int,
    "sha256": str,
}
MAX_XCOM_BYTES = 4096
#: What each run of this module does: its DAG, and what replaces the DAG's params.
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "sync": ("sync", {"n": 2}),
    "deferred": ("deferred", {"n": 2}),
    "mapped": ("mapped", {}),
    "limited": ("limited", {}),
    "refused": ("deferred", {}),
    "misspelt": ("sync", {"size": "640x480"}),
    "cleared with reuse": ("sync", {"on_existing": "reuse"}),
    "cleared with regenerate": ("deferred", {"on_existing": "regenerate"}),
    "cleared with fail": ("sync", {"on_existing": "fail"}),
}


def prompt_of(name: str) -> str:
    """Return the prompt of a run, by which its bills are counted."""
    return f"{name} {TOKEN}"


@pytest.fixture(scope="module")
def runs(airflow: Airflow, gateway: Sandbox) -> dict[str, Run]:
    """Start all runs of this module at once, with what the gateway does to them."""
    gateway.inject(
        # First something that takes a moment: see the fixture `gateway`.
        Fault("rate_limited", prompt=prompt_of("limited"), retry_after=3),
        Fault("rate_limited", prompt=prompt_of("limited"), retry_after=300),
        Fault("unavailable", prompt=prompt_of("refused"), retry_after=3),
        Fault("content_refused", prompt=prompt_of("refused")),
    )
    return {
        name: airflow.start_run(dag_id, prompt=prompt_of(name), **conf)
        for name, (dag_id, conf) in RUNS.items()
    }


@pytest.mark.parametrize("name", ["sync", "deferred"])
def test_result_has_the_documented_shape_and_names_what_is_in_the_bucket(
    runs: dict[str, Run], gateway: Sandbox, s3_client: S3Client, name: str
) -> None:
    """The XCom is the same in a worker and in a triggerer, and every fact in it can be checked."""
    assert runs[name].wait() == "success"
    result = runs[name].result()
    assert {field: type(value) for field, value in result.items()} == RESULT
    assert len(json.dumps(result)) < MAX_XCOM_BYTES
    assert (result["reused"], result["cost_usd"], result["unknown_outcomes"]) == (False, 0.08, 0)
    assert [image["index"] for image in result["images"]] == [0, 1]
    for image in result["images"]:
        assert {field: type(value) for field, value in image.items()} == IMAGE
        body = s3_client.get_object(Bucket=image["bucket"], Key=image["key"])["Body"].read()
        assert hashlib.sha256(body).hexdigest() == image["sha256"]
        assert image["uri"] == f"s3://{image['bucket']}/{image['key']}"
    assert paid(gateway, prompt_of(name)) == 2


@pytest.mark.parametrize("name", ["sync", "deferred"])
def test_success_calls_back_and_updates_the_asset(airflow: Airflow, runs: dict[str, Run], name: str) -> None:
    """A deferred task ends on a worker, as any other: its trigger does not end it."""
    run = runs[name]
    assert run.wait() == "success"
    assert "on_success_callback of generate" in run.log()
    found = airflow.api("GET", "/api/v2/assets/events", params={"source_dag_id": run.dag_id})
    assert [event["source_run_id"] for event in found["asset_events"]].count(run.run_id) == 1


def test_deferred_failure_calls_back_and_is_not_retried(runs: dict[str, Run], gateway: Sandbox) -> None:
    """An error crosses from trigger to task with its class: the retry policy sees a refused prompt."""
    run = runs["refused"]
    assert run.wait() == "failed"
    assert run.task()["try_number"] == 1
    assert "ContentRefused" in run.log()
    assert "on_failure_callback of generate" in run.log()
    assert paid(gateway, prompt_of("refused")) == 0


def test_wrong_value_from_a_template_fails_before_anything_is_sent(
    runs: dict[str, Run], gateway: Sandbox
) -> None:
    """Two retries are configured; none of them could fix the size."""
    run = runs["misspelt"]
    assert run.wait() == "failed"
    assert run.task()["try_number"] == 1
    assert "try '2217x1663'" in run.log()
    assert not [request for request in gateway.requests if prompt_of("misspelt").encode() in request.body]


def test_mapped_instances_pay_once_each_and_keep_their_images_apart(
    runs: dict[str, Run], gateway: Sandbox
) -> None:
    """The prompts come from an upstream task; each map index has a folder of its own."""
    runs["mapped"].wait()
    results = [runs["mapped"].result(map_index) for map_index in range(3)]
    folders = [result["images"][0]["key"].rpartition("/")[0] for result in results]
    assert [folder.rpartition("/")[2] for folder in folders] == ["0", "1", "2"]
    assert len({result["journal_uri"] for result in results}) == 3
    assert len({result["images"][0]["sha256"] for result in results}) == 3
    assert paid(gateway, prompt_of("mapped")) == 3


def test_wrong_value_of_a_mapped_instance_is_not_retried(runs: dict[str, Run]) -> None:
    """A mapped task has the same retry policy, and the mistake is found where the policy is asked."""
    runs["mapped"].wait()
    for map_index in range(2):
        task = runs["mapped"].task("wrong", map_index)
        assert (task["state"], task["try_number"], task["max_tries"]) == ("failed", 1, 2)
    assert "InvalidRequest" in runs["mapped"].log("wrong")


def test_long_retry_after_becomes_the_delay_of_the_retry(
    airflow: Airflow, runs: dict[str, Run], gateway: Sandbox
) -> None:
    """The task's own retry_delay is a second; the gateway asked for five minutes."""
    task = runs["limited"].wait_for_task("up_for_retry")
    with closing(sqlite3.connect(f"file:{airflow.home / 'airflow.db'}?mode=ro", uri=True)) as database:
        query = "SELECT retry_delay_override FROM task_instance WHERE dag_id = 'limited'"
        [(delay,)] = database.execute(query)
    assert (task["try_number"], delay) == (1, 300.0)
    assert paid(gateway, prompt_of("limited")) == 0


def test_wrong_literal_is_an_import_error_that_names_the_rule(airflow: Airflow) -> None:
    """It is found when the DAG is parsed, long before anybody could pay for it."""
    [error] = airflow.import_errors()
    assert error["filename"] == "wrong_size.py"
    assert "640x480' has 307,200 pixels; seedream-4-5-251128 needs at least 3,686,400" in error["stack_trace"]


def test_cleared_task_with_reuse_returns_its_images_and_pays_nothing(
    runs: dict[str, Run], gateway: Sandbox
) -> None:
    """A second try that a person asked for finds the journal of the first."""
    before, after = cleared(runs["cleared with reuse"])
    assert after == {**before, "reused": True}
    assert paid(gateway, prompt_of("cleared with reuse")) == 1


def test_cleared_task_with_regenerate_pays_again_and_replaces_its_images(
    runs: dict[str, Run], gateway: Sandbox, s3_client: S3Client
) -> None:
    """The keys stay; what they hold is new."""
    before, after = cleared(runs["cleared with regenerate"])
    [old], [new] = before["images"], after["images"]
    assert after["reused"] is False
    assert (new["key"], after["journal_uri"]) == (old["key"], before["journal_uri"])
    assert new["sha256"] != old["sha256"]
    body = s3_client.get_object(Bucket=new["bucket"], Key=new["key"])["Body"].read()
    assert hashlib.sha256(body).hexdigest() == new["sha256"]
    assert paid(gateway, prompt_of("cleared with regenerate")) == 2


def test_cleared_task_with_fail_fails_at_once_and_names_the_journal(
    runs: dict[str, Run], gateway: Sandbox
) -> None:
    """It has two more retries, and needs none to know."""
    run = runs["cleared with fail"]
    assert run.wait() == "success"
    journal_uri = run.result()["journal_uri"]
    run.clear()
    assert run.wait() == "failed"
    assert run.task()["try_number"] == 2
    assert "AlreadyGenerated" in run.log()
    assert journal_uri in run.log().partition("AlreadyGenerated")[2]
    assert paid(gateway, prompt_of("cleared with fail")) == 1


def cleared(run: Run) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a run's result before and after it was cleared."""
    assert run.wait() == "success"
    before = run.result()
    run.clear()
    assert run.wait() == "success"
    assert run.task()["try_number"] == 2
    return before, run.result()


def test_nothing_that_airflow_keeps_holds_a_secret(
    airflow: Airflow, runs: dict[str, Run], gateway: Sandbox, s3_store: SeaweedFS
) -> None:
    """Database, logs and settings, of whatever has run so far: no key, no AWS secret, no link to an image."""
    for name in ("sync", "deferred"):
        assert runs[name].wait() == "success"
    forbidden = [gateway.api_key, s3_store.secret_key, gateway.cdn_url, "X-Signature"]
    assert gateway.cdn_requests
    searched = dict(contents(airflow))
    assert any(b"Sending a billable request" in content for content in searched.values())
    assert prompt_of("sync").encode() in searched["airflow.db"]  # the rendered fields are in there
    found = [
        (path, secret)
        for path, content in searched.items()
        for secret in forbidden
        if secret.encode() in content
    ]
    assert found == []
