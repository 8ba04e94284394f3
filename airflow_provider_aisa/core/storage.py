"""One bucket, through the boto3 client of S3Hook. An image is stored whole or not at all: one PUT each.

Everything here blocks: on an event loop, call it from a thread.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from airflow_provider_aisa.exceptions import InvalidRequest, StorageFailed

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

#: Arguments of PutObject that this package sets, or that would make an upload depend on what is there.
OWN_ARGS: Final = frozenset(
    {
        "Body", "Bucket", "Key", "ContentType", "ContentLength", "ContentMD5", "IfMatch", "IfNoneMatch",
        "ChecksumAlgorithm", "ChecksumSHA256", "ChecksumSHA1", "ChecksumCRC32", "ChecksumCRC32C",
        "ChecksumCRC64NVME", "WriteOffsetBytes",
    }
)  # fmt: skip
_METADATA_VALUE: Final = 250  # characters; S3 allows 2 KB for all of an object's user metadata


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket that images are written to.

    :param client: a boto3 S3 client; it is shared between threads.
    :param extra_args: further arguments of PutObject: encryption, storage class, ACL, tags.
    :param metadata: user metadata of every image.
    """

    client: S3Client
    name: str
    extra_args: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)

    def check(self) -> None:
        """Find out before anything is paid what would stop an upload after it.

        One request. A missing bucket raises StorageFailed, arguments that PutObject does not have raise
        InvalidRequest. A key that may not list (403) may still write, so it passes.
        """
        self._check_args()
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            self.client.head_bucket(Bucket=self.name)
        except ClientError as e:
            status = e.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if status != 403:
                raise _failed(f"bucket {self.name!r} cannot be used", e) from None
        except BotoCoreError as e:
            raise _failed(f"bucket {self.name!r} cannot be reached", e) from None

    def put_image(self, path: Path, *, key: str, content_type: str, sha256: str) -> None:
        """Upload a file in one PUT, which S3 refuses unless its SHA-256 (64 hex digits) is right.

        :raises StorageFailed: with the bucket, the key and S3's code.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        arguments = self._arguments(key, content_type, sha256)
        try:
            with path.open("rb") as body:
                self.client.put_object(**arguments, Body=body)
        except (ClientError, BotoCoreError) as e:
            raise _failed(f"s3://{self.name}/{key} could not be written", e) from None

    def uri(self, key: str) -> str:
        """Return ``s3://bucket/key``."""
        return f"s3://{self.name}/{key}"

    def _arguments(self, key: str, content_type: str, sha256: str) -> dict[str, Any]:
        own = {name: _header_safe(value) for name, value in self.metadata.items()}
        return {
            **self.extra_args,
            "Bucket": self.name,
            "Key": key,
            "ContentType": content_type,
            "ChecksumSHA256": base64.b64encode(bytes.fromhex(sha256)).decode(),
            "Metadata": {**self.extra_args.get("Metadata", {}), **own},
        }

    def _check_args(self) -> None:
        from botocore.validate import ParamValidator

        shape = self.client.meta.service_model.operation_model("PutObject").input_shape
        arguments = self._arguments("key", "image/png", "0" * 64)
        report = ParamValidator().validate(arguments, shape) if shape else None
        if report is not None and report.has_errors():
            msg = f"s3_extra_args are not arguments of S3's PutObject: {report.generate_report()}"
            raise InvalidRequest(msg)


def check_extra_args(extra_args: object) -> None:
    """Raise InvalidRequest when ``s3_extra_args`` is no mapping, or sets what the upload itself sets."""
    if extra_args is None:
        return
    if not isinstance(extra_args, Mapping):
        msg = f"s3_extra_args is a {type(extra_args).__name__}: use a dict of PutObject's arguments"
        raise InvalidRequest(msg)
    if taken := sorted(OWN_ARGS & set(extra_args)):
        msg = f"s3_extra_args may not set {', '.join(taken)}: the upload decides that from the image"
        raise InvalidRequest(msg)
    if not isinstance(extra_args.get("Metadata", {}), Mapping):
        msg = "s3_extra_args['Metadata'] is no dict: use a dict of strings"
        raise InvalidRequest(msg)


def _failed(what: str, error: Exception) -> StorageFailed:
    response = getattr(error, "response", {})
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    code = str(response.get("Error", {}).get("Code") or type(error).__name__)
    step = {
        "404": "create the bucket, or correct s3_bucket",
        "NoSuchBucket": "create the bucket, or correct s3_bucket",
        "403": "allow the AWS connection s3:PutObject there",
        "AccessDenied": "allow the AWS connection s3:PutObject there",
        "301": "set the bucket's region_name in the AWS connection",
        "PermanentRedirect": "set the bucket's region_name in the AWS connection",
    }.get(code, "check the AWS connection, its endpoint and its credentials")
    return StorageFailed(f"{what}: S3 says {code}. Next: {step}.", status=status, code=code)


def _header_safe(value: str) -> str:
    """Percent-encode what a header cannot carry: user metadata is ASCII."""
    return quote(value, safe=" !\"#$&'()*+,-./:;<=>?@[]^_`{|}~")[:_METADATA_VALUE]
