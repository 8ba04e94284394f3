from __future__ import annotations

import asyncio
import io
import json
import re
from typing import Any

import pytest
from mypy_boto3_s3 import S3Client

from airflow_provider_aisa.hooks.s3 import open_s3, shared_s3_client
from tools.seaweedfs import SeaweedFS


def connect(monkeypatch: pytest.MonkeyPatch, conn_id: str, connection: str, **extra: Any) -> str:
    fields = json.loads(connection)
    fields["extra"] |= extra
    monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(fields))
    return conn_id


def test_a_connection_becomes_a_client_and_the_bucket_that_it_names(
    s3_store: SeaweedFS, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    conn_id = connect(monkeypatch, "s3_named", s3_store.airflow_connection(bucket=bucket))
    client, own_bucket = open_s3(conn_id)
    assert own_bucket == bucket
    client.put_object(Bucket=bucket, Key="k", Body=b"bytes")
    assert client.get_object(Bucket=bucket, Key="k")["Body"].read() == b"bytes"


def test_a_connection_may_name_no_bucket(s3_store: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_s3(connect(monkeypatch, "s3_plain", s3_store.airflow_connection()))[1] is None


def test_the_connections_own_settings_of_botocore_win(
    s3_store: SeaweedFS, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = s3_store.airflow_connection()
    plain = open_s3(connect(monkeypatch, "s3_pool_default", connection))[0]
    own = open_s3(
        connect(
            monkeypatch,
            "s3_pool_own",
            connection,
            config_kwargs={"max_pool_connections": 7, "read_timeout": 9},
        )
    )[0]
    assert plain.meta.config.max_pool_connections == 50  # type: ignore[attr-defined]
    assert own.meta.config.max_pool_connections == 7  # type: ignore[attr-defined]
    assert own.meta.config.read_timeout == 9  # type: ignore[attr-defined]


def test_only_large_bodies_are_announced_before_they_are_sent(
    s3_store: SeaweedFS, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = open_s3(connect(monkeypatch, "s3_expect", s3_store.airflow_connection()))[0]
    announced: list[bool] = []
    client.meta.events.register(
        "before-send.s3.PutObject", lambda request, **_: announced.append("Expect" in request.headers)
    )
    bodies = {"entry": b"entry", "small": b"image", "large": bytes(1024 * 1024 + 1)}
    client.put_object(Bucket=bucket, Key="entry", Body=bodies["entry"], IfNoneMatch="*")
    for key in ("small", "large"):
        client.put_object(Bucket=bucket, Key=key, Body=io.BytesIO(bodies[key]))
    assert announced == [False, False, True]
    assert {key: client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in bodies} == bodies


def test_a_store_is_told_who_asks(s3_store: SeaweedFS, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client = open_s3(connect(monkeypatch, "s3_agent", s3_store.airflow_connection()))[0]
    seen: list[str] = []
    client.meta.events.register(
        "before-send.s3", lambda request, **_: seen.append(request.headers["User-Agent"].decode())
    )
    client.list_objects_v2(Bucket=bucket)
    assert re.fullmatch(r"airflow-provider-aisa/[\d.]+ Boto3/[\d.]+ Botocore/[\d.]+", seen[0])


def test_tasks_of_one_connection_share_a_client_and_others_do_not(
    s3_store: SeaweedFS, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [connect(monkeypatch, conn_id, s3_store.airflow_connection()) for conn_id in ("s3_one", "s3_two")]

    async def scenario() -> list[S3Client]:
        return await asyncio.gather(*(shared_s3_client(conn_id) for conn_id in [*ids, *ids, *ids]))

    clients = asyncio.run(scenario())
    assert len({id(client) for client in clients}) == 2
    assert clients[0] is clients[2] is clients[4]
    assert clients[0].list_buckets()["ResponseMetadata"]["HTTPStatusCode"] == 200
