"""Deferred tasks whose triggers have little to do: none is taken for killed, none uses up a retry."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from airflow_provider_aisa.sandbox import Fault
from tests.airflow.support import paid

if TYPE_CHECKING:
    from airflow_provider_aisa.sandbox import Sandbox
    from tests.airflow.support import Airflow, Run

GENERATED = 26
REFUSED = 12
RESUMED = 12
LONG = 480.0  # seconds; workers that have deferred stay for 5 s, and there are four


def outcomes(run: Run, count: int) -> Counter[tuple[str, int]]:
    """Count the mapped tasks of a run by state and number of tries."""
    tasks: list[dict[str, Any]] = [run.task(map_index=index) for index in range(count)]
    return Counter((task["state"], task["try_number"]) for task in tasks)


def test_of_fifty_quick_deferred_tasks_none_ends_red_without_reason(
    airflow: Airflow, gateway: Sandbox, prompt: str
) -> None:
    """A worker that has deferred its task may exit 5 s later; Airflow then minds a task that is queued again.

    Generations of a second, refusals that take no time, and purchases that only have to be fetched.
    """
    seen = gateway.latency
    gateway.latency = 1
    try:
        check(airflow, gateway, prompt)
    finally:
        gateway.latency = seen


def check(airflow: Airflow, gateway: Sandbox, prompt: str) -> None:
    gateway.inject(
        Fault("cdn_server_error", times=RESUMED, prompt=f"{prompt} resumed"),
        Fault("content_refused", times=REFUSED, prompt=f"{prompt} refused"),
    )
    resumed = airflow.start_run("quick", prompt=f"{prompt} resumed", count=RESUMED)
    refused = airflow.start_run("quick", prompt=f"{prompt} refused", count=REFUSED)
    generated = airflow.start_run("quick", prompt=f"{prompt} generated", count=GENERATED)
    for run in (resumed, refused, generated):
        run.wait(LONG)

    assert outcomes(generated, GENERATED) == {("success", 1): GENERATED}
    assert outcomes(refused, REFUSED) == {("failed", 1): REFUSED}
    assert refused.log().count("ContentRefused") >= REFUSED
    assert outcomes(resumed, RESUMED) == {("success", 2): RESUMED}
    assert paid(gateway, f"{prompt} generated") == GENERATED
    assert paid(gateway, f"{prompt} resumed") == RESUMED
