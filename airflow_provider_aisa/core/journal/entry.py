"""The journal of paid requests. A missing object is the only proof that nothing was sent.

One entry belongs to one purchase, and its state says how far that got:

- ``claimed``: somebody is about to send the request, is waiting for its response, or died meanwhile;
- ``paid``: the response arrived; the entry holds its links until every image is stored;
- ``stored``: every image is in S3; the entry holds their keys and hashes, and no links.

This module decides and has no clock, no client and no S3: :mod:`.ledger` reads and writes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, Final, Literal, Self

from airflow_provider_aisa.core.layout import Owner
from airflow_provider_aisa.exceptions import (
    AisaError,
    AlreadyGenerated,
    InvalidRequest,
    JournalUnreadable,
    OutcomeUnknown,
)

FORMAT: Final = "airflow-provider-aisa journal"
VERSION: Final = 1

OnExisting = Literal["reuse", "regenerate", "fail"]
Delivery = Literal["at-least-once", "at-most-once"]


class EntryState(StrEnum):
    """How far a purchase got."""

    CLAIMED = "claimed"
    PAID = "paid"
    STORED = "stored"


@dataclass(frozen=True, slots=True)
class Buyer:
    """Who asks: a task instance, and the number by which Airflow tells a retry from a person's Clear.

    A retry keeps ``ti.max_tries``; a Clear raises it.
    """

    owner: Owner
    max_tries: int = 0


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to send the request.

    :param lifetime: seconds after which whoever holds it can no longer be waiting for the response.
    :param ended: its holder saw the request end without a usable response, so nobody need wait for it.
    """

    id: str
    lifetime: float
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """What an S3 object of the journal says.

    :param unknown_outcomes: requests that were sent and may have been billed without a response.
    :param response: of a paid request: model, created, request_id, usage, and images with their links.
    :param images: of a stored one: the images as they are in the task's result.
    """

    state: EntryState
    attempt: Buyer
    fingerprint: str
    request: Mapping[str, Any]
    claim: Claim
    idempotency_key: str | None = None
    unknown_outcomes: int = 0
    cost_usd: float | None = None
    response: Mapping[str, Any] | None = None
    images: tuple[Mapping[str, Any], ...] = ()
    #: Of whoever wrote it; a person reads them.
    history: tuple[str, ...] = field(default=())

    def to_json(self) -> bytes:
        """Return the object's body: indented, for people."""
        document = {"format": FORMAT, "version": VERSION, **asdict(self)}
        # Half a character, which JSON can carry and UTF-8 cannot, stays JSON's own escape.
        return json.dumps(document, indent=1, ensure_ascii=False).encode(errors="backslashreplace")

    @classmethod
    def from_json(cls, body: bytes, *, uri: str) -> Self:
        """Read an object's body; raise JournalUnreadable when it is damaged, foreign or newer."""
        advice = "Nothing was sent. Look at the object, and delete it only when no paid images depend on it."
        try:
            document = json.loads(body)
        except ValueError:
            raise JournalUnreadable(f"journal {uri} is damaged: it is not JSON. {advice}") from None
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise JournalUnreadable(f"{uri} is not a journal of this package. {advice}")
        if document.get("version") != VERSION:
            raise JournalUnreadable(
                f"journal {uri} has version {document.get('version')!r}; this package reads {VERSION}: "
                f"upgrade airflow-provider-aisa. Nothing was sent."
            )
        try:
            return cls._from_document(document)
        except (KeyError, TypeError, ValueError) as e:
            raise JournalUnreadable(f"journal {uri} is damaged ({type(e).__name__}: {e}). {advice}") from None

    @classmethod
    def _from_document(cls, document: Mapping[str, Any]) -> Self:
        state = EntryState(document["state"])
        attempt = Buyer(Owner(**document["attempt"]["owner"]), int(document["attempt"]["max_tries"]))
        response = document["response"]
        if state is EntryState.PAID and not isinstance(response["images"], list):
            raise TypeError("a paid entry without images")
        return cls(
            state=state,
            attempt=attempt,
            fingerprint=str(document["fingerprint"]),
            request=dict(document["request"]),
            claim=Claim(**document["claim"]),
            idempotency_key=document["idempotency_key"],
            unknown_outcomes=int(document["unknown_outcomes"]),
            cost_usd=document["cost_usd"],
            response=response,
            images=tuple(dict(image) for image in document["images"]),
            history=tuple(map(str, document["history"])),
        )

    @property
    def may_be_billed(self) -> int:
        """Requests that may have been billed without a response, the one that is claimed now included."""
        is_open = self.state is EntryState.CLAIMED and not self.claim.ended
        return self.unknown_outcomes + is_open

    @property
    def uris(self) -> str:
        """Where the images are, for a message."""
        return ", ".join(str(image["uri"]) for image in self.images) or "none"

    def noted(self, event: str) -> Entry:
        """Return the entry with one more line of history."""
        return replace(self, history=(*self.history, event)[-50:])


def journal_name(
    owner: Owner, fingerprint: str, idempotency_key: str | None, item_id: str | None = None
) -> str:
    """Return the object's name: the same in every try of a task instance, or wherever a key is used."""
    identity: dict[str, Any] = {"idempotency_key": idempotency_key}
    if idempotency_key is None:
        identity = {**asdict(owner), "fingerprint": fingerprint}
    if item_id is not None:
        identity["item"] = item_id
    return f"{_digest(identity)}.json"


def batch_name(owner: Owner, idempotency_key: str | None) -> str:
    """Return the name of the folder that holds the journals of a batch's items."""
    return _digest({"batch": idempotency_key if idempotency_key is not None else asdict(owner)})


def _digest(identity: Mapping[str, Any]) -> str:
    canonical = json.dumps(identity, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:40]


class Action(StrEnum):
    """What an attempt does next."""

    BUY = "buy"
    WAIT = "wait"
    RESUME = "resume"
    RETURN = "return"


@dataclass(frozen=True, slots=True)
class Step:
    """An action, and what goes with it.

    :param unknown_outcomes: of BUY: earlier sends that may have been billed.
    :param seconds: of WAIT: how long the other's claim holds.
    :param is_anew: of RESUME: a person has asked for new images, should the paid ones be gone.
    """

    action: Action
    unknown_outcomes: int = 0
    seconds: float = 0.0
    is_anew: bool = False


@dataclass(frozen=True, slots=True)
class Policy:
    """What an author wants done about earlier purchases."""

    on_existing: OnExisting = "reuse"
    delivery: Delivery = "at-least-once"

    def returns_stored(self, bought_by: Buyer, attempt: Buyer) -> bool:
        """Return whether an attempt returns the stored images of this or another attempt."""
        return bought_by == attempt or self.on_existing == "reuse"


def next_step(
    entry: Entry | None, *, attempt: Buyer, fingerprint: str, policy: Policy, age: float, uri: str
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
    is_repeat = entry.attempt == attempt
    is_anew = not is_repeat and policy.on_existing == "regenerate"
    if entry.fingerprint != fingerprint and not (is_anew and entry.state is not EntryState.PAID):
        raise _other_request(entry, uri)
    if entry.state is EntryState.CLAIMED:
        return _after_claim(entry, policy=policy, is_anew=is_anew, age=age, uri=uri)
    if entry.state is EntryState.PAID:
        return Step(Action.RESUME, is_anew=is_anew)
    if policy.returns_stored(entry.attempt, attempt):
        return Step(Action.RETURN)
    if is_anew:
        return Step(Action.BUY)
    raise AlreadyGenerated(
        f"an earlier run has generated these images, and on_existing is 'fail': {entry.uris} "
        f"(journal {uri}). "
        "Use on_existing='reuse' to return them, or 'regenerate' to pay for new ones."
    )


def _after_claim(entry: Entry, *, policy: Policy, is_anew: bool, age: float, uri: str) -> Step:
    claim = entry.claim
    if not claim.ended and age < claim.lifetime:
        return Step(Action.WAIT, seconds=claim.lifetime - age)
    unknown = entry.may_be_billed
    if policy.delivery == "at-least-once" or is_anew:
        return Step(Action.BUY, unknown_outcomes=unknown)
    raise OutcomeUnknown(
        f"an earlier request was sent and its response never arrived (journal {uri}): its images may "
        "have been billed, and delivery is 'at-most-once'. Look at the usage page of the AIsa "
        "console; to buy anew, clear the task with on_existing='regenerate'. Nothing was sent.",
        retryable=False,
    )


def _other_request(entry: Entry, uri: str) -> AisaError:
    if entry.state is EntryState.PAID:
        step = "Run the earlier request again first, so that its paid images are stored, or use another key."
    else:
        step = "Use another key, or on_existing='regenerate' to pay for a new one."
    request = {name: value for name, value in entry.request.items() if name != "prompt"}
    return InvalidRequest(
        f"idempotency_key {entry.idempotency_key!r} belongs to another request: {request}, or another prompt "
        f"(journal {uri}). {step} Nothing was sent."
    )
