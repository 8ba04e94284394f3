"""``@task.seedream``: what the function returns is what is drawn and paid for, once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, assert_type

import pytest
from airflow.providers.common.compat.sdk import DAG, TaskDeferred, task
from jinja2.sandbox import SandboxedEnvironment

from airflow_provider_aisa.decorators.seedream import SeedreamDecoratedOperator, seedream_task
from airflow_provider_aisa.exceptions import InvalidRequest
from tests.operators.conftest import Desk, context_of, desk

if TYPE_CHECKING:
    pass

__all__ = ["desk"]


def operator_of(function: Any, *arguments: Any, **options: Any) -> SeedreamDecoratedOperator:
    """Decorate a function as a DAG's author does, call it, and return the operator that this makes."""
    with DAG("dag"):
        called: Any = task.seedream(task_id="generate", **options)(function)(*arguments)
    operator: SeedreamDecoratedOperator = called.operator
    return operator


def run(function: Any, *arguments: Any, tries: int = 1, **options: Any) -> dict[str, Any]:
    operator = operator_of(function, *arguments, **options)
    context: Any = {**context_of(tries=tries), "ds": "2026-01-01"}
    operator.render_template_fields(context, SandboxedEnvironment())
    result: dict[str, Any] = operator.execute(context)
    return result


def prompts(desk: Desk) -> list[str]:
    return [entry.prompt for entry in desk.gateway.ledger]


def test_a_returned_prompt_is_drawn_with_the_decorators_arguments(desk: Desk) -> None:
    def hero(animal: str) -> str:
        return f"{animal} reading a map"

    result = run(hero, "A red panda", size="1920x1920", n=2)

    assert prompts(desk) == ["A red panda reading a map"]
    assert [image["size"] for image in result["images"]] == ["1920x1920"] * 2


def test_a_returned_dict_sets_the_operators_parameters(desk: Desk) -> None:
    def hero() -> dict[str, Any]:
        return {"prompt": "An otter", "size": "1920x1920", "n": 2, "s3_key": "otters/{index}.{ext}"}

    run(hero, size="2048x2048")

    assert desk.keys() == ["otters/0.png", "otters/1.png"]
    assert desk.gateway.billed == 2


def test_what_is_returned_is_rendered_once_and_nothing_else_again(desk: Desk) -> None:
    """A rendered argument can hold braces, which somebody else has written."""

    def hero(animal: str) -> str:
        return f"{animal}, {{{{ ds }}}}"

    operator = operator_of(hero, "{{ name }}", idempotency_key="{{ '{{ ds }}' }}")
    context: Any = {**context_of(), "ds": "2026-01-01", "name": "An otter"}
    operator.render_template_fields(context, SandboxedEnvironment())
    operator.execute(context)

    assert prompts(desk) == ["An otter, 2026-01-01"]
    assert operator.idempotency_key == "{{ ds }}"


def test_the_function_may_ask_for_the_context_and_may_be_async(desk: Desk) -> None:
    async def hero(ds: str | None = None) -> str:
        return f"An otter on {ds}"

    run(hero)

    assert prompts(desk) == ["An otter on 2026-01-01"]


def test_a_retry_that_returns_the_same_pays_nothing(desk: Desk) -> None:
    first = run(lambda: "An otter")

    assert run(lambda: "An otter", tries=2) == {**first, "reused": True}
    assert desk.gateway.billed == 1


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, r"return a prompt, or a dict with one, from hero: it returned a NoneType"),
        (["a", "b"], r"it returned a list\. For many prompts, map the task"),
        ({"size": "1920x1920"}, r"return a dict with a 'prompt' from hero"),
        ({"prompt": "p", "sise": "1920x1920"}, r"return only .* from hero: it returned 'sise'"),
        ({"prompt": "p", "deferrable": True}, r"it returned 'deferrable'"),
        ("  ", r"prompt is blank"),
        ({"prompt": "p", "size": "640x480"}, r"try '2217x1663'"),
        ({"prompt": "p", "delivery": "twice"}, r"delivery 'twice' is unknown"),
    ],
)
def test_what_cannot_be_drawn_fails_before_anything_is_sent(
    desk: Desk, returned: object, message: str
) -> None:
    def hero() -> object:
        return returned

    with pytest.raises(InvalidRequest, match=message):
        run(hero)

    assert desk.gateway.requests == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": "An otter"}, "leave prompt out"),
        ({"size": "640x480"}, "try '2217x1663'"),
    ],
)
def test_what_can_only_be_a_mistake_fails_the_dags_import(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        operator_of(lambda: "An otter", **options)


def test_a_deferrable_one_calls_its_function_before_it_defers(desk: Desk) -> None:
    with pytest.raises(TaskDeferred) as caught:
        run(lambda: "An otter", deferrable=True)

    assert caught.value.trigger.serialize()[1]["job"]["request"]["prompt"] == "An otter"
    assert desk.gateway.requests == []


def test_mapped_over_prompts_each_is_drawn_in_a_folder_of_its_own(desk: Desk) -> None:
    with DAG("dag"):
        mapped: Any = task.seedream(task_id="generate", size="1920x1920")(lambda animal: f"{animal}!")
        called = mapped.override(n=2).expand(animal=["An otter", "A heron"])

    for index, animal in enumerate(["An otter", "A heron"]):
        unmapped = called.operator.unmap({"op_kwargs": {"animal": animal}})
        assert unmapped.map_label == animal
        unmapped.execute(context_of(map_index=index))
        assert unmapped.map_label == f"{animal}!"

    assert prompts(desk) == ["An otter!", "A heron!"]
    assert desk.keys() == [
        f"seedream/dag/run/generate/{index}/{image}.png" for index in (0, 1) for image in (0, 1)
    ]


def test_the_page_calls_it_by_its_decorator_and_shows_what_was_drawn() -> None:
    operator = operator_of(lambda: "An otter")

    assert operator.operator_name == "@task.seedream"
    assert operator.overwrite_rtif_after_execution is True
    assert {"prompt", "op_kwargs"} <= set(operator.template_fields)


def test_type_checkers_know_the_decorators_parameters_and_what_it_makes() -> None:
    """What mypy says of these lines is the test: an ignore that nothing needs is an error."""

    @seedream_task(size="1920x1920", n=2, max_cost_usd=0.1)
    def hero(animal: str) -> str:
        return animal

    @seedream_task
    def bare() -> dict[str, Any]:
        return {"prompt": "An otter"}

    assert_type(hero.function("An otter"), str)
    assert_type(bare.function(), dict[str, Any])
    seedream_task(size=2048)  # type: ignore[call-overload]

    with pytest.raises(TypeError):
        seedream_task(lambda: "An otter", 2)  # type: ignore[call-overload]
