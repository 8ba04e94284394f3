"""Entries of a journal, as tests of the journal need them."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any, Final

from airflow_provider_aisa.core.gateway.response import GeneratedImage, GenerationResponse
from airflow_provider_aisa.core.images.stored import StoredImage
from airflow_provider_aisa.core.journal.entry import Buyer, Claim, Entry, EntryState
from airflow_provider_aisa.core.layout import Owner

BUYER: Final = Buyer(Owner("dag", "run", "task"), max_tries=2)
CLEARED: Final = replace(BUYER, max_tries=5)
OTHER_RUN: Final = Buyer(Owner("dag", "another run", "task"), max_tries=2)
URI: Final = "s3://b/_aisa/j.json"
OPEN: Final = Claim("c1", lifetime=100.0)
ENDED: Final = Claim("c1", lifetime=100.0, ended=True)
RELEASED: Final = ENDED
IMAGE: Final = StoredImage(0, "s3://b/0.png", "b", "0.png", 2048, 2048, "2048x2048", "image/png", 9, "0" * 64)
LINK: Final = GeneratedImage(0, url="https://cdn.test/0")
RESPONSE: Final = GenerationResponse("m", 1, (LINK,), {"generated_images": 1}, "req_1", delivered=1)


def make_entry(state: EntryState, claim: Claim = OPEN, **changes: Any) -> Entry:
    """Return a valid entry in a state."""
    entry = Entry(
        state=state,
        buyer=BUYER,
        fingerprint="f1",
        request={"model": "m", "prompt": "p", "n": 1, "size": "2048x2048"},
        claim=claim,
        price_usd=Decimal("0.04"),
    )
    if state is EntryState.PAID:
        entry = replace(entry, response=RESPONSE)
    if state is EntryState.STORED:
        entry = replace(entry, response=RESPONSE.without_links(), images=(IMAGE,))
    return replace(entry, **changes)
