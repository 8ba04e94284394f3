"""A long list or file of requests becomes chunks, each a batch of its own that sees no other.

What two chunks could do to each other is found here, or nowhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Final, TypeVar

from airflow_provider_aisa.core.batch.source import (
    Chunk,
    file_of,
    nothing_in,
    open_file,
    parse_line,
    read_lines,
)
from airflow_provider_aisa.exceptions import InvalidRequest

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

T = TypeVar("T")

_MOST_TOLD: Final = 20
_SHOWN: Final = 50  # characters of an id
#: What tells the images of two requests apart, whatever else their keys say.
_TELLS_APART: Final = ("{id}", "{sha256}")


def chunk_list(items: Iterable[T], size: int) -> list[list[T]]:
    """Return lists of at most ``size`` items each, in their order.

    :raises InvalidRequest: two items have the same id or s3_key, or are the same request.
    """
    check_size(size)
    everything = list(items)
    check = _Check("requests", lambda index: f"requests[{index}]")
    for index, item in enumerate(everything):
        check.take(index, item)
    check.finish()
    return [everything[start : start + size] for start in range(0, len(everything), size)]


def chunk_file(uri: str, size: int, client: S3Client) -> list[str]:
    """Return the URIs of chunks of at most ``size`` requests each, in their order.

    The file is read once, as a stream, and stays where it is: a chunk is a range of its bytes, and can be
    read as long as the file does not change. In memory are the URIs and some hundred bytes per line.

    :param uri: ``s3://bucket/key`` of a JSON Lines file.
    :raises InvalidRequest: lines are no JSON, or two of them have the same id or s3_key or are the same
        request; the file is empty, or is a chunk already.
    :raises StorageFailed: the file is missing, may not be read, or reading broke off half-way.
    """
    check_size(size)
    file = file_of(uri)
    if file.chunk is not None:
        raise InvalidRequest(f"requests {file.uri} is a chunk of a file already: cut the whole file")
    check = _Check(file.uri, lambda number: f"line {number}")
    starts: list[tuple[int, int]] = []
    with open_file(file, client) as found:
        for count, line in enumerate(read_lines(file, found)):
            if count % size == 0:
                starts.append((line.offset, line.number))
            check.take(line.number, parse_line(line.text))
    check.finish()
    if not starts:
        raise nothing_in(file.uri)
    ends = [*starts, (found["ContentLength"], 0)]
    return [
        file.chunk_uri(Chunk(first, after - 1, number, found["ETag"]))
        for (first, number), (after, _) in pairwise(ends)
    ]


def check_size(size: object) -> None:
    """Raise InvalidRequest unless it is a whole number from 1."""
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise InvalidRequest(
            f"size {size!r} is not a number of requests per chunk: use a whole number from 1"
        )


class _Check:
    """What is wrong with requests that are being cut, told in one error.

    :param source: a list's name or a file's URI.
    :param place: says where the request with a number is.
    """

    def __init__(self, source: str, place: Callable[[int], str]) -> None:
        self._source = source
        self._place = place
        self._taken: dict[bytes, int] = {}
        self._told: list[str] = []
        self._wrong = 0
        self._next_steps: dict[str, None] = {}  # a set that keeps its order

    def take(self, number: int, value: object) -> None:
        """Look at a request; an error takes the place of one that could not be read."""
        if isinstance(value, InvalidRequest):
            self._note(f"{self._place(number)} {value}", next_step="write one JSON object per line")
            return
        for text, problem in _unique(value):
            digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]
            other = self._taken.setdefault(digest, number)
            if other != number:
                self._note(
                    f"{self._place(number)} {problem} {self._place(other)}",
                    next_step="drop one of two such requests, or give each an id and an s3_key of its own",
                )

    def _note(self, problem: str, *, next_step: str) -> None:
        self._wrong += 1
        self._next_steps[next_step] = None
        if len(self._told) < _MOST_TOLD:
            self._told.append(problem)

    def finish(self) -> None:
        """Raise InvalidRequest if anything is wrong."""
        if not self._wrong:
            return
        steps = "; ".join(self._next_steps)
        more = f"; and {self._wrong - _MOST_TOLD:,} more" if self._wrong > _MOST_TOLD else ""
        raise InvalidRequest(
            f"{steps[0].upper()}{steps[1:]}. These requests cannot be cut into chunks: "
            f"{'; '.join(self._told)}{more}. Nothing was sent ({self._source})."
        )


def _unique(value: object) -> Iterator[tuple[str, str]]:
    """Yield the texts that no other request may share, and what is wrong with one that does.

    Of ids and requests the batch's own rules are kept (see ``core/batch``), as far as they do not depend on
    its defaults.
    """
    if not isinstance(value, str | Mapping):
        return
    fields = {"prompt": value} if isinstance(value, str) else value
    item_id, key = fields.get("id"), fields.get("s3_key")
    if item_id is not None:
        yield f"id {item_id}", f"has the id {str(item_id)[:_SHOWN]!r} of"
    else:
        given = sorted((str(name), repr(field)) for name, field in fields.items() if field is not None)
        yield f"request {given}", "is the same request as"
    if isinstance(key, str) and _is_one_object(key):
        yield f"s3_key {key}", "has the s3_key of"


def _is_one_object(s3_key: str) -> bool:
    """Return whether all that have this s3_key would overwrite each other's images."""
    scheme, _, rest = s3_key.rpartition("://")
    path = rest.partition("/")[2] if scheme else rest
    return not path.endswith("/") and path != "" and not any(name in path for name in _TELLS_APART)
