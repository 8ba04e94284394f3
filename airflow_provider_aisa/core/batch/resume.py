"""What earlier attempts of a batch have left: what is stored needs nothing more, and all of it counts.

A retry lists the journal once and reads the entries that there are. Whether stored images still are there is
seen in one listing of their folder; those that it does not show are looked at one by one, by their items.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from decimal import Decimal
from itertools import islice
from typing import Final, TypeVar

from airflow_provider_aisa.core.batch.manifest import ManifestLine, dump, line_of, unmatched_line
from airflow_provider_aisa.core.batch.plan import Item, Plan, PlannedItem
from airflow_provider_aisa.core.batch.spec import BatchSpec
from airflow_provider_aisa.core.budget import spent_on
from airflow_provider_aisa.core.generate import decide
from airflow_provider_aisa.core.journal.entry import Entry
from airflow_provider_aisa.core.journal.steps import Action
from airflow_provider_aisa.core.journal.store import Found, Journal
from airflow_provider_aisa.core.receipt import Receipt
from airflow_provider_aisa.core.s3.bucket import Bucket
from airflow_provider_aisa.exceptions import AisaError, JournalUnreadable

log = logging.getLogger(__name__)

S = TypeVar("S")

#: Threads that read entries.
READERS: Final = 24
_AT_ONCE: Final = 1000  # entries that are in memory together
_PAGE: Final = 1000  # keys of one request that lists
_LAST: Final = "\U0010ffff"  # comes after whatever else a key may go on with
_MOST_NAMED: Final = 5


@dataclass(slots=True)
class Earlier:
    """What earlier attempts have left of a batch.

    :param spent: what the task instance has paid or may have paid, in USD.
    :param to_buy: what is left to buy, in USD.
    :param images: how many images are left to buy.
    :param conditions_hold: the store's conditional writes can be relied on, so that the claim of an item
        without an entry is the proof that there is none.
    """

    spent: Decimal = Decimal(0)
    to_buy: Decimal = Decimal(0)
    images: int = 0
    conditions_hold: bool = False


def look_back(
    spec: BatchSpec, plan: Plan, bucket: Bucket, *, tell: Callable[[ManifestLine], None]
) -> Earlier:
    """Settle in the plan what is stored already, and return what the rest costs. Blocks.

    :param tell: gets the line of each item that is settled, and of each purchase that belongs to no item.
    :raises StorageFailed: the bucket is missing, or may not be listed, read or written.
    """
    layout = spec.layout
    keys = (key for key, _ in bucket.list_keys(layout.entries) if key.endswith(".json"))
    found = (key.removeprefix(layout.entries) for key in keys)
    plan.mark_found(found)
    body = json.dumps({"batch": asdict(spec.buyer.owner), "items": plan.total}, indent=1).encode()
    bucket.write(layout.description, body, only_if=None, is_conditional=False)
    earlier = Earlier(conditions_hold=Journal(bucket, layout.description).conditions_hold(body))
    with ThreadPoolExecutor(READERS, thread_name_prefix="aisa-look-back") as pool:
        back = _LookBack(spec, plan, bucket, pool, earlier)
        for some in _blocks(plan.with_entry(), _AT_ONCE):
            back.read(some)
        back.list_images()
        for settled in plan.settle_expected():
            tell(json.loads(settled))
        if spec.idempotency_key is None or spec.max_cost_usd is not None:
            # Under an author's own key there may be thousands of entries of others: who has no budget does
            # without reading them.
            for line in back.look_at_strangers():
                tell(line)
    cost, images = plan.new_cost()
    earlier.to_buy += cost
    earlier.images += images
    return earlier


def entries_of(spec: BatchSpec, bucket: Bucket) -> Iterator[Entry]:
    """Yield every entry that the batch's journal has, whatever item it belongs to. Blocks."""
    for key, _ in bucket.list_keys(spec.layout.entries):
        if key.endswith(".json") and (found := Journal(bucket, key).load()) is not None:
            yield found.entry


@dataclass(frozen=True, slots=True)
class _LookBack:
    spec: BatchSpec
    plan: Plan
    bucket: Bucket
    pool: ThreadPoolExecutor
    earlier: Earlier

    def read(self, some: list[PlannedItem]) -> None:
        """Read the entries of some items: what was spent on each, and which images it should have."""
        entries = self.pool.map(self._read, [self.spec.job(one.item).journal_key for one in some])
        for planned, found in zip(some, entries, strict=True):
            self._judge(planned, found)

    def list_images(self) -> None:
        """Note which of the images that should be there are there: a request per thousand that lie together.

        The listing is made where images are expected, so it takes no longer than looking at each of them,
        whatever else there is in their folder. What it does not show is looked at when its item's turn comes.
        """
        folder, key = self.spec.defaults.target.folder, self.plan.next_expected("")
        while key is not None:
            prefix = folder if key.startswith(folder) else key[: key.rfind("/") + 1]
            page = list(islice(self.bucket.list_keys(prefix, since=key), _PAGE))
            self.plan.see(page)
            is_end = len(page) < _PAGE
            key = self.plan.next_expected(max(key, prefix + _LAST if is_end else page[-1][0]))

    def look_at_strangers(self) -> Iterator[ManifestLine]:
        """Count what was paid for requests that have changed since, and yield the lines that tell of it."""
        entries = self.spec.layout.entries
        told, unreadable = [], []
        for some in _blocks(self.plan.strangers(), _AT_ONCE):
            keys = [f"{entries}{name}" for name in some]
            for name, key, found in zip(some, keys, self.pool.map(self._read, keys), strict=True):
                uri = self.bucket.uri(key)
                if isinstance(found, JournalUnreadable):
                    unreadable.append(uri)
                if not isinstance(found, Found) or found.entry.buyer.owner != self.spec.buyer.owner:
                    continue
                entry = found.entry
                self.earlier.spent += spent_on(entry, self.spec.buyer, self.spec.policy)
                if entry.response is not None or entry.stored is not None or entry.may_be_billed:
                    line = unmatched_line(entry, uri)
                    self.plan.tell_stranger(name, dump(line))
                    told.append(f"{entry.item!r} ({entry.state}, {uri})")
                    yield line
        if told:
            log.warning(
                "%d purchase(s) of earlier attempts belong to requests that have changed or are gone. They "
                "are at the end of the manifest, and count in max_cost_usd: %s",
                len(told),
                _first(told),
            )
        if unreadable:
            log.warning(
                "%d object(s) of the journal belong to no request and cannot be read, so nobody knows what "
                "was paid for them. Look at them: %s",
                len(unreadable),
                _first(unreadable),
            )

    def _read(self, key: str) -> Found | JournalUnreadable | None:
        try:
            return Journal(self.bucket, key).load()
        except JournalUnreadable as e:
            return e

    def _judge(self, planned: PlannedItem, found: Found | JournalUnreadable | None) -> None:
        """Count what was spent on an item, and note its images if it is stored."""
        spec, item = self.spec, planned.item
        if found is None:
            self._count_to_buy(item)  # Somebody has deleted the entry since it was listed.
            return
        if isinstance(found, JournalUnreadable):
            return  # Its item fails when its turn comes, and nothing is bought.
        uri = self.bucket.uri(spec.job(item).journal_key)
        self.earlier.spent += spent_on(found.entry, spec.buyer, spec.policy)
        try:
            step = decide(spec.job(item), uri, found)
        except AisaError:
            return  # So does this.
        if step.action is Action.BUY:
            self._count_to_buy(item)
        stored = step.stored
        least = item.request.n if spec.on_partial == "fail" else 1
        if stored is None or len(stored.images) < least:
            return
        receipt = Receipt(
            uri,
            response=stored.response,
            cost_usd=stored.cost_usd,
            images=stored.images,
            unknown_outcomes=len(found.entry.may_be_billed),
            is_reused=True,
        )
        images = [(image.key, image.etag) for image in stored.images]
        self.plan.expect(planned.position, dump(line_of(item.id, receipt)), images)

    def _count_to_buy(self, item: Item) -> None:
        self.earlier.to_buy += item.cost_usd
        self.earlier.images += item.request.n


def _first(names: list[str]) -> str:
    return ", ".join(names[:_MOST_NAMED]) + (", …" if len(names) > _MOST_NAMED else "")


def _blocks(values: Iterable[S], size: int) -> Iterator[list[S]]:
    iterator = iter(values)
    while block := list(islice(iterator, size)):
        yield block
