"""A task that runs against a local gateway and a real object store, without Airflow around it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from airflow_provider_aisa.operators.batch import SeedreamBatchOperator
from airflow_provider_aisa.operators.seedream import SeedreamGenerateOperator

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow.providers.common.compat.sdk import Context
    from mypy_boto3_s3 import S3Client

    from airflow_provider_aisa.sandbox import Sandbox
    from tools.seaweedfs import SeaweedFS


#: The smallest that the model draws.
SMALL = "1920x1920"


@dataclass
class Desk:
    """Everything a test needs to run tasks and to look at what they did."""

    gateway: Sandbox
    store: SeaweedFS
    bucket: str
    s3: S3Client
    monkeypatch: pytest.MonkeyPatch

    def connect(self, **extras: Any) -> None:
        """Define the AIsa connection anew, with these extras."""
        connection = {**json.loads(self.gateway.connection), "extra": extras}
        self.monkeypatch.setenv("AIRFLOW_CONN_AISA_DEFAULT", json.dumps(connection))

    def run(
        self, *, tries: int = 1, clears: int = 0, run_id: str = "run", **arguments: Any
    ) -> dict[str, Any]:
        """Run the task once, as Airflow would in this try; a Clear raises `max_tries`."""
        operator = SeedreamGenerateOperator(**{"task_id": "generate", "prompt": "A red panda", **arguments})
        result: dict[str, Any] = operator.execute(context_of(tries=tries, clears=clears, run_id=run_id))
        return result

    def run_batch(
        self,
        requests: object,
        *,
        tries: int = 1,
        clears: int = 0,
        run_id: str = "run",
        map_index: int = -1,
        **arguments: Any,
    ) -> dict[str, Any]:
        """Run a batch once, as Airflow would in this try."""
        operator = SeedreamBatchOperator(
            **{"task_id": "generate", "requests": requests, "size": SMALL, **arguments}
        )
        context = context_of(tries=tries, clears=clears, run_id=run_id, map_index=map_index)
        result: dict[str, Any] = operator.execute(context)
        return result

    def upload(self, key: str, lines: Iterable[object]) -> str:
        """Put a JSON Lines file into the bucket, and return its URI."""
        body = "".join(f"{json.dumps(line)}\n" for line in lines)
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=body.encode())
        return f"s3://{self.bucket}/{key}"

    def read(self, uri: str) -> bytes:
        """Return what the object at a URI holds."""
        return self.s3.get_object(Bucket=self.bucket, Key=uri.partition(f"{self.bucket}/")[2])["Body"].read()

    def manifest(self, uri: str | None = None) -> list[dict[str, Any]]:
        """Return the lines of the one manifest in the bucket, or of the one at a URI."""
        if uri is None:
            [key] = [key for key in self.all_keys() if "/manifest-" in key]
            uri = f"s3://{self.bucket}/{key}"
        return [json.loads(line) for line in self.read(uri).splitlines()]

    def keys(self) -> list[str]:
        """Return the keys of the images in the bucket."""
        return [key for key in self.all_keys() if "_aisa/" not in key and not key.endswith(".jsonl")]

    def all_keys(self) -> list[str]:
        """Return all keys in the bucket, journals included."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        return sorted(entry["Key"] for page in pages for entry in page.get("Contents", []))

    def journal(self, uri: str | None = None) -> dict[str, Any]:
        """Return the one journal in the bucket, or the one at a URI."""
        if uri is None:
            [key] = [key for key in self.all_keys() if "_aisa/" in key and key.endswith(".json")]
            uri = f"s3://{self.bucket}/{key}"
        document: dict[str, Any] = json.loads(self.read(uri))
        return document


def context_of(*, tries: int = 1, clears: int = 0, run_id: str = "run", map_index: int = -1) -> Context:
    ti = SimpleNamespace(
        dag_id="dag",
        run_id=run_id,
        task_id="generate",
        map_index=map_index,
        try_number=tries,
        max_tries=2 + 3 * clears,
        xcom_push=lambda key, value: None,  # before Airflow 3 a task keeps its links with it
    )
    return cast("Context", {"ti": ti})


@pytest.fixture
def desk(
    aisa_sandbox: Sandbox,
    s3_store: SeaweedFS,
    bucket: str,
    s3_client: S3Client,
    monkeypatch: pytest.MonkeyPatch,
) -> Desk:
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", s3_store.airflow_connection(bucket=bucket))
    desk = Desk(aisa_sandbox, s3_store, bucket, s3_client, monkeypatch)
    desk.connect()
    return desk
