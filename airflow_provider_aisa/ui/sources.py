"""From an address to an image: what a task instance's own results name, and nothing else.

A query names who made an image. Bucket and key always come from the XCom or the manifest of that very task
instance, which the caller may read.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from airflow_provider_aisa.core.layout import Owner
from airflow_provider_aisa.ui.batches import Shelf
from airflow_provider_aisa.ui.database import RETURN_KEY, Instance, read_instance, read_latest_fields
from airflow_provider_aisa.ui.links import VERSION_DIGITS
from airflow_provider_aisa.ui.notes import BATCH_KEY
from airflow_provider_aisa.ui.results import (
    BatchFigures,
    BatchNote,
    Picture,
    Purchase,
    read_batch_note,
    read_result,
)
from airflow_provider_aisa.ui.stores import Store, Unavailable, store_of

_CONNECTION: Final = "aws_conn_id"
_DEFAULT_CONNECTION: Final = "aws_default"
#: Seconds for which the results of a task instance are remembered: a page asks for its images one by one.
_REMEMBERED_FOR: Final = 20.0
_MOST_REMEMBERED: Final = 2_000


@dataclass(frozen=True)
class Source:
    """What a task instance left behind.

    :param fields: its rendered fields; empty when Airflow has dropped them.
    """

    owner: Owner
    instance: Instance
    fields: Mapping[str, Any]
    result: Purchase | BatchFigures | None
    note: BatchNote | None

    @classmethod
    def of(cls, owner: Owner, instance: Instance, fields: Mapping[str, Any]) -> Source:
        """Read a task instance's XComs."""
        return cls(
            owner,
            instance,
            fields,
            result=read_result(instance.values.get(RETURN_KEY)),
            note=read_batch_note(instance.values.get(BATCH_KEY)),
        )

    @property
    def store(self) -> Store:
        """S3 as the task saw it. Raises Unavailable when it cannot be asked."""
        return store_of(self.aws_conn_id)

    @cached_property
    def aws_conn_id(self) -> str | None:
        """The AWS connection of the task, or of a later run of it; None: the machine's own credentials."""
        known = self.fields
        if _CONNECTION not in known:
            known = read_latest_fields(self.owner.dag_id, self.owner.task_id)
        connection = known.get(_CONNECTION, _DEFAULT_CONNECTION)
        return connection if isinstance(connection, str) else None

    @property
    def is_batch(self) -> bool:
        """Whether it has a manifest, or will have one."""
        return isinstance(self.result, BatchFigures) or (self.result is None and self.note is not None)


@dataclass(frozen=True, slots=True)
class Find:
    """An image, and what is needed to give it away."""

    picture: Picture
    purchase: Purchase
    store: Store


@dataclass(slots=True)
class Sources:
    """The task instances that were asked for in the last seconds."""

    shelf: Shelf
    clock: Callable[[], float] = time.monotonic
    _remembered: dict[Owner, tuple[float, Source]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def find(self, owner: Owner, *, item: str | None, index: int, version: str = "") -> Find:
        """Return an image that a task instance's results name.

        :param item: of a batch: the item's id.
        :param index: as in the result.
        :param version: how the SHA-256 begins that the caller expects; for another one the results are read
            again.
        :raises Unavailable: the results name no such image.
        """
        found: Find | None = None
        for is_afresh in (False, True):
            source = self._source(owner, is_afresh=is_afresh)
            purchase = self._purchase(source, item, may_be_old=not is_afresh)
            for picture in purchase.pictures:
                if picture.index == index:
                    found = Find(picture, purchase, source.store)
            if found is not None and found.picture.sha256.startswith(version[:VERSION_DIGITS]):
                return found
        if found is None:
            raise Unavailable("The results of this task name no such image.")
        return found

    def _source(self, owner: Owner, *, is_afresh: bool) -> Source:
        now = self.clock()
        with self._lock:
            read, source = self._remembered.get(owner, (0.0, None))
            if source is not None and not is_afresh and now - read < _REMEMBERED_FOR:
                return source
        read_now = read_instance(owner.dag_id, owner.run_id, owner.task_id, owner.map_index)
        if read_now is None:
            raise Unavailable("There is no such task instance.")
        source = Source.of(owner, *read_now)
        with self._lock:
            if len(self._remembered) >= _MOST_REMEMBERED:
                self._remembered.clear()
            self._remembered[owner] = (now, source)
        return source

    def _purchase(self, source: Source, item: str | None, *, may_be_old: bool) -> Purchase:
        if isinstance(source.result, Purchase):
            return source.result
        line = self.shelf.lines(source, may_be_old=may_be_old).find(item) if item is not None else None
        return line.purchase if line is not None else Purchase(())
