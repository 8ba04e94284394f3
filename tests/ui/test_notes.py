"""What tasks leave for the gallery, and that it never costs a task anything."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.execution_time.context import set_current_context

from airflow_provider_aisa.exceptions import ContentRefused, InvalidRequest
from airflow_provider_aisa.operators.seedream import SeedreamGenerateOperator
from airflow_provider_aisa.sandbox import Fault
from airflow_provider_aisa.ui.notes import note_failure
from airflow_provider_aisa.ui.results import Failure, read_batch_note
from tests.operators.conftest import context_of, desk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.operators.conftest import Desk

__all__ = ["desk"]


class Pushed(dict[str, Any]):
    """XComs as the task pushes them."""

    def xcom_push(self, *, key: str, value: Any) -> None:
        self[key] = value


@contextmanager
def running(push: Any) -> Iterator[None]:
    context: Any = {"ti": SimpleNamespace(xcom_push=push)}
    with set_current_context(context):
        yield


def test_a_task_that_fails_leaves_its_error_with_the_next_step(desk: Desk) -> None:
    desk.gateway.inject(Fault("content_refused"))
    pushed = Pushed()
    with running(pushed.xcom_push), pytest.raises(ContentRefused) as raised:
        desk.run()

    failure = Failure.parse(pushed["aisa_failure"])
    assert failure is not None
    assert failure.message == str(raised.value)
    assert (failure.error, failure.code) == ("ContentRefused", "content_policy_violation")


def test_a_deferred_task_that_fails_leaves_its_error_as_well() -> None:
    operator = SeedreamGenerateOperator(task_id="generate", prompt="A red panda")
    error = InvalidRequest("wrong. Change it.").to_dict()
    pushed = Pushed()
    with running(pushed.xcom_push), pytest.raises(InvalidRequest):
        operator.execute_complete(context_of(), {"status": "error", "error": error})

    assert pushed["aisa_failure"]["message"] == "wrong. Change it."


def test_a_batch_says_where_it_writes_before_it_pays(desk: Desk) -> None:
    billed = []
    pushed = Pushed()

    def push(*, key: str, value: Any) -> None:
        billed.append(desk.gateway.billed)
        pushed.xcom_push(key=key, value=value)

    with running(push):
        result = desk.run_batch(["A red panda", "An otter"])

    note = read_batch_note(pushed["aisa_batch"])
    assert note is not None
    assert (billed, note.items, note.manifest.uri) == ([0], 2, result["manifest_uri"])


def test_a_note_that_cannot_be_left_does_not_fail_the_task(desk: Desk) -> None:
    def refuse(**_: Any) -> None:
        raise RuntimeError("the API server is away")

    with running(refuse):
        assert desk.run_batch(["A red panda"])["stored"] == 1


def test_outside_of_a_task_nothing_is_left() -> None:
    note_failure(InvalidRequest("wrong"))  # raises nothing
