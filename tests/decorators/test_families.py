"""``@task.wan`` and ``@task.gemini`` do what ``@task.seedream`` does, with their families' parameters."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, task
from jinja2.sandbox import SandboxedEnvironment

from airflow_provider_aisa.exceptions import InvalidRequest
from tests.operators.conftest import Desk, context_of, desk

__all__ = ["desk"]


def run(decorator: Any, function: Any, *, tries: int = 1, **options: Any) -> dict[str, Any]:
    with DAG("dag"):
        called: Any = decorator(task_id="generate", **options)(function)()
    operator = called.operator
    context: Any = {**context_of(tries=tries), "ds": "2026-01-01"}
    operator.render_template_fields(context, SandboxedEnvironment())
    result: dict[str, Any] = operator.execute(context)
    return result


def hero() -> dict[str, Any]:
    return {"prompt": "An otter on {{ ds }}", "n": 2}


@pytest.mark.parametrize("name", ["wan", "gemini"])
def test_what_the_function_returns_is_drawn_and_paid_for_once(desk: Desk, name: str) -> None:
    decorator = getattr(task, name)
    result = run(decorator, hero, s3_key="otters/")
    run(decorator, hero, s3_key="otters/", tries=2)

    assert {entry.prompt for entry in desk.gateway.ledger} == {"An otter on 2026-01-01"}
    assert len(result["images"]) == desk.gateway.billed == 2
    assert desk.keys() == ["otters/0.png", "otters/1.png"]


def test_a_parameter_of_another_family_is_refused_before_anything_is_sent(desk: Desk) -> None:
    with pytest.raises(InvalidRequest, match=r"return only .*aspect_ratio.* it returned 'size'"):
        run(task.gemini, lambda: {"prompt": "An otter", "size": "2048x2048"})
    assert desk.gateway.requests == []
