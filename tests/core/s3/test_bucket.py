from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import boto3
import pytest
from botocore.config import Config
from botocore.response import StreamingBody
from botocore.stub import Stubber
from mypy_boto3_s3 import S3Client

from airflow_provider_aisa.core.s3.arguments import check_extra_args
from airflow_provider_aisa.core.s3.bucket import Bucket
from airflow_provider_aisa.core.s3.errors import ConditionConflict, ConditionFailed, ConditionUnsupported
from airflow_provider_aisa.exceptions import InvalidRequest, StorageFailed
from tools.ports import find_free_ports
from tools.seaweedfs import SeaweedFS

CONTENT = b"\x89PNG the bytes of an image" * 100
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(CONTENT)
    return path


@cache
def nowhere() -> S3Client:
    """Return a client of a store that is not there."""
    (port,) = find_free_ports(1)
    client = boto3.session.Session().client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        config=Config(retries={"total_max_attempts": 1}),
    )
    return cast("S3Client", client)


@pytest.fixture
def stubbed() -> Iterator[tuple[Bucket, Stubber]]:
    """Yield a bucket whose answers are given by the test, for what a real store says too rarely."""
    client = nowhere()
    with Stubber(client) as stubber:
        yield Bucket(client, "bucket"), stubber


def put(bucket: Bucket, image: Path, key: str = "a/0.png", sha256: str = SHA256, **metadata: str) -> str:
    with image.open("rb") as file:
        return bucket.put_image(file, key=key, content_type="image/png", sha256=sha256, metadata=metadata)


def test_an_image_is_stored_with_its_type_its_bytes_and_its_checksum(
    s3_client: S3Client, bucket: str, image: Path
) -> None:
    put(Bucket(s3_client, bucket), image)
    found = s3_client.get_object(Bucket=bucket, Key="a/0.png", ChecksumMode="ENABLED")
    assert found["Body"].read() == CONTENT
    assert found["ContentType"] == "image/png"
    assert found["ChecksumSHA256"] == base64.b64encode(bytes.fromhex(SHA256)).decode()


def test_a_file_that_is_not_what_was_inspected_is_refused_by_the_store(
    s3_client: S3Client, bucket: str, image: Path
) -> None:
    with pytest.raises(StorageFailed) as caught:
        put(Bucket(s3_client, bucket), image, sha256=hashlib.sha256(b"another").hexdigest())
    assert f"s3://{bucket}/a/0.png could not be written" in str(caught.value)
    assert caught.value.status == 400
    assert s3_client.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_a_second_upload_of_the_same_image_changes_nothing(
    s3_client: S3Client, bucket: str, image: Path
) -> None:
    for _ in range(2):
        put(Bucket(s3_client, bucket), image)
    assert s3_client.list_objects_v2(Bucket=bucket)["KeyCount"] == 1


def test_metadata_is_ascii_on_the_wire_whatever_it_says(
    s3_client: S3Client, bucket: str, image: Path
) -> None:
    put(Bucket(s3_client, bucket), image, prompt="Лиса 100% \n end", model="m", long="x" * 1_000)
    metadata = s3_client.head_object(Bucket=bucket, Key="a/0.png")["Metadata"]
    assert metadata["prompt"] == "%D0%9B%D0%B8%D1%81%D0%B0 100%25 %0A end"
    assert metadata["model"] == "m"
    assert metadata["long"] == "x" * 250


def test_extra_arguments_are_passed_on_and_own_metadata_wins(
    s3_client: S3Client, bucket: str, image: Path
) -> None:
    extra = {
        "StorageClass": "STANDARD_IA",
        "Tagging": "team=shop&cost=7",
        "CacheControl": "max-age=60",
        "Metadata": {"owner": "shop", "model": "theirs"},
    }
    put(Bucket(s3_client, bucket, extra_args=extra), image, model="ours")
    found = s3_client.head_object(Bucket=bucket, Key="a/0.png")
    assert found["StorageClass"] == "STANDARD_IA"
    assert found["CacheControl"] == "max-age=60"
    assert found["Metadata"] == {"owner": "shop", "model": "ours"}
    tags = s3_client.get_object_tagging(Bucket=bucket, Key="a/0.png")["TagSet"]
    assert {tag["Key"]: tag["Value"] for tag in tags} == {"team": "shop", "cost": "7"}


@pytest.mark.parametrize(
    "extra", [None, {}, {"ServerSideEncryption": "AES256"}, {"Metadata": {"a": "b"}}, {"ACL": "private"}]
)
def test_arguments_of_put_object_are_accepted(extra: dict[str, Any] | None) -> None:
    check_extra_args(extra)
    Bucket(nowhere(), "b", extra_args=extra or {}).check_args()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"StorageKlass": "X"}, 'Unknown parameter in input: "StorageKlass"'),
        ({"Tagging": {"a": "b"}}, "Invalid type for parameter Tagging"),
        ({"Metadata": {"a": 1}}, "Invalid type for parameter Metadata.a"),
    ],
)
def test_what_put_object_does_not_have_is_refused_before_anything_is_sent(
    extra: dict[str, Any], message: str
) -> None:
    check_extra_args(extra)
    with pytest.raises(InvalidRequest, match="s3_extra_args are not arguments of S3's PutObject") as caught:
        Bucket(nowhere(), "b", extra_args=extra).check_args()
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("ACL=private", "s3_extra_args is a str: use a dict of PutObject's arguments"),
        ([("ACL", "private")], "s3_extra_args is a list"),
        ({"Key": "k", "Bucket": "b"}, "s3_extra_args may not set Bucket, Key: the image decides that"),
        ({"ContentType": "image/png"}, "s3_extra_args may not set ContentType"),
        ({"IfNoneMatch": "*"}, "s3_extra_args may not set IfNoneMatch"),
        ({"ChecksumSHA256": "x"}, "s3_extra_args may not set ChecksumSHA256"),
        ({"Metadata": "a=b"}, "s3_extra_args['Metadata'] is no dict: use a dict of strings"),
    ],
)
def test_arguments_that_are_no_mapping_or_not_the_authors_are_refused(extra: object, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_extra_args(extra)
    assert str(caught.value).startswith(message)


def test_a_missing_bucket_fails_with_the_next_step(s3_client: S3Client, image: Path) -> None:
    with pytest.raises(StorageFailed) as caught:
        put(Bucket(s3_client, "no-such-bucket"), image)
    assert str(caught.value) == (
        "Create the bucket, or correct s3_bucket. "
        "S3 says NoSuchBucket: s3://no-such-bucket/a/0.png could not be written."
    )
    assert (caught.value.status, caught.value.code) == (404, "NoSuchBucket")
    assert caught.value.__suppress_context__


def test_a_key_that_may_only_read_fails_with_the_next_step(
    s3_store: SeaweedFS, bucket: str, image: Path
) -> None:
    with pytest.raises(StorageFailed, match=r"^Allow the AWS connection .*s3:PutObject") as caught:
        put(Bucket(s3_store.client(read_only=True), bucket), image)
    assert (caught.value.status, caught.value.code) == (403, "AccessDenied")


def test_a_store_that_is_not_there_fails_with_the_next_step(image: Path) -> None:
    with pytest.raises(StorageFailed, match=r"^Check the AWS connection.*EndpointConnectionError"):
        put(Bucket(nowhere(), "b"), image)


def test_another_region_fails_with_the_next_step(stubbed: tuple[Bucket, Stubber], image: Path) -> None:
    bucket, stubber = stubbed
    stubber.add_client_error("put_object", "PermanentRedirect", http_status_code=301)
    with pytest.raises(StorageFailed, match=r"^Set the bucket's region_name in the AWS connection"):
        put(bucket, image)


def test_an_object_is_looked_at_or_certainly_missing(s3_client: S3Client, bucket: str, image: Path) -> None:
    store = Bucket(s3_client, bucket)
    assert store.head_image("a/0.png") is None
    put(store, image, model="m")
    found = store.head_image("a/0.png")
    assert found is not None
    assert (found["ContentType"], found["ContentLength"], found["Metadata"]) == (
        "image/png",
        len(CONTENT),
        {"model": "m"},
    )


def test_a_small_object_is_read_with_its_etag_and_age_or_certainly_missing(
    s3_client: S3Client, bucket: str
) -> None:
    store = Bucket(s3_client, bucket)
    assert store.read("journal.json") is None
    etag = store.write("journal.json", b"{}", only_if=None)
    found = store.read("journal.json")
    assert found is not None
    assert (found.body, found.etag) == (b"{}", etag)
    assert 0 <= found.age < 600
    assert s3_client.head_object(Bucket=bucket, Key="journal.json")["ContentType"] == "application/json"


def test_a_missing_bucket_is_never_read_as_a_missing_object(s3_client: S3Client) -> None:
    """A missing journal is the only proof that nothing was sent."""
    with pytest.raises(StorageFailed, match=r"^Create the bucket"):
        Bucket(s3_client, "no-such-bucket").read("journal.json")


def test_the_age_is_by_the_stores_own_clock_where_it_tells(stubbed: tuple[Bucket, Stubber]) -> None:
    bucket, stubber = stubbed
    written = datetime(2026, 1, 1, tzinfo=UTC)
    for date, modified in [
        ("Thu, 01 Jan 2026 00:00:07 GMT", written),
        (None, datetime.now(UTC) - timedelta(hours=1)),
    ]:
        answer = {
            "Body": StreamingBody(BytesIO(b"{}"), 2),
            "ETag": '"e"',
            "LastModified": modified,
            "ResponseMetadata": {"HTTPHeaders": {"date": date} if date else {}},
        }
        stubber.add_response("get_object", answer, {"Bucket": "bucket", "Key": "k"})
    ages = [found.age for found in (bucket.read("k"), bucket.read("k")) if found]
    assert ages[0] == 7
    assert 3_600 <= ages[1] < 4_200


def test_of_two_writers_that_expect_no_object_the_second_is_told(s3_client: S3Client, bucket: str) -> None:
    store = Bucket(s3_client, bucket)
    etag = store.write("k", b"1", only_if=None)
    with pytest.raises(ConditionFailed):
        store.write("k", b"2", only_if=None)
    newer = store.write("k", b"3", only_if=etag)
    with pytest.raises(ConditionFailed):
        store.write("k", b"4", only_if=etag)
    found = store.read("k")
    assert found is not None
    assert (found.body, found.etag) == (b"3", newer)


def test_a_write_without_condition_overwrites(s3_client: S3Client, bucket: str) -> None:
    store = Bucket(s3_client, bucket)
    store.write("k", b"1", only_if=None)
    store.write("k", b"2", only_if=None, is_conditional=False)
    found = store.read("k")
    assert found is not None
    assert found.body == b"2"


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (412, "PreconditionFailed", ConditionFailed),
        (409, "ConditionalRequestConflict", ConditionConflict),
        (501, "NotImplemented", ConditionUnsupported),
        (400, "NotImplemented", ConditionUnsupported),
        (500, "InternalError", StorageFailed),
        (403, "AccessDenied", StorageFailed),
    ],
)
def test_what_a_conditional_write_came_to_has_a_class_of_its_own(
    stubbed: tuple[Bucket, Stubber], status: int, code: str, error: type[Exception]
) -> None:
    bucket, stubber = stubbed
    stubber.add_client_error("put_object", code, http_status_code=status)
    with pytest.raises(error):
        bucket.write("k", b"{}", only_if=None)


def test_the_journal_is_encrypted_as_the_images_are_but_gets_none_of_their_other_arguments(
    stubbed: tuple[Bucket, Stubber],
) -> None:
    bucket, stubber = stubbed
    extra = {
        "ServerSideEncryption": "AES256",
        "StorageClass": "GLACIER",
        "ACL": "public-read",
        "Tagging": "a=b",
    }
    checksum = base64.b64encode(hashlib.sha256(b"{}").digest()).decode()
    sent = {"Bucket": "bucket", "Key": "k", "Body": b"{}", "ContentType": "application/json"}
    sent["ChecksumSHA256"] = checksum
    stubber.add_response(
        "put_object", {"ETag": '"e"'}, {**sent, "ServerSideEncryption": "AES256", "IfMatch": "old"}
    )
    assert Bucket(bucket.client, "bucket", extra_args=extra).write("k", b"{}", only_if="old") == "e"
    stubber.assert_no_pending_responses()


def test_a_uri_names_bucket_and_key() -> None:
    assert Bucket(nowhere(), "b").uri("a/0.png") == "s3://b/a/0.png"
