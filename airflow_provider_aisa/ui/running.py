"""A batch that is under way, as its journal tells it: images stand in the order in which they were stored."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final

from airflow_provider_aisa.core.journal.entry import Entry, EntryState
from airflow_provider_aisa.exceptions import JournalUnreadable
from airflow_provider_aisa.ui.lines import Lines
from airflow_provider_aisa.ui.results import BatchNote, Place
from airflow_provider_aisa.ui.stores import Listed, Store, Unavailable

_LARGEST_ENTRY: Final = 1024 * 1024  # bytes
_LOOKS_EVERY: Final = 2.0  # seconds: a batch is looked at no more often, whoever asks
_LOOK_LASTS: Final = 2.0  # seconds: after that, the next look reads on
_READERS: Final = 16
_SPEED_OVER: Final = timedelta(minutes=10)


@dataclass(slots=True)
class RunningBatch:
    """What has been read of a running batch's journal.

    :param in_flight: requests that are under way.
    :param unread: entries that nobody has looked at yet: there were too many for one look.
    """

    lines: Lines = field(default_factory=Lines)
    in_flight: int = 0
    unread: int = 0
    clock: Callable[[], float] = time.monotonic
    _looked: float = float("-inf")
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _seen: dict[str, str] = field(default_factory=dict)  # keys of entries, and the ETags that were read
    _stored: dict[str, datetime] = field(
        default_factory=dict
    )  # keys of those that are stored, and since when

    def look(self, note: BatchNote, store: Store) -> None:
        """Read what is new, unless somebody has just done so. Raises Unavailable as the store does."""
        with self._lock:
            now = self.clock()
            if now - self._looked >= _LOOKS_EVERY:
                self._look(note, store, until=now + _LOOK_LASTS)
                self._looked = self.clock()

    def _look(self, note: BatchNote, store: Store, *, until: float) -> None:
        folder = Place(note.folder.bucket, f"{note.folder.key}items/")
        entries = sorted(store.list(folder), key=lambda one: (one.written, one.key))
        new = [one for one in entries if one.key not in self._stored and self._seen.get(one.key) != one.etag]
        left = iter(new)
        read = 0
        with ThreadPoolExecutor(_READERS, thread_name_prefix="aisa-gallery-batch") as pool:
            while self.clock() < until and (some := list(islice(left, 4 * _READERS))):
                for one, entry in zip(some, pool.map(lambda o: _read(o, folder, store), some), strict=True):
                    self._take(one, entry)
                read += len(some)
        self.unread = len(new) - read
        self.in_flight = len(entries) - len(self._stored) - self.unread

    def _take(self, one: Listed, entry: Entry | None) -> None:
        self._seen[one.key] = one.etag
        if entry is not None and entry.state is EntryState.STORED:
            self._stored[one.key] = one.written
            self.lines.add(_line_of(entry, one.key))

    @property
    def per_minute(self) -> float:
        """How many items were stored per minute in the last ten; 0 when nobody can say."""
        now = datetime.now(UTC)
        recent = [written for written in self._stored.values() if now - written < _SPEED_OVER]
        if len(recent) < 2:
            return 0.0
        first, last = min(recent), max(recent)
        minutes = max((max(now, last) - first).total_seconds(), 1.0) / 60
        return (len(recent) - 1) / minutes


def _read(one: Listed, folder: Place, store: Store) -> Entry | None:
    place = Place(folder.bucket, one.key)
    try:
        return Entry.from_json(store.read(place, what="journal", limit=_LARGEST_ENTRY), uri=place.uri)
    except (Unavailable, JournalUnreadable):  # It was released since it was listed, or is none.
        return None


def _line_of(entry: Entry, key: str) -> bytes:
    """Return the line that a stored entry will have in the manifest, and its prompt."""
    response = entry.response
    line = {
        "id": entry.item or key.rpartition("/")[2],
        "status": "stored",
        "images": [image.to_dict() for image in entry.images],
        "cost_usd": entry.cost_usd,
        "request_id": response.request_id if response else None,
        "model": response.model if response else None,
        "prompt": entry.request.get("prompt"),
        "unknown_outcomes": len(entry.unknown),
    }
    return json.dumps(line).encode()
