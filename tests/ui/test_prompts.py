"""Prompts from journals: read once, at most for a second, and only in the folder of their batch."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any, cast

import pytest

from airflow_provider_aisa.ui import prompts
from airflow_provider_aisa.ui.prompts import Prompts
from airflow_provider_aisa.ui.results import Place
from airflow_provider_aisa.ui.stores import Unavailable

if TYPE_CHECKING:
    from airflow_provider_aisa.ui.stores import Store

FOLDER = Place("shop", "a/_aisa/batch/")
JOURNAL = Place("shop", "a/_aisa/batch/items/1.json")


class Journals:
    """A store that counts what is read; `content` is what it holds."""

    def __init__(self, content: bytes | None) -> None:
        self.content = content
        self.read_keys: list[str] = []
        self.is_open = threading.Event()
        self.is_open.set()

    def read(self, place: Place, *, what: str, limit: int) -> bytes:
        assert (what, limit) == ("journal", 1024 * 1024)
        self.is_open.wait()
        self.read_keys.append(place.key)
        if self.content is None:
            raise Unavailable("S3 does not answer", status=502)
        return self.content


def read(found: Prompts, journals: Journals, *places: Place) -> dict[Place, str]:
    return found.read(places or (JOURNAL,), FOLDER, cast("Store", journals))


def entry(prompt: Any) -> bytes:
    return json.dumps({"request": {"prompt": prompt}}).encode()


def test_a_prompt_is_read_once() -> None:
    journals, found = Journals(entry("A panda")), Prompts()

    assert [read(found, journals) for _ in range(3)] == [{JOURNAL: "A panda"}] * 3
    assert journals.read_keys == [JOURNAL.key]


@pytest.mark.parametrize(
    "place",
    [
        Place("other", JOURNAL.key),
        Place("shop", "b/_aisa/batch/items/1.json"),
        Place("shop", "a/_aisa/batch"),
    ],
)
def test_a_journal_of_another_folder_is_not_read(place: Place) -> None:
    journals = Journals(entry("Nobody may read this"))

    assert read(Prompts(), journals, place) == {}
    assert journals.read_keys == []


@pytest.mark.parametrize("content", [None, b"{", b"[]", b"[" * 100_000, b"{}", entry(None), entry(["x"])])
def test_a_journal_that_cannot_be_read_has_no_prompt(content: bytes | None) -> None:
    assert read(Prompts(), Journals(content)) == {}


def test_a_journal_is_asked_for_again_when_s3_did_not_answer() -> None:
    journals, found = Journals(None), Prompts()
    read(found, journals)
    journals.content = entry("A panda")

    assert read(found, journals) == {JOURNAL: "A panda"}


def test_a_page_does_not_wait_for_a_store_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that nobody waits for any more are not read at all, but for those that are being read."""
    monkeypatch.setattr(prompts, "_PATIENCE", 0.05)
    journals, found = Journals(entry("A panda")), Prompts()
    journals.is_open.clear()
    places = [Place("shop", f"{FOLDER.key}items/{number}.json") for number in range(100)]

    assert read(found, journals, *places) == {}
    journals.is_open.set()
    found.close()

    assert len(journals.read_keys) == 16


def test_only_so_many_prompts_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "_MOST_KEPT", 2)
    journals, found = Journals(entry("A panda")), Prompts()
    for number in (1, 2, 3, 1):
        read(found, journals, Place("shop", f"{FOLDER.key}items/{number}.json"))

    assert len(journals.read_keys) == 4
