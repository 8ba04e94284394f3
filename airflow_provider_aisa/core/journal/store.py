"""The journal's entries in S3. Of several writers that saw the same entry, one writes; the others learn it.

Stores differ: 412 is a lost race, 409 is asked again, 501 knows no conditions, and some ignore them without
a word. Without conditions everything works, but two live copies of a task are not kept apart: one warning.
A store that ignores conditions is found out by a write that it has to refuse: one more small request, once
per process, which the first try of a task in a worker is spared.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from airflow_provider_aisa.core.journal.entry import Entry
from airflow_provider_aisa.core.s3 import (
    Bucket,
    ConditionConflict,
    ConditionFailed,
    ConditionUnsupported,
    StoredObject,
)
from airflow_provider_aisa.exceptions import StorageFailed

log = logging.getLogger(__name__)

_CONFLICT_DELAYS: Final = (0.05, 0.1, 0.2, 0.4, 0.8)  # seconds

#: What this process has learnt of each store: whether its conditional writes can be relied on.
_reliable: dict[tuple[str, str], bool] = {}
_reliable_lock = threading.Lock()


class EntryChanged(Exception):
    """Somebody else has written the entry since it was read."""


@dataclass(frozen=True, slots=True)
class Found:
    """An entry as it was read. ``age`` is the seconds since it was written."""

    entry: Entry
    etag: str
    age: float


class Journal:
    """One entry of the journal. Blocks: on an event loop, call it from a thread.

    :param probes: find out whether the store ignores conditions, if this process does not know yet.
    """

    def __init__(
        self, bucket: Bucket, key: str, *, probes: bool = True, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._bucket = bucket
        self._key = key
        self._probes = probes
        self._sleep = sleep
        self._store = (str(bucket.client.meta.endpoint_url), bucket.name)

    @property
    def uri(self) -> str:
        """Where the entry is."""
        return self._bucket.uri(self._key)

    def load(self) -> Found | None:
        """Return the entry, or None: nothing was ever sent for it.

        :raises JournalUnreadable: the object is damaged, foreign or newer.
        :raises StorageFailed: S3 did not say whether there is one.
        """
        found = self._bucket.read(self._key)
        if found is None:
            return None
        return Found(Entry.from_json(found.body, uri=self.uri), found.etag, found.age)

    def write(self, entry: Entry, etag: str | None) -> str:
        """Write the entry if it is still what it was, and return its new ETag.

        :param etag: of the entry that this one follows; None when there must be none yet.
        :raises EntryChanged: somebody else has written it meanwhile.
        :raises StorageFailed: S3 refused or could not be reached.
        """
        body = entry.to_json()
        if _reliable.get(self._store) is False:
            return self._bucket.write(self._key, body, only_if=etag, is_conditional=False)
        try:
            written = self._write_conditionally(body, etag)
        except ConditionUnsupported:
            self._give_up_on_conditions("answers conditional writes with 501")
            return self.write(entry, etag)
        if etag is None and self._probes:
            self._probe(body)
        return written

    def prove(self, body: bytes) -> bool:
        """Write an object of a batch, whatever is there, and return whether conditions can be relied on.

        :raises StorageFailed: the bucket cannot be written.
        """
        self._bucket.write(self._key, body, only_if=None, is_conditional=False)
        self._probe(body)
        return _reliable.get(self._store, False)

    def release(self, etag: str) -> None:
        """Delete the entry if it is still what it was: nothing was sent, or nothing was billed."""
        is_reliable = _reliable.get(self._store) is not False
        try:
            self._bucket.delete(self._key, only_if=etag if is_reliable else None)
        except ConditionFailed:
            raise EntryChanged from None
        except (ConditionConflict, ConditionUnsupported) as e:
            raise StorageFailed(f"{self.uri} could not be deleted: {type(e).__name__}") from None

    def keep_surplus(self, entry: Entry) -> str:
        """Write a paid entry beside this one, which somebody else has taken; return where it is."""
        key = f"{self._key.removesuffix('.json')}.surplus-{entry.claim.id}.json"
        self._bucket.write(key, entry.to_json(), only_if=None, is_conditional=False)
        return self._bucket.uri(key)

    def _write_conditionally(self, body: bytes, etag: str | None) -> str:
        for delay in (*_CONFLICT_DELAYS, None):
            try:
                return self._bucket.write(self._key, body, only_if=etag)
            except ConditionConflict:
                if delay is None:
                    break
                self._sleep(delay)
            except ConditionFailed:
                return self._own_write(body)
        raise StorageFailed(f"{self.uri} is being written by others all the time: S3 says 409. Try again.")

    def _own_write(self, body: bytes) -> str:
        """Tell a lost race from our own write, which was repeated because its answer got lost."""
        found: StoredObject | None = self._bucket.read(self._key)
        if found is None or found.body != body:
            raise EntryChanged
        return found.etag

    def _probe(self, body: bytes) -> None:
        """Find out, once per process and store, whether a condition that does not hold is refused."""
        with _reliable_lock:
            if self._store in _reliable:
                return
            try:
                self._bucket.write(self._key, body, only_if=None)
            except (ConditionFailed, ConditionConflict):
                _reliable[self._store] = True
                return
            except (ConditionUnsupported, StorageFailed):
                return  # No verdict; the next one asks again.
        self._give_up_on_conditions("ignores the conditions of writes")

    def _give_up_on_conditions(self, what: str) -> None:
        with _reliable_lock:
            is_news = _reliable.get(self._store) is not False
            _reliable[self._store] = False
        if is_news:
            log.warning(
                "The S3 store at %s %s: two copies of one task that run at the same moment can both pay. "
                "Retries, restarts and clears are still protected.",
                *self._store[:1],
                what,
            )
