"""What an attempt does about an earlier purchase is a table."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from airflow_provider_aisa.core.gateway.response import GenerationResponse
from airflow_provider_aisa.core.journal.entry import Buyer, Claim, Entry, EntryState, Stored
from airflow_provider_aisa.core.journal.steps import Action, Policy, Step, next_step
from airflow_provider_aisa.exceptions import AlreadyGenerated, InvalidRequest, OutcomeUnknown
from tests.core.journal.entries import BUYER, CLEARED, ENDED, OTHER_RUN, RELEASED, URI, make_entry

CLAIMED, PAID, STORED = (make_entry(state) for state in EntryState)
ENDED_ENTRY = make_entry(EntryState.CLAIMED, ENDED, unknown=("c0",))
RELEASED_ENTRY = make_entry(EntryState.CLAIMED, RELEASED)
KEYED = make_entry(EntryState.STORED, idempotency_key="sku-1")
OTHER = replace(KEYED, fingerprint="f2")
OTHER_PAID = make_entry(EntryState.PAID, idempotency_key="sku-1", fingerprint="f2")
OTHER_RELEASED = replace(RELEASED_ENTRY, fingerprint="f2", idempotency_key="sku-1")
OTHER_ENDED = replace(ENDED_ENTRY, fingerprint="f2", idempotency_key="sku-1")

OLD = Stored(BUYER, "f1", "c-old", Decimal("0.04"), GenerationResponse("m", 1, (), {}, "req_old"), ())
LOST_REGENERATION = replace(ENDED_ENTRY, buyer=CLEARED, previous=OLD)
LIVE_REGENERATION = replace(CLAIMED, buyer=CLEARED, previous=OLD)
TWICE_CLEARED = replace(BUYER, max_tries=8)

REUSE, REGENERATE, FAIL = Policy("reuse"), Policy("regenerate"), Policy("fail")
ONCE, ONCE_ANEW = Policy("reuse", "at-most-once"), Policy("regenerate", "at-most-once")
BUY = Step(Action.BUY)
BUY_AFTER_OPEN, BUY_AFTER_ENDED = Step(Action.BUY, unknown=("c1",)), Step(Action.BUY, unknown=("c0",))
RESUME = Step(Action.RESUME)
RESUME_FIRST = Step(Action.RESUME, is_anew=True)
RETURN = Step(Action.RETURN, stored=STORED.stored)
RETURN_OR_ANEW = Step(Action.RETURN, stored=STORED.stored, is_anew=True)
RETURN_OLD = Step(Action.RETURN, unknown=("c0",), stored=OLD)

CASES: list[tuple[str, Entry | None, Buyer, Policy, float, Step | type[Exception]]] = [
    ("nothing was sent", None, BUYER, REUSE, 0, BUY),
    ("live claim", CLAIMED, BUYER, REUSE, 40, Step(Action.WAIT, seconds=60.0)),
    ("live claim, cleared", CLAIMED, CLEARED, REGENERATE, 40, Step(Action.WAIT, seconds=60.0)),
    ("live claim, at most once", CLAIMED, BUYER, ONCE, 99, Step(Action.WAIT, seconds=1.0)),
    ("stale claim", CLAIMED, BUYER, REUSE, 100, BUY_AFTER_OPEN),
    ("stale claim, at most once", CLAIMED, BUYER, ONCE, 100, OutcomeUnknown),
    ("stale claim, at most once, a person insists", CLAIMED, CLEARED, ONCE_ANEW, 100, BUY_AFTER_OPEN),
    ("stale claim, at most once, cleared to reuse", CLAIMED, CLEARED, ONCE, 100, OutcomeUnknown),
    ("ended claim is neither waited for nor counted twice", ENDED_ENTRY, BUYER, REUSE, 0, BUY_AFTER_ENDED),
    ("ended claim, at most once", ENDED_ENTRY, BUYER, ONCE, 0, OutcomeUnknown),
    ("released claim counts nothing", RELEASED_ENTRY, BUYER, REUSE, 0, BUY),
    ("released claim, at most once", RELEASED_ENTRY, BUYER, ONCE, 0, BUY),
    ("paid, retry", PAID, BUYER, REUSE, 0, RESUME),
    ("paid, retry, at most once", PAID, BUYER, ONCE, 0, RESUME),
    ("paid, cleared to fail", PAID, CLEARED, FAIL, 0, RESUME),
    ("paid, cleared to regenerate: what is paid comes first", PAID, CLEARED, REGENERATE, 0, RESUME_FIRST),
    ("stored, retry", STORED, BUYER, REUSE, 0, RETURN),
    ("stored, retry under regenerate", STORED, BUYER, REGENERATE, 0, RETURN_OR_ANEW),
    ("stored, retry under fail", STORED, BUYER, FAIL, 0, RETURN),
    ("stored, cleared to reuse", STORED, CLEARED, REUSE, 0, RETURN),
    ("stored, cleared to regenerate", STORED, CLEARED, REGENERATE, 0, BUY),
    ("stored, cleared to fail", STORED, CLEARED, FAIL, 0, AlreadyGenerated),
    ("a lost regeneration leaves the old images, retry", LOST_REGENERATION, BUYER, REUSE, 0, RETURN_OLD),
    ("a lost regeneration leaves the old images, reuse", LOST_REGENERATION, CLEARED, REUSE, 0, RETURN_OLD),
    ("a lost regeneration, retry of it", LOST_REGENERATION, CLEARED, REGENERATE, 0, BUY_AFTER_ENDED),
    ("a lost regeneration, at most once", LOST_REGENERATION, CLEARED, ONCE_ANEW, 0, OutcomeUnknown),
    ("a lost regeneration, insisted", LOST_REGENERATION, TWICE_CLEARED, ONCE_ANEW, 0, BUY_AFTER_ENDED),
    ("a lost regeneration, fail", LOST_REGENERATION, TWICE_CLEARED, FAIL, 0, AlreadyGenerated),
    ("a live regeneration is waited for", LIVE_REGENERATION, BUYER, REUSE, 0, Step(Action.WAIT, seconds=100)),
    ("key used by another run, reuse", KEYED, OTHER_RUN, REUSE, 0, replace(RETURN, stored=KEYED.stored)),
    ("key used by another run, fail", KEYED, OTHER_RUN, FAIL, 0, AlreadyGenerated),
    ("key of another request", OTHER, OTHER_RUN, REUSE, 0, InvalidRequest),
    ("key of another request, retry", OTHER, BUYER, REGENERATE, 0, InvalidRequest),
    ("key of another request, regenerate", OTHER, OTHER_RUN, REGENERATE, 0, BUY),
    ("key of another request whose images wait", OTHER_PAID, OTHER_RUN, REGENERATE, 0, InvalidRequest),
    ("key of another request that was refused", OTHER_RELEASED, BUYER, REUSE, 0, BUY),
    ("key of another request that was lost", OTHER_ENDED, BUYER, REUSE, 0, InvalidRequest),
]


@pytest.mark.parametrize(
    ("entry", "buyer", "policy", "age", "expected"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_next_step(
    entry: Entry | None, buyer: Buyer, policy: Policy, age: float, expected: Step | type[Exception]
) -> None:
    def decide() -> Step:
        return next_step(entry, buyer=buyer, fingerprint="f1", policy=policy, age=age, uri=URI)

    if isinstance(expected, Step):
        assert decide() == expected
        return
    with pytest.raises(expected) as caught:
        decide()
    assert URI in str(caught.value)
    assert not getattr(caught.value, "retryable", True)


def test_an_error_about_a_lost_response_says_how_many_there_are() -> None:
    entry = replace(CLAIMED, unknown=("c8", "c9"), claim=Claim("c10", 0.0))

    with pytest.raises(OutcomeUnknown) as caught:
        next_step(entry, buyer=BUYER, fingerprint="f1", policy=ONCE, age=1.0, uri=URI)

    assert caught.value.unknown_outcomes == 3
