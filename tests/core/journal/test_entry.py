"""A journal is read strictly: what is wrong with it is an error that says so, and never "nothing sent"."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_aisa.core.journal.entry import Entry, EntryState, Stored, with_claims, without_claim
from airflow_provider_aisa.exceptions import JournalUnreadable
from tests.core.journal.entries import BUYER, ENDED, IMAGE, RESPONSE, URI, make_entry

PAID = make_entry(EntryState.PAID)
FULL = make_entry(
    EntryState.PAID,
    idempotency_key="sku-1",
    item="mug-01",
    unknown=("c7", "c8"),
    previous=Stored(BUYER, "f1", "c0", Decimal("0.04"), RESPONSE.without_links(), (IMAGE,)),
    history=("claimed", "päid"),
)


@pytest.mark.parametrize("entry", [FULL, *(make_entry(state) for state in EntryState)])
def test_an_entry_survives_writing_and_reading(entry: Entry) -> None:
    assert Entry.from_json(entry.to_json(), uri=URI) == entry


def test_a_journal_reads_well_for_people() -> None:
    text = make_entry(EntryState.STORED, history=("2026-01-01T00:00:00+00:00 stored",)).to_json().decode()

    assert '"state": "stored"' in text
    assert text.count("\n") > 20


def test_a_stored_entry_keeps_what_its_response_cost_and_no_links() -> None:
    unmetered = replace(RESPONSE, usage={})
    stored = make_entry(EntryState.STORED, response=unmetered.without_links())

    read = Entry.from_json(stored.to_json(), uri=URI)

    assert read.cost_usd == 0.04
    assert b"https://" not in stored.to_json()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b'{"state": "stored"', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not of this package"),
        (b'{"format": "something else"}', "not of this package"),
        (PAID.to_json().replace(b'"version": 2', b'"version": 3'), "Upgrade airflow-provider-aisa"),
        (PAID.to_json().replace(b'"version": 2', b'"version": 1'), "Upgrade airflow-provider-aisa"),
        (PAID.to_json().replace(b'"paid"', b'"bought"'), "damaged, state"),
        (PAID.to_json().replace(b'"claim"', b'"claimed_by"'), "damaged, claim"),
        (PAID.to_json().replace(b'"lifetime": 100.0', b'"lifetime": 1e999'), "claim.lifetime"),
        (replace(PAID, response=None).to_json(), "damaged, response"),
    ],
)
def test_a_journal_that_cannot_be_read_is_an_error_and_not_no_journal(body: bytes, words: str) -> None:
    with pytest.raises(JournalUnreadable, match=words) as caught:
        Entry.from_json(body, uri=URI)

    assert URI in str(caught.value)


WRONG: list[Any] = [None, True, 7, -1.5, "text", [], ["text"], {}, {"id": 1}, [{"index": "0"}]]


def _paths(document: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Return the place of every value in a document."""
    inside: Any = ()
    if isinstance(document, dict):
        inside = document.items()
    elif isinstance(document, list):
        inside = enumerate(document)
    below = [found for name, value in inside for found in _paths(value, (*path, name))]
    return [path, *below] if path else below


@given(
    path=st.sampled_from([path for path in _paths(json.loads(FULL.to_json())) if path[0] != "format"]),
    value=st.sampled_from(WRONG),
)
def test_any_damaged_field_is_an_unreadable_journal_or_makes_no_difference(
    path: tuple[str | int, ...], value: Any
) -> None:
    """Whatever stands in a field, reading ends in an entry of the right types or in the one typed error."""
    document = json.loads(FULL.to_json())
    place = document
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value

    try:
        entry = Entry.from_json(json.dumps(document).encode(), uri=URI)
    except JournalUnreadable as e:
        assert "https://cdn.test" not in str(e), "an error must not print a link"  # noqa: PT017 - or no error
        return
    assert Entry.from_json(entry.to_json(), uri=URI) == entry
    assert isinstance(entry.may_be_billed, tuple)
    assert entry.cost_usd is None or entry.cost_usd >= 0 or value == -1.5


@pytest.mark.parametrize("name", [field.name for field in fields(Entry)])
def test_a_missing_field_is_read_only_where_it_has_a_default(name: str) -> None:
    document = json.loads(FULL.to_json())
    del document[name]
    required = {"state", "buyer", "fingerprint", "request", "claim", "response"}

    if name in required:
        with pytest.raises(JournalUnreadable):
            Entry.from_json(json.dumps(document).encode(), uri=URI)
    else:
        assert Entry.from_json(json.dumps(document).encode(), uri=URI).state is EntryState.PAID


def test_an_open_claim_may_be_billed_and_an_ended_one_counts_what_it_says() -> None:
    assert make_entry(EntryState.CLAIMED, unknown=("c0",)).may_be_billed == ("c0", "c1")
    assert make_entry(EntryState.CLAIMED, ENDED, unknown=("c0",)).may_be_billed == ("c0",)
    assert make_entry(EntryState.CLAIMED, ENDED).may_be_billed == ()
    assert make_entry(EntryState.PAID, unknown=("c0",)).may_be_billed == ("c0",)


def test_a_lost_response_counts_once_however_many_copies_know_of_it() -> None:
    assert with_claims(("a", "b"), ("b", "c")) == ("a", "b", "c")
    assert without_claim(("a", "b"), "a") == ("b",)
    assert without_claim(("a", "b"), "c") == ("a", "b")
