"""What an attempt does about an earlier purchase is a table, and a journal is read strictly."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from airflow_provider_aisa.core.gateway.request import ImageRequest
from airflow_provider_aisa.core.job import Job
from airflow_provider_aisa.core.journal.entry import (
    Action,
    Buyer,
    Claim,
    Entry,
    EntryState,
    Policy,
    Step,
    journal_name,
    next_step,
)
from airflow_provider_aisa.core.layout import Owner, Target
from airflow_provider_aisa.exceptions import (
    AlreadyGenerated,
    InvalidRequest,
    JournalUnreadable,
    OutcomeUnknown,
)

ATTEMPT = Buyer(Owner("dag", "run", "task"), max_tries=2)
CLEARED = replace(ATTEMPT, max_tries=5)
OTHER_RUN = Buyer(Owner("dag", "another run", "task"), max_tries=2)
URI = "s3://b/_aisa/j.json"
OPEN, ENDED = Claim("c1", lifetime=100.0), Claim("c1", lifetime=100.0, ended=True)


def make_entry(state: EntryState, claim: Claim = OPEN, **changes: Any) -> Entry:
    entry = Entry(
        state=state,
        attempt=ATTEMPT,
        fingerprint="f1",
        request={"model": "m", "prompt": "p", "n": 1, "size": "2048x2048"},
        claim=claim,
        response={"images": []},
        images=({"uri": "s3://b/0.png"},) if state is EntryState.STORED else (),
    )
    return replace(entry, **changes)


CLAIMED, PAID, STORED = (make_entry(state) for state in EntryState)
ENDED_ENTRY = make_entry(EntryState.CLAIMED, ENDED, unknown_outcomes=1)
KEYED = make_entry(EntryState.STORED, idempotency_key="sku-1")
OTHER = replace(KEYED, fingerprint="f2")
OTHER_PAID = make_entry(EntryState.PAID, idempotency_key="sku-1", fingerprint="f2")

REUSE, REGENERATE, FAIL = Policy("reuse"), Policy("regenerate"), Policy("fail")
ONCE, ONCE_ANEW = Policy("reuse", "at-most-once"), Policy("regenerate", "at-most-once")
BUY, BUY_AGAIN = Step(Action.BUY), Step(Action.BUY, unknown_outcomes=1)
RESUME, RETURN = Step(Action.RESUME), Step(Action.RETURN)
RESUME_FIRST = Step(Action.RESUME, is_anew=True)

CASES: list[tuple[str, Entry | None, Buyer, Policy, float, Step | type[Exception]]] = [
    ("nothing was sent", None, ATTEMPT, REUSE, 0, BUY),
    ("live claim", CLAIMED, ATTEMPT, REUSE, 40, Step(Action.WAIT, seconds=60.0)),
    ("live claim, cleared", CLAIMED, CLEARED, REGENERATE, 40, Step(Action.WAIT, seconds=60.0)),
    ("live claim, at most once", CLAIMED, ATTEMPT, ONCE, 99, Step(Action.WAIT, seconds=1.0)),
    ("stale claim", CLAIMED, ATTEMPT, REUSE, 100, BUY_AGAIN),
    ("stale claim, at most once", CLAIMED, ATTEMPT, ONCE, 100, OutcomeUnknown),
    ("stale claim, at most once, a person insists", CLAIMED, CLEARED, ONCE_ANEW, 100, BUY_AGAIN),
    ("stale claim, at most once, cleared to reuse", CLAIMED, CLEARED, ONCE, 100, OutcomeUnknown),
    ("ended claim is neither waited for nor counted twice", ENDED_ENTRY, ATTEMPT, REUSE, 0, BUY_AGAIN),
    ("ended claim, at most once", ENDED_ENTRY, ATTEMPT, ONCE, 0, OutcomeUnknown),
    ("paid, retry", PAID, ATTEMPT, REUSE, 0, RESUME),
    ("paid, retry, at most once", PAID, ATTEMPT, ONCE, 0, RESUME),
    ("paid, cleared to fail", PAID, CLEARED, FAIL, 0, RESUME),
    ("paid, cleared to regenerate: what is paid comes first", PAID, CLEARED, REGENERATE, 0, RESUME_FIRST),
    ("stored, retry", STORED, ATTEMPT, REUSE, 0, RETURN),
    ("stored, retry under regenerate", STORED, ATTEMPT, REGENERATE, 0, RETURN),
    ("stored, retry under fail", STORED, ATTEMPT, FAIL, 0, RETURN),
    ("stored, cleared to reuse", STORED, CLEARED, REUSE, 0, RETURN),
    ("stored, cleared to regenerate", STORED, CLEARED, REGENERATE, 0, BUY),
    ("stored, cleared to fail", STORED, CLEARED, FAIL, 0, AlreadyGenerated),
    ("key used by another run, reuse", KEYED, OTHER_RUN, REUSE, 0, RETURN),
    ("key used by another run, fail", KEYED, OTHER_RUN, FAIL, 0, AlreadyGenerated),
    ("key of another request", OTHER, OTHER_RUN, REUSE, 0, InvalidRequest),
    ("key of another request, retry", OTHER, ATTEMPT, REGENERATE, 0, InvalidRequest),
    ("key of another request, regenerate", OTHER, OTHER_RUN, REGENERATE, 0, BUY),
    ("key of another request whose images wait", OTHER_PAID, OTHER_RUN, REGENERATE, 0, InvalidRequest),
]


@pytest.mark.parametrize(
    ("entry", "attempt", "policy", "age", "expected"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_next_step(
    entry: Entry | None, attempt: Buyer, policy: Policy, age: float, expected: Step | type[Exception]
) -> None:
    def decide() -> Step:
        return next_step(entry, attempt=attempt, fingerprint="f1", policy=policy, age=age, uri=URI)

    if isinstance(expected, Step):
        assert decide() == expected
        return
    with pytest.raises(expected) as caught:
        decide()
    assert URI in str(caught.value)
    assert not getattr(caught.value, "retryable", True)


def test_an_entry_survives_writing_and_reading() -> None:
    entry = make_entry(
        EntryState.PAID,
        idempotency_key="sku-1",
        unknown_outcomes=3,
        cost_usd=0.08,
        response={"model": "m", "images": [{"index": 0, "url": "https://cdn/0"}]},
        history=("claimed", "päid"),
    )

    assert Entry.from_json(entry.to_json(), uri=URI) == entry


def test_a_journal_reads_well_for_people() -> None:
    text = make_entry(EntryState.STORED, history=("2026-01-01T00:00:00+00:00 stored",)).to_json().decode()

    assert '"state": "stored"' in text
    assert text.count("\n") > 20


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b'{"state": "stored"', "not JSON"),
        (b"[]", "not a journal"),
        (b'{"format": "something else"}', "not a journal"),
        (PAID.to_json().replace(b'"version": 1', b'"version": 2'), "upgrade airflow-provider-aisa"),
        (PAID.to_json().replace(b'"paid"', b'"bought"'), "damaged"),
        (PAID.to_json().replace(b'"claim"', b'"claimed_by"'), "damaged"),
        (PAID.to_json().replace(b'"images": []', b'"images": null'), "damaged"),
    ],
)
def test_a_journal_that_cannot_be_read_is_an_error_and_not_no_journal(body: bytes, words: str) -> None:
    with pytest.raises(JournalUnreadable, match=words) as caught:
        Entry.from_json(body, uri=URI)

    assert URI in str(caught.value)
    assert "Nothing was sent" in str(caught.value)


def test_names_tell_purchases_apart_and_nothing_else() -> None:
    mapped = Buyer(replace(ATTEMPT.owner, map_index=1))

    assert journal_name(ATTEMPT.owner, "f1", None) == journal_name(CLEARED.owner, "f1", None)
    assert journal_name(ATTEMPT.owner, "f1", None) != journal_name(ATTEMPT.owner, "f2", None)
    assert journal_name(ATTEMPT.owner, "f1", None) != journal_name(OTHER_RUN.owner, "f1", None)
    assert journal_name(ATTEMPT.owner, "f1", None) != journal_name(mapped.owner, "f1", None)
    assert journal_name(ATTEMPT.owner, "f1", "sku") == journal_name(OTHER_RUN.owner, "f2", "sku")
    assert journal_name(ATTEMPT.owner, "f1", "sku") != journal_name(ATTEMPT.owner, "f1", "sku2")


@pytest.mark.parametrize(
    ("s3_key", "key", "folder"),
    [
        (None, None, "seedream/dag/run/task/_aisa/"),
        ("heroes/{index}.png", None, "heroes/_aisa/"),
        ("{sha256}.png", None, "_aisa/"),
        ("a/b-{index}/c.png", None, "a/_aisa/"),
        ("heroes/{index}.png", "sku-1", "_aisa/"),
    ],
)
def test_the_journal_lies_next_to_the_images(s3_key: str | None, key: str | None, folder: str) -> None:
    target = Target.parse(s3_key, "b", default_folder=ATTEMPT.owner.path())
    job = Job(ImageRequest.parse(prompt="p"), target, ATTEMPT, idempotency_key=key)

    assert job.journal_key.rpartition("/")[0] + "/" == folder


def test_a_job_survives_the_database() -> None:
    job = Job(
        ImageRequest.parse(prompt="ü", n=2),
        Target.parse("s3://b/{index}.{ext}", None),
        Buyer(Owner("d", "r", "t", 7), 3),
        policy=Policy("fail", "at-most-once"),
        on_partial="keep",
        idempotency_key="k",
        s3_extra_args={"StorageClass": "STANDARD"},
    )
    for price in (None, ImageRequest.parse(prompt="p").price_usd({})):
        priced = replace(job, price_usd=price)
        assert Job.from_dict(json.loads(json.dumps(priced.to_dict()))) == priced
