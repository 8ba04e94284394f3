"""An object store as small as a test: one object, in memory."""

from __future__ import annotations

import hashlib
from io import BytesIO
from typing import TYPE_CHECKING, cast

from botocore.response import StreamingBody

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

URI = "s3://bucket/requests.jsonl"


class OneObject:
    """The part of a boto3 client that reads, ranges included."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.etag = f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}-1"'
        self.bodies: list[StreamingBody] = []

    def get_object(self, **arguments: str) -> dict[str, object]:
        """Answer a GetObject for the whole object or a range, as S3 does."""
        first, last = 0, len(self.content) - 1
        if "Range" in arguments:
            first, last = map(int, arguments["Range"].removeprefix("bytes=").split("-"))
            assert arguments["IfMatch"] == self.etag
        found = self.content[first : last + 1]
        body = StreamingBody(BytesIO(found), len(found))
        self.bodies.append(body)
        return {"Body": body, "ETag": self.etag, "ContentLength": len(found)}


def client_of(content: bytes) -> S3Client:
    """Return a client that finds this content under :data:`URI`, or any other."""
    return cast("S3Client", OneObject(content))
