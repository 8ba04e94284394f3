from __future__ import annotations

import json
import subprocess
import sys

import pytest
from mypy_boto3_s3 import S3Client

from airflow_provider_aisa.chunks import chunk_requests
from airflow_provider_aisa.core.batch.source import iter_requests
from airflow_provider_aisa.exceptions import InvalidRequest
from tools.seaweedfs import SeaweedFS


def test_a_list_becomes_lists() -> None:
    assert chunk_requests(["a", "b", "c"], size=2) == [["a", "b"], ["c"]]
    assert chunk_requests(("a", "b", "c")) == [["a", "b", "c"]]


def test_a_file_becomes_uris_of_its_chunks(
    s3_store: SeaweedFS, s3_client: S3Client, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_S3_CHUNKS", s3_store.airflow_connection())
    s3_client.put_object(Bucket=bucket, Key="requests.jsonl", Body=b'"a"\n"b"\n"c"\n')
    chunks = chunk_requests(f"s3://{bucket}/requests.jsonl", size=2, aws_conn_id="s3_chunks")
    assert [[item.value for item in iter_requests(chunk, s3_client)] for chunk in chunks] == [
        ["a", "b"],
        ["c"],
    ]
    assert json.loads(json.dumps(chunks)) == chunks


@pytest.mark.parametrize(
    ("requests", "size", "message"),
    [
        ("A fox", 1, "requests 'A fox' is a text"),
        ([], 1, "Look at what writes the requests"),
        (["a", "a"], 1, r"requests\[1\] is the same request as requests\[0\]"),
        (["a"], 0, "size 0 is not a number of requests"),
        ("s3://no-such-bucket/requests.jsonl", True, "size True is not a number of requests"),
    ],
)
def test_what_cannot_be_cut_is_refused_before_anything_is_opened(
    requests: object, size: int, message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        chunk_requests(requests, size=size, aws_conn_id="no_such_connection")


def test_as_many_chunks_as_airflow_maps_are_fine_and_one_more_is_refused_with_the_size_that_fits() -> None:
    requests = [str(number) for number in range(2 * 1024 + 1)]
    assert len(chunk_requests(requests[:-1], size=2)) == 1024
    with pytest.raises(InvalidRequest) as caught:
        chunk_requests(requests, size=2)
    assert str(caught.value) == (
        "Use size=3, or raise Airflow's [core] max_map_length: size=2 makes 1,025 chunks, and Airflow maps "
        "at most 1,024. Nothing was sent."
    )
    assert len(chunk_requests(requests, size=3)) <= 1024


@pytest.mark.parametrize(("count", "size", "limit"), [(100, 1, 7), (99, 2, 10), (11, 1, 10), (1_000, 3, 1)])
def test_the_size_that_is_named_fits(
    count: int, size: int, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__MAX_MAP_LENGTH", str(limit))
    requests = [str(number) for number in range(count)]
    with pytest.raises(InvalidRequest) as caught:
        chunk_requests(requests, size=size)
    fits = int(str(caught.value).partition("Use size=")[2].partition(",")[0])
    assert len(chunk_requests(requests, size=fits)) <= limit


def test_importing_it_loads_nothing_heavy() -> None:
    code = (
        "import sys; from airflow.providers.common.compat.sdk import BaseOperator; "
        "before = set(sys.modules); "
        "import airflow_provider_aisa.chunks; "
        "print({name.partition('.')[0] for name in set(sys.modules) - before} "
        "& {'boto3', 'botocore', 'httpx', 'pydantic'})"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "set()"
