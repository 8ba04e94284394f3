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

from airflow_provider_aisa.core import typed_json
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
    journal TEXT NOT NULL,      -- the name of its entry
    has_entry INTEGER NOT NULL DEFAULT 0,
    expected TEXT,              -- its line, if its images are where its entry says
    line TEXT                   -- of the manifest, once it is settled
);
CREATE TABLE expected_image (   -- that no listing has shown yet
    image_key TEXT NOT NULL,
    etag TEXT NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (image_key, position)
) WITHOUT ROWID;
CREATE TABLE stranger (         -- entries of the journal that belong to no item
    journal TEXT PRIMARY KEY,
    line TEXT                   -- of the manifest, if it is to be told
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
class Item:
    """One request of a batch, checked.

    :param id: unique in its batch.
    :param is_given: its author chose the id; otherwise it is made of the request.
    :param target: with ``{id}`` filled in.
    :param price_usd: per image; None when nobody knows it.
    :param journal: the name of its journal, without a folder.
    """

    id: str
    is_given: bool
    request: ImageRequest
    target: Target
    price_usd: Decimal | None = None
    journal: str = ""

    @property
    def cost_usd(self) -> Decimal:
        """What its images cost; 0 when nobody knows their price."""
        return (self.price_usd or Decimal(0)) * self.request.n


@dataclass(frozen=True, slots=True)
class PlannedItem:
    """An item that is to be done.

    :param position: in the input, from 0.
    :param has_entry: the journal holds an entry for it.
    """

    position: int
    item: Item
    has_entry: bool


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

    def add(self, place: str, item: Item) -> None:
        """Add an item.

        :param place: where its author wrote it.
        :raises InvalidRequest: another item has its id, or the key of one of its images.
        """
        self._check_id(item)
        self._take_keys(item)
        request, price = item.request, item.price_usd
        if not request.is_known_model:
            self.unknown_models.add(request.model)
        self._execute(
            "INSERT INTO item VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, NULL, NULL)",
            self.total,
            place,
            item.id,
            json.dumps(typed_json.dump(request)),
            item.target.template,
            request.n,
            None if price is None else str(price),
            item.journal,
        )
        self.total += 1

    def mark_found(self, journals: Iterable[str]) -> None:
        """Note which items have an entry in the journal, and which entries belong to no item.

        :param journals: the names of the entries that there are.
        """
        self._execute(_FIND_JOURNALS)
        for name in journals:
            if self._execute("SELECT 1 FROM item WHERE journal = ?", name):
                self._execute("UPDATE item SET has_entry = 1 WHERE journal = ?", name)
            else:
                self._execute("INSERT OR IGNORE INTO stranger VALUES (?, NULL)", name)

    def strangers(self) -> Iterator[str]:
        """Yield the names of the entries that belong to no item."""
        last = ""
        while rows := self._execute(
            "SELECT journal FROM stranger WHERE journal > ? ORDER BY journal LIMIT ?", last, _PAGE
        ):
            for (last,) in rows:
                yield last

    def tell_stranger(self, journal: str, line: str) -> None:
        """Keep the manifest's line of an entry that belongs to no item."""
        self._execute("UPDATE stranger SET line = ? WHERE journal = ?", line, journal)

    def settle(self, position: int, line: str) -> None:
        """Keep an item's line of the manifest."""
        self._execute("UPDATE item SET line = ? WHERE position = ?", line, position)

    def expect(self, position: int, line: str, images: Iterable[tuple[str, str]]) -> None:
        """Keep an item's line for the case that its images are still there.

        :param images: their keys and ETags.
        """
        self._execute("UPDATE item SET expected = ? WHERE position = ?", line, position)
        for key, etag in images:
            self._execute("INSERT OR IGNORE INTO expected_image VALUES (?, ?, ?)", key, etag, position)

    def next_expected(self, after: str) -> str | None:
        """Return the first key after this one at which an image is expected that no listing has shown."""
        [(key,)] = self._execute("SELECT MIN(image_key) FROM expected_image WHERE image_key > ?", after)
        return None if key is None else str(key)

    def see(self, listed: Iterable[tuple[str, str]]) -> None:
        """Note the keys and ETags that a listing shows."""
        with self._lock:
            self._db.executemany("DELETE FROM expected_image WHERE image_key = ? AND etag = ?", listed)

    def settle_expected(self) -> Iterator[str]:
        """Settle the items all of whose images were seen, and yield their lines."""
        self._execute(
            "UPDATE item SET line = expected WHERE expected IS NOT NULL AND line IS NULL "
            "AND position NOT IN (SELECT position FROM expected_image)"
        )
        last = -1
        while rows := self._execute(
            "SELECT position, line FROM item WHERE position > ? AND line = expected "
            "ORDER BY position LIMIT ?",
            last,
            _PAGE,
        ):
            yield from (line for _, line in rows)
            last = rows[-1][0]

    def left(self) -> Iterator[PlannedItem]:
        """Yield the items that are not settled: first those with an entry, which may be paid for already."""
        yield from self.with_entry()
        yield from self._left(has_entry=False)

    def with_entry(self) -> Iterator[PlannedItem]:
        """Yield those of :meth:`left` that have an entry in the journal."""
        yield from self._left(has_entry=True)

    def new_cost(self) -> tuple[Decimal, int]:
        """Return what the items without an entry cost in USD, and how many images they are."""
        rows = self._execute(
            "SELECT price, SUM(images) FROM item WHERE has_entry = 0 AND line IS NULL GROUP BY price"
        )
        cost = sum((Decimal(price or 0) * images for price, images in rows), Decimal(0))
        return cost, sum(images for _, images in rows)

    def _left(self, *, has_entry: bool) -> Iterator[PlannedItem]:
        position = -1
        while rows := self._execute(
            "SELECT position, id, request, template, price, journal FROM item "
            "WHERE position > ? AND line IS NULL AND has_entry = ? ORDER BY position LIMIT ?",
            position,
            has_entry,
            _PAGE,
        ):
            for position, item_id, request, template, price, journal in rows:
                yield PlannedItem(
                    position,
                    Item(
                        item_id,
                        True,
                        typed_json.load(ImageRequest, json.loads(request)),
                        Target(self._bucket, template),
                        None if price is None else Decimal(price),
                        journal,
                    ),
                    has_entry,
                )

    def lines(self) -> Iterator[tuple[str, str | None]]:
        """Yield each item's id and its line of the manifest, in the order of the input; strangers last."""
        for first in range(0, self.total, _PAGE):
            yield from self._execute(
                "SELECT id, line FROM item WHERE position >= ? AND position < ? ORDER BY position",
                first,
                first + _PAGE,
            )
        yield from self._execute("SELECT journal, line FROM stranger WHERE line IS NOT NULL ORDER BY journal")

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

    def _check_id(self, item: Item) -> None:
        for (place,) in self._execute("SELECT place FROM item WHERE id = ?", item.id):
            if item.is_given:
                raise InvalidRequest(f"has the id {item.id!r}, as {place} has: ids are unique in a batch")
            raise InvalidRequest(f"is the same request as {place}: drop one, or give both ids to pay twice")

    def _take_keys(self, item: Item) -> None:
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
