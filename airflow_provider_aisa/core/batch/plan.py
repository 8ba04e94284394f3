"""The items of a batch and what became of them, in a temporary database: none of it stays in memory.

Filled before anything is paid, which finds whatever two items would do to each other.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, Self

from airflow_provider_aisa.core.batch.items import BatchItem
from airflow_provider_aisa.core.gateway.request import ImageRequest
from airflow_provider_aisa.core.layout import SUFFIXES, Target
from airflow_provider_aisa.exceptions import InvalidRequest

_PAGE: Final = 100
_ANY: Final = "{ext}"
_OWN: Final = frozenset(endings[0] for endings in SUFFIXES.values())  # what {ext} becomes
_MOST_KEYS: Final = 100  # of one item that are compared with those of others
_SCHEMA: Final = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE item (
    position INTEGER PRIMARY KEY,
    place TEXT NOT NULL,        -- where its author wrote it
    id TEXT NOT NULL UNIQUE,
    request TEXT NOT NULL,      -- JSON
    template TEXT NOT NULL,     -- of its images' keys
    images INTEGER NOT NULL,
    price TEXT,                 -- USD per image; NULL when nobody knows it
    fingerprint TEXT NOT NULL,
    journal TEXT NOT NULL,      -- the name of its entry
    etag TEXT,                  -- of the entry, when this attempt found one
    line TEXT                   -- of the manifest, once it is settled
);
CREATE TABLE image_key (
    stem BLOB NOT NULL,         -- the key's digest, without its ending
    ending TEXT NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (stem, ending)
) WITHOUT ROWID;
"""
_FIND_JOURNALS: Final = "CREATE INDEX item_journal ON item (journal)"


@dataclass(frozen=True, slots=True)
class PlannedItem:
    """An item that is to be done.

    :param journal: the name of its entry.
    :param has_entry: the journal holds an entry for it.
    """

    position: int
    id: str
    request: ImageRequest
    target: Target
    price_usd: Decimal | None
    fingerprint: str
    journal: str
    has_entry: bool

    @property
    def cost_usd(self) -> Decimal:
        """What its images cost; 0 when nobody knows their price."""
        return (self.price_usd or Decimal(0)) * self.request.n


class Plan:
    """All items of one batch.

    :param folder: an empty one, for the database.
    :param bucket: the bucket of all targets.
    """

    def __init__(self, folder: Path, bucket: str | None) -> None:
        # Threads take turns: closing a database that another thread is using ends the process.
        self._lock = threading.Lock()
        self._db = sqlite3.connect(folder / "plan.sqlite", isolation_level=None, check_same_thread=False)
        self._db.executescript(_SCHEMA)
        self._db.execute("BEGIN")
        self._bucket = bucket
        #: How many items there are.
        self.total = 0
        #: Models whose rules and prices are not known here.
        self.unknown_models: set[str] = set()

    def add(self, place: str, item: BatchItem, *, price: Decimal | None, journal: str) -> None:
        """Add an item.

        :param journal: the name of its entry, without a folder.
        :raises InvalidRequest: another item has its id, or the key of one of its images.
        """
        self._check_id(item)
        self._take_keys(item)
        request = item.request
        self._execute(
            "INSERT INTO item VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL)",
            self.total,
            place,
            item.id,
            json.dumps([request.prompt, request.width, request.height, request.n, request.model]),
            item.target.template,
            request.n,
            None if price is None else str(price),
            request.fingerprint(),
            journal,
        )
        self.total += 1

    def mark_found(self, entries: Iterable[tuple[str, str]]) -> None:
        """Note which items have an entry in the journal: its name and its ETag."""
        self._execute(_FIND_JOURNALS)
        for name, etag in entries:
            self._execute("UPDATE item SET etag = ? WHERE journal = ?", etag, name)

    def restore(self, line: str, *, journal: str, etag: str, fingerprint: str, images: int | None) -> bool:
        """Settle an item whose entry still is what it was when its line was kept; return whether it is.

        :param images: how many there are: fewer than were asked for are not enough. None: they are.
        """
        rows = self._execute(
            "SELECT position FROM item WHERE journal = ?1 AND etag = ?2 AND fingerprint = ?3 "
            "AND (?4 IS NULL OR images <= ?4) AND line IS NULL",
            journal,
            etag,
            fingerprint,
            images,
        )
        for (position,) in rows:
            self.settle(position, line)
        return bool(rows)

    def settle(self, position: int, line: str) -> None:
        """Keep an item's line of the manifest."""
        self._execute("UPDATE item SET line = ? WHERE position = ?", line, position)

    def left(self) -> Iterator[PlannedItem]:
        """Yield the items that are not settled: first those with an entry, which may be paid for already."""
        for has_entry in (True, False):
            yield from self._left(has_entry)

    def _left(self, has_entry: bool) -> Iterator[PlannedItem]:
        position = -1
        while rows := self._execute(
            "SELECT position, id, request, template, price, fingerprint, journal FROM item "
            "WHERE position > ? AND line IS NULL AND (etag IS NOT NULL) = ? ORDER BY position LIMIT ?",
            position,
            has_entry,
            _PAGE,
        ):
            for position, item_id, request, template, price, fingerprint, journal in rows:
                yield PlannedItem(
                    position,
                    item_id,
                    ImageRequest(*json.loads(request)),
                    Target(self._bucket, template),
                    None if price is None else Decimal(price),
                    fingerprint,
                    journal,
                    has_entry,
                )

    def cost_usd(self, journal: str) -> Decimal:
        """Return what the images that an item asks for cost; 0 when nobody knows their price."""
        ((images, price),) = self._execute("SELECT images, price FROM item WHERE journal = ?", journal)
        return Decimal(price or 0) * int(images)

    def lines(self) -> Iterator[tuple[str, str | None]]:
        """Yield each item's id and its line of the manifest, in the order of the input."""
        for first in range(0, self.total, _PAGE):
            yield from self._execute(
                "SELECT id, line FROM item WHERE position >= ? AND position < ? ORDER BY position",
                first,
                first + _PAGE,
            )

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _execute(self, statement: str, *values: object) -> list[Any]:
        with self._lock:
            return self._db.execute(statement, values).fetchall()

    def _check_id(self, item: BatchItem) -> None:
        for (place,) in self._execute("SELECT place FROM item WHERE id = ?", item.id):
            if item.is_given:
                raise InvalidRequest(f"has the id {item.id!r}, as {place} has: ids are unique in a batch")
            raise InvalidRequest(f"is the same request as {place}: drop one, or give both ids to pay twice")

    def _take_keys(self, item: BatchItem) -> None:
        """Refuse an item whose images would overwrite another's."""
        several = item.request.n > 1
        taken: list[tuple[bytes, str, int]] = []
        for index in range(min(item.request.n, _MOST_KEYS)):
            key = item.target.key(index=index, ext=_ANY, sha256="{sha256}", several=several)
            if "{sha256}" in key:
                return  # The same key then means the same image.
            stem, ending = posixpath.splitext(key)
            digest = hashlib.sha256(stem.encode()).digest()[:16]
            place = self._place_of(digest, ending)
            if place is not None:
                raise InvalidRequest(
                    f"would overwrite the images of {place} in {key!r}: put {{id}} into s3_key, and {{index}}"
                )
            taken.append((digest, ending, self.total))
        for values in taken:
            self._execute("INSERT OR IGNORE INTO image_key VALUES (?, ?, ?)", *values)

    def _place_of(self, stem: bytes, ending: str) -> str | None:
        """Return the place of the item that has a key, or may get it with its images' own ending."""
        owners = self._execute(
            "SELECT ending, place FROM image_key JOIN item USING (position) WHERE stem = ?", stem
        )
        for taken, place in owners:
            if taken == ending or _may_become(taken, ending) or _may_become(ending, taken):
                return str(place)
        return None


def _may_become(ending: str, other: str) -> bool:
    """Return whether an ending that is known only when the image is there can be another one."""
    return ending == f".{_ANY}" and other in _OWN
