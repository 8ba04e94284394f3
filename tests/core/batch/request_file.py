"""A file of requests in a store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.fakes.s3 import BUCKET, FakeS3, FakeS3Client

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

KEY = "requests.jsonl"
URI = f"s3://{BUCKET}/{KEY}"


def store_of(content: bytes) -> FakeS3Client:
    """Return the client of a store that holds this content under :data:`URI`."""
    store = FakeS3()
    store.put(KEY, content)
    return store.client()


def client_of(content: bytes) -> S3Client:
    """Return what :func:`store_of` returns, as the package's functions want it."""
    return store_of(content).as_boto3()
