"""The deferred form walks the same path, and its event carries keys and facts only."""

from __future__ import annotations

import asyncio
import json
import pickle
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_aisa import exceptions
from airflow_provider_aisa.core import workbench
from airflow_provider_aisa.exceptions import AisaError, ContentRefused, OutcomeUnknown, RateLimited
from airflow_provider_aisa.operators.seedream import SeedreamGenerateOperator
from airflow_provider_aisa.sandbox import Fault
from airflow_provider_aisa.triggers.generate import GenerateTrigger
from tests.operators.conftest import Desk, context_of, desk

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["desk"]


def defer(**arguments: Any) -> tuple[SeedreamGenerateOperator, GenerateTrigger]:
    """Run the task until it defers, and rebuild its trigger as a triggerer does."""
    operator = SeedreamGenerateOperator(
        task_id="generate", prompt="A red panda", deferrable=True, **arguments
    )
    with pytest.raises(TaskDeferred) as caught:
        operator.execute(context_of())
    _, stored = caught.value.trigger.serialize()
    return operator, GenerateTrigger(**json.loads(json.dumps(stored)), earliest_event=0)


def wait_for_a_request(desk: Desk) -> None:
    while not desk.gateway.requests:
        time.sleep(0.01)


async def fire(trigger: GenerateTrigger) -> dict[str, Any]:
    async for event in trigger.run():
        payload: dict[str, Any] = json.loads(json.dumps(event.payload))
        return payload
    raise AssertionError("the trigger fired nothing")


def test_a_deferred_task_returns_the_same_as_a_waiting_one(desk: Desk) -> None:
    operator, trigger = defer(n=2)

    result = operator.execute_complete(context_of(), asyncio.run(fire(trigger)))

    waited = desk.run(tries=2, n=2)
    assert waited == {**result, "reused": True}
    assert desk.gateway.billed == 2


def test_a_task_whose_images_exist_does_not_defer(desk: Desk) -> None:
    result = desk.run()

    assert desk.run(tries=2, deferrable=True) == {**result, "reused": True}


def test_the_event_is_the_result_and_nothing_else(desk: Desk) -> None:
    """Airflow writes all of it to the task's log, and keeps it in its database."""
    operator, trigger = defer()

    event = asyncio.run(fire(trigger))

    assert event == {"result": operator.execute_complete(context_of(), event)}


def test_the_event_of_an_error_has_only_what_is_known_of_it(desk: Desk) -> None:
    _, trigger = defer()
    desk.gateway.inject(Fault("cut_after_billing"))

    assert None not in asyncio.run(fire(trigger))["error"].values()


def test_neither_the_trigger_nor_its_event_holds_a_secret_or_a_link(desk: Desk) -> None:
    _, trigger = defer(n=2)
    stored = json.dumps(trigger.serialize())
    event = json.dumps(asyncio.run(fire(trigger)))

    for secret in (desk.gateway.api_key, desk.store.secret_key, desk.gateway.cdn_url, "X-Signature"):
        assert secret not in stored + event
    assert len(event) < 4096


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault("content_refused"), ContentRefused),
        (Fault("cut_after_billing"), OutcomeUnknown),
        (Fault("rate_limited", retry_after=3600), RateLimited),
    ],
)
def test_a_failure_travels_as_an_event_and_is_raised_typed_in_the_task(
    desk: Desk, fault: Fault, error: type[AisaError]
) -> None:
    desk.gateway.api_key = f"sk-aisa-{fault.kind}"  # a long pause concerns everyone with the key
    desk.connect()
    operator, trigger = defer()
    desk.gateway.inject(fault)
    event = asyncio.run(fire(trigger))

    with pytest.raises(error) as caught:
        operator.execute_complete(context_of(), event)

    assert caught.value.request_id is not None or error is OutcomeUnknown
    assert caught.value.retry_after == fault.retry_after


def test_a_trigger_that_starts_again_pays_nothing(desk: Desk) -> None:
    _, trigger = defer()
    first = asyncio.run(fire(trigger))["result"]

    again = asyncio.run(fire(GenerateTrigger(**trigger.serialize()[1], earliest_event=0)))["result"]

    assert again == {**first, "reused": True}
    assert desk.gateway.billed == 1


def test_two_copies_of_a_trigger_send_one_post(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workbench, "TIMING", replace(workbench.TIMING, poll=0.05))
    desk.gateway.latency = 0.5
    _, trigger = defer(n=2)

    async def both() -> list[dict[str, Any]]:
        copies = [GenerateTrigger(**trigger.serialize()[1], earliest_event=0) for _ in range(2)]
        return list(await asyncio.gather(*map(fire, copies)))

    first, second = (event["result"] for event in asyncio.run(both()))

    assert first["images"] == second["images"]
    assert {first["reused"], second["reused"]} == {True, False}
    assert len(desk.gateway.requests) == 1


def test_a_cancelled_trigger_still_records_what_it_pays_for(desk: Desk) -> None:
    desk.gateway.latency = 0.5
    _, trigger = defer()

    async def cancel_in_mid_request() -> None:
        task = asyncio.create_task(fire(trigger))
        await asyncio.to_thread(wait_for_a_request, desk)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel_in_mid_request())

    assert desk.journal()["state"] == "paid"
    assert desk.run(tries=2)["reused"]
    assert desk.gateway.billed == 1


def test_a_trigger_that_waits_to_fire_has_stored_all_and_can_be_cancelled(desk: Desk) -> None:
    """Its event comes late, so that the worker that deferred the task has ended by then."""
    operator, trigger = defer()
    waiting = GenerateTrigger(**trigger.serialize()[1], earliest_event=3600)

    async def cancel_while_it_waits() -> None:
        task = asyncio.create_task(fire(waiting))
        await asyncio.to_thread(wait_until_stored, desk)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel_while_it_waits())

    result = operator.execute_complete(context_of(), asyncio.run(fire(trigger)))
    assert result["reused"] is True
    assert desk.gateway.billed == 1


def wait_until_stored(desk: Desk) -> None:
    while not any("_aisa/" in key for key in desk.all_keys()) or desk.journal()["state"] != "stored":
        time.sleep(0.01)


def test_cancelling_before_anything_is_sent_sends_nothing(desk: Desk) -> None:
    desk.connect(max_concurrency=1)
    desk.gateway.latency = 0.5
    (_, first), (_, second) = defer(), defer(size="2304x1600")

    async def cancel_the_one_that_waits() -> None:
        sending = asyncio.create_task(fire(first))
        await asyncio.to_thread(wait_for_a_request, desk)
        waiting = asyncio.create_task(fire(second))
        await asyncio.sleep(0.1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert "result" in (await sending)

    asyncio.run(cancel_the_one_that_waits())

    assert len(desk.gateway.requests) == 1
    assert len([key for key in desk.all_keys() if "_aisa/" in key]) == 1


def test_stopping_says_where_to_look(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    operator, trigger = defer()

    asyncio.run(trigger.on_kill())
    operator.on_kill()

    output = capsys.readouterr().out
    assert f"s3://{desk.bucket}/seedream/dag/run/generate/_aisa/" in output
    assert output.count("a later run goes on from there") == 2


def all_errors() -> list[type[AisaError]]:
    found: list[type[AisaError]] = [AisaError]
    for error in found:
        found.extend(error.__subclasses__())
    return [error for error in found if error.__module__ == exceptions.__name__]


@pytest.mark.parametrize("error", all_errors())
@pytest.mark.parametrize(
    "carry",
    [
        lambda error: pickle.loads(pickle.dumps(error)),  # noqa: S301 - our own
        lambda error: exceptions.error_from_dict(json.loads(json.dumps(error.to_dict()))),
    ],
    ids=["pickle", "event"],
)
def test_every_error_survives_the_way_from_the_trigger_to_the_task(
    error: type[AisaError], carry: Callable[[AisaError], AisaError]
) -> None:
    original = error("words", status=429, code="c", request_id="r", retry_after=3.0, retryable=False)

    carried = carry(original)

    assert type(carried) is error
    assert str(carried) == "words"
    assert carried.__dict__ == original.__dict__


def test_an_error_that_this_version_does_not_know_is_still_an_aisa_error() -> None:
    document = {**AisaError("words").to_dict(), "error": "Any"}

    assert type(exceptions.error_from_dict(document)) is AisaError
