"""The store computes each signature itself and refuses a wrong one; a server of ours shows what is sent."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import ProxyHandler, Request, build_opener

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from airflow_provider_aisa.core.s3.bucket import Bucket
from airflow_provider_aisa.core.s3.signing import sign_with_known_hash
from airflow_provider_aisa.exceptions import StorageFailed
from tests.core.net import wire

if TYPE_CHECKING:
    import socket

    from botocore.awsrequest import AWSRequest
    from mypy_boto3_s3 import S3Client

    from tests.core.net.wire import Server
    from tools.seaweedfs import SeaweedFS

CONTENT = b"\x89PNG the bytes of an image" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
CHECKSUM = base64.b64encode(bytes.fromhex(SHA256)).decode()


class Reads(io.BytesIO):
    """Counts the bytes that are read from it."""

    def __init__(self, content: bytes = CONTENT) -> None:
        super().__init__(content)
        self.total = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.total += len(data)
        return data


def make_client(endpoint_url: str | None, *, config: Config | None = None, **options: Any) -> S3Client:
    client: S3Client = boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint_url,
        config=config or Config(retries={"total_max_attempts": 1}),
        **{
            "region_name": "us-east-1",
            "aws_access_key_id": "key",
            "aws_secret_access_key": "secret",
            **options,
        },
    )
    sign_with_known_hash(client)
    client.meta.events.register("request-created.s3.PutObject", _send_at_once)
    return client


def _send_at_once(request: AWSRequest, **_: Any) -> None:
    """Do not wait for a 100 that the servers of this file never send."""
    del request.headers["Expect"]


@pytest.fixture
def client(s3_store: SeaweedFS) -> S3Client:
    return make_client(
        s3_store.endpoint_url,
        aws_access_key_id=s3_store.access_key,
        aws_secret_access_key=s3_store.secret_key,
    )


def put(client: S3Client, bucket: str, file: io.BytesIO, sha256: str = SHA256) -> str:
    return Bucket(client, bucket).put_image(
        file, key="a/0.png", content_type="image/png", sha256=sha256, metadata={}
    )


def sent_hashes(client: S3Client) -> list[str | None]:
    """Return the list to which each PutObject adds the payload's hash that it was signed with."""
    seen: list[str | None] = []
    client.meta.events.register(
        "before-send.s3.PutObject",
        lambda request, **_: seen.append(_text(request.headers.get("X-Amz-Content-SHA256"))),
    )
    return seen


def _text(value: Any) -> str | None:
    return value.decode() if isinstance(value, bytes) else value


def test_an_upload_is_signed_and_sent_with_one_look_at_its_bytes(client: S3Client, bucket: str) -> None:
    seen, file = sent_hashes(client), Reads()
    put(client, bucket, file)
    assert file.total == len(CONTENT)
    assert seen == [SHA256]
    assert client.get_object(Bucket=bucket, Key="a/0.png")["Body"].read() == CONTENT


def test_a_hash_that_is_not_the_bytes_is_refused_by_the_store(client: S3Client, bucket: str) -> None:
    with pytest.raises(StorageFailed) as caught:
        put(client, bucket, Reads(), sha256=hashlib.sha256(b"another").hexdigest())
    assert caught.value.status == 400
    assert client.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_what_carries_no_hash_is_signed_as_ever(client: S3Client, bucket: str) -> None:
    seen = sent_hashes(client)
    client.put_object(Bucket=bucket, Key="entry.json", Body=b"{}", IfNoneMatch="*")
    assert seen == [hashlib.sha256(b"{}").hexdigest()]


@pytest.mark.parametrize("secret", ["", "wrong"])
def test_a_wrong_key_is_refused_with_this_signature_too(
    s3_store: SeaweedFS, bucket: str, secret: str
) -> None:
    stranger = make_client(
        s3_store.endpoint_url,
        aws_access_key_id=s3_store.access_key,
        aws_secret_access_key=s3_store.secret_key + secret,
    )
    if secret:
        with pytest.raises(StorageFailed) as caught:
            put(stranger, bucket, Reads())
        assert caught.value.status == 403
    else:
        put(stranger, bucket, Reads())


def test_a_link_to_an_upload_is_signed_as_ever(client: S3Client, bucket: str) -> None:
    link = client.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "k"})
    upload = Request(link, data=b"x", method="PUT", headers={"Content-Type": ""})  # noqa: S310 - the store's own
    with build_opener(ProxyHandler({})).open(upload):
        assert client.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"


def test_a_client_without_credentials_says_so(s3_store: SeaweedFS, bucket: str) -> None:
    nobody: S3Client = boto3.session.Session().client(
        "s3", endpoint_url=s3_store.endpoint_url, region_name="us-east-1"
    )
    sign_with_known_hash(nobody)
    with pytest.raises(StorageFailed, match="NoCredentialsError"):
        put(nobody, bucket, Reads())


def test_an_unsigned_client_stays_unsigned(s3_store: SeaweedFS, bucket: str) -> None:
    from botocore import UNSIGNED

    anonymous = make_client(s3_store.endpoint_url, config=Config(signature_version=UNSIGNED))
    seen: list[bool] = []
    anonymous.meta.events.register(
        "before-send.s3.PutObject", lambda request, **_: seen.append("Authorization" in request.headers)
    )
    with pytest.raises(ClientError):
        anonymous.put_object(
            Bucket=bucket, Key="k", Body=b"x", ChecksumSHA256=base64.b64encode(b"0" * 32).decode()
        )
    assert seen == [False]


class Refusing:
    """Answers the first requests with 503, and keeps what was sent."""

    def __init__(self, times: int) -> None:
        self._left = times

    def __call__(self, server: Server, connection: socket.socket) -> None:
        wire.read_request(server, connection)
        self._left -= 1
        status = b"503 Slow Down" if self._left >= 0 else b"200 OK"
        connection.sendall(b"HTTP/1.1 " + status + b'\r\nETag: "e"\r\nContent-Length: 0\r\n\r\n')


def test_a_repeated_upload_is_signed_and_read_anew() -> None:
    with wire.serve(Refusing(1)) as server:
        client = make_client(server.url, config=Config(retries={"total_max_attempts": 2, "mode": "standard"}))
        file = Reads()
        assert put(client, "bucket", file) == "e"
    assert file.total == 2 * len(CONTENT)
    assert [request.partition(b"\r\n\r\n")[2] for request in server.received] == [CONTENT] * 2
    for request in server.received:
        assert f"x-amz-content-sha256: {SHA256}".encode() in request.lower()
        assert len(re.findall(rb"(?im)^authorization: AWS4-HMAC-SHA256 Credential=key/", request)) == 1


def test_an_upload_over_https_is_signed_with_the_hash_as_well(tmp_path: Path) -> None:
    """Botocore would read the body once more there: it does not count the checksum that its caller gave."""
    authority = wire.make_authority(tmp_path)
    with wire.serve(Refusing(0), tls=authority.server_context("127.0.0.1")) as server:
        client = make_client(f"https://127.0.0.1:{server.port}", verify=str(authority.file))
        file = Reads()
        put(client, "bucket", file)
    assert file.total == len(CONTENT)
    assert f"x-amz-content-sha256: {SHA256}".encode() in server.received[0].lower()


def test_an_access_points_own_region_is_signed_for() -> None:
    """The endpoint decides it, not the client."""
    client = make_client(None)
    seen: list[str] = []

    def look(request: Any, **_: Any) -> None:
        seen.append(_text(request.headers["Authorization"]) or "")
        raise LookupError  # Nothing is sent.

    client.meta.events.register("before-send.s3.PutObject", look)
    bucket = "arn:aws:s3:eu-west-1:123456789012:accesspoint/mine"
    with pytest.raises(LookupError):
        client.put_object(Bucket=bucket, Key="k", Body=CONTENT, ChecksumSHA256=CHECKSUM)
    assert re.search("Credential=key/[0-9]{8}/eu-west-1/s3/aws4_request", seen[0])
