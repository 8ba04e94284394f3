"""What a person sees of a failed task on its page: the next step, in the width of a screen, and no frames.

The log's page shows a message and then each frame in a line of its own, does not wrap, and opens at its end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_aisa.sandbox import Fault

if TYPE_CHECKING:
    from airflow_provider_aisa.sandbox import Sandbox
    from tests.airflow.support import Airflow, Run

WIDTH = 120  # characters of a line that a screen of 1440 pixels shows
LINES = 30  # of them below each other
FAILURES: dict[str, tuple[str, dict[str, Any], str]] = {
    "wrong size": ("sync", {"size": "640x480"}, "try '2217x1663'"),
    "missing bucket": ("elsewhere", {"bucket": "no-such-bucket"}, "Create the bucket, or correct s3_bucket"),
    "no connection": ("unconnected", {}, "create it in the UI (type AIsa)"),
    "refused prompt": ("deferred", {}, "Change the prompt"),
}


@pytest.fixture(scope="module")
def runs(airflow: Airflow, gateway: Sandbox) -> dict[str, Run]:
    """Start all runs of this module at once."""
    gateway.inject(Fault("content_refused", prompt="failing: refused prompt"))
    return {
        name: airflow.start_run(dag_id, prompt=f"failing: {name}", **conf)
        for name, (dag_id, conf, _) in FAILURES.items()
    }


@pytest.mark.parametrize("name", FAILURES)
def test_the_log_shows_the_next_step_in_the_width_of_the_page(
    airflow: Airflow, runs: dict[str, Run], name: str
) -> None:
    run = runs[name]
    assert run.wait() == "failed"
    assert run.task()["try_number"] == 1
    shown = lines(airflow, run)
    [error] = [line for line in shown if line.get("error_detail")]
    [detail] = error["error_detail"]  # one error, and not the way it came

    assert FAILURES[name][2] in f"{detail['exc_type']}: {detail['exc_value']}"[:WIDTH]
    ours = [frame for frame in detail["frames"] if "airflow_provider_aisa" in frame["filename"]]
    assert len(ours) == 1
    after = len(detail["frames"]) + len(shown) - shown.index(error)
    assert after < LINES


def lines(airflow: Airflow, run: Run) -> list[dict[str, Any]]:
    """Return what the page of the task's log is made of."""
    path = f"/api/v2/dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances/generate/logs/1"
    found: list[dict[str, Any]] = airflow.api("GET", path, headers={"Accept": "application/json"})["content"]
    return found


def test_the_log_of_a_purchase_has_its_figures_and_no_path_of_a_journal(airflow: Airflow) -> None:
    run = airflow.start_run("sync", prompt="telling")
    assert run.wait() == "success"
    told = [line["event"] for line in lines(airflow, run)]
    [sending] = [event for event in told if event.startswith("Sending a billable request")]
    assert (
        sending == "Sending a billable request: 1 image(s) of seedream-4-5-251128, 2048x2048, about $0.040."
    )
    assert "_aisa/" not in "".join(told)
