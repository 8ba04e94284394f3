"""Everything around the fleet for one run: gateways, object store, database, broker; and what came of it."""

from __future__ import annotations

import contextlib
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_aisa.sandbox import Sandbox
from tools.fleet.airflow import Fleet
from tools.fleet.services import PostgreSQL, Redis
from tools.seaweedfs import SeaweedFS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mypy_boto3_s3 import S3Client

DAGS = Path(__file__).parent / "dags"
BUCKET = "images"
IN_FLIGHT = 20  # of the key that all workers share
READY_SECONDS = 400.0  # 40 s on two idle cores
LONGEST = 3.0  # seconds, of the gateway's latencies
TIMEOUT = 15  # seconds, of the AIsa connections

CONFIG = {
    # What a person waits for after something died, in seconds. Airflow's own are 300, 10, 600, 120, 30 and 5.
    "scheduler.task_instance_heartbeat_timeout": "30",
    "scheduler.task_instance_heartbeat_timeout_detection_interval": "5",
    # A killed worker takes the messages along that it had fetched: their tasks are queued anew after this.
    "scheduler.task_queued_timeout": "120",
    "scheduler.task_queued_timeout_check_interval": "10",
    "triggerer.triggerer_health_check_threshold": "10",
    "triggerer.job_heartbeat_sec": "2",
    "dag_processor.refresh_interval": "5",
    "core.dags_are_paused_at_creation": "False",
    "core.max_active_tasks_per_dag": "64",
}


@dataclass
class Scene:
    """A running fleet and what it works with."""

    fleet: Fleet
    database: PostgreSQL
    broker: Redis
    s3: S3Client
    #: Each has a key of its own: what is in flight and billed is counted by scenario.
    chunks: Sandbox
    deferred: Sandbox
    slow: Sandbox

    def keys(self, prefix: str) -> set[str]:
        """Return the keys of the images below a prefix."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        found = {item["Key"] for page in pages for item in page.get("Contents", [])}
        return {key for key in found if key.endswith(".png")}

    def upload_requests(self, count: int) -> str:
        """Put a file of requests into the bucket and return its URI."""
        lines = [json.dumps({"id": f"item-{n:04}", "prompt": f"item-{n:04}"}) for n in range(count)]
        self.s3.put_object(Bucket=BUCKET, Key="requests.jsonl", Body="\n".join(lines).encode())
        return f"s3://{BUCKET}/requests.jsonl"

    def lines(self, manifest_uri: str) -> list[dict[str, Any]]:
        """Return the lines of a batch's manifest."""
        key = manifest_uri.removeprefix(f"s3://{BUCKET}/")
        body = self.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return [json.loads(line) for line in body.splitlines()]


@contextlib.contextmanager
def open_scene(
    folder: Path,
    *,
    workers: int = 2,
    slots: int = 8,
    latency: float | None = None,
    config: Mapping[str, str],
) -> Iterator[Scene]:
    """Start everything, and end it all again. `latency` None varies from 20 ms to 3 s."""
    with contextlib.ExitStack() as stack:
        chunks = stack.enter_context(gateway("sk-aisa-chunks", latency, max_in_flight=IN_FLIGHT))
        deferred = stack.enter_context(gateway("sk-aisa-deferred", latency))
        slow = stack.enter_context(Sandbox(api_key="sk-aisa-slow"))
        store = stack.enter_context(SeaweedFS())
        store.create_bucket(BUCKET)
        database = PostgreSQL(folder)
        stack.callback(database.stop)
        broker = Redis(folder)
        stack.callback(broker.stop)
        connections = {
            "aisa_default": connection(chunks, max_concurrency=IN_FLIGHT),
            "aisa_deferred": connection(deferred, max_concurrency=IN_FLIGHT),
            "aisa_slow": connection(slow, timeout=120),
            "aws_default": store.airflow_connection(bucket=BUCKET),
        }
        fleet = Fleet(
            folder / "airflow",
            DAGS,
            database,
            broker,
            workers=workers,
            slots=slots,
            connections=connections,
            config=CONFIG | dict(config),
        )
        stack.enter_context(fleet)
        fleet.wait_until_ready(READY_SECONDS)
        yield Scene(fleet, database, broker, store.client(), chunks, deferred, slow)


def connection(sandbox: Sandbox, **extra: object) -> str:
    """Return the JSON of a connection to a sandbox."""
    return json.dumps({**json.loads(sandbox.connection), "extra": {"timeout": TIMEOUT, **extra}})


def gateway(api_key: str, latency: float | None, **settings: Any) -> Sandbox:
    """Return a sandbox. Latency None means anything from 20 ms to 3 s, another one after each request."""
    if latency is not None:
        return Sandbox(api_key=api_key, latency=latency, **settings)
    chance = random.Random(api_key)  # noqa: S311 - not a secret

    def vary(_: object) -> None:
        sandbox.change(latency=chance.triangular(0.02, LONGEST, 0.3))

    sandbox = Sandbox(api_key=api_key, latency=0.3, on_request=vary, **settings)
    return sandbox
