"""Mapped tasks are called by what they draw."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import DAG, mask_secret
from jinja2.sandbox import SandboxedEnvironment

from airflow_provider_aisa.labels import MAP_INDEX_TEMPLATE, label_of, label_of_requests
from airflow_provider_aisa.operators.batch import SeedreamBatchOperator
from airflow_provider_aisa.operators.seedream import SeedreamGenerateOperator

if TYPE_CHECKING:
    from airflow_provider_aisa.operators.base import AisaOperator

LONG = "A red panda reading a map on a mountain pass, watercolour, morning light"


@pytest.mark.parametrize(
    ("prompt", "label"),
    [
        ("An otter", "An otter"),
        (" An\n  otter\t", "An otter"),
        (LONG, "A red panda reading a map on a mountain pass, watercolour…"),
        ("雪" * 100, "雪" * 60 + "…"),
        ("{{ braces }} and {% blocks %}", "{{ braces }} and {% blocks %}"),
        ("", ""),
        (7, "7"),
    ],
)
def test_a_label_is_the_first_words_on_one_line(prompt: object, label: str) -> None:
    assert label_of(prompt) == label


def test_a_secret_in_a_prompt_is_masked_before_the_prompt_is_cut() -> None:
    """Airflow masks rendered fields, but not the names of mapped tasks."""
    mask_secret("correct-horse-battery-staple")

    assert label_of(f"{'x' * 45} correct-horse-battery-staple") == f"{'x' * 45} ***"


@pytest.mark.parametrize(
    ("requests", "label"),
    [
        ("s3://bucket/catalogue/requests.jsonl", "requests.jsonl"),
        ("s3://bucket/requests.jsonl#bytes=0-99&line=501&etag=x", "requests.jsonl from line 501"),
        (["an otter", "a heron"], "2 requests from an otter"),
        ([{"id": "mug-01", "prompt": "a mug"}] * 1200, "1,200 requests from mug-01"),
        ([{"prompt": "a mug"}], "a mug"),
        ([], ""),
        (None, ""),
    ],
)
def test_a_batch_is_called_by_its_file_or_its_first_request(requests: object, label: str) -> None:
    assert label_of_requests(requests) == label


def rendered(operator: type[AisaOperator], *, own: str | None = None, **mapped: Any) -> str:
    """Return what Airflow calls the mapped instance 3, from its templates to its name."""
    with DAG("dag"):
        task: Any = operator.partial(task_id="t", map_index_template=own).expand(
            **{name: [value] for name, value in mapped.items()}
        )
    unmapped = task.unmap(mapped)
    environment = SandboxedEnvironment()
    context: Any = {
        "task": unmapped,
        "ti": SimpleNamespace(map_index=3),
        "map_index_template": task.map_index_template,
        "where": "Bergen",
    }
    unmapped._do_render_template_fields(unmapped, unmapped.template_fields, context, environment, set())
    return environment.from_string(context["map_index_template"]).render(context)


def test_a_mapped_instance_is_called_by_its_number_and_its_rendered_prompt() -> None:
    label = rendered(SeedreamGenerateOperator, prompt="Rain in {{ where }}, {{ '{{ where }}' }}")

    assert label == "3: Rain in Bergen, {{ where }}"


def test_a_mapped_batch_is_called_by_its_first_request() -> None:
    assert rendered(SeedreamBatchOperator, requests=["an otter", "a heron"]) == "3: 2 requests from an otter"


def test_an_authors_own_template_wins() -> None:
    assert rendered(SeedreamGenerateOperator, own="{{ task.size }}", prompt="x") == "2048x2048"


def test_a_task_that_is_not_mapped_has_no_such_name() -> None:
    operator = SeedreamGenerateOperator(task_id="t", prompt="p")
    context: Any = {}

    operator.render_template_fields(context, SandboxedEnvironment())

    assert "map_index_template" not in context
    assert "map_index" in MAP_INDEX_TEMPLATE
