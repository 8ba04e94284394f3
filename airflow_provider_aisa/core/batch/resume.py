"""What earlier attempts have settled, in few objects: a retry lists the journal once and reads these.

A kept line counts only as long as its journal entry still has the ETag that it had, so these objects may be
missing, old or deleted: whatever they do not tell is read from the journal itself.
"""

from __future__ import annotations

import json
import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Final

from airflow_provider_aisa.core.batch.manifest import Line, dump, is_line
from airflow_provider_aisa.core.batch.plan import Plan
from airflow_provider_aisa.core.batch.spec import BatchOrder
from airflow_provider_aisa.core.journal.entry import Buyer
from airflow_provider_aisa.core.layout import Owner
from airflow_provider_aisa.core.s3 import Bucket, StoredObject
from airflow_provider_aisa.exceptions import StorageFailed

log = logging.getLogger(__name__)

#: Kept lines go into an object of their own when there are as many as this, or as this share of all.
LEAST: Final = 50
SHARE: Final = 0.05
_READERS: Final = 8


@dataclass(frozen=True, slots=True)
class Settled:
    """An item that is stored, and the entry of the journal that says so."""

    journal: str
    etag: str
    fingerprint: str
    attempt: Buyer
    line: Line

    def to_json(self) -> str:
        """Return one line of an object."""
        return dump({**asdict(self), "line": dict(self.line)})

    @classmethod
    def from_json(cls, text: str) -> Settled:
        """Read a line; ValueError, KeyError or TypeError: it is damaged."""
        document = json.loads(text)
        if not is_line(document["line"]):
            raise ValueError("a line without all its fields")
        attempt = document["attempt"]
        bought_by = Buyer(Owner(**attempt["owner"]), int(attempt["max_tries"]))
        return cls(**{**document, "attempt": bought_by, "line": dict(document["line"])})


class Checkpoint:
    """The settled items of a batch, in the folder of its journal. S3 blocks: call it from a thread.

    :param order: whose journal it is, and what is done about earlier purchases.
    """

    def __init__(self, bucket: Bucket, order: BatchOrder) -> None:
        self._bucket = bucket
        self._order = order
        self._folder = f"{order.folder}settled/"
        self._lock = threading.Lock()  # items are added on the loop and written in a thread
        self._unkept: list[Settled] = []
        self._kept = 0
        self._least = LEAST

    @property
    def is_due(self) -> bool:
        """Whether so much is settled that it should be kept now."""
        return len(self._unkept) >= max(self._least, self._kept * SHARE)

    def add(self, settled: Settled) -> None:
        """Take an item that is settled; :meth:`keep` writes it."""
        with self._lock:
            self._unkept.append(settled)

    def keep(self) -> None:
        """Write what is not kept yet. A store that refuses is only a warning: the journal has it all."""
        with self._lock:
            settled, self._unkept = self._unkept, []
        if not settled:
            return
        body = "\n".join(one.to_json() for one in settled).encode()
        key = f"{self._folder}{uuid.uuid4().hex}.jsonl"
        try:
            self._bucket.write(key, body, only_if=None, is_conditional=False)
        except StorageFailed as e:
            with self._lock:
                self._unkept += settled
            self._least = 2 * len(
                settled
            )  # Or a store that refuses would be asked, and told of, all the time.
            log.warning("A retry will have to read more of the journal: %s", e)
        else:
            self._kept += len(settled)
            self._least = LEAST

    def restore(self, plan: Plan, *, settle: Callable[[Settled], None]) -> None:
        """Note in the plan which items have an entry, and settle those that need nothing more.

        :param settle: gets each item that is settled.
        :raises StorageFailed: the bucket is missing, or may not be listed or read.
        """
        kept: list[str] = []
        plan.mark_found(self._sorted_out(kept))
        for kept_line in self._read(kept):
            if not self._order.policy.returns_stored(kept_line.attempt, self._order.attempt):
                continue
            settled = replace(kept_line, line={**kept_line.line, "reused": True})
            found = plan.restore(
                dump(settled.line),
                journal=settled.journal,
                etag=settled.etag,
                fingerprint=settled.fingerprint,
                images=len(settled.line["images"]) if self._order.on_partial == "fail" else None,
            )
            if found:
                self._kept += 1
                settle(settled)

    def _sorted_out(self, kept: list[str]) -> Iterator[tuple[str, str]]:
        """Yield the names and ETags of journal entries; put the keys of these objects into ``kept``."""
        for key, etag in self._bucket.list_keys(self._order.folder):
            if key.startswith(self._order.entries):
                yield key.removeprefix(self._order.entries), etag
            elif key.startswith(self._folder):
                kept.append(key)

    def _read(self, keys: list[str]) -> Iterator[Settled]:
        with ThreadPoolExecutor(_READERS, thread_name_prefix="aisa-checkpoint") as pool:
            for first in range(0, len(keys), _READERS):
                some = keys[first : first + _READERS]
                for key, found in zip(some, pool.map(self._bucket.read, some), strict=True):
                    yield from self._parse(key, found)

    def _parse(self, key: str, found: StoredObject | None) -> Iterator[Settled]:
        for text in found.body.decode(errors="replace").split("\n") if found else ():
            try:
                yield Settled.from_json(text)
            except (ValueError, KeyError, TypeError) as e:
                log.warning("%s is damaged (%s): the journal is read instead.", self._bucket.uri(key), e)
                return
