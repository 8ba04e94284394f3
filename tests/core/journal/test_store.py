"""Stores differ in how they answer conditional writes; none of them makes a purchase pay twice silently."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_aisa.core.journal.entry import Claim, Entry, EntryState
from airflow_provider_aisa.core.journal.store import AlreadyBought, EntryChanged, Journal
from airflow_provider_aisa.exceptions import JournalUnreadable, StorageFailed
from tests.core.journal.entries import ENDED, make_entry
from tests.fakes.meddler import Meddler
from tests.fakes.s3 import FakeS3

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = "_aisa/j.json"
CLAIMED, PAID, STORED = (make_entry(state) for state in EntryState)
THEIRS = Claim("theirs", lifetime=100.0)


def make_journal(store: FakeS3, **hooks: Any) -> Journal:
    return Journal(store.client(**hooks).bucket(), KEY, sleep=lambda _: None)


def found(store: FakeS3) -> Entry:
    one = make_journal(store).load()
    assert one is not None
    return one.entry


def test_the_first_of_two_claims_wins_and_the_second_learns_it() -> None:
    store = FakeS3()
    make_journal(store).claim(CLAIMED, None)

    with pytest.raises(EntryChanged):
        make_journal(store).claim(make_entry(EntryState.CLAIMED, THEIRS), None)

    assert found(store) == CLAIMED


def test_a_claim_follows_the_entry_that_was_read_or_fails() -> None:
    store = FakeS3()
    etag = make_journal(store).claim(CLAIMED, None).etag
    make_journal(store).record(PAID, etag)

    with pytest.raises(EntryChanged):
        make_journal(store).claim(make_entry(EntryState.CLAIMED, THEIRS), etag)


def test_a_claim_after_an_entry_that_was_deleted_is_a_lost_race() -> None:
    """AWS answers 404 to If-Match on a missing key, and not 412."""
    store = FakeS3()
    etag = make_journal(store).claim(CLAIMED, None).etag
    Meddler(store).delete(KEY)

    with pytest.raises(EntryChanged):
        make_journal(store).claim(make_entry(EntryState.CLAIMED, THEIRS), etag)


def test_our_own_write_whose_answer_got_lost_is_not_taken_for_a_lost_race() -> None:
    store = FakeS3(lost_answers=1)

    claimed = make_journal(store).claim(CLAIMED, None)

    assert claimed.etag == store.objects[KEY].etag.strip('"')


def test_a_conflict_is_asked_again() -> None:
    store = FakeS3(conflicts=3)
    slept: list[float] = []

    Journal(store.client().bucket(), KEY, sleep=slept.append).claim(CLAIMED, None)

    assert len(slept) == 3
    assert found(store) == CLAIMED


def test_endless_conflicts_are_an_error_that_says_what_to_do() -> None:
    with pytest.raises(StorageFailed, match=r"^Try again: .* 409"):
        make_journal(FakeS3(conflicts=100)).claim(CLAIMED, None)


def _nothing(_store: FakeS3) -> None:
    """Leave everything as it is."""


def _delete(store: FakeS3) -> None:
    assert Meddler(store).delete(KEY)


def _rewrite(store: FakeS3) -> None:
    assert Meddler(store).rewrite(KEY)


@pytest.mark.parametrize("meddle", [_nothing, _delete, _rewrite])
@pytest.mark.parametrize("entry", [PAID, STORED, make_entry(EntryState.CLAIMED, ENDED, unknown=("c1",))])
def test_what_became_of_a_claim_is_recorded_whatever_became_of_its_object(
    entry: Entry, meddle: Callable[[FakeS3], None]
) -> None:
    store = FakeS3()
    etag = make_journal(store).claim(CLAIMED, None).etag
    meddle(store)

    recorded = make_journal(store).record(entry, etag)

    assert recorded.entry == entry
    assert found(store) == entry
    assert recorded.etag == store.objects[KEY].etag.strip('"')


def test_a_response_takes_the_place_of_a_claim_that_took_ours_for_stale() -> None:
    """The other copy's request may be billed as well, so its claim counts; ours has been answered."""
    store = FakeS3()
    etag = make_journal(store).claim(CLAIMED, None).etag
    theirs = make_entry(EntryState.CLAIMED, THEIRS, unknown=("c1",))
    make_journal(store).claim(theirs, etag)

    recorded = make_journal(store).record(PAID, etag)

    assert recorded.entry.claim.id == "c1"
    assert recorded.entry.response == PAID.response
    assert recorded.entry.unknown == ("theirs",)
    assert found(store) == recorded.entry


def test_a_claim_that_ended_unsent_is_not_counted_when_a_response_takes_its_place() -> None:
    store = FakeS3()
    etag = make_journal(store).claim(CLAIMED, None).etag
    released = make_entry(EntryState.CLAIMED, replace(THEIRS, ended=True), unknown=("c1",))
    make_journal(store).claim(released, etag)

    assert make_journal(store).record(PAID, etag).entry.unknown == ()


@pytest.mark.parametrize("state", [EntryState.PAID, EntryState.STORED])
def test_of_two_responses_the_first_one_stays_in_the_journal(state: EntryState) -> None:
    store = FakeS3()
    etag = make_journal(store).claim(CLAIMED, None).etag
    theirs = make_entry(state, THEIRS)
    make_journal(store).record(theirs, etag)

    with pytest.raises(AlreadyBought) as caught:
        make_journal(store).record(PAID, etag)

    assert caught.value.found.entry == theirs
    assert found(store) == theirs


def test_a_lost_response_is_noted_in_whatever_entry_there_is() -> None:
    store = FakeS3()
    etag = make_journal(store).claim(CLAIMED, None).etag
    theirs = make_entry(EntryState.CLAIMED, THEIRS)
    Meddler(store).delete(KEY)
    make_journal(store).claim(theirs, None)

    recorded = make_journal(store).record(make_entry(EntryState.CLAIMED, ENDED, unknown=("c1",)), etag)

    assert recorded.entry == replace(theirs, unknown=("c1",))
    assert found(store) == recorded.entry


@pytest.mark.parametrize("entry", [PAID, STORED, make_entry(EntryState.CLAIMED, ENDED, unknown=("c1",))])
def test_a_lost_response_that_another_copy_noted_in_our_entry_stays_noted(entry: Entry) -> None:
    store = FakeS3()
    etag = make_journal(store).claim(CLAIMED, None).etag
    make_journal(store).record(replace(CLAIMED, unknown=("theirs",)), etag)

    recorded = make_journal(store).record(entry, etag)

    assert set(recorded.entry.unknown) == {"theirs", *entry.unknown}


def test_a_copy_that_went_on_from_our_response_and_finished_is_believed() -> None:
    store = FakeS3()
    etag = make_journal(store).claim(CLAIMED, None).etag
    paid = make_journal(store).record(PAID, etag)
    finished = make_journal(store).record(STORED, paid.etag)

    assert make_journal(store).record(replace(STORED, history=("later",)), paid.etag) == finished


def test_an_entry_that_is_rewritten_all_the_time_is_an_error_and_ends() -> None:
    store = FakeS3()
    etag = make_journal(store).claim(CLAIMED, None).etag
    meddler = Meddler(store)

    def rewrite(operation: str, _key: str) -> None:
        if operation == "PutObject":
            meddler.rewrite(KEY)

    with pytest.raises(StorageFailed, match="others rewrite the journal all the time"):
        make_journal(store, on_request=rewrite).record(PAID, etag)


def test_garbage_in_the_place_of_our_claim_is_not_overwritten() -> None:
    store = FakeS3()
    etag = make_journal(store).claim(CLAIMED, None).etag
    store.put(KEY, b"garbage")

    with pytest.raises(JournalUnreadable):
        make_journal(store).record(PAID, etag)

    assert store.objects[KEY].body == b"garbage"


@pytest.mark.parametrize(("manners", "words"), [("501", "501"), ("ignored", "ignores")])
def test_a_store_without_conditions_works_with_one_warning(
    manners: Any, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = FakeS3(put_conditions=manners)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            journal = make_journal(store)
            claimed = journal.claim(CLAIMED, None)
            journal.record(PAID, claimed.etag)
            assert found(store) == PAID

    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 1
    assert words in warnings[0]
    assert store.endpoint in warnings[0]


def test_a_store_is_asked_once_per_process_whether_it_keeps_conditions() -> None:
    store = FakeS3()
    for number in range(3):
        bucket = store.client().bucket()
        Journal(bucket, f"_aisa/{number}.json", sleep=lambda _: None).claim(CLAIMED, None)

    assert store.count("PutObject") == 4  # three claims, one question


def test_a_question_without_an_answer_changes_nothing() -> None:
    store = FakeS3()
    writes: list[str] = []

    def fail_the_second(operation: str, key: str) -> None:
        writes.extend([key] if operation == "PutObject" else [])
        if len(writes) == 2:
            raise StorageFailed("the network")

    make_journal(store, on_request=fail_the_second).claim(CLAIMED, None)

    assert found(store) == CLAIMED


def test_a_foreign_object_under_the_journals_key_stops_everything() -> None:
    store = FakeS3()
    store.put(KEY, b"{}")

    with pytest.raises(JournalUnreadable, match="not of this package"):
        make_journal(store).load()
