"""JSON and output that docs show is what the code reads and writes."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

import pytest

from airflow_provider_aisa.hooks.aisa import AisaHook
from airflow_provider_aisa.hooks.s3 import open_s3
from airflow_provider_aisa.provider_info import CONNECTION_FIELDS, FIELD_BEHAVIOUR
from tests import test_docs
from tests.docs.blocks import ROOT, Block, all_blocks
from tests.operators.conftest import desk

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.operators.conftest import Desk

__all__ = ["desk"]


def shown(mark: str) -> list[Block]:
    """Return the JSON blocks that hold this text."""
    return [block for block in all_blocks("json") if mark in block.text]


def test_result_on_both_pages_has_the_fields_of_a_real_one(desk: Desk) -> None:
    real = desk.run(n=2)
    for block in shown('"journal_uri"'):
        document = json.loads(block.text)
        assert list(document) == list(real)
        assert list(document["images"][0]) == list(real["images"][0])
        assert list(document["usage"]) == list(real["usage"])


def test_connection_of_aisa_is_read_with_every_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    [block] = shown('"conn_type": "aisa"')
    monkeypatch.setenv("AIRFLOW_CONN_AISA_SHOWN", block.text)
    extras = json.loads(block.text)["extra"]

    settings = AisaHook("aisa_shown").settings

    assert set(extras) == set(CONNECTION_FIELDS)
    prices = {model: float(price) for model, price in settings.prices.items()}
    assert {**{name: getattr(settings, name) for name in extras}, "prices": prices} == extras


def test_connections_of_stores_are_read_as_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for block in shown('"conn_type": "aws"'):
        monkeypatch.setenv("AIRFLOW_CONN_AWS_SHOWN", block.text)
        client, bucket = open_s3("aws_shown")
        found[bucket] = (client.meta.endpoint_url, client.meta.region_name)

    assert found["my-images"][1] == "eu-central-1"
    assert found[None] == ("https://s3.example.com", "us-east-1")


def test_policy_allows_what_readme_says_that_is_needed() -> None:
    [block] = shown('"Statement"')
    allowed = set(re.findall(r'"(s3:\w+)"', block.text))
    needed = set(re.findall(r"`(s3:\w+)`", (ROOT / "README.md").read_text()))

    assert allowed == needed


def test_form_on_its_page_has_the_labels_and_defaults_of_the_real_one() -> None:
    table = test_docs.rows("The form", (ROOT / "docs" / "connection.md").read_text())
    labels = {
        *FIELD_BEHAVIOUR["relabeling"].values(),
        *(field["label"] for field in CONNECTION_FIELDS.values()),
    }

    assert set(table) - {"field", "---", "it says"} >= labels
    for field in CONNECTION_FIELDS.values():
        default = field["schema"].get("default")
        assert default is None or table[field["label"]][-1] == str(default)


#: What marks a block that is no command and no Python, and the test that compares it.
COMPARED: Final[Mapping[str, Callable[..., Any]]] = {
    '"journal_uri"': test_result_on_both_pages_has_the_fields_of_a_real_one,
    '"conn_type": "aisa"': test_connection_of_aisa_is_read_with_every_extra,
    '"conn_type": "aws"': test_connections_of_stores_are_read_as_they_say,
    '"Statement"': test_policy_allows_what_readme_says_that_is_needed,
    '"id": "mug-01"': test_docs.test_the_documented_item_has_the_fields_that_an_item_may_have,
    '"manifest_uri"': test_docs.test_the_documented_result_and_manifest_of_a_batch_have_real_fields,
    '"history"': test_docs.test_the_documented_journal_reads_like_a_real_one,
    "items done": test_docs.test_the_documented_progress_reads_like_the_real_one,
}
