"""A purchase's entry in S3. Of several writers that saw the same entry one writes, and the others learn it.

What has been paid for is written all the same, whatever happened to the object meanwhile: somebody may have
deleted it, rewritten it, or taken a stale claim over.

Stores differ: 412 (or 404, on AWS) is a lost race, 409 is asked again, 501 knows no conditions, and some
ignore them without a word. Without conditions everything works, but two live copies of a task are not kept
apart: one warning. A store that ignores conditions is found out by a write that it has to refuse, once per
process.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from airflow_provider_aisa.core.journal.entry import Entry, EntryState, with_claims, without_claim
from airflow_provider_aisa.core.journal.kept import Keeper
from airflow_provider_aisa.core.s3.bucket import Bucket, StoredObject
from airflow_provider_aisa.core.s3.errors import ConditionConflict, ConditionFailed, ConditionUnsupported
from airflow_provider_aisa.exceptions import StorageFailed

log = logging.getLogger(__name__)

_CONFLICT_DELAYS: Final = (0.05, 0.1, 0.2, 0.4, 0.8)  # seconds
_MOST_REWRITES: Final = 10  # by others, between two writes of ours

#: What this process has learnt of each store: whether its conditional writes can be relied on.
_reliable: dict[tuple[str, str], bool] = {}
_reliable_lock = threading.Lock()


class EntryChanged(Exception):
    """Somebody else has written the entry since it was read."""


@dataclass(frozen=True, slots=True)
class Found:
    """An entry as it stands in S3. ``age`` is the seconds since it was written."""

    entry: Entry
    etag: str
    age: float = 0.0


class AlreadyBought(Exception):
    """Another copy has paid for the same purchase, and its response is in the journal."""

    def __init__(self, found: Found) -> None:
        super().__init__(found.entry.claim.id)
        self.found = found


class Journal:
    """The entry of one purchase. Blocks: on an event loop, call it from a thread."""

    def __init__(self, bucket: Bucket, key: str, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._bucket = bucket
        self._key = key
        self._sleep = sleep

    @property
    def uri(self) -> str:
        """Where the entry is."""
        return self._bucket.uri(self._key)

    @property
    def keeper(self) -> Keeper:
        """What keeps the images that are in the answer itself."""
        return Keeper(self._bucket, self._key)

    def load(self) -> Found | None:
        """Return the entry, or None: nothing was ever sent for it.

        A stale claim whose answer was kept beside it is returned as paid.

        :raises JournalUnreadable: the object is damaged, foreign or newer.
        :raises StorageFailed: S3 did not say whether there is one.
        """
        found = self._bucket.read(self._key)
        if found is None:
            return None
        entry = Entry.from_json(found.body, uri=self.uri)
        if entry.is_open and found.age >= entry.claim.lifetime:
            entry = self.keeper.with_answer(entry)
        return Found(entry, found.etag, found.age)

    def claim(self, entry: Entry, etag: str | None) -> Found:
        """Write a claim if the entry is still what it was.

        :param etag: of the entry that the claim follows; None when there must be none.
        :raises EntryChanged: somebody else has written the entry meanwhile.
        :raises StorageFailed: S3 refused or could not be reached.
        """
        body = entry.to_json()
        found = Found(entry, self._write(body, etag))
        self.conditions_hold(body)
        return found

    def record(self, entry: Entry, etag: str | None) -> Found:
        """Write what has become of a claim, whatever has become of its object meanwhile.

        :param etag: of the entry that this one follows.
        :return: the entry as it now stands. When it is another copy's, that knows of our lost response.
        :raises AlreadyBought: another copy has paid as well, and was first to say so.
        :raises JournalUnreadable: somebody has put something else in its place.
        :raises StorageFailed: S3 refused, could not be reached, or the entry is rewritten all the time.
        """
        for _ in range(_MOST_REWRITES):
            try:
                return Found(entry, self._write(entry.to_json(), etag))
            except EntryChanged:
                found = self.load()
            if found is None:
                etag = None
                continue
            merged = _merge(entry, found)
            if merged == found.entry:
                return found
            entry, etag = merged, found.etag
        raise StorageFailed(f"Try again: others rewrite the journal all the time ({self.uri}).")

    def conditions_hold(self, body: bytes) -> bool:
        """Return whether the store refuses a conditional write when it should, as far as it lets us know.

        Asked once per process and store, by a write of ``body``, which is there already.
        """
        store = self._store
        with _reliable_lock:
            if store in _reliable:
                return _reliable[store]
            try:
                self._bucket.write(self._key, body, only_if=None)
            except (ConditionFailed, ConditionConflict):
                _reliable[store] = True
                return True
            except (ConditionUnsupported, StorageFailed):
                return False  # No verdict; the next one asks again.
        self._give_up_on_conditions("ignores the conditions of writes")
        return False

    def _write(self, body: bytes, etag: str | None) -> str:
        if _reliable.get(self._store) is False:
            return self._bucket.write(self._key, body, only_if=etag, is_conditional=False)
        try:
            return self._write_conditionally(body, etag)
        except ConditionUnsupported:
            self._give_up_on_conditions("answers conditional writes with 501")
            return self._write(body, etag)

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
        raise StorageFailed(f"Try again: others write the journal all the time, S3 says 409 ({self.uri}).")

    def _own_write(self, body: bytes) -> str:
        """Tell a lost race from our own write, which was repeated because its answer got lost."""
        found: StoredObject | None = self._bucket.read(self._key)
        if found is None or found.body != body:
            raise EntryChanged
        return found.etag

    @property
    def _store(self) -> tuple[str, str]:
        return str(self._bucket.client.meta.endpoint_url), self._bucket.name

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


def _merge(entry: Entry, found: Found) -> Entry:
    """Return what the entry has to be, after ours could not be written because another one is there."""
    theirs = found.entry
    if theirs.claim.id == entry.claim.id and theirs.state is EntryState.STORED:
        return theirs  # A copy of this task has gone on from our response, and was faster.
    if theirs.claim.id == entry.claim.id:
        # Ours, rewritten in place: a copy onto itself, another encryption. Or another copy, whose own entry
        # is gone, has noted its lost response in it.
        return replace(entry, unknown=with_claims(entry.unknown, theirs.unknown))
    if entry.state is EntryState.CLAIMED:
        # All that our entry could add is a response that was lost.
        return replace(theirs, unknown=with_claims(theirs.unknown, entry.unknown))
    if theirs.state is not EntryState.CLAIMED:
        raise AlreadyBought(found)
    # A copy took our claim for stale. We have a response, and it has none: should it be waiting for one, it
    # will find ours. Its request may be billed all the same.
    unknown = with_claims(entry.unknown, theirs.may_be_billed)
    previous = entry.previous if theirs.previous is None else theirs.previous
    history = (*theirs.history, *entry.history[-1:])
    return replace(entry, unknown=without_claim(unknown, entry.claim.id), previous=previous, history=history)
