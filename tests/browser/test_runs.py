"""A DAG is triggered by a click, and what has become of it is on the pages of its task."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from tools.airflow_run import AirflowError

if TYPE_CHECKING:
    from airflow_provider_aisa.sandbox import Sandbox
    from tests.browser.pages import Pages
    from tools.airflow_run import StandaloneAirflow
    from tools.seaweedfs import SeaweedFS

PROMPT = "A red panda reading a map on a mountain pass, watercolour, morning light"


@pytest.fixture(scope="module")
def run(airflow: StandaloneAirflow) -> str:
    """Run the quickstart once, as `make demo` does."""
    airflow.unpause("quickstart")
    run_id = airflow.trigger("quickstart")
    assert airflow.wait_for_run("quickstart", run_id, 120) == "success"
    return run_id


def test_dag_is_triggered_by_a_click_and_pays_for_its_images(
    pages: Pages, airflow: StandaloneAirflow, gateway: Sandbox, run: str
) -> None:
    billed = gateway.billed
    pages.visit.open("/dags/quickstart")
    pages.page.get_by_role("button", name="Trigger").first.click()
    dialog = pages.page.get_by_role("dialog")
    dialog.get_by_role("button", name="Trigger").click()
    pages.page.wait_for_url("**/dags/quickstart/runs/manual__**")

    clicked = pages.page.url.rpartition("/runs/")[2]
    assert clicked != run
    assert airflow.wait_for_run("quickstart", clicked, 120) == "success"
    assert gateway.billed == billed + 2


def test_log_says_what_was_asked_paid_and_stored(pages: Pages, run: str) -> None:
    pages.open_task("quickstart", run, "generate")

    assert pages.is_on_screen("Sending a billable request: 2 image(s) of seedream-4-5-251128")
    assert pages.is_on_screen("AIsa billed 2 image(s), $0.080")
    pages.keep("task-log")


def test_prompt_is_among_the_rendered_templates(pages: Pages, run: str) -> None:
    pages.open_task("quickstart", run, "generate", "/rendered_templates")

    pages.page.get_by_text("seedream").first.wait_for()
    table = " ".join(pages.page.get_by_role("table").first.inner_text().split())
    assert "".join(PROMPT.split()) in "".join(table.split())
    pages.keep("task-templates")


def test_details_link_to_the_images_and_the_journal(pages: Pages, run: str) -> None:
    pages.open_task("quickstart", run, "generate", "/details")

    folder = f"/my-images/seedream/quickstart/{run.replace(':', '_').replace('+', '_')}/generate/"
    # The tab with the gallery has the same name; the link leads out of Airflow.
    out = pages.page.locator("a[href^='http']")
    images = out.filter(has_text="Images").get_attribute("href")
    journal = pages.page.get_by_role("link", name="Journal").get_attribute("href")
    assert images is not None
    assert images.endswith(folder)
    assert journal is not None
    assert f"{folder}_aisa/" in journal
    pages.keep("task-links")


def test_xcom_shows_where_the_images_are_and_what_they_cost(pages: Pages, run: str) -> None:
    pages.open_task("quickstart", run, "generate", "/xcom")

    row = pages.page.get_by_role("row").filter(has_text="return_value")
    row.wait_for()
    pages.page.get_by_role("button", name="Expand").first.click()
    row.get_by_text("cost_usd").wait_for()
    pages.keep("task-xcom")
    text = "".join(row.inner_text().split())
    assert '"cost_usd":0.08' in text
    assert f"{run.replace(':', '_').replace('+', '_')}/generate/" in text


def test_the_one_that_a_person_clicks_on_stays_and_the_others_are_deleted(
    pages: Pages, airflow: StandaloneAirflow, s3_store: SeaweedFS
) -> None:
    """The example `choose_one`, as a person meets it: three pictures and three buttons."""
    airflow.unpause("choose_one")
    run = airflow.trigger("choose_one")
    asked = f"/api/v2/dags/choose_one/dagRuns/{quote(run, safe='')}/taskInstances/choose/-1/hitlDetails"

    def is_asked() -> bool:
        try:
            airflow.api("GET", asked)
        except AirflowError:
            return False
        return True

    airflow.wait_until(is_asked, 120, "the question")
    pages.open_task("choose_one", run, "choose", "/required_actions")
    pages.page.wait_for_function(
        "() => [...document.querySelectorAll('img[alt^=\"Image \"]')]"
        ".filter((image) => image.naturalWidth > 0).length === 3"
    )
    pages.keep("choose-one")
    pages.page.get_by_role("button", name="Image 3", exact=True).click()

    assert airflow.wait_for_run("choose_one", run, 120) == "success"
    folder = airflow.xcom("choose_one", run, "generate")["images"][2]["key"].rpartition("/")[0]
    found = s3_store.client().list_objects_v2(Bucket="my-images", Prefix=f"{folder}/")["Contents"]
    assert [each["Key"] for each in found if "_aisa/" not in each["Key"]] == [f"{folder}/2.png"]
