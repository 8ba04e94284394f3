"""The items of a batch: from its manifest when it is over, from its journal while it runs.

What a note or a result names is believed only when its folder is that of the task instance that names it.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from airflow_provider_aisa.core.layout import BatchLayout, Owner, Target
from airflow_provider_aisa.ui.lines import Lines
from airflow_provider_aisa.ui.results import BatchFigures, BatchNote, Place
from airflow_provider_aisa.ui.running import RunningBatch
from airflow_provider_aisa.ui.stores import Store, Unavailable, readable

if TYPE_CHECKING:
    from airflow_provider_aisa.ui.database import Instance
    from airflow_provider_aisa.ui.sources import Source

T = TypeVar("T")

_MOST_KEPT: Final = 12  # batches; each keeps a file and an index
_MOST_OWN: Final = 1_000
_LARGEST_MANIFEST: Final = 512 * 1024 * 1024  # bytes
_LARGEST_DESCRIPTION: Final = 64 * 1024  # bytes
_CHUNK: Final = 64 * 1024  # bytes


def check_owner(folder: Place, owner: Owner, idempotency_key: object, store: Store) -> None:
    """Raise Unavailable unless the folder of a batch belongs to this task instance.

    Its last part is a hash of who pays, or of the author's own key. Airflow keeps the rendered fields of the
    last runs only: after that the batch's own description has to name the DAG.
    """
    keys = [None, idempotency_key] if isinstance(idempotency_key, str) else [None]
    layouts = [BatchLayout.of(Target(None, ""), owner, key) for key in keys]
    name = _last_part(folder.key)
    if name in {_last_part(layout.folder) for layout in layouts}:
        return
    try:
        description = Place(folder.bucket, f"{folder.key}batch.json")
        described = json.loads(store.read(description, what="batch", limit=_LARGEST_DESCRIPTION))
        is_own = described["batch"]["dag_id"] == owner.dag_id
    except (ValueError, KeyError, TypeError, RecursionError, Unavailable):
        is_own = False
    if not is_own:
        raise Unavailable(
            f"{folder.uri} does not belong to this task instance, so nothing of it is shown.", status=403
        )


def _last_part(folder: str) -> str:
    return folder.rstrip("/").rpartition("/")[2]


class Kept(Generic[T]):
    """The few things of a kind that were used last."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._kept: OrderedDict[Place, T] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, place: Place) -> T:
        """Return what is kept for a place, or a new one."""
        with self._lock:
            if place not in self._kept:
                self._kept[place] = self._make()
            self._kept.move_to_end(place)
            while len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
            return self._kept[place]


@dataclass(slots=True)
class _Manifest:
    """A manifest as it was read; without an ETag it was not."""

    etag: str | None = None
    written: datetime | None = None
    lines: Lines = field(default_factory=Lines)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def is_of(self, instance: Instance) -> bool:
        """Whether the last try wrote it: one that was killed leaves that of an earlier try, or none."""
        return self.written is not None and (instance.began is None or self.written >= instance.began)


class Shelf:
    """The batches that were looked at last, in this process."""

    def __init__(self) -> None:
        self._manifests: Kept[_Manifest] = Kept(_Manifest)
        self._running: Kept[RunningBatch] = Kept(RunningBatch)
        self._own: set[tuple[Place, Owner]] = set()

    def lines(self, source: Source, *, may_be_old: bool = False) -> Lines:
        """Return what is known of a batch's items.

        :param may_be_old: do not ask S3 whether a manifest is still the one that is kept.
        :raises Unavailable: S3 does not give it away, or it is not this task instance's.
        """
        if isinstance(source.result, BatchFigures):
            self._check_owner(source.result.manifest.folder, source)
            return self._manifest(source.result.manifest, source.store, may_be_old=may_be_old).lines
        if source.note is None:
            raise Unavailable("This task has not said yet where its batch is.")
        self._check_owner(source.note.folder, source)
        if source.instance.is_over:
            with suppress(Unavailable):
                manifest = self._manifest(source.note.manifest, source.store, may_be_old=may_be_old)
                if manifest.is_of(source.instance):
                    return manifest.lines
        return self._look(source.note, source.store).lines

    def running(self, source: Source) -> RunningBatch | None:
        """Return a batch that is under way, as its journal was a moment ago."""
        if source.note is None or source.result is not None or source.instance.is_over:
            return None
        self._check_owner(source.note.folder, source)
        return self._look(source.note, source.store)

    def _check_owner(self, folder: Place, source: Source) -> None:
        pair = (folder, source.owner)
        if pair not in self._own:
            check_owner(folder, source.owner, source.fields.get("idempotency_key"), source.store)
            if len(self._own) >= _MOST_OWN:
                self._own.clear()
            self._own.add(pair)

    def _manifest(self, place: Place, store: Store, *, may_be_old: bool) -> _Manifest:
        kept = self._manifests.get(place)
        with kept.lock:
            if kept.etag is None or not may_be_old:
                opened = store.open(place, what="manifest", known=kept.etag)
                if opened is not None:
                    with closing(opened.body) as body, readable(place):
                        kept.lines = Lines.read(body.iter_lines(_CHUNK), most_bytes=_LARGEST_MANIFEST)
                    kept.etag, kept.written = opened.etag, opened.written
            return kept

    def _look(self, note: BatchNote, store: Store) -> RunningBatch:
        batch = self._running.get(note.folder)
        batch.look(note, store)
        return batch
