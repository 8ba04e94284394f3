"""Triggers without Airflow around them: what a triggerer may do to them at any moment must not cost money."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pytest

from airflow_provider_aisa.core.gateway.request import ImageRequest
from airflow_provider_aisa.core.job import Job
from airflow_provider_aisa.core.journal.entry import Buyer
from airflow_provider_aisa.core.layout import Owner, Target
from airflow_provider_aisa.triggers.generate import GenerateTrigger
from tests.triggers.run_trigger import first_event, load_trigger

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from airflow_provider_aisa.sandbox import Sandbox
    from tools.seaweedfs import SeaweedFS

RUN_TRIGGER = Path(__file__).with_name("run_trigger.py")
LIMIT = 20


@pytest.fixture(autouse=True)
def connections(monkeypatch: pytest.MonkeyPatch, aisa_sandbox: Sandbox, s3_store: SeaweedFS) -> None:
    """Define the connections that the triggers name. The key is this test's own, and so are its limits."""
    aisa_sandbox.change(api_key=f"sk-aisa-{id(aisa_sandbox):x}")
    aisa = {**json.loads(aisa_sandbox.connection), "extra": {"max_concurrency": LIMIT}}
    monkeypatch.setenv("AIRFLOW_CONN_AISA_DEFAULT", json.dumps(aisa))
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", s3_store.airflow_connection())


def serialized(bucket: str, *, map_index: int = -1, n: int = 1) -> tuple[str, dict[str, Any]]:
    """Return what Airflow's database keeps of a trigger: its class path and arguments, as JSON."""
    owner = Owner("dag", "run", "task", map_index)
    job = Job(
        ImageRequest.parse(prompt="a red panda", size="2048x2048", n=n, model="seedream-4-5-251128"),
        Target.parse(None, bucket, default_folder=owner.path()),
        Buyer(owner),
        price_usd=Decimal("0.040"),
    )
    trigger = GenerateTrigger(job=job.to_dict(), aisa_conn_id="aisa_default", aws_conn_id="aws_default")
    class_path, arguments = json.loads(json.dumps(trigger.serialize()))
    return class_path, arguments


def test_two_copies_of_a_trigger_in_two_processes_send_one_request(
    aisa_sandbox: Sandbox, bucket: str
) -> None:
    """Two triggerers can run one trigger for a while; both end with the same images."""
    aisa_sandbox.latency = 2
    events = run_in_processes(serialized(bucket, n=2), copies=2)
    results = [event["result"] for event in events]
    assert sorted(result.pop("reused") for result in results) == [False, True]
    assert results[0] == results[1]
    assert len(aisa_sandbox.requests) == 1
    assert aisa_sandbox.billed == 2


def run_in_processes(trigger: tuple[str, dict[str, Any]], *, copies: int) -> list[dict[str, Any]]:
    """Run copies of a trigger in processes of their own, all from the same moment on; return their events."""
    with ExitStack() as stack:
        processes = [start_process(stack) for _ in range(copies)]
        for stdin, _ in processes:
            print(json.dumps(trigger), file=stdin, flush=True)
        for _, stdout in processes:
            assert "ready\n" in stdout  # Airflow may have said something before.
        for stdin, _ in processes:
            print("go", file=stdin, flush=True)
        return [json.loads(stdout.read().splitlines()[-1]) for _, stdout in processes]


def start_process(stack: ExitStack) -> tuple[IO[str], IO[str]]:
    """Start a process that waits for a trigger, and ends with the stack. Return its input and output."""
    process = stack.enter_context(
        subprocess.Popen(
            [sys.executable, RUN_TRIGGER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
    )
    stack.callback(process.kill)  # Runs first: leaving the Popen waits for the process.
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout


def test_request_of_a_trigger_that_is_cancelled_again_and_again_is_recorded(
    aisa_sandbox: Sandbox, bucket: str, s3_client: S3Client
) -> None:
    """Airflow cancels a stopped task's trigger every second until it has ended; its request goes on."""
    aisa_sandbox.latency = 2
    trigger = serialized(bucket)
    asyncio.run(cancel_in_mid_request(aisa_sandbox, trigger))
    entry = asyncio.run(journal_once_paid(s3_client, trigger))
    assert (entry["state"], entry["unknown"]) == ("paid", [])
    event = asyncio.run(first_event(load_trigger(*trigger)))
    assert event["result"]["reused"] is True
    assert aisa_sandbox.billed == 1


async def cancel_in_mid_request(gateway: Sandbox, trigger: tuple[str, dict[str, Any]]) -> None:
    """Run a trigger until its request is under way, and cancel it until it has ended."""
    task = asyncio.create_task(first_event(load_trigger(*trigger)))
    while not gateway.requests:  # noqa: ASYNC110 - the gateway runs in a thread
        await asyncio.sleep(0.01)
    while not task.done():
        task.cancel("user-action")
        await asyncio.sleep(0.05)
    assert task.cancelled()
    assert gateway.requests[0].status is None


async def journal_once_paid(client: S3Client, trigger: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the journal's entry of a trigger as soon as its claim has an outcome."""
    job = Job.from_dict(trigger[1]["job"])
    assert job.target.bucket is not None
    while True:
        found = client.get_object(Bucket=job.target.bucket, Key=job.journal_key)
        entry: dict[str, Any] = json.loads(found["Body"].read())
        if entry["state"] != "claimed" or entry["claim"]["ended"]:
            return entry
        await asyncio.sleep(0.05)


def test_many_triggers_in_one_loop_keep_to_the_keys_limit(aisa_sandbox: Sandbox, bucket: str) -> None:
    """A triggerer runs hundreds at once; the gateway sees as many requests as the connection allows."""
    aisa_sandbox.latency = 1.5
    count = 3 * LIMIT
    events = asyncio.run(all_events([serialized(bucket, map_index=index) for index in range(count)]))
    assert len({event["result"]["images"][0]["uri"] for event in events}) == count
    assert aisa_sandbox.max_in_flight_seen == LIMIT
    assert aisa_sandbox.billed == count


async def all_events(triggers: list[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Run all triggers at the same time."""
    events: list[dict[str, Any]] = await asyncio.gather(
        *(first_event(load_trigger(*trigger)) for trigger in triggers)
    )
    return events
