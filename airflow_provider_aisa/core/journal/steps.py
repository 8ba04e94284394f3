"""What follows from an entry is a table: no client, no clock and no S3 decide it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from airflow_provider_aisa.core.journal.entry import Buyer, Entry, EntryState, Stored
from airflow_provider_aisa.exceptions import AisaError, AlreadyGenerated, InvalidRequest, OutcomeUnknown

OnExisting = Literal["reuse", "regenerate", "fail"]
Delivery = Literal["at-least-once", "at-most-once"]


class Action(StrEnum):
    """What an attempt does next."""

    BUY = "buy"
    WAIT = "wait"
    RESUME = "resume"
    RETURN = "return"


@dataclass(frozen=True, slots=True)
class Step:
    """An action, and what goes with it.

    :param unknown: claims of earlier sends that may have been billed.
    :param seconds: of WAIT: how long the other's claim holds.
    :param is_anew: a person has asked for new images: of RESUME, should the paid ones be gone; of RETURN,
        should the stored ones be.
    :param stored: of RETURN: the images.
    """

    action: Action
    unknown: tuple[str, ...] = ()
    seconds: float = 0.0
    is_anew: bool = False
    stored: Stored | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """What an author wants done about earlier purchases."""

    on_existing: OnExisting = "reuse"
    delivery: Delivery = "at-least-once"

    def opens_new_account(self, bought_by: Buyer, buyer: Buyer) -> bool:
        """Return whether a person has asked this buyer to pay anew for what another has bought."""
        return self.on_existing == "regenerate" and bought_by != buyer


def next_step(
    entry: Entry | None, *, buyer: Buyer, fingerprint: str, policy: Policy, age: float, uri: str
) -> Step:
    """Decide what an attempt does about the entry that it found.

    :param entry: None when there is no object.
    :param age: seconds since the entry was written, by the store's own clock.
    :raises AlreadyGenerated: ``on_existing`` is ``fail`` and an earlier run has the images.
    :raises OutcomeUnknown: ``delivery`` is ``at-most-once`` and an earlier request may have been billed.
    :raises InvalidRequest: the author's idempotency key belongs to another request.
    """
    if entry is None:
        return Step(Action.BUY)
    is_anew = policy.opens_new_account(entry.buyer, buyer)
    if entry.state is EntryState.PAID:
        if entry.fingerprint != fingerprint:
            raise _other_request(entry, uri)
        return Step(Action.RESUME, is_anew=is_anew)
    if entry.is_open and age < entry.claim.lifetime:
        if entry.fingerprint != fingerprint and not is_anew:
            raise _other_request(entry, uri)
        return Step(Action.WAIT, seconds=entry.claim.lifetime - age)
    stored = entry.stored
    is_replaced = stored is not None and policy.opens_new_account(stored.buyer, buyer)
    if is_replaced and entry.state is EntryState.STORED:
        return Step(Action.BUY)
    if stored is not None and not is_replaced:
        # Of a claim: a regeneration failed, so what it was to replace still stands.
        return _after_stored(entry, stored, buyer=buyer, fingerprint=fingerprint, policy=policy, uri=uri)
    return _after_claim(entry, fingerprint=fingerprint, policy=policy, is_anew=is_anew, uri=uri)


def _after_stored(
    entry: Entry, stored: Stored, *, buyer: Buyer, fingerprint: str, policy: Policy, uri: str
) -> Step:
    if stored.fingerprint != fingerprint:
        raise _other_request(entry, uri)
    if stored.buyer == buyer or policy.on_existing == "reuse":
        is_anew = policy.on_existing == "regenerate"
        return Step(Action.RETURN, unknown=entry.may_be_billed, is_anew=is_anew, stored=stored)
    raise AlreadyGenerated(
        "Use on_existing='reuse' to return the images that exist, or 'regenerate' to pay for new ones: an "
        f"earlier run has generated them, and on_existing is 'fail'. They are {stored.uris} (journal {uri})."
    )


def _after_claim(entry: Entry, *, fingerprint: str, policy: Policy, is_anew: bool, uri: str) -> Step:
    unknown = entry.may_be_billed
    # A claim that ended without a bill binds nobody: its request may have been refused and changed since.
    if unknown and entry.fingerprint != fingerprint and not is_anew:
        raise _other_request(entry, uri)
    if not unknown or policy.delivery == "at-least-once" or is_anew:
        return Step(Action.BUY, unknown=unknown)
    raise OutcomeUnknown(
        "Look at the usage page of the AIsa console; to buy anew, clear the task with "
        "on_existing='regenerate'. An earlier request was sent and its response never arrived: its images "
        f"may have been billed, and delivery is 'at-most-once'. Nothing more was sent (journal {uri}).",
        retryable=False,
        unknown_outcomes=len(unknown),
    )


def _other_request(entry: Entry, uri: str) -> AisaError:
    if entry.state is EntryState.PAID:
        step = "Run the earlier request again first, so that its paid images are stored, or use another key."
    else:
        step = "Use another key, or on_existing='regenerate' to pay for a new one."
    request = {name: value for name, value in entry.request.items() if name != "prompt"}
    return InvalidRequest(
        f"{step} idempotency_key {entry.idempotency_key!r} belongs to another request: {request}, or another "
        f"prompt. Nothing was sent (journal {uri})."
    )
