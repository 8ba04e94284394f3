"""The same requests to the fake and to a real store. Where both differ, AWS's documents decide."""

from __future__ import annotations

import base64
import hashlib
import io
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError, HTTPClientError, ParamValidationError

from airflow_provider_aisa.core.s3.errors import ConditionConflict, ConditionFailed, ConditionUnsupported
from airflow_provider_aisa.exceptions import StorageFailed
from tests.fakes.s3 import BUCKET, PAGE, FakeS3
from tests.fakes.s3_rules import s3_error

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

Act = Callable[["S3Client", str], object]

CHANGED = "412 PreconditionFailed"
GONE = "404 NoSuchKey"
OTHER_ETAG = '"0123456789abcdef0123456789abcdef"'


def sha256_of(body: bytes) -> str:
    return base64.b64encode(hashlib.sha256(body).digest()).decode()


def outcome(act: Act, client: S3Client, bucket: str) -> str:
    """Return the status and the code of an answer, or the kind of the error that boto3 raises by itself."""
    try:
        act(client, bucket)
    except ClientError as e:
        return f"{e.response['ResponseMetadata']['HTTPStatusCode']} {e.response['Error']['Code']}"
    except (ParamValidationError, HTTPClientError) as e:
        return type(e).__name__
    return "ok"


def put_file(client: S3Client, bucket: str) -> None:
    client.put_object(Bucket=bucket, Key="new", Body=io.BytesIO(b"body"))


def listing(client: S3Client, bucket: str) -> None:
    client.list_objects_v2(Bucket=bucket)


def put(key: str = "new", body: Any = b"body", **arguments: Any) -> Act:
    return lambda client, bucket: client.put_object(Bucket=bucket, Key=key, Body=body, **arguments)


def get(key: str, **arguments: Any) -> Act:
    return lambda client, bucket: client.get_object(Bucket=bucket, Key=key, **arguments)["Body"].read()


def head(key: str) -> Act:
    return lambda client, bucket: client.head_object(Bucket=bucket, Key=key)


def delete(key: str, **arguments: Any) -> Act:
    return lambda client, bucket: client.delete_object(Bucket=bucket, Key=key, **arguments)


#: What is asked of a bucket that holds "old", what AWS answers by its documents, and SeaweedFS if it differs.
TABLE: list[tuple[str, Act, str, str | None]] = [
    ("a plain write", put(), "ok", None),
    ("a write from a file", put_file, "ok", None),
    ("a first write that must be the first", put(IfNoneMatch="*"), "ok", None),
    ("a second write that must be the first", put("old", IfNoneMatch="*"), CHANGED, None),
    ("a write over another version", put("old", IfMatch=OTHER_ETAG), CHANGED, None),
    ("a write over an object that is gone", put("gone", IfMatch=OTHER_ETAG), GONE, CHANGED),
    ("a delete of another version", delete("old", IfMatch=OTHER_ETAG), CHANGED, None),
    ("a delete of a version that is gone", delete("gone", IfMatch=OTHER_ETAG), GONE, CHANGED),
    ("a delete of nothing", delete("gone"), "ok", None),
    ("a read", get("old"), "ok", None),
    ("a read of nothing", get("gone"), GONE, None),
    ("a read of another version", get("old", IfMatch=OTHER_ETAG), CHANGED, None),
    ("a range behind the end", get("old", Range="bytes=100-200"), "416 InvalidRange", None),
    ("a look at nothing", head("gone"), "404 404", None),
    ("another bucket", lambda client, _: put()(client, "no-such-bucket"), "404 NoSuchBucket", None),
    ("a listing of another bucket", lambda client, _: listing(client, "no-bucket"), "404 NoSuchBucket", None),
    ("the right SHA-256", put(ChecksumSHA256=sha256_of(b"body")), "ok", None),
    ("a wrong SHA-256", put(ChecksumSHA256=sha256_of(b"another")), "400 BadDigest", None),
    ("a key of 1,024 bytes", put("k/" * 511 + "kk"), "ok", None),
    ("a key of 1,025 bytes", put("k/" * 511 + "kkk"), "400 KeyTooLongError", None),
    ("a key with a NUL", put("a\0b"), "400 InvalidURI", "400 InvalidRequest"),
    ("a key that leaves the bucket", put("../../b"), "400 InvalidURI", "400 InvalidRequest"),
    ("an empty key", put(""), "ParamValidationError", None),
    ("2,048 bytes of metadata", put(Metadata={"name": "v" * 2044}), "ok", None),
    ("2,049 bytes of metadata", put(Metadata={"name": "v" * 2045}), "400 MetadataTooLarge", "ok"),
    ("metadata that is not ASCII", put(Metadata={"name": "é"}), "ParamValidationError", None),
    ("metadata of two lines", put(Metadata={"name": "a\nb"}), "HTTPClientError", None),
    ("an argument that PutObject has not", put(Colour="red"), "ParamValidationError", None),
    ("a storage class that is none", put(StorageClass="CHEAP"), "400 InvalidStorageClass", None),
    ("an ACL in a bucket without", put(ACL="public-read"), "400 AccessControlListNotSupported", "ok"),
    ("Object Lock in a bucket without", put(ObjectLockLegalHoldStatus="ON"), "400 InvalidRequest", None),
]


@pytest.mark.parametrize(("act", "aws"), [pytest.param(row[1], row[2], id=row[0]) for row in TABLE])
def test_the_fake_answers_as_aws_documents_it(act: Act, aws: str) -> None:
    client = FakeS3().client().as_boto3()
    client.put_object(Bucket=BUCKET, Key="old", Body=b"old")

    assert outcome(act, client, BUCKET) == aws


@pytest.mark.parametrize(
    ("act", "expected"), [pytest.param(row[1], row[3] or row[2], id=row[0]) for row in TABLE]
)
def test_a_real_store_answers_the_same_but_where_the_table_says_so(
    act: Act, expected: str, s3_client: S3Client, bucket: str
) -> None:
    s3_client.put_object(Bucket=bucket, Key="old", Body=b"old")

    assert outcome(act, s3_client, bucket) == expected


def test_every_write_has_another_etag_that_is_no_digest_of_the_body() -> None:
    client = FakeS3().client()

    etags = {client.put_object(Bucket=BUCKET, Key="key", Body=b"same")["ETag"] for _ in range(10)}

    assert len(etags) == 10
    assert f'"{hashlib.md5(b"same", usedforsecurity=False).hexdigest()}"' not in etags


def test_times_are_whole_seconds_of_the_stores_own_clock() -> None:
    store = FakeS3()
    bucket = store.client().bucket()
    store.clock.now = 1_000.9
    bucket.write("key", b"{}", only_if=None)
    store.clock.now = 1_060.2

    found = bucket.read("key")

    assert found is not None
    assert found.age == 60.0


def test_a_listing_has_a_thousand_keys_a_page_in_the_order_of_their_bytes() -> None:
    store = FakeS3()
    client = store.client()
    keys = [f"a/{number}" for number in range(PAGE)] + ["a/é", "a/z", "b"]
    for key in keys:
        store.put(key, b"")

    found = [key for key, _ in client.bucket().list_keys("a/")]

    assert found == sorted(keys[:-1], key=str.encode)
    assert client.count("ListObjectsV2", "a/") == 2


def test_without_listbucket_a_missing_key_is_a_403_and_a_present_one_is_read() -> None:
    store = FakeS3(denied={"s3:ListBucket"})
    client = store.client().as_boto3()
    store.put("old", b"old")

    assert outcome(get("gone"), client, BUCKET) == "403 AccessDenied"
    assert outcome(head("gone"), client, BUCKET) == "403 403"
    assert outcome(get("old"), client, BUCKET) == "ok"
    assert outcome(listing, client, BUCKET) == "403 AccessDenied"


@pytest.mark.parametrize("act", [put("old", IfNoneMatch="*"), put("gone", IfMatch=OTHER_ETAG)])
def test_a_store_may_ignore_the_conditions_of_writes_or_refuse_them(
    act: Act,
) -> None:
    answers = {}
    for manners in ("ignored", "501", "denied"):
        store = FakeS3(put_conditions=manners)
        store.put("old", b"old")
        answers[manners] = outcome(act, store.client().as_boto3(), BUCKET)
        assert outcome(put("plain"), store.client().as_boto3(), BUCKET) == "ok"

    assert answers == {"ignored": "ok", "501": "501 NotImplemented", "denied": "403 AccessDenied"}


def test_a_store_may_refuse_deletes_or_only_those_with_a_condition() -> None:
    refusing = FakeS3(not_implemented={"DeleteObject"})
    forbidding = FakeS3(denied={"s3:DeleteObject"})
    half = FakeS3(delete_conditions="501")
    for store in (refusing, forbidding, half):
        store.put("old", b"old")

    assert outcome(delete("old"), refusing.client().as_boto3(), BUCKET) == "501 NotImplemented"
    assert outcome(delete("old"), forbidding.client().as_boto3(), BUCKET) == "403 AccessDenied"
    assert outcome(delete("old", IfMatch="*"), half.client().as_boto3(), BUCKET) == "501 NotImplemented"
    assert outcome(delete("old"), half.client().as_boto3(), BUCKET) == "ok"
    assert [len(store.objects) for store in (refusing, forbidding, half)] == [1, 1, 0]


def test_the_packages_bucket_tells_the_fakes_answers_apart() -> None:
    store = FakeS3(conflicts=1)
    bucket = store.client().bucket()

    with pytest.raises(ConditionConflict):
        bucket.write("key", b"{}", only_if=None)
    etag = bucket.write("key", b"{}", only_if=None)
    with pytest.raises(ConditionFailed):
        bucket.write("key", b"{}", only_if=None)
    assert bucket.write("key", b"{}", only_if=etag) != etag
    store.put_conditions = "501"
    with pytest.raises(ConditionUnsupported):
        bucket.write("key", b"{}", only_if=etag)
    assert len(store.objects) == 1


def test_what_a_bucket_does_not_take_is_refused_with_its_code() -> None:
    client = FakeS3(refused={"Tagging": "AccessDenied"}, denied={"s3:PutObjectTagging"}).client().as_boto3()
    open_client = FakeS3(allows_acls=True, has_object_lock=True).client().as_boto3()

    assert outcome(put(Tagging="a=1"), client, BUCKET) == "403 AccessDenied"
    assert (
        outcome(put(Tagging="&".join(f"a{n}=1" for n in range(11))), open_client, BUCKET) == "400 BadRequest"
    )
    assert outcome(put(ACL="public-read"), open_client, BUCKET) == "ok"
    assert outcome(put(ObjectLockMode="COMPLIANCE"), open_client, BUCKET) == "400 InvalidArgument"
    assert outcome(put(ExpectedBucketOwner="999999999999"), open_client, BUCKET) == "403 AccessDenied"


def test_a_lost_answer_is_asked_for_again_by_boto3_and_meets_its_own_write() -> None:
    store = FakeS3(lost_answers=1)
    client = store.client().as_boto3()

    assert outcome(put("new", IfNoneMatch="*"), client, BUCKET) == "412 PreconditionFailed"
    assert store.objects["new"].body == b"body"
    assert store.count("PutObject", "new") == 2


def test_of_many_conditional_writers_at_once_one_wins() -> None:
    store = FakeS3()

    with ThreadPoolExecutor(16) as pool:
        outcomes = list(
            pool.map(lambda _: outcome(put(IfNoneMatch="*"), store.client().as_boto3(), BUCKET), range(64))
        )

    assert Counter(outcomes) == {"ok": 1, "412 PreconditionFailed": 63}


def test_a_hook_sees_a_request_before_and_after_and_what_it_raises_is_the_answer() -> None:
    store = FakeS3()
    seen: list[tuple[str, str, str]] = []
    client = store.client(
        lambda operation, key: seen.append(("before", operation, key)),
        lambda operation, key: seen.append(("after", operation, key)),
    )
    client.put_object(Bucket=BUCKET, Key="key", Body=b"")

    def fail(operation: str, _key: str) -> None:
        raise s3_error("SlowDown", operation)

    lost = store.client(on_answer=fail).bucket()
    unreached = store.client(on_request=fail).bucket()
    for bucket in (lost, unreached):
        with pytest.raises(StorageFailed, match="SlowDown"):
            bucket.write(f"{bucket is lost}", b"{}", only_if=None)

    assert seen == [("before", "PutObject", "key"), ("after", "PutObject", "key")]
    assert sorted(store.objects) == ["True", "key"]


def test_a_client_that_waits_in_a_hook_holds_up_no_other() -> None:
    store = FakeS3()
    other = store.client()
    waiting = store.client(lambda *_: other.put_object(Bucket=BUCKET, Key="key", Body=b"other") and None)

    waiting.put_object(Bucket=BUCKET, Key="key", Body=b"waiting")

    assert store.objects["key"].body == b"waiting"
    assert (waiting.count("PutObject"), other.count("PutObject"), store.count("PutObject")) == (1, 1, 2)
