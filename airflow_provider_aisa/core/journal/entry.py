"""An entry of the journal says how far one purchase got. A missing object is the only proof of nothing sent.

- ``claimed``: somebody is about to send the request, is waiting for its response, or died meanwhile;
- ``paid``: the response arrived; the entry holds its links until every image is stored;
- ``stored``: every image is in S3; the entry holds their keys and hashes, and no links.

Nothing in here has a clock, a client or S3.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final, Self

from airflow_provider_aisa.core import typed_json
from airflow_provider_aisa.core.gateway.response import GenerationResponse
from airflow_provider_aisa.core.images.stored import StoredImage
from airflow_provider_aisa.core.layout import Owner
from airflow_provider_aisa.exceptions import JournalUnreadable

FORMAT: Final = "airflow-provider-aisa journal"
VERSION: Final = 2
_LONGEST_HISTORY: Final = 50  # lines


class EntryState(StrEnum):
    """How far a purchase got."""

    CLAIMED = "claimed"
    PAID = "paid"
    STORED = "stored"


@dataclass(frozen=True, slots=True)
class Buyer:
    """Who pays: a task instance between two Clears.

    A retry is the same buyer, since it keeps ``ti.max_tries``. A Clear raises that number, so that what a
    person has cleared is told from what Airflow repeats by itself.
    """

    owner: Owner
    max_tries: int = 0


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to send the request once.

    :param id: of this one send. A later send has another one, so no two entries have the same bytes, and a
        copy that has read the former entry cannot overwrite the new one.
    :param lifetime: seconds after which whoever holds it can no longer be waiting for the response.
    :param ended: its holder saw the request end without a usable response, so nobody need wait for it.
    """

    id: str
    lifetime: float
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Stored:
    """What one purchase has brought into S3.

    :param price_usd: per image; None when nobody knew it.
    :param claim_id: what the images' own metadata say: it tells them from another purchase's.
    :param response: without its links.
    """

    buyer: Buyer
    fingerprint: str
    claim_id: str
    price_usd: Decimal | None
    response: GenerationResponse
    images: tuple[StoredImage, ...]

    @property
    def cost_usd(self) -> float | None:
        """What the images cost when they were bought; None when nobody knew their price."""
        return cost_of(self.response, self.price_usd)

    @property
    def uris(self) -> str:
        """Where the images are, for a message."""
        return ", ".join(image.uri for image in self.images) or "none"


@dataclass(frozen=True, slots=True)
class Entry:
    """What an S3 object of the journal says.

    :param buyer: who made the claim.
    :param request: model, prompt (its first characters), n and size, for people.
    :param price_usd: per image; None when nobody knew it.
    :param unknown: ids of claims whose requests were sent and may have been billed without a response. They
        are ids and no count, so that two copies that both know of a lost response count it once.
    :param response: of a paid or stored purchase; only a paid one holds links.
    :param images: of a stored one.
    :param item: of a batch: the item's id.
    :param previous: what this purchase is to replace. It stands until the new images are stored: a
        regeneration that fails must not take the old result away.
    :param history: one line for each step; a person reads them.
    """

    state: EntryState
    buyer: Buyer
    fingerprint: str
    request: Mapping[str, Any]
    claim: Claim
    price_usd: Decimal | None = None
    idempotency_key: str | None = None
    item: str | None = None
    unknown: tuple[str, ...] = ()
    response: GenerationResponse | None = None
    images: tuple[StoredImage, ...] = ()
    previous: Stored | None = None
    history: tuple[str, ...] = ()

    def to_json(self) -> bytes:
        """Return the object's body: indented, for people."""
        return typed_json.write({"format": FORMAT, "version": VERSION, **typed_json.dump(self)})

    @classmethod
    def from_json(cls, body: bytes, *, uri: str) -> Self:
        """Read an object's body; raise JournalUnreadable when it is damaged, foreign or newer."""
        look = "Look at the journal's object, and delete it only when no paid images depend on it"
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            raise JournalUnreadable(f"{look}: it is not JSON ({uri}).") from None
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise JournalUnreadable(f"{look}: it is not of this package ({uri}).")
        if document.get("version") != VERSION:
            raise JournalUnreadable(
                f"Upgrade airflow-provider-aisa: it reads journals of version {VERSION}, and this one has "
                f"{str(document.get('version'))[:20]!r} ({uri})."
            )
        try:
            return typed_json.parse(cls, body)._checked()
        except typed_json.Mistyped as e:
            raise JournalUnreadable(f"{look}: it is damaged, {e} ({uri}).") from None

    def _checked(self) -> Self:
        """Refuse what no field's type says: a state without what belongs to it."""
        if self.state is not EntryState.CLAIMED and self.response is None:
            raise typed_json.Mistyped(f"response: a {self.state} entry needs one")
        if not math.isfinite(self.claim.lifetime) or self.claim.lifetime < 0:
            raise typed_json.Mistyped("claim.lifetime: not a number of seconds")
        if self.price_usd is not None and not self.price_usd.is_finite():
            raise typed_json.Mistyped("price_usd: not an amount")
        return self

    @property
    def is_open(self) -> bool:
        """Whether somebody may be waiting for a response, or has died over it."""
        return self.state is EntryState.CLAIMED and not self.claim.ended

    @property
    def may_be_billed(self) -> tuple[str, ...]:
        """Claims whose requests may have been billed without a response, an open one included."""
        return with_claims(self.unknown, (self.claim.id,)) if self.is_open else self.unknown

    @property
    def stored(self) -> Stored | None:
        """The images that stand: this purchase's, or those that it was to replace and has not replaced."""
        if self.state is not EntryState.STORED or self.response is None:
            return self.previous if self.state is EntryState.CLAIMED else None
        return Stored(self.buyer, self.fingerprint, self.claim.id, self.price_usd, self.response, self.images)

    @property
    def cost_usd(self) -> float | None:
        """What the response cost; None when nobody knew the price, or when there is no response."""
        return None if self.response is None else cost_of(self.response, self.price_usd)

    def noted(self, event: str) -> Self:
        """Return the entry with one more line of history."""
        return replace(self, history=(*self.history, event)[-_LONGEST_HISTORY:])


def cost_of(response: GenerationResponse, price_usd: Decimal | None) -> float | None:
    """Return what a response's images cost in USD; None, never 0, when nobody knows their price."""
    return None if price_usd is None else float(price_usd * response.billed)


def with_claims(unknown: tuple[str, ...], more: tuple[str, ...]) -> tuple[str, ...]:
    """Return both sets of claims, each once, in their order."""
    return tuple(dict.fromkeys((*unknown, *more)))


def without_claim(unknown: tuple[str, ...], claim_id: str) -> tuple[str, ...]:
    """Return the claims but for one, whose response has arrived after all."""
    return tuple(one for one in unknown if one != claim_id)
