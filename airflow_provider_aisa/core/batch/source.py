"""Where a batch's requests come from: a list, or a JSON Lines file in S3 that may be larger than memory.

All of them are read before the first one is sent, so every error here can say that nothing was.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sized
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Final, NamedTuple, Self, cast
from urllib.parse import quote, unquote

from airflow_provider_aisa.core.s3.errors import (
    ConditionConflict,
    ConditionFailed,
    ConditionUnsupported,
    reported,
)
from airflow_provider_aisa.exceptions import InvalidRequest, StorageFailed

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef

#: Bytes of a line that can still be a request; more means that the file is no JSON Lines.
LONGEST_LINE: Final = 1024 * 1024
_BLOCK: Final = 256 * 1024
_SHOWN: Final = 80  # characters of a wrong value
_BOM: Final = b"\xef\xbb\xbf"
_GZIP: Final = b"\x1f\x8b"
_URI: Final = re.compile(
    r"s3://(?P<bucket>[A-Za-z0-9._-]{1,255})/(?P<key>.+?)"
    r"(#bytes=(?P<first>[0-9]{1,18})-(?P<last>[0-9]{1,18})"
    r"&line=(?P<line>[0-9]{1,18})&etag=(?P<etag>[A-Za-z0-9._~%-]+))?",
    re.IGNORECASE | re.DOTALL,
)
_USE: Final = (
    "use a list, an XComArg such as task.output, or the URI of a JSON Lines file, s3://bucket/key.jsonl"
)
#: Iterables that would be read as other requests than was meant, or in another order each time.
_NO_LISTS: Final[tuple[tuple[tuple[type, ...], str], ...]] = (
    ((Mapping,), "put it into a list, even if it is one request: [{...}]"),
    ((set, frozenset), "it has no order: make it a list with sorted(...)"),
    ((Iterator,), "it can be read only once: make it a list with list(...)"),
    ((bytes, bytearray, memoryview), _USE),
)
_TABLES: Final = frozenset({"DataFrame", "Table"})  # of pandas, polars and pyarrow: their items are columns


@dataclass(frozen=True, slots=True)
class RawRequest:
    """One request as its author wrote it.

    :param where: ``requests[3]`` (from 0) of a list, ``line 4`` (from 1) of a file.
    :param value: nobody has checked it. Of a line that is no JSON, the InvalidRequest that says so.
    """

    where: str
    value: object


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some whole lines of a file, as it was when it was cut.

    :param first: offset of the first byte.
    :param last: offset of the last byte, which belongs to the chunk, as in HTTP.
    :param line: number of the first line, from 1.
    :param etag: of the whole file, as S3 gave it: with its quotes.
    """

    first: int
    last: int
    line: int
    etag: str


@dataclass(frozen=True, slots=True)
class RequestFile:
    """A JSON Lines file in S3, or a chunk of it."""

    bucket: str
    key: str
    chunk: Chunk | None = None

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read ``s3://bucket/key``, or what :meth:`chunk_uri` returns; None: it is something else.

        A ``#`` belongs to the key, unless what follows it is exactly what :meth:`chunk_uri` writes.
        """
        match = _URI.fullmatch(text.strip())
        if match is None or match["key"].endswith("/"):
            return None
        chunk = None
        if match["etag"] is not None:
            chunk = Chunk(int(match["first"]), int(match["last"]), int(match["line"]), unquote(match["etag"]))
        return cls(match["bucket"], match["key"], chunk)

    @property
    def uri(self) -> str:
        """The URI of the whole file."""
        return f"s3://{self.bucket}/{self.key}"

    def chunk_uri(self, chunk: Chunk) -> str:
        """Return the URI of a chunk."""
        etag = quote(chunk.etag, safe="")
        return f"{self.uri}#bytes={chunk.first}-{chunk.last}&line={chunk.line}&etag={etag}"


class TextLine(NamedTuple):
    """A line that is not blank.

    :param number: from 1, blank lines counted.
    :param offset: of its first byte, from where reading began.
    :param text: without the line's end, and without a byte order mark.
    """

    number: int
    offset: int
    text: bytes


def check_requests(requests: object) -> None:
    """Raise InvalidRequest when it is neither a list of requests nor the URI of a file. Sends nothing.

    What is in the list or in the file is not looked at.
    """
    kind = type(requests).__name__
    if isinstance(requests, str):
        if RequestFile.parse(requests) is None:
            raise InvalidRequest(
                f"requests {_shown(requests)} is a text, neither a list nor the URI of a file: {_USE}. "
                "(A template that renders to text does not render to a list.)"
            )
        return
    for types, advice in _NO_LISTS:
        if isinstance(requests, types):
            raise InvalidRequest(f"requests is a {kind}, not a list: {advice}")
    if kind in _TABLES:
        raise InvalidRequest(f"requests is a {kind}, not a list of its rows: use its to_dict or to_pylist")
    if not isinstance(requests, Iterable):
        raise InvalidRequest(f"requests is a {kind}, not a list: {_USE}")
    if isinstance(requests, Sized) and len(requests) == 0:
        raise nothing_in("requests")


def iter_requests(requests: object, client: S3Client) -> Iterator[RawRequest]:
    """Return the requests one by one, unchecked. A file is read as a stream, in one GetObject.

    A line that is no JSON becomes an item that holds the error, so that all of them can be told at once.

    :param requests: what :func:`check_requests` accepts.
    :raises InvalidRequest: there are none; the file is not JSON Lines at all; or it is a chunk of a file
        that has changed since.
    :raises StorageFailed: the file is missing, may not be read, or reading broke off half-way.
    """
    check_requests(requests)
    if isinstance(requests, str):
        where, items = requests, _in_file(file_of(requests), client)
    else:
        where, items = "requests", _in_list(cast("Iterable[object]", requests))
    first = next(items, None)
    if first is None:
        raise nothing_in(where)
    return chain((first,), items)


def _in_list(requests: Iterable[object]) -> Iterator[RawRequest]:
    for index, value in enumerate(requests):
        yield RawRequest(f"requests[{index}]", value)


def _in_file(file: RequestFile, client: S3Client) -> Iterator[RawRequest]:
    with open_file(file, client) as found:
        for line in read_lines(file, found):
            yield RawRequest(f"line {line.number}", parse_line(line.text))


def file_of(uri: str) -> RequestFile:
    """Return the file that a URI names, or raise InvalidRequest."""
    check_requests(uri)
    return cast("RequestFile", RequestFile.parse(uri))


@contextmanager
def open_file(file: RequestFile, client: S3Client) -> Iterator[GetObjectOutputTypeDef]:
    """Send GetObject, and report whatever goes wrong with it and with its stream, which is closed after."""
    try:
        with reported(
            f"requests {file.uri} could not be read, so nothing was sent",
            is_conditional=file.chunk is not None,
        ):
            found = _get(file, client)
            with closing(found["Body"]):
                yield found
    except StorageFailed as e:
        if e.status != 404:
            raise
        missing = "bucket" if e.code == "NoSuchBucket" else "file"
        raise StorageFailed(
            "Correct the URI of requests, or let the task that writes the file run before this one: there is "
            f"no such {missing}. Nothing was sent ({file.uri}).",
            status=e.status,
            code=e.code,
        ) from None
    except ConditionFailed:
        raise InvalidRequest(
            "Cut the file again, by clearing the task that did, with its downstream tasks: it has changed "
            f"since. Nothing was sent ({file.uri})."
        ) from None
    except (ConditionConflict, ConditionUnsupported):
        raise StorageFailed(
            "Do not cut the file into chunks, or put it into another store: this one does not know If-Match "
            f"on reads. Nothing was sent ({file.uri})."
        ) from None


def _get(file: RequestFile, client: S3Client) -> GetObjectOutputTypeDef:
    chunk = file.chunk
    if chunk is None:
        return client.get_object(Bucket=file.bucket, Key=file.key)
    found = client.get_object(
        Bucket=file.bucket, Key=file.key, Range=f"bytes={chunk.first}-{chunk.last}", IfMatch=chunk.etag
    )
    # A store that overlooks a condition or a range must not make us pay for other lines.
    if found["ETag"] != chunk.etag or found["ContentLength"] != chunk.last - chunk.first + 1:
        found["Body"].close()
        raise ConditionFailed
    return found


def read_lines(file: RequestFile, found: GetObjectOutputTypeDef) -> Iterator[TextLine]:
    """Yield the lines of what :func:`open_file` found; at most a block and a line are in memory."""
    blocks = found["Body"].iter_chunks(_BLOCK)
    head = next(blocks, b"")
    if head.startswith(_GZIP):
        raise InvalidRequest(
            f"Store the file of requests uncompressed: it is a gzip. Nothing was sent ({file.uri})."
        )
    first = file.chunk.line if file.chunk else 1
    return split_lines(chain((head,), blocks), uri=file.uri, first=first)


def split_lines(blocks: Iterable[bytes], *, uri: str, first: int = 1) -> Iterator[TextLine]:
    """Yield the lines that are not blank, however they are spread over the blocks.

    :param uri: of the file, for the error.
    :param first: number of the first line.
    :raises InvalidRequest: a line is too long to be a request. Whatever follows it is not read.
    """
    number, offset, rest = first, 0, b""
    for block in blocks:
        *ended, rest = (rest + block).split(b"\n")
        for text in ended:
            yield from _line(number, offset, text, uri)
            number, offset = number + 1, offset + len(text) + 1
        _check_length(number, rest, uri)
    yield from _line(number, offset, rest, uri)


def _line(number: int, offset: int, text: bytes, uri: str) -> Iterator[TextLine]:
    _check_length(number, text, uri)
    text = (text.removeprefix(_BOM) if number == 1 else text).rstrip()
    if text:
        yield TextLine(number, offset, text)


def _check_length(number: int, text: bytes, uri: str) -> None:
    if len(text) > LONGEST_LINE:
        raise InvalidRequest(
            f"Write one JSON object per line: line {number} is longer than {LONGEST_LINE:,} bytes, so this "
            f"is no JSON Lines file. Nothing was sent ({uri})."
        )


def parse_line(text: bytes) -> object:
    """Return what a line says. One that is no JSON: the InvalidRequest that says why, without its text."""
    try:
        return json.loads(text.decode())
    except UnicodeDecodeError as e:
        return InvalidRequest(f"is not UTF-8, at its byte {e.start + 1}")
    except json.JSONDecodeError as e:
        return InvalidRequest(f"is not JSON: {e.msg}, at its character {e.pos + 1}")
    except (ValueError, RecursionError) as e:  # a number of thousands of digits, thousands of brackets
        return InvalidRequest(f"is not JSON that can be read: {type(e).__name__}")


def nothing_in(where: str) -> InvalidRequest:
    """Return the error for a list or a file without requests."""
    return InvalidRequest(
        "Look at what writes the requests: there are none. If that can be right, skip this task, such as "
        f"with @task.short_circuit. Nothing was sent ({where})."
    )


def _shown(text: str) -> str:
    shown = repr(text[: _SHOWN + 1])
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"
