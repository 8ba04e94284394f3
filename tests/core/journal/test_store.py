"""Stores differ in how they answer conditional writes; none of them makes the ledger pay twice silently."""

from __future__ import annotations

import logging

import pytest

from airflow_provider_aisa.core.journal.entry import EntryState
from airflow_provider_aisa.core.journal.store import EntryChanged, Journal
from airflow_provider_aisa.core.s3 import ConditionConflict
from airflow_provider_aisa.exceptions import JournalUnreadable, StorageFailed
from tests.core.journal.test_entry import make_entry
from tests.paying.memory import Memory, MemoryBucket

KEY = "_aisa/j.json"
CLAIMED, PAID = make_entry(EntryState.CLAIMED), make_entry(EntryState.PAID)


def make_ledger(memory: Memory, *, probes: bool = True) -> Journal:
    return Journal(MemoryBucket(memory), KEY, probes=probes, sleep=lambda _: None)


def test_the_first_of_two_claims_wins_and_the_second_learns_it() -> None:
    memory = Memory()
    make_ledger(memory).write(CLAIMED, None)

    with pytest.raises(EntryChanged):
        make_ledger(memory).write(make_entry(EntryState.CLAIMED, unknown_outcomes=9), None)

    found = make_ledger(memory).load()
    assert found is not None
    assert found.entry == CLAIMED


def test_a_write_follows_the_entry_that_was_read_or_fails() -> None:
    memory = Memory()
    ledger = make_ledger(memory)
    etag = ledger.write(CLAIMED, None)
    ledger.write(PAID, etag)

    with pytest.raises(EntryChanged):
        ledger.write(CLAIMED, etag)


def test_our_own_write_whose_answer_got_lost_is_not_taken_for_a_lost_race() -> None:
    memory = Memory()
    ledger = make_ledger(memory, probes=False)
    lost = ledger.write(CLAIMED, None)

    assert ledger.write(CLAIMED, None) == lost


def test_a_conflict_is_asked_again() -> None:
    memory = Memory(conflicts=3)
    slept: list[float] = []
    ledger = Journal(MemoryBucket(memory), KEY, sleep=slept.append)

    ledger.write(CLAIMED, None)

    assert len(slept) == 3
    assert ledger.load() is not None


def test_endless_conflicts_are_an_error_that_says_what_to_do() -> None:
    memory = Memory(conflicts=100)

    with pytest.raises(StorageFailed, match=r"409\. Try again"):
        make_ledger(memory).write(CLAIMED, None)


def test_a_release_leaves_another_ones_entry_alone() -> None:
    memory = Memory()
    ledger = make_ledger(memory)
    etag = ledger.write(CLAIMED, None)
    ledger.write(PAID, etag)

    with pytest.raises(EntryChanged):
        ledger.release(etag)
    assert ledger.load() is not None


def test_a_released_claim_is_no_entry() -> None:
    memory = Memory()
    ledger = make_ledger(memory)

    ledger.release(ledger.write(CLAIMED, None))

    assert ledger.load() is None


def test_a_conflicting_release_is_a_storage_failure() -> None:
    memory = Memory()
    bucket = MemoryBucket(memory)
    ledger = Journal(bucket, KEY)
    etag = ledger.write(CLAIMED, None)

    def conflict(label: str) -> None:
        if label == "before delete":
            raise ConditionConflict

    with pytest.raises(StorageFailed, match="could not be deleted"):
        Journal(MemoryBucket(memory, conflict), KEY).release(etag)


@pytest.mark.parametrize(("manners", "words"), [("501", "501"), ("ignores", "ignores")])
def test_a_store_without_conditions_works_with_one_warning(
    manners: str, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    memory = Memory(manners=manners)  # type: ignore[arg-type]  # parametrize gives strings
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            ledger = make_ledger(memory)
            etag = ledger.write(CLAIMED, None)
            etag = ledger.write(PAID, etag)
            found = ledger.load()
            assert found is not None
            assert found.entry == PAID
            ledger.release(etag)

    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 1
    assert words in warnings[0]
    assert memory.endpoint in warnings[0]


def test_a_store_is_probed_once_per_process_and_not_by_a_first_try() -> None:
    memory = Memory()
    make_ledger(memory, probes=False).write(CLAIMED, None)
    assert len(memory.writes) == 1

    memory.objects.clear()
    asked: list[str] = []
    for _ in range(2):
        ledger = Journal(MemoryBucket(memory, asked.append), KEY)
        ledger.release(ledger.write(CLAIMED, None))

    assert asked.count("before write") == 3  # two claims, one probe


def test_a_probe_without_a_verdict_changes_nothing() -> None:
    memory = Memory()
    calls: list[str] = []

    def fail_second_write(label: str) -> None:
        calls.append(label)
        if calls.count("before write") == 2:
            raise StorageFailed("the network")

    Journal(MemoryBucket(memory, fail_second_write), KEY).write(CLAIMED, None)

    assert make_ledger(memory).load() is not None


def test_surplus_is_kept_beside_the_entry() -> None:
    memory = Memory()
    ledger = make_ledger(memory)
    ledger.write(CLAIMED, None)

    uri = ledger.keep_surplus(PAID)

    assert uri == f"s3://memory/_aisa/j.surplus-{PAID.claim.id}.json"
    assert uri.removeprefix("s3://memory/") in memory.objects
    found = ledger.load()
    assert found is not None
    assert found.entry == CLAIMED


def test_a_foreign_object_under_the_journals_key_stops_everything() -> None:
    memory = Memory()
    MemoryBucket(memory).write(KEY, b"{}", only_if=None)

    with pytest.raises(JournalUnreadable, match="not a journal"):
        make_ledger(memory).load()
