"""The prompts of a batch that is over. Its manifest has none; the journal of each item has.

A journal is read only in the folder of its own batch, whatever a manifest says.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Final

from airflow_provider_aisa.ui.results import Place, as_mapping, text
from airflow_provider_aisa.ui.stores import Store, Unavailable

_LARGEST_ENTRY: Final = 1024 * 1024  # bytes
_MOST_KEPT: Final = 6_000  # prompts: a few megabytes
_READERS: Final = 16
#: Seconds that a page waits for prompts: it is worth more without them than late.
_PATIENCE: Final = 1.0


class Prompts:
    """The prompts that were read last, in this process."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Place, str | None] = OrderedDict()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(_READERS, thread_name_prefix="aisa-gallery-prompts")

    def read(self, journals: Iterable[Place], folder: Place, store: Store) -> dict[Place, str]:
        """Return the prompts of those journals of a batch that can be read in a second.

        :param folder: of the batch.
        """
        own = {one for one in journals if one.bucket == folder.bucket and one.key.startswith(folder.key)}
        with self._lock:
            missing = [one for one in own if one not in self._kept]
        _, late = wait([self._pool.submit(self._read, one, store) for one in missing], timeout=_PATIENCE)
        for future in late:  # Nobody waits for these any more, and the next page should not have to.
            future.cancel()
        with self._lock:
            found = {one: self._kept.get(one) for one in own}
        return {one: prompt for one, prompt in found.items() if prompt is not None}

    def close(self) -> None:
        """Wait for what is being read."""
        self._pool.shutdown()

    def _read(self, journal: Place, store: Store) -> None:
        try:
            entry = as_mapping(json.loads(store.read(journal, what="journal", limit=_LARGEST_ENTRY)))
        except Unavailable as e:
            if e.status != 404:  # Perhaps S3 answers the next time.
                return
            entry = None
        except (ValueError, RecursionError):
            entry = None
        request = as_mapping(entry.get("request")) if entry else None
        with self._lock:
            self._kept[journal] = text(request.get("prompt")) if request else None
            while len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
