from __future__ import annotations

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from botocore.exceptions import ClientError

from tests.tools.test_supervise import alive
from tools.ports import find_free_ports
from tools.seaweedfs import SeaweedFS, SeaweedFSError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="module")
def store() -> Iterator[SeaweedFS]:
    with SeaweedFS() as running:
        running.create_bucket("images")
        yield running


def refusal(call: Callable[[], object]) -> tuple[int, str]:
    with pytest.raises(ClientError) as caught:
        call()
    response = caught.value.response
    return response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"]


def test_what_is_put_is_got(store: SeaweedFS) -> None:
    client = store.client()
    client.put_object(Bucket="images", Key="a/b.png", Body=b"bytes", ContentType="image/png")
    got = client.get_object(Bucket="images", Key="a/b.png")
    assert (got["Body"].read(), got["ContentType"]) == (b"bytes", "image/png")


def test_an_unknown_key_is_refused(store: SeaweedFS) -> None:
    client = store.client()
    client._request_signer._credentials.secret_key = "wrong"  # type: ignore[attr-defined]
    assert refusal(client.list_buckets) == (403, "SignatureDoesNotMatch")


def test_the_read_only_identity_reads_but_cannot_write(store: SeaweedFS) -> None:
    store.client().put_object(Bucket="images", Key="readable", Body=b"bytes")
    reader = store.client(read_only=True)
    assert reader.get_object(Bucket="images", Key="readable")["Body"].read() == b"bytes"
    assert refusal(lambda: reader.put_object(Bucket="images", Key="new", Body=b"")) == (403, "AccessDenied")
    assert refusal(lambda: reader.delete_object(Bucket="images", Key="readable")) == (403, "AccessDenied")


def test_of_many_writers_that_ask_for_absence_one_wins(store: SeaweedFS) -> None:
    client = store.client()

    def write(number: int) -> int:
        try:
            client.put_object(Bucket="images", Key="claim", Body=str(number).encode(), IfNoneMatch="*")
        except ClientError as error:
            return int(error.response["ResponseMetadata"]["HTTPStatusCode"])
        return 200

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(write, range(8)))
    assert sorted(answers) == [200] + [412] * 7


def test_a_missing_bucket_is_an_error(store: SeaweedFS) -> None:
    put = lambda: store.client().put_object(Bucket="no-such-bucket", Key="k", Body=b"")  # noqa: E731
    assert refusal(put) == (404, "NoSuchBucket")


def test_the_airflow_connection_names_endpoint_region_and_bucket(store: SeaweedFS) -> None:
    connection = json.loads(store.airflow_connection(bucket="images", read_only=True))
    assert connection["login"] == store.read_only_access_key
    assert connection["extra"] == {
        "endpoint_url": store.endpoint_url,
        "region_name": "us-east-1",
        "service_config": {"s3": {"bucket_name": "images"}},
    }


def test_after_stop_no_process_no_file_and_no_socket_is_left() -> None:
    store = SeaweedFS()
    (weed,) = store._process.processes()
    ports = [part.rpartition("=")[2] for part in weed.command.split() if ".port.grpc=" in part]
    sockets = [path for port in ports for path in Path("/tmp").glob(f"seaweedfs-*-grpc-{port}.sock")]
    assert len(sockets) == len(ports) == 4
    store.stop()
    assert not alive(weed.pid)
    assert not store.run_dir.exists()
    assert [path for path in sockets if path.exists()] == []


def test_a_given_data_directory_keeps_its_objects_for_the_next_store(tmp_path: Path) -> None:
    with SeaweedFS(tmp_path / "data") as first:
        first.create_bucket("images")
        first.client().put_object(Bucket="images", Key="kept", Body=b"bytes")
    with SeaweedFS(tmp_path / "data") as second:
        assert second.client().get_object(Bucket="images", Key="kept")["Body"].read() == b"bytes"


def test_a_port_lost_to_somebody_else_is_replaced() -> None:
    """Between looking for free ports and binding them another process may come first."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        offers = iter([[taken.getsockname()[1], *find_free_ports(7)], find_free_ports(8)])
        with SeaweedFS(free_ports=lambda _: next(offers)) as store:
            client, bucket = store.client(), store.create_bucket("here")
            client.put_object(Bucket=bucket, Key="key", Body=b"body")
            assert client.get_object(Bucket=bucket, Key="key")["Body"].read() == b"body"


def test_a_store_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.seaweedfs.START_ATTEMPTS", 1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = [taken.getsockname()[1], *find_free_ports(7)]
        with pytest.raises(SeaweedFSError, match="address already in use"):
            SeaweedFS(tmp_path, free_ports=lambda _: ports)
