"""What became of a batch's items, line by line, kept in a file without a name: memory holds an index only."""

from __future__ import annotations

import json
import os
import tempfile
import threading
import weakref
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, Final, Self

from airflow_provider_aisa.ui.results import Failure, Purchase, amount, as_mapping

#: A batch with more than this is shown up to here.
MOST_LINES: Final = 200_000
LONGEST_LINE: Final = 256 * 1024  # bytes
#: Others are of purchases that no request asks for any more.
STATUSES: Final = frozenset({"stored", "failed", "not_sent"})
_FAILED: Final = 65_535
_MOST_IMAGES: Final = 1_000  # of one item


@dataclass(frozen=True, slots=True)
class Line:
    """An item of a batch: what it brought, or why it failed.

    :param prompt: None when its manifest does not say.
    """

    id: str
    status: str
    purchase: Purchase
    failure: Failure | None
    prompt: str | None

    @classmethod
    def parse(cls, text: str | bytes) -> Line | None:
        """Read a line of a manifest, or None: it is damaged."""
        try:
            document = as_mapping(json.loads(text))
        except (ValueError, RecursionError):
            return None
        if document is None or not isinstance(document.get("id"), str):
            return None
        return cls.from_document(document)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Line:
        """Read a line's JSON object."""
        prompt = document.get("prompt")
        return cls(
            id=str(document["id"])[:500],
            status=str(document.get("status")),
            purchase=Purchase.parse(document),
            failure=Failure.parse(document),
            prompt=prompt if isinstance(prompt, str) else None,
        )


@dataclass(slots=True)
class Tally:
    """The figures of the lines so far. ``unpriced`` are items whose cost nobody knows."""

    items: int = 0
    stored: int = 0
    images: int = 0
    failed: int = 0
    refused: int = 0
    reused: int = 0
    not_sent: int = 0
    unknown_outcomes: int = 0
    cost_usd: float = 0.0
    unpriced: int = 0

    def count(self, line: Line) -> None:
        """Add a line."""
        self.items += 1
        self.images += len(line.purchase.pictures)
        self.stored += line.status == "stored"
        self.failed += line.status == "failed"
        self.not_sent += line.status == "not_sent"
        self.refused += line.failure is not None and line.failure.is_refusal
        self.reused += line.purchase.reused
        self.unknown_outcomes += line.purchase.unknown_outcomes
        cost = amount(line.purchase.cost_usd)
        self.cost_usd += cost or 0.0
        self.unpriced += cost is None and bool(line.purchase.pictures)


@dataclass(slots=True, weakref_slot=True, eq=False)
class Lines:
    """The lines of one batch and the tiles that they make: one per image, and one per failure.

    Threads may read while another one adds.
    """

    tally: Tally = field(default_factory=Tally)
    _file: IO[bytes] = field(
        default_factory=lambda: tempfile.TemporaryFile(prefix="aisa-gallery-")  # noqa: SIM115 - closed below
    )
    _ends: array[int] = field(default_factory=lambda: array("Q"))
    _by_id: dict[str, int] = field(default_factory=dict)
    _tile_lines: array[int] = field(default_factory=lambda: array("L"))
    _tile_images: array[int] = field(default_factory=lambda: array("H"))
    _failures: array[int] = field(default_factory=lambda: array("L"))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        # Whoever still reads keeps it open, also when newer lines have taken its place.
        weakref.finalize(self, self._file.close)

    @classmethod
    def read(cls, texts: Iterable[bytes], *, most_bytes: int) -> Self:
        """Keep all lines of a manifest, or as many as fit."""
        lines = cls()
        for text in texts:
            most_bytes -= len(text)
            if most_bytes < 0:
                break
            lines.add(text)
        return lines

    def add(self, text: bytes) -> None:
        """Keep a line, unless it is damaged or its item is there already."""
        line = Line.parse(text) if len(text) <= LONGEST_LINE else None
        if line is None or line.status not in STATUSES:
            return
        with self._lock:
            number = len(self._ends)
            if line.id in self._by_id or number >= MOST_LINES:
                return
            begin = self._ends[-1] if self._ends else 0
            os.pwrite(self._file.fileno(), text, begin)
            self._ends.append(begin + len(text))
            self._by_id[line.id] = number
            self.tally.count(line)
            self._add_tiles(number, line)

    def _add_tiles(self, number: int, line: Line) -> None:
        for position in range(min(len(line.purchase.pictures), _MOST_IMAGES)):
            self._tile_lines.append(number)
            self._tile_images.append(position)
        if line.status == "failed":
            self._failures.append(len(self._tile_lines))
            self._tile_lines.append(number)
            self._tile_images.append(_FAILED)

    @property
    def tiles(self) -> int:
        """How many tiles there are."""
        return len(self._tile_lines)

    @property
    def failures(self) -> int:
        """How many of them are failures."""
        return len(self._failures)

    def tile(self, number: int, *, only_failures: bool = False) -> tuple[Line, int | None]:
        """Return a tile's line, and which of its pictures it shows; None: the failure."""
        if only_failures:
            number = self._failures[number]
        position = self._tile_images[number]
        return self._line(self._tile_lines[number]), None if position == _FAILED else position

    def find(self, item_id: str) -> Line | None:
        """Return an item's line."""
        number = self._by_id.get(item_id)
        return None if number is None else self._line(number)

    def _line(self, number: int) -> Line:
        begin = self._ends[number - 1] if number else 0
        text = os.pread(self._file.fileno(), self._ends[number] - begin, begin)
        return Line.from_document(json.loads(text))  # It was read when it was added.
