"""Objects in S3, through the AWS connection of the task that stored them. Everything here blocks.

An image is given away only when its own metadata has the SHA-256 that the result names: whoever can write
an XCom of one DAG, but cannot read another's, does not know the other's hashes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_aisa.core.s3.errors import reported
from airflow_provider_aisa.exceptions import StorageFailed
from airflow_provider_aisa.hooks.s3 import open_s3

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from mypy_boto3_s3 import S3Client

    from airflow_provider_aisa.ui.results import Picture, Place

#: Seconds for which a client is kept: making one takes up to a few seconds, and credentials can change.
_KEPT_FOR: Final = 900.0
#: Seconds that a person waits for a bucket that does not answer, rather than botocore's minutes.
_PATIENCE: Final = {"connect_timeout": 5, "read_timeout": 20, "retries": {"total_max_attempts": 2}}
_MOST_CLIENTS: Final = 20


class Unavailable(Exception):
    """What was asked for cannot be shown; the message is for the person who looks.

    :param status: of the HTTP answer.
    """

    def __init__(self, message: str, *, status: int = 404) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Listed:
    """An object of a listing."""

    key: str
    etag: str
    written: datetime


@dataclass(frozen=True, slots=True)
class Opened:
    """An object that is being read; ``body`` is a file that has to be closed."""

    etag: str
    written: datetime
    body: StreamingBody


class Store:
    """S3 as one AWS connection sees it."""

    def __init__(self, client: S3Client, aws_conn_id: str | None) -> None:
        self._client = client
        self._aws_conn_id = aws_conn_id

    def open_picture(self, picture: Picture) -> tuple[int, StreamingBody]:
        """Return an image's length and its body, a file that has to be closed.

        :raises Unavailable: it was deleted or replaced, or S3 does not give it away.
        """
        found = self._ask("get_object", picture.place, what="image")
        try:
            _check_hash(found["Metadata"], picture)
        except Unavailable:
            found["Body"].close()
            raise
        return int(found["ContentLength"]), found["Body"]

    def check_picture(self, picture: Picture) -> None:
        """Raise Unavailable when the image is not there any more."""
        _check_hash(self._ask("head_object", picture.place, what="image")["Metadata"], picture)

    def open(self, place: Place, *, what: str, known: str | None = None) -> Opened | None:
        """Open an object; None: it still has the ETag `known`.

        :param what: it is, for a message.
        """
        condition = {} if known is None else {"IfNoneMatch": known}
        try:
            return self._open(place, what=what, **condition)
        except _Unchanged:
            return None

    def _open(self, place: Place, *, what: str, **condition: str) -> Opened:
        found = self._ask("get_object", place, what=what, **condition)
        return Opened(found["ETag"], found["LastModified"], found["Body"])

    def read(self, place: Place, *, what: str, limit: int) -> bytes:
        """Return a small object; more than `limit` bytes are Unavailable."""
        with closing(self._open(place, what=what).body) as body, readable(place):
            content = body.read(limit + 1)
        if len(content) > limit:
            raise Unavailable(f"The {what} {place.uri} is larger than {limit:,} bytes.")
        return content

    def write(self, place: Place, content: bytes, *, content_type: str) -> None:
        """Put a small object into the bucket; raise StorageFailed when S3 refuses."""
        with reported(f"{place.uri} could not be written"):
            self._client.put_object(
                Bucket=place.bucket, Key=place.key, Body=content, ContentType=content_type
            )

    def list(self, folder: Place) -> Iterator[Listed]:
        """Yield the objects in a folder and below: one request per 1,000."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=folder.bucket, Prefix=folder.key
        )
        with reported(f"{folder.uri} could not be listed"):
            for page in pages:
                for found in page.get("Contents", ()):
                    yield Listed(found["Key"], found["ETag"], found["LastModified"])

    def _ask(self, operation: str, place: Place, *, what: str, **arguments: Any) -> dict[str, Any]:
        try:
            with reported(f"{place.uri} could not be read"), _answers(place, what):
                answer: dict[str, Any] = getattr(self._client, operation)(
                    Bucket=place.bucket, Key=place.key, **arguments
                )
        except StorageFailed as e:
            raise Unavailable(
                f"{e} Airflow's API server asks for the {what} through the AWS connection "
                f"{self._aws_conn_id!r}, which it has to have as well, not the workers alone.",
                status=502,
            ) from None
        return answer


@contextmanager
def readable(place: Place) -> Iterator[None]:
    """Turn what goes wrong while an object is read into a sentence for the person who looks."""
    try:
        with reported(f"{place.uri} could not be read"):
            yield
    except StorageFailed as e:
        raise Unavailable(str(e), status=502) from None


class _Unchanged(Exception):
    """The object is still what the caller knows."""


@contextmanager
def _answers(place: Place, what: str) -> Iterator[None]:
    """Tell the errors of botocore that are answers from those that are failures."""
    from botocore.exceptions import ClientError

    try:
        yield
    except ClientError as e:
        code = str(e.response.get("Error", {}).get("Code"))
        if code in {"304", "NotModified"}:
            raise _Unchanged from None
        if code in {"404", "NoSuchKey"}:
            raise Unavailable(f"The {what} was deleted from S3: {place.uri} is not there any more.") from None
        raise


def _check_hash(metadata: dict[str, str], picture: Picture) -> None:
    if metadata.get("sha256") != picture.sha256:
        raise Unavailable(
            f"{picture.place.uri} holds something else than the image of this result: it was replaced, "
            "by a later run that has the same s3_key, or by another program."
        )


_stores: dict[str | None, tuple[float, Store]] = {}
_lock = threading.Lock()


def store_of(aws_conn_id: str | None) -> Store:
    """Return S3 as an AWS connection sees it; None: as the machine's own credentials do.

    :raises Unavailable: there is no such connection.
    """
    with _lock:
        made, store = _stores.get(aws_conn_id, (0.0, None))
        if store is None or time.monotonic() - made > _KEPT_FOR:
            store = _open(aws_conn_id)
            if len(_stores) >= _MOST_CLIENTS:
                _stores.clear()
            _stores[aws_conn_id] = (time.monotonic(), store)
    return store


def _open(aws_conn_id: str | None) -> Store:
    try:
        client, _ = open_s3(aws_conn_id, settings=_PATIENCE)
    except Exception as e:  # whatever secrets backends and botocore raise
        raise Unavailable(
            f"The AWS connection {aws_conn_id!r} cannot be used by Airflow's API server "
            f"({type(e).__name__}). Next: check its extras there, and in the secrets backend.",
            status=502,
        ) from None
    return Store(client, aws_conn_id)
