"""An S3 store in memory that answers as AWS documents it, at its worst where the documents leave a choice.

It is a boto3 client, so that the package's own `Bucket` runs on it. An ETag is no MD5 and changes with every
write, also of the same bytes, as with SSE-KMS. What a test wants otherwise it says in the store's fields.
"""

from __future__ import annotations

import itertools
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from io import BytesIO
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from botocore.hooks import HierarchicalEmitter
from botocore.response import StreamingBody

from airflow_provider_aisa.core.s3.bucket import Bucket
from tests.fakes.clock import Clock
from tests.fakes.s3_rules import (
    check_arguments,
    check_digests,
    check_headers,
    check_key,
    read_body,
    s3_error,
    service_model,
    validate,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

#: What a store does about the conditions of a request: AWS keeps them.
Manners = Literal["kept", "ignored", "501", "denied"]
Hook = Callable[[str, str], object]

BUCKET: Final = "bucket"
PAGE: Final = 1_000
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class S3Object:
    """What a store holds under a key. `etag` has its quotes; `arguments` are PutObject's other ones."""

    body: bytes
    etag: str
    modified: float
    arguments: Mapping[str, Any]

    @property
    def metadata(self) -> dict[str, str]:
        """User metadata as S3 returns it: names in lower case, values without spaces at their ends."""
        given = self.arguments.get("Metadata", {})
        return {name.lower(): value.strip() for name, value in given.items()}


@dataclass(frozen=True, slots=True)
class Request:
    """One request that has reached a store. `key` is the prefix of a listing."""

    operation: str
    key: str
    arguments: Mapping[str, Any] = field(repr=False)


@dataclass
class FakeS3:
    """A store, shared by the clients that :meth:`client` makes. It may be used from any thread.

    `clock` is the store's own. `put_conditions` and `delete_conditions` say what it does about If-Match and
    If-None-Match; `denied` names what the caller may not do (``s3:ListBucket``); operations in
    `not_implemented` (``DeleteObject``) answer 501; `refused` maps an argument of PutObject to the code that
    refuses it, as a bucket policy or another store does. The next `conflicts` conditional writes answer 409,
    of the next `lost_answers` writes the first answer is lost, and boto3 repeats them by itself.
    """

    clock: Clock = field(default_factory=Clock)
    put_conditions: Manners = "kept"
    delete_conditions: Manners = "kept"
    denied: set[str] = field(default_factory=set)
    not_implemented: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)
    has_object_lock: bool = False
    allows_acls: bool = False
    conflicts: int = 0
    lost_answers: int = 0
    owner: str = "111122223333"
    #: What this package has learnt of a store it keeps by the endpoint, in the whole process.
    endpoint: str = field(default_factory=lambda: f"https://s3-{next(_numbers)}.test")
    buckets: dict[str, dict[str, S3Object]] = field(default_factory=lambda: {BUCKET: {}})
    #: All clients' requests, in the order in which they were answered.
    requests: list[Request] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def client(self, on_request: Hook | None = None, on_answer: Hook | None = None) -> FakeS3Client:
        """Return what one process sees of the store."""
        return FakeS3Client(self, on_request, on_answer)

    @property
    def objects(self) -> dict[str, S3Object]:
        """What is in the bucket that most tests have only one of."""
        with self.lock:
            return dict(self.buckets[BUCKET])

    def count(self, operation: str, part_of_key: str = "") -> int:
        """Count the requests of all clients."""
        return _count(self.requests, operation, part_of_key)

    def put(self, key: str, body: bytes, *, bucket: str = BUCKET, **arguments: Any) -> S3Object:
        """Write an object past all rules, conditions and records."""
        with self.lock:
            stored = S3Object(body, f'"{secrets.token_hex(16)}"', float(int(self.clock())), arguments)
            self.buckets[bucket][key] = stored
            return stored


class FakeS3Client:
    """A boto3 client, as far as this package uses one: its requests, and hooks around each of them.

    `on_request(operation, key)` is called before a request reaches the store, `on_answer` when it is done;
    what they raise is what the caller sees. Both are called outside the store's lock, so they may wait, use
    the store, or change it.
    """

    def __init__(self, store: FakeS3, on_request: Hook | None = None, on_answer: Hook | None = None) -> None:
        self.store = store
        self.on_request: Hook = on_request or _nothing
        self.on_answer: Hook = on_answer or _nothing
        self.requests: list[Request] = []
        #: The bodies that were handed out, open or closed.
        self.bodies: list[StreamingBody] = []
        self.meta = SimpleNamespace(
            endpoint_url=store.endpoint,
            region_name="us-east-1",
            service_model=service_model(),
            events=HierarchicalEmitter(),
        )

    def as_boto3(self) -> S3Client:
        """Return this client, under the type of the real one."""
        return cast("S3Client", self)

    def bucket(self, name: str = BUCKET, **arguments: Any) -> Bucket:
        """Return the package's own bucket on this client."""
        return Bucket(self.as_boto3(), name, **arguments)

    def count(self, operation: str, part_of_key: str = "") -> int:
        """Count this client's requests, such as ``PutObject``, of keys that contain a text."""
        return _count(self.requests, operation, part_of_key)

    def put_object(self, **arguments: Any) -> dict[str, Any]:
        """Answer PutObject."""
        check_headers(arguments)
        body = read_body(arguments.get("Body", b""))
        if self.store.lost_answers:
            self.store.lost_answers -= 1
            self._request("PutObject", arguments, lambda: self._put(body, arguments))
        return self._request("PutObject", arguments, lambda: self._put(body, arguments))

    def get_object(self, **arguments: Any) -> dict[str, Any]:
        """Answer GetObject; its Body is a stream."""
        return self._request("GetObject", arguments, lambda: self._get(arguments))

    def head_object(self, **arguments: Any) -> dict[str, Any]:
        """Answer HeadObject."""
        return self._request(
            "HeadObject", arguments, lambda: self._described(self._find("HeadObject", arguments))
        )

    def delete_object(self, **arguments: Any) -> dict[str, Any]:
        """Answer DeleteObject."""
        return self._request("DeleteObject", arguments, lambda: self._delete(arguments))

    def list_objects_v2(self, **arguments: Any) -> dict[str, Any]:
        """Answer ListObjectsV2 with one page."""
        return self._request("ListObjectsV2", arguments, lambda: self._list(arguments))

    def get_paginator(self, operation: str) -> FakePaginator:
        """Return the paginator of ``list_objects_v2``."""
        assert operation == "list_objects_v2", operation
        return FakePaginator(self)

    def create_bucket(self, **arguments: Any) -> dict[str, Any]:
        """Answer CreateBucket."""
        self.store.buckets.setdefault(arguments["Bucket"], {})
        return {"Location": f"/{arguments['Bucket']}"}

    def _request(
        self, operation: str, arguments: Mapping[str, Any], answer: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        validate(operation, arguments)
        key = str(arguments.get("Key", arguments.get("Prefix", "")))
        self.on_request(operation, key)
        with self.store.lock:
            request = Request(operation, key, {n: v for n, v in arguments.items() if n != "Body"})
            self.requests.append(request)
            self.store.requests.append(request)
            self._check(operation, arguments)
            answered = answer() | {"ResponseMetadata": self._response_metadata()}
        self.on_answer(operation, key)
        return answered

    def _response_metadata(self) -> dict[str, Any]:
        date = format_datetime(datetime.fromtimestamp(int(self.store.clock()), UTC), usegmt=True)
        return {"HTTPStatusCode": 200, "RequestId": "R", "RetryAttempts": 0, "HTTPHeaders": {"date": date}}

    def _check(self, operation: str, arguments: Mapping[str, Any]) -> None:
        """Refuse what S3 refuses before it looks at the object."""
        store = self.store
        if operation in store.not_implemented:
            raise s3_error("NotImplemented", operation)
        if arguments["Bucket"] not in store.buckets:
            raise s3_error("NoSuchBucket", operation)
        if arguments.get("ExpectedBucketOwner", store.owner) != store.owner:
            raise s3_error("AccessDenied", operation)
        if _PERMISSIONS[operation] in store.denied:
            raise s3_error("AccessDenied", operation)
        check_key(operation, arguments.get("Key", "key"))

    def _objects(self, arguments: Mapping[str, Any]) -> dict[str, S3Object]:
        return self.store.buckets[arguments["Bucket"]]

    def _put(self, body: bytes, arguments: Mapping[str, Any]) -> dict[str, Any]:
        check_arguments(self.store, arguments)
        check_digests(body, arguments)
        self._check_conditions("PutObject", self.store.put_conditions, arguments)
        kept = {
            n: v for n, v in arguments.items() if n not in {"Body", "Bucket", "Key", "IfMatch", "IfNoneMatch"}
        }
        stored = self.store.put(arguments["Key"], body, bucket=arguments["Bucket"], **kept)
        return {"ETag": stored.etag}

    def _get(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        found = self._find("GetObject", arguments)
        content, more = found.body, {}
        if "Range" in arguments:
            first, last = map(int, arguments["Range"].removeprefix("bytes=").split("-"))
            if first >= len(content):
                raise s3_error("InvalidRange", "GetObject")
            content = content[first : last + 1]
            more = {"ContentRange": f"bytes {first}-{first + len(content) - 1}/{len(found.body)}"}
        body = StreamingBody(BytesIO(content), len(content))
        self.bodies.append(body)
        return {**self._described(found), "ContentLength": len(content), "Body": body, **more}

    def _find(self, operation: str, arguments: Mapping[str, Any]) -> S3Object:
        found = self._objects(arguments).get(arguments["Key"])
        if found is None:
            # Who may not list learns nothing about keys that are not there.
            is_told = "s3:ListBucket" not in self.store.denied
            raise s3_error("NoSuchKey" if is_told else "AccessDenied", operation)
        if "SSECustomerKey" in found.arguments and "SSECustomerKey" not in arguments:
            raise s3_error("InvalidRequest", operation)
        if not _is_match(arguments.get("IfMatch", "*"), found):
            raise s3_error("PreconditionFailed", operation)
        return found

    def _described(self, found: S3Object) -> dict[str, Any]:
        arguments = found.arguments
        return {
            "ETag": found.etag,
            "LastModified": datetime.fromtimestamp(found.modified, UTC),
            "ContentLength": len(found.body),
            "ContentType": arguments.get("ContentType", "binary/octet-stream"),
            "Metadata": found.metadata,
            **{
                name: arguments[name]
                for name in ("ServerSideEncryption", "StorageClass")
                if name in arguments
            },
        }

    def _delete(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        self._check_conditions("DeleteObject", self.store.delete_conditions, arguments)
        self._objects(arguments).pop(arguments["Key"], None)
        return {}

    def _check_conditions(self, operation: str, manners: Manners, arguments: Mapping[str, Any]) -> None:
        """Keep If-Match and If-None-Match, or whatever this store does about them."""
        if_match, if_none_match = arguments.get("IfMatch"), arguments.get("IfNoneMatch")
        if manners == "ignored" or (if_match is None and if_none_match is None):
            return
        if manners == "501" or if_none_match not in {None, "*"}:
            raise s3_error("NotImplemented", operation)
        if manners == "denied" or (if_match not in {None, "*"} and "s3:GetObject" in self.store.denied):
            raise s3_error("AccessDenied", operation)
        if self.store.conflicts:
            self.store.conflicts -= 1
            raise s3_error("ConditionalRequestConflict", operation)
        found = self._objects(arguments).get(arguments["Key"])
        if if_match is not None and found is None:
            raise s3_error("NoSuchKey", operation)
        if (if_match and not _is_match(if_match, found)) or (if_none_match and found):
            raise s3_error("PreconditionFailed", operation)

    def _list(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        after = arguments.get("ContinuationToken", arguments.get("StartAfter", "")).encode()
        objects, prefix = self._objects(arguments), arguments.get("Prefix", "")
        keys = sorted(key.encode() for key in objects if key.startswith(prefix))
        left = [key.decode() for key in keys if key > after]
        page = left[: min(PAGE, arguments.get("MaxKeys", PAGE))]
        answer: dict[str, Any] = {
            "KeyCount": len(page),
            "IsTruncated": len(left) > len(page),
            "Prefix": prefix,
        }
        if page:
            answer["Contents"] = [_listed(key, objects[key]) for key in page]
        if answer["IsTruncated"]:
            answer["NextContinuationToken"] = page[-1]
        return answer


@dataclass(frozen=True)
class FakePaginator:
    """The paginator of ListObjectsV2: one request a page, when that page is wanted."""

    client: FakeS3Client

    def paginate(self, **arguments: Any) -> Iterator[dict[str, Any]]:
        """Yield the pages of a listing."""
        while True:
            page = self.client.list_objects_v2(**arguments)
            yield page
            if not page["IsTruncated"]:
                return
            arguments["ContinuationToken"] = page["NextContinuationToken"]


_PERMISSIONS: Final = {
    "PutObject": "s3:PutObject",
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject",
    "DeleteObject": "s3:DeleteObject",
    "ListObjectsV2": "s3:ListBucket",
}


def _nothing(_operation: str, _key: str) -> None:
    """Stand in for a hook that nobody has set."""


def _count(requests: list[Request], operation: str, part_of_key: str) -> int:
    return sum(request.operation == operation and part_of_key in request.key for request in list(requests))


def _is_match(condition: str, found: S3Object | None) -> bool:
    return found is not None and condition.strip('"') in {"*", found.etag.strip('"')}


def _listed(key: str, found: S3Object) -> dict[str, Any]:
    modified = datetime.fromtimestamp(found.modified, UTC)
    return {"Key": key, "ETag": found.etag, "Size": len(found.body), "LastModified": modified}
