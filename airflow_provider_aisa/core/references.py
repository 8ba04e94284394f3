"""Reference images, twice: looked at before anything is paid, and shown to the gateway with each send.

Looking costs one small read of each. What it finds is part of the purchase; should an object have changed by
the time the request is sent, nothing is sent.
"""

from __future__ import annotations

import base64
import logging
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO, Final, cast

from airflow_provider_aisa.core.gateway.references import Attachment, Reference, known_references
from airflow_provider_aisa.core.gateway.request import ImageRequest
from airflow_provider_aisa.core.images.download import Fetcher
from airflow_provider_aisa.core.images.inspect import HEAD_BYTES, kind_of
from airflow_provider_aisa.core.s3.errors import ConditionFailed, reported
from airflow_provider_aisa.core.threads import Stop
from airflow_provider_aisa.exceptions import ImageUnavailable, InvalidRequest

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from airflow_provider_aisa.core.gateway.models import Family
    from airflow_provider_aisa.core.journal.entry import Entry

_GONE: Final = frozenset({"404", "NoSuchKey", "NoSuchBucket"})


class Gone(InvalidRequest):
    """There is nothing at a reference image's address."""


class References:
    """Looks at the reference images of a task, at each of them once. Blocks.

    :param client: reads those in S3, with the AWS connection's rights.
    :param fetcher: fetches the others, without any.
    :param earlier: reads the entries that earlier attempts have left. An image may be gone by now whose
        purchase is paid for: then what was seen of it is in there.
    """

    def __init__(
        self, client: S3Client, fetcher: Fetcher, earlier: Callable[[], Iterable[Entry]] = tuple
    ) -> None:
        self._client = client
        self._fetcher = fetcher
        self._earlier = earlier
        self._known: dict[str, Reference] | None = None
        self._seen: dict[str, tuple[Reference, int]] = {}

    def pinned(self, request: ImageRequest) -> ImageRequest:
        """Return a request that says which version of each reference image it means.

        :raises InvalidRequest: one is missing, too large, or no PNG, JPEG or WebP.
        :raises StorageFailed: S3 refuses to show one.
        """
        if not request.reference_images:
            return request
        looked = [self._look(one, request.family) for one in request.reference_images]
        total = sum(length for _, length in looked)
        most = request.family.largest_reference
        if request.family.takes_bytes and total > most:
            raise InvalidRequest(
                f"make the reference images smaller, or leave some out: together they have {total:,} bytes, "
                f"and a request to {request.model} takes {most:,}"
            )
        return replace(request, reference_images=tuple(one for one, _ in looked))

    def _look(self, reference: Reference, family: Family) -> tuple[Reference, int]:
        if reference.uri not in self._seen:
            try:
                self._seen[reference.uri] = self._look_anew(reference)
            except (Gone, ImageUnavailable) as e:
                if (known := self._from_earlier(reference.uri)) is None:
                    raise e if isinstance(e, Gone) else _unusable(reference, str(e)) from None
                self._seen[reference.uri] = known, 0
        found, length = self._seen[reference.uri]
        if length > family.largest_reference:
            raise _unusable(
                reference, f"it has {length:,} bytes, and {family.name} takes {family.largest_reference:,}"
            )
        return found, length

    def _look_anew(self, reference: Reference) -> tuple[Reference, int]:
        if reference.place is None:
            with _temporary_file() as file:
                return reference, self._fetcher.fetch(reference.uri, file, Stop()).bytes
        head, etag, length = read_head(reference, self._client)
        if kind_of(head) is None:
            raise _unusable(reference, "it is no PNG, JPEG or WebP")
        return replace(reference, etag=etag), length

    def _from_earlier(self, uri: str) -> Reference | None:
        """Return what an earlier attempt has seen at an address where nothing is any more."""
        if self._known is None:
            self._known = {}
            for entry in self._earlier():
                for reference in known_references(entry.request):
                    # What a response was received for comes first.
                    if entry.response is not None or reference.uri not in self._known:
                        self._known[reference.uri] = reference
        return self._known.get(uri)


def attach(
    request: ImageRequest, *, client: S3Client, fetcher: Fetcher, lifetime: float
) -> tuple[Attachment, ...]:
    """Return what is sent in place of the reference images, for one send. Blocks.

    :param lifetime: seconds for which links are to work.
    :raises InvalidRequest: one has changed since it was looked at, or is gone; nothing was sent.
    :raises StorageFailed: S3 refuses to show one.
    """
    takes_bytes = request.family.takes_bytes
    return tuple(
        _with_bytes(one, client, fetcher) if takes_bytes else _with_link(one, client, lifetime)
        for one in request.reference_images
    )


def read_head(reference: Reference, client: S3Client) -> tuple[bytes, str, int]:
    """Return an object's first bytes, its ETag and its length in bytes. Raises Gone and StorageFailed."""
    bucket, key = _place(reference)
    with _looked_at(reference):
        found = client.get_object(Bucket=bucket, Key=key, Range=f"bytes=0-{HEAD_BYTES - 1}")
        with closing(found["Body"]) as body:
            head = body.read(HEAD_BYTES)
        _, _, total = found.get("ContentRange", "").rpartition("/")
        return head, found["ETag"].strip('"'), int(total) if total.isdecimal() else found["ContentLength"]


def _with_link(reference: Reference, client: S3Client, lifetime: float) -> Attachment:
    if reference.place is None:
        return Attachment("", link=reference.uri)
    bucket, key = _place(reference)
    with _looked_at(reference):
        client.head_object(Bucket=bucket, Key=key, IfMatch=_pinned_etag(reference))
        with _unlogged():
            link = client.generate_presigned_url(
                "get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=round(lifetime)
            )
    return Attachment("", link=link)


def _with_bytes(reference: Reference, client: S3Client, fetcher: Fetcher) -> Attachment:
    if reference.place is None:
        try:
            with _temporary_file() as file:
                kind = fetcher.fetch(reference.uri, file, Stop()).info.content_type
                file.seek(0)
                return Attachment(kind, data=base64.b64encode(file.read()).decode())
        except ImageUnavailable as e:
            raise _unusable(reference, f"{e}. Nothing was sent", retryable=e.retryable) from None
    bucket, key = _place(reference)
    with _looked_at(reference):
        found = client.get_object(Bucket=bucket, Key=key, IfMatch=_pinned_etag(reference))
        with closing(found["Body"]) as body:
            content = body.read()
    return Attachment(f"image/{kind_of(content)}", data=base64.b64encode(content).decode())


def _pinned_etag(reference: Reference) -> str:
    if reference.etag is None:
        raise _unusable(reference, "nobody has looked at it. Nothing was sent")
    return f'"{reference.etag}"'


def _place(reference: Reference) -> tuple[str, str]:
    return cast("tuple[str, str]", reference.place)


def _unusable(reference: Reference, why: str, *, retryable: bool | None = None) -> InvalidRequest:
    return InvalidRequest(f"use another reference image than {reference.uri}: {why}", retryable=retryable)


@contextmanager
def _looked_at(reference: Reference) -> Iterator[None]:
    """Turn what S3 answers about a reference image into this package's errors."""
    from botocore.exceptions import ClientError

    uri = reference.uri
    try:
        with reported(f"the reference image {uri} could not be read"):
            try:
                yield
            except ClientError as e:
                code = str(e.response.get("Error", {}).get("Code"))
                if code in _GONE:
                    raise Gone(f"put a reference image at {uri}, or name another: there is none") from None
                if code in {"416", "InvalidRange"}:
                    raise _unusable(reference, "it is empty") from None
                if code in {"412", "PreconditionFailed"}:
                    raise ConditionFailed from None
                raise
    except ConditionFailed:
        raise InvalidRequest(
            f"run the task again: the reference image {uri} has changed since it was looked at. Nothing "
            "was sent",
            retryable=True,
        ) from None


@contextmanager
def _temporary_file() -> Iterator[BinaryIO]:
    with tempfile.TemporaryFile(prefix="aisa-", buffering=0) as file:
        yield cast("BinaryIO", file)


class _Unlogged(logging.Filter, threading.local):
    """Keeps what a thread signs out of botocore's log: with it, a link could be put together again."""

    is_signing = False

    def filter(self, _: logging.LogRecord) -> bool:
        return not self.is_signing


_unlogged_filter = _Unlogged()


@contextmanager
def _unlogged() -> Iterator[None]:
    logging.getLogger("botocore.auth").addFilter(_unlogged_filter)  # Adds it once.
    _unlogged_filter.is_signing = True
    try:
        yield
    finally:
        _unlogged_filter.is_signing = False
