"""What stands in a task's XCom, read with care: whoever may edit a DAG's XComs can write anything there.

Nothing here reaches S3. A value that is not what this package's tasks return is None, or is left out.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Self

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_LONGEST_KEY: Final = 1024  # bytes of UTF-8: S3's limit
_LONGEST_TEXT: Final = 4_000  # characters


@dataclass(frozen=True, slots=True)
class Place:
    """A bucket and a key."""

    bucket: str
    key: str

    @classmethod
    def parse(cls, uri: object) -> Self | None:
        """Read ``s3://bucket/key``."""
        if not isinstance(uri, str) or not uri.startswith("s3://"):
            return None
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        return cls(bucket, key) if bucket and key and _fits(key) else None

    @property
    def uri(self) -> str:
        """Return ``s3://bucket/key``."""
        return f"s3://{self.bucket}/{self.key}"

    @property
    def folder(self) -> Self:
        """The folder that it is in, with its ``/``."""
        folder, slash, _ = self.key.rpartition("/")
        return replace(self, key=folder + slash)


@dataclass(frozen=True, slots=True)
class Picture:
    """An image in S3 as a result describes it. Width and height are in pixels."""

    index: int
    place: Place
    width: int
    height: int
    bytes: int
    sha256: str

    @classmethod
    def parse(cls, document: object) -> Self | None:
        """Read one of a result's images."""
        if not isinstance(document, Mapping):
            return None
        bucket, key, sha256 = (document.get(name) for name in ("bucket", "key", "sha256"))
        if not (isinstance(bucket, str) and bucket and isinstance(key, str) and key and _fits(key)):
            return None
        if not (isinstance(sha256, str) and _SHA256.fullmatch(sha256)):
            return None
        numbers = [_count(document.get(name)) for name in ("index", "width", "height", "bytes")]
        index, width, height, length = numbers
        return cls(index, Place(bucket, key), width, height, length, sha256)


@dataclass(frozen=True, slots=True)
class Purchase:
    """What one request brought: a task's result, or an item's line in a manifest.

    :param cost_usd: of all its images; None when nobody knows.
    :param records: the object in S3 from which the folder of thumbnails follows.
    """

    pictures: tuple[Picture, ...]
    model: str | None = None
    request_id: str | None = None
    cost_usd: float | None = None
    reused: bool = False
    unknown_outcomes: int = 0
    records: Place | None = None

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Self:
        """Read what a single request and an item of a batch have in common."""
        images = document.get("images")
        found = map(Picture.parse, images if isinstance(images, list) else ())
        return cls(
            pictures=tuple(picture for picture in found if picture is not None),
            model=text(document.get("model")),
            request_id=text(document.get("request_id")),
            cost_usd=amount(document.get("cost_usd")),
            reused=document.get("reused") is True,
            unknown_outcomes=_count(document.get("unknown_outcomes")),
            records=Place.parse(document.get("journal_uri")),
        )


@dataclass(frozen=True, slots=True)
class BatchFigures:
    """What a batch says of itself in XCom, and where its manifest is."""

    items: int
    reused: int
    failed: int
    not_sent: int
    images: int
    cost_usd: float | None
    unknown_outcomes: int
    refused: int
    manifest: Place


@dataclass(frozen=True, slots=True)
class BatchNote:
    """Where a batch keeps its journal, said when it began."""

    folder: Place
    manifest: Place
    items: int


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a task or an item failed, with the next step in the message."""

    error: str
    message: str
    code: str | None = None
    request_id: str | None = None
    unknown_outcomes: int = 0

    @property
    def is_refusal(self) -> bool:
        """Whether the content policy refused the prompt."""
        return self.error == "ContentRefused"

    @classmethod
    def parse(cls, value: object) -> Self | None:
        """Read a note of a failed task, or a failed item's line."""
        document = as_mapping(value)
        if document is None or not isinstance(document.get("error"), str):
            return None
        return cls(
            error=document["error"][:100],
            message=text(document.get("message")) or "",
            code=text(document.get("code")),
            request_id=text(document.get("request_id")),
            unknown_outcomes=_count(document.get("unknown_outcomes")),
        )


def read_result(value: object) -> Purchase | BatchFigures | None:
    """Return what a task returned, or None when it is not a result of this package."""
    document = as_mapping(value)
    if document is None:
        return None
    manifest = Place.parse(document.get("manifest_uri"))
    if manifest is not None and "items" in document:
        return _figures(document, manifest)
    if isinstance(document.get("images"), list) and "journal_uri" in document:
        return Purchase.parse(document)
    return None


def _figures(document: Mapping[str, Any], manifest: Place) -> BatchFigures:
    errors = document.get("errors")
    return BatchFigures(
        items=_count(document.get("items")),
        reused=_count(document.get("reused")),
        failed=_count(document.get("failed")),
        not_sent=_count(document.get("not_sent")),
        images=_count(document.get("images")),
        cost_usd=amount(document.get("cost_usd")),
        unknown_outcomes=_count(document.get("unknown_outcomes")),
        refused=_count(errors.get("ContentRefused")) if isinstance(errors, Mapping) else 0,
        manifest=manifest,
    )


def read_batch_note(value: object) -> BatchNote | None:
    """Return what a batch said when it began."""
    document = as_mapping(value) or {}
    folder, manifest = Place.parse(document.get("folder_uri")), Place.parse(document.get("manifest_uri"))
    if folder is None or manifest is None or manifest.folder != folder:
        return None
    return BatchNote(folder, manifest, _count(document.get("items")))


def as_mapping(value: object) -> Mapping[str, Any] | None:
    """Return a JSON object; Airflow's own API keeps what a person posts as a JSON string."""
    if isinstance(value, str) and value.startswith("{"):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    return value if isinstance(value, Mapping) else None


def text(value: object) -> str | None:
    """Return a string, cut to what a page can show."""
    return value[:_LONGEST_TEXT] if isinstance(value, str) else None


def amount(value: object) -> float | None:
    """Return an amount in USD, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value) if value >= 0 else None


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        return 0
    return value if 0 <= value < 2**53 else 0  # JavaScript counts no further


def _fits(key: str) -> bool:
    return len(key.encode(errors="surrogatepass")) <= _LONGEST_KEY
