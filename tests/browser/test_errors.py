"""A task that a person has to fix says how, where the page opens: nobody scrolls to find it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.browser.pages import Pages
    from tools.airflow_run import StandaloneAirflow

#: What a person has to read, by the task that fails.
FIXES = {
    "prompt": "Change the prompt; sending it again changes nothing",
    "size": "needs at least 3,686,400",
    "bucket": "Create the bucket, or correct s3_bucket",
    "deferred": "Change the prompt; sending it again changes nothing",
}


@pytest.fixture(scope="module")
def run(airflow: StandaloneAirflow) -> str:
    airflow.unpause("refused")
    run_id = airflow.trigger("refused")
    assert airflow.wait_for_run("refused", run_id, 180) == "failed"
    return run_id


@pytest.mark.parametrize("task_id", FIXES)
def test_fix_is_on_the_screen_without_scrolling(pages: Pages, run: str, task_id: str) -> None:
    pages.open_task("refused", run, task_id)
    pages.page.get_by_text(FIXES[task_id]).last.wait_for(state="attached", timeout=60_000)
    pages.page.wait_for_timeout(1_000)  # the page scrolls to the end of the log by itself

    pages.keep(f"error-{task_id}")
    assert pages.is_on_screen(FIXES[task_id])
