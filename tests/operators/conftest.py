"""A task that runs against a local gateway and a real object store, without Airflow around it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from airflow_provider_aisa.operators.seedream import SeedreamGenerateOperator

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
    from mypy_boto3_s3 import S3Client

    from airflow_provider_aisa.sandbox import Sandbox
    from tools.seaweedfs import SeaweedFS


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

    def keys(self) -> list[str]:
        """Return the keys of the images in the bucket."""
        return [key for key in self.all_keys() if "_aisa/" not in key]

    def all_keys(self) -> list[str]:
        """Return all keys in the bucket, journals included."""
        pages = self.s3.list_objects_v2(Bucket=self.bucket).get("Contents", [])
        return sorted(entry["Key"] for entry in pages)

    def journal(self, uri: str | None = None) -> dict[str, Any]:
        """Return the one journal in the bucket, or the one at a URI."""
        key = uri.partition(f"{self.bucket}/")[2] if uri else None
        [key] = [key] if key else [key for key in self.all_keys() if "_aisa/" in key]
        document: dict[str, Any] = json.loads(self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read())
        return document


def context_of(*, tries: int = 1, clears: int = 0, run_id: str = "run", map_index: int = -1) -> Context:
    ti = SimpleNamespace(
        dag_id="dag",
        run_id=run_id,
        task_id="generate",
        map_index=map_index,
        try_number=tries,
        max_tries=2 + 3 * clears,
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
