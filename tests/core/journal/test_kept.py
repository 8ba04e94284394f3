"""Images that are in the answer itself: what is kept, what is found again, and what is not believed."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_aisa.core.gateway.response import GeneratedImage, GenerationResponse
from airflow_provider_aisa.core.journal.entry import Buyer, Claim, Entry, EntryState
from airflow_provider_aisa.core.journal.kept import Keeper
from airflow_provider_aisa.core.journal.store import Journal
from airflow_provider_aisa.core.layout import Owner
from tests.fakes.meddler import Meddler
from tests.fakes.png import png
from tests.fakes.s3 import FakeS3

KEY = "i/_aisa/x.json"
CLAIM = Claim("c1", lifetime=70.0)
FOLDER = "i/_aisa/x.answer-c1"


def inline(index: int) -> GeneratedImage:
    return GeneratedImage(index, b64_json=base64.b64encode(png(f"image {index}")).decode())


def response_of(*images: GeneratedImage, **changes: Any) -> GenerationResponse:
    usage = {"totalTokenCount": 7}
    response = GenerationResponse("gemini-x", 5, images, usage, "req_1", delivered=len(images))
    return replace(response, **changes)


def claimed() -> Entry:
    buyer = Buyer(Owner("d", "r", "t"))
    request = {"model": "asked", "prompt": "p", "n": 1}
    return Entry(EntryState.CLAIMED, buyer, "f", request, CLAIM, unknown=("c0",))


def keep(store: FakeS3, response: GenerationResponse, folder: Path) -> GenerationResponse:
    return Keeper(store.client().bucket(), KEY).keep(response, CLAIM.id, folder)


def found(store: FakeS3, *, age: float = 100.0) -> Entry:
    """Return the entry as the next attempt reads it."""
    store.put(KEY, claimed().to_json())
    store.clock.skip(age)
    read = Journal(store.client().bucket(), KEY).load()
    assert read is not None
    return read.entry


def test_what_was_kept_is_found_again_with_its_figures(tmp_path: Path) -> None:
    store = FakeS3()
    kept = keep(store, response_of(inline(0), inline(2)), tmp_path)
    assert [image.b64_json for image in kept.images] == [None, None]
    assert store.objects[f"{FOLDER}/1"].body == png("image 2")

    entry = found(store)

    assert entry.state is EntryState.PAID
    assert entry.response == kept
    assert entry.may_be_billed == ("c0",)
    assert list(tmp_path.iterdir()) == []


def test_a_claim_that_can_be_alive_is_left_alone(tmp_path: Path) -> None:
    store = FakeS3()
    keep(store, response_of(inline(0)), tmp_path)
    assert found(store, age=10.0).state is EntryState.CLAIMED
    assert store.count("HeadObject") == 0


@pytest.mark.parametrize("gone", [0, 1])
def test_half_an_answer_is_none(tmp_path: Path, gone: int) -> None:
    store = FakeS3()
    keep(store, response_of(inline(0), inline(1)), tmp_path)
    Meddler(store).delete(f"{FOLDER}/{gone}")
    assert found(store).may_be_billed == ("c0", "c1")


@pytest.mark.parametrize(
    "metadata",
    [
        {"claim": "another", "index": "0", "answer": "{}"},
        {"claim": "c1", "index": "0"},
        {"claim": "c1", "index": "0", "answer": "no JSON"},
        {"claim": "c1", "index": "0", "answer": json.dumps({"images": 10**9, "delivered": 1, "usage": {}})},
        {"claim": "c1", "index": "x", "answer": json.dumps({"images": 1, "delivered": 1, "usage": {}})},
    ],
)
def test_what_somebody_else_has_put_there_is_not_believed(metadata: dict[str, str]) -> None:
    store = FakeS3()
    store.put(f"{FOLDER}/0", png("x"), Metadata=metadata)
    assert found(store).state is EntryState.CLAIMED


def test_an_answer_with_links_as_well_is_not_rebuilt_from_its_images(tmp_path: Path) -> None:
    store = FakeS3()
    link = GeneratedImage(1, url="https://cdn.test/1")
    kept = keep(store, response_of(inline(0), link), tmp_path)
    assert kept.images[1] == link
    assert found(store).state is EntryState.CLAIMED


def test_an_image_that_cannot_be_kept_stays_in_the_response(tmp_path: Path) -> None:
    store = FakeS3(denied={"s3:PutObject"})
    response = response_of(inline(0))
    assert keep(store, response, tmp_path) == response
    broken = response_of(GeneratedImage(0, b64_json="no base64"))
    assert keep(FakeS3(), broken, tmp_path) == broken


def test_figures_that_no_header_can_carry_are_left_out(tmp_path: Path) -> None:
    store = FakeS3()
    keep(store, response_of(inline(0), usage={"a": "é" * 5_000}), tmp_path)
    response = found(store).response
    assert response is not None
    assert response.usage == {"generated_images": 1}


def test_what_is_stored_gives_its_room_back(tmp_path: Path) -> None:
    store = FakeS3()
    kept = keep(store, response_of(inline(0)), tmp_path)
    Keeper(store.client().bucket(), KEY).empty(kept)
    assert store.objects[f"{FOLDER}/0"].body == b""
    assert store.count("DeleteObject") == 0
    assert found(store).state is EntryState.CLAIMED
