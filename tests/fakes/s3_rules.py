"""What S3 refuses whatever it holds: wrong keys, headers, digests and arguments, with AWS's own codes."""

from __future__ import annotations

import base64
import hashlib
import itertools
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Final, cast

import botocore.session
from botocore.exceptions import ClientError, HTTPClientError, ParamValidationError
from botocore.validate import ParamValidator

if TYPE_CHECKING:
    from botocore.model import ServiceModel, StringShape

    from tests.fakes.s3 import FakeS3

_KEY_BYTES: Final = 1024
_METADATA_BYTES: Final = 2048
_MOST_TAGS: Final = 10
_STATUS: Final = {
    "AccessDenied": 403,
    "BadDigest": 400,
    "ConditionalRequestConflict": 409,
    "InternalError": 500,
    "InvalidRange": 416,
    "InvalidStorageClass": 400,
    "KeyTooLongError": 400,
    "NoSuchBucket": 404,
    "NoSuchKey": 404,
    "NotImplemented": 501,
    "PermanentRedirect": 301,
    "PreconditionFailed": 412,
    "ServiceUnavailable": 503,
    "SlowDown": 503,
}  # every other code: 400


def s3_error(code: str, operation: str = "PutObject", message: str = "words") -> ClientError:
    """Return what boto3 raises for a code of S3. A HEAD has no body, so that its code is the status."""
    status = _STATUS.get(code, 400)
    shown = str(status) if operation.startswith("Head") else code
    answer: Any = {
        "Error": {"Code": shown, "Message": message},
        "ResponseMetadata": {
            "HTTPStatusCode": status,
            "RequestId": "R",
            "RetryAttempts": 0,
            "HTTPHeaders": {},
        },
    }
    return ClientError(answer, operation)


@cache
def service_model() -> ServiceModel:
    return botocore.session.Session().get_service_model("s3")


def validate(operation: str, arguments: Mapping[str, Any]) -> None:
    """Raise ParamValidationError for what boto3 does not send."""
    shape = service_model().operation_model(operation).input_shape
    assert shape is not None
    report = ParamValidator().validate(arguments, shape)
    if report.has_errors():
        raise ParamValidationError(report=report.generate_report())


def check_headers(arguments: Mapping[str, Any]) -> None:
    """Raise as boto3 does for metadata that no header can carry."""
    metadata = arguments.get("Metadata", {})
    if not isinstance(metadata, Mapping):
        return  # The validator says so.
    for name, value in metadata.items():
        if not f"{name}{value}".isascii():
            raise ParamValidationError(report=f"Non ascii characters found in S3 metadata for key {name!r}")
        if {"\r", "\n"} & set(f"{name}{value}"):
            raise HTTPClientError(error=ValueError(f"Invalid header value {value!r}"))


def check_key(operation: str, key: str) -> None:
    depth = list(itertools.accumulate(-1 if part == ".." else 1 for part in key.split("/")))
    if "\0" in key or min(depth) < 0:  # a path that leaves the bucket is no URI of S3
        raise s3_error("InvalidURI", operation)
    if len(key.encode()) > _KEY_BYTES:
        raise s3_error("KeyTooLongError", operation)


def check_arguments(store: FakeS3, arguments: Mapping[str, Any]) -> None:
    """Refuse what a bucket refuses at the upload: encryption, storage class, ACL, tags, Object Lock."""
    for name, code in store.refused.items():
        if name in arguments:
            raise s3_error(code)
    for name, value in arguments.items():
        allowed = _allowed_values(name)
        if allowed and value not in allowed:
            raise s3_error("InvalidStorageClass" if name == "StorageClass" else "InvalidArgument")
    acls = {name for name in arguments if name.startswith("Grant")} | {arguments.get("ACL")}
    if not store.allows_acls and acls - {None, "private", "bucket-owner-full-control"}:
        raise s3_error("AccessControlListNotSupported")
    if not store.has_object_lock and any(name.startswith("ObjectLock") for name in arguments):
        raise s3_error("InvalidRequest", message="Bucket is missing Object Lock Configuration")
    if ("ObjectLockMode" in arguments) != ("ObjectLockRetainUntilDate" in arguments):
        raise s3_error("InvalidArgument")
    if "Tagging" in arguments and "s3:PutObjectTagging" in store.denied:
        raise s3_error("AccessDenied")
    if len(arguments.get("Tagging", "").split("&")) > _MOST_TAGS:
        raise s3_error("BadRequest", message="Object tags cannot be greater than 10")
    metadata = arguments.get("Metadata", {})
    if sum(len(name) + len(value) for name, value in metadata.items()) > _METADATA_BYTES:
        raise s3_error("MetadataTooLarge")


@cache
def _allowed_values(argument: str) -> frozenset[str]:
    shape = service_model().operation_model("PutObject").input_shape
    member = shape.members.get(argument) if shape else None
    if member is None or member.type_name != "string":
        return frozenset()
    return frozenset(cast("StringShape", member).enum)


def check_digests(body: bytes, arguments: Mapping[str, Any]) -> None:
    for name, digest in (
        ("ChecksumSHA256", hashlib.sha256(body)),
        ("ContentMD5", hashlib.md5(body, usedforsecurity=False)),
    ):
        if name in arguments and arguments[name] != base64.b64encode(digest.digest()).decode():
            raise s3_error("BadDigest")


def read_body(body: Any) -> bytes:
    """Read a body as boto3 sends it: bytes, a text, or a file from where it stands."""
    content = body.read() if hasattr(body, "read") else body
    return content.encode() if isinstance(content, str) else bytes(content)
