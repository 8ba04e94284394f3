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
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO, Final, cast

from airflow_provider_aisa.core.gateway.client import MAX_WAIT
from airflow_provider_aisa.core.gateway.references import Attachment, Reference, known_references
from airflow_provider_aisa.core.gateway.request import ImageRequest
from airflow_provider_aisa.core.gateway.settings import ConnectionSettings
from airflow_provider_aisa.core.images.download import FetchedImage, Fetcher, open_fetcher
from airflow_provider_aisa.core.images.inspect import HEAD_BYTES, kind_of
from airflow_provider_aisa.core.s3.errors import ConditionFailed, reported
from airflow_provider_aisa.core.threads import Stop
from airflow_provider_aisa.exceptions import ImageUnavailable, InvalidRequest, StorageFailed

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from airflow_provider_aisa.core.gateway.models import Family
    from airflow_provider_aisa.core.journal.entry import Entry

_GONE: Final = frozenset({"404", "NoSuchKey", "NoSuchBucket"})


class _Gone(Exception):
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
            except (InvalidRequest, StorageFailed) as e:
                known = None
                # S3 answers 403 for what is gone, where it may not be listed.
                with suppress(StorageFailed):
                    known = self._from_earlier(reference.uri)
                if known is None:
                    raise e from None
                self._seen[reference.uri] = known, 0
        found, length = self._seen[reference.uri]
        if length > family.largest_reference:
            raise _unusable(
                reference, f"it has {length:,} bytes, and {family.name} takes {family.largest_reference:,}"
            )
        return found, length

    def _look_anew(self, reference: Reference) -> tuple[Reference, int]:
        if reference.place is None:
            with _fetched(reference, self._fetcher) as (_, image):
                return reference, image.bytes
        head, etag, length = read_head(reference, self._client)
        if kind_of(head) is None:
            raise _unusable(reference, "it is no PNG, JPEG or WebP")
        return replace(reference, etag=etag), length

    def _from_earlier(self, uri: str) -> Reference | None:
        """Return what stood at an address when images were paid for that an earlier attempt asked for."""
        if self._known is None:
            paid = (entry for entry in self._earlier() if entry.response or entry.previous)
            self._known = {one.uri: one for entry in paid for one in known_references(entry.request)}
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


def attachments_of(
    request: ImageRequest, *, client: S3Client, settings: ConnectionSettings
) -> tuple[Attachment, ...]:
    """Look at a request's reference images and return what is sent in their place. Blocks; raises as both."""
    with open_fetcher(settings) as fetcher:
        pinned = References(client, fetcher).pinned(request)
        return attach(pinned, client=client, fetcher=fetcher, lifetime=settings.timeout + MAX_WAIT)


def read_head(reference: Reference, client: S3Client) -> tuple[bytes, str, int]:
    """Return an object's first bytes, its ETag and its length in bytes.

    :raises InvalidRequest: there is none.
    :raises StorageFailed: S3 refuses to show it.
    """
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
        with _fetched(reference, fetcher) as (file, image):
            file.seek(0)
            return Attachment(image.info.content_type, data=base64.b64encode(file.read()).decode())
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
                    raise _Gone from None
                if code in {"416", "InvalidRange"}:
                    raise _unusable(reference, "it is empty") from None
                if code in {"412", "PreconditionFailed"}:
                    raise ConditionFailed from None
                raise
    except _Gone:
        raise InvalidRequest(
            f"put a reference image at {uri}, or name another: there is none. Nothing was sent"
        ) from None
    except ConditionFailed:
        raise InvalidRequest(
            f"run the task again: the reference image {uri} has changed since it was looked at. Nothing "
            "was sent",
            retryable=True,
        ) from None


@contextmanager
def _fetched(reference: Reference, fetcher: Fetcher) -> Iterator[tuple[BinaryIO, FetchedImage]]:
    """Yield a file that a reference image was fetched to, and what it is."""
    with tempfile.TemporaryFile(prefix="aisa-", buffering=0) as opened:
        file = cast("BinaryIO", opened)
        try:
            found = fetcher.fetch(reference.uri, file, Stop())
        except ImageUnavailable as e:
            raise _unusable(reference, f"{e}. Nothing was sent", retryable=e.retryable) from None
        yield file, found


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
