"""One bucket, through the boto3 client of S3Hook. An object is stored whole or not at all: one PUT each.

Everything here blocks: on an event loop, call it from a thread.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TypeVar

from airflow_provider_aisa.core.s3.arguments import HARMLESS_ARGS, JOURNAL_ARGS, header_safe
from airflow_provider_aisa.core.s3.errors import (
    ConditionFailed,
    reported,
)
from airflow_provider_aisa.exceptions import InvalidRequest, StorageFailed

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from mypy_boto3_s3 import S3Client

T = TypeVar("T")

_PROOF: Final = (
    b"airflow-provider-aisa wrote this to find out, before paying, whether S3 takes the images' arguments.\n"
)
_MOST_LISTED: Final = 10_000


@dataclass(frozen=True, slots=True)
class StoredObject:
    """A small object as it was read. ``age`` is in seconds, by the store's own clock where it tells."""

    body: bytes
    etag: str
    age: float


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket that images are written to.

    :param client: a boto3 S3 client; it is shared between threads.
    :param extra_args: further arguments of PutObject: encryption, storage class, ACL, tags.
    """

    client: S3Client
    name: str
    extra_args: Mapping[str, Any] = field(default_factory=dict)

    def check_args(self) -> None:
        """Raise InvalidRequest when ``extra_args`` has what PutObject does not have. Sends nothing."""
        from botocore.validate import ParamValidator

        shape = self.client.meta.service_model.operation_model("PutObject").input_shape
        arguments = {**self.extra_args, "Bucket": self.name, "Key": "key"}
        report = ParamValidator().validate(arguments, shape) if shape else None
        if report is not None and report.has_errors():
            raise InvalidRequest(
                f"s3_extra_args are not arguments of S3's PutObject: {report.generate_report()}"
            )

    def put_image(
        self, file: BinaryIO, *, key: str, content_type: str, sha256: str, metadata: Mapping[str, str]
    ) -> str:
        """Upload a file in one PUT, which S3 refuses unless its SHA-256 (64 hex digits) is right.

        :param file: at its beginning; it is read again when the upload is repeated.
        :return: the object's ETag.
        :raises StorageFailed: with the bucket, the key and S3's code.
        """
        own = {name: header_safe(value) for name, value in metadata.items()}
        arguments = {
            **self.extra_args,
            "ContentType": content_type,
            "ChecksumSHA256": _checksum(bytes.fromhex(sha256)),
            "Metadata": {**self.extra_args.get("Metadata", {}), **own},
        }
        with reported(f"{self.uri(key)} could not be written"):
            written = self.client.put_object(Bucket=self.name, Key=key, Body=file, **arguments)
        return written["ETag"].strip('"')

    def put_kept(
        self, file: BinaryIO, *, key: str, content_type: str, sha256: str, metadata: Mapping[str, str]
    ) -> None:
        """Upload an image that is not at its final key yet, with the protection that the journal has.

        :param metadata: ASCII.
        :raises StorageFailed: with the bucket, the key and S3's code.
        """
        with reported(f"{self.uri(key)} could not be written"):
            self.client.put_object(
                Bucket=self.name,
                Key=key,
                Body=file,
                ContentType=content_type,
                ChecksumSHA256=_checksum(bytes.fromhex(sha256)),
                Metadata=dict(metadata),
                **self._journal_args(),
            )

    def blocks(self, key: str, size: int) -> Iterator[bytes] | None:
        """Return an object's bytes, ``size`` at a time; None when it is not there. Raises StorageFailed."""
        with reported(f"{self.uri(key)} could not be read"):
            found = _none_if_missing(lambda: self.client.get_object(Bucket=self.name, Key=key))
        return None if found is None else self._stream(key, found["Body"], size)

    def _stream(self, key: str, body: StreamingBody, size: int) -> Iterator[bytes]:
        with closing(body), reported(f"{self.uri(key)} could not be read to its end"):
            yield from body.iter_chunks(size)

    def empty(self, key: str) -> None:
        """Let an object hold nothing, which takes no permission to delete. Raises StorageFailed."""
        with reported(f"{self.uri(key)} could not be emptied"):
            self.client.put_object(Bucket=self.name, Key=key, Body=b"", **self._journal_args())

    def head_image(self, key: str) -> Mapping[str, Any] | None:
        """Return what S3 says of an object (``Metadata``, ``ContentType``, ``ContentLength``), or None."""
        with reported(f"{self.uri(key)} could not be looked at"):
            return _none_if_missing(lambda: self.client.head_object(Bucket=self.name, Key=key))

    def newest_keys(self, prefix: str, seconds: float, *, most: int) -> list[str]:
        """Return keys that begin so and were written in the last ``seconds``, the newest first.

        A store lists keys in their own order, so this looks through 10,000 of them and no more.
        """
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.name, Prefix=prefix, PaginationConfig={"MaxItems": _MOST_LISTED}
        )
        found: list[tuple[float, str]] = []
        with reported(f"{self.uri(prefix)} could not be listed"):
            for page in pages:
                date = page["ResponseMetadata"]["HTTPHeaders"].get("date")
                ages = ((_age(one["LastModified"], date), one["Key"]) for one in page.get("Contents", ()))
                found += (one for one in ages if one[0] <= seconds)
        return [key for _, key in sorted(found)[:most]]

    def read(self, key: str) -> StoredObject | None:
        """Read a small object; None means that S3 says for certain that there is none.

        :raises StorageFailed: anything else, a missing bucket included.
        """

        def get() -> StoredObject:
            found = self.client.get_object(Bucket=self.name, Key=key)
            headers = found["ResponseMetadata"]["HTTPHeaders"]
            return StoredObject(
                found["Body"].read(),
                found["ETag"].strip('"'),
                _age(found["LastModified"], headers.get("date")),
            )

        with reported(f"{self.uri(key)} could not be read"):
            return _none_if_missing(get)

    def write(self, key: str, body: bytes, *, only_if: str | None, is_conditional: bool = True) -> str:
        """Write a small JSON object and return its ETag.

        :param only_if: the ETag that the object must still have; None for an object that must not exist.
        :raises ConditionFailed: the object is another one.
        :raises ConditionConflict: somebody else is writing it now.
        :raises ConditionUnsupported: the store knows no conditions.
        :raises StorageFailed: anything else.
        """
        arguments = self._journal_args()
        if is_conditional:
            arguments |= {"IfNoneMatch": "*"} if only_if is None else {"IfMatch": only_if}
        try:
            with reported(f"{self.uri(key)} could not be written", is_conditional=is_conditional):
                written = self.client.put_object(
                    Bucket=self.name,
                    Key=key,
                    Body=body,
                    ContentType="application/json",
                    ChecksumSHA256=_checksum(hashlib.sha256(body).digest()),
                    **arguments,
                )
        except StorageFailed as e:
            if is_conditional and only_if is not None and e.code == "NoSuchKey":
                # AWS answers 404 when an object that must still be what it was is not there at all.
                raise ConditionFailed from None
            raise
        return written["ETag"].strip('"')

    def prove_args(self, key: str) -> None:
        """Write a small object with the images' own arguments, which S3 may refuse before anything is paid.

        :raises StorageFailed: it does refuse them, such as a storage class or an ACL that it does not know.
        """
        with reported(f"{self.uri(key)} could not be written with s3_extra_args"):
            self.client.put_object(
                Bucket=self.name, Key=key, Body=_PROOF, ContentType="text/plain", **self.extra_args
            )

    @property
    def unproven_args(self) -> str:
        """Name the images' arguments that only S3 can judge and that no entry of the journal carries.

        Empty when there are none: then the journal's first write proves all that the images need.
        """
        unproven = set(self.extra_args) - JOURNAL_ARGS - HARMLESS_ARGS
        return ", ".join(f"{name}={self.extra_args[name]!r}" for name in sorted(unproven))

    def put_lines(self, path: Path, *, key: str) -> None:
        """Upload a file of JSON lines in one PUT, whatever is there."""
        with path.open("rb") as body, reported(f"{self.uri(key)} could not be written"):
            self.client.put_object(
                Bucket=self.name,
                Key=key,
                Body=body,
                ContentType="application/x-ndjson",
                **self._journal_args(),
            )

    def list_keys(self, prefix: str, *, since: str | None = None) -> Iterator[tuple[str, str]]:
        """Yield the key and the ETag of each object whose key begins so: one request per 1,000.

        :param since: leave out the keys before this one.
        """
        # S3 leaves the named key out as well, so what is named is the last one that may come before it.
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.name, Prefix=prefix, StartAfter=since[:-1] if since else ""
        )
        with reported(f"{self.uri(prefix)} could not be listed"):
            for page in pages:
                for found in page.get("Contents", ()):
                    yield found["Key"], found["ETag"].strip('"')

    def uri(self, key: str) -> str:
        """Return ``s3://bucket/key``."""
        return f"s3://{self.name}/{key}"

    def _journal_args(self) -> dict[str, Any]:
        return {name: value for name, value in self.extra_args.items() if name in JOURNAL_ARGS}


def _checksum(sha256: bytes) -> str:
    return base64.b64encode(sha256).decode()


def _none_if_missing(call: Callable[[], T]) -> T | None:
    from botocore.exceptions import ClientError

    try:
        return call()
    except ClientError as e:
        # A missing bucket is a 404 too. HEAD has no body to tell them apart, but follows a successful GET.
        if e.response.get("Error", {}).get("Code") in {"NoSuchKey", "404"}:
            return None
        raise


def _age(modified: datetime, date: str | None) -> float:
    """Return seconds since an object was written: both moments are the store's, so clocks need not agree."""
    now = parsedate_to_datetime(date) if date else datetime.now(UTC)
    return max(0.0, (now - modified).total_seconds())
