"""What earlier attempts of a batch have spent on an item, as far as its journal entry tells."""

from __future__ import annotations

from decimal import Decimal

from airflow_provider_aisa.core.batch.plan import PlannedItem
from airflow_provider_aisa.core.batch.spec import BatchOrder
from airflow_provider_aisa.core.journal.entry import Action, Entry, EntryState, next_step
from airflow_provider_aisa.core.journal.store import Journal
from airflow_provider_aisa.core.s3 import Bucket
from airflow_provider_aisa.exceptions import AisaError, JournalUnreadable


def spent_on(item: PlannedItem, order: BatchOrder, bucket: Bucket) -> tuple[Decimal, bool]:
    """Return what was, or may have been, paid for an item, in USD, and whether it is still to be bought.

    Blocks.

    :raises StorageFailed: S3 did not say.
    """
    if not item.has_entry:
        return Decimal(0), True
    ledger = Journal(bucket, order.job(item).journal_key)
    try:
        found = ledger.load()
    except JournalUnreadable:
        return Decimal(0), False  # It fails, and nothing is bought.
    if found is None:
        return Decimal(0), True
    try:
        step = next_step(
            found.entry,
            attempt=order.attempt,
            fingerprint=item.fingerprint,
            policy=order.policy,
            age=found.age,
            uri=ledger.uri,
        )
    except AisaError:
        return _spent(found.entry, item, order), False  # So does this.
    if step.action is Action.BUY and found.entry.state is not EntryState.CLAIMED:
        return Decimal(0), True  # A person asks for new images, which opens a new account.
    return _spent(found.entry, item, order), step.action is Action.BUY


def _spent(entry: Entry, item: PlannedItem, order: BatchOrder) -> Decimal:
    if entry.attempt.owner != order.attempt.owner:
        return Decimal(0)  # Another batch has paid.
    return Decimal(str(entry.cost_usd or 0)) + item.cost_usd * entry.may_be_billed
