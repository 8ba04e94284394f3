"""An Airflow that has run DAGs, and a browser to look at it. Without a Chromium these tests are skipped."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from airflow_provider_aisa.sandbox import Fault, Sandbox
from tools.airflow_run import StandaloneAirflow
from tools.browser import Browser, BrowserMissing, Theme, Visit, find_chromium

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mypy_boto3_s3 import S3Client
    from playwright.sync_api import Frame

    from tools.seaweedfs import SeaweedFS

HERE = Path(__file__).parent
BUCKET = "gallery-images"
WAIT = 300.0  # seconds; an idle machine needs a tenth of it
PATIENCE = 60_000  # milliseconds that the browser waits for what should be there at once
CONFIG = {
    "core.auth_manager": "auth.PerDagAuthManager",
    "core.simple_auth_manager_users": "admin:admin,viewer:viewer",
    "core.dags_are_paused_at_creation": "False",
    "core.parallelism": "6",
}


@dataclass
class Place:
    """The Airflow that is looked at, what has run in it, and who looks."""

    airflow: StandaloneAirflow
    gateway: Sandbox
    s3: S3Client
    browser: Browser
    postcards: str = ""
    catalogue: str = ""
    secret: str = ""

    def visit(self, user: str | None = "viewer", **options: Any) -> Visit:
        """Open a window for a user, or for nobody."""
        token = None if user is None else self.airflow.log_in(user)
        visit = self.browser.visit(self.airflow.url, token=token, **options)
        visit.page.set_default_timeout(PATIENCE)
        return visit

    def open_tab(self, visit: Visit, path: str) -> Frame:
        """Open a tab of Airflow with the gallery, and return the gallery's frame when it is drawn."""
        visit.page.goto(f"{visit.origin}{path}")
        visit.page.wait_for_selector("iframe")
        frame = visit.page.frames[-1]
        frame.wait_for_url("**/aisa/**")
        frame.wait_for_selector("main[aria-busy=false]")
        return frame

    def run_tab(self, visit: Visit, dag_id: str, run_id: str) -> Frame:
        return self.open_tab(visit, f"/dags/{dag_id}/runs/{quote(run_id, safe='')}/plugin/images-dag-run")

    def task_tab(self, visit: Visit, task: str, run_id: str | None = None) -> Frame:
        run = quote(run_id or self.postcards, safe="")
        return self.open_tab(visit, f"/dags/postcards/runs/{run}/tasks/{task}/plugin/images-task-instance")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Start Chromium, if there is one."""
    try:
        find_chromium()
    except BrowserMissing as missing:
        pytest.skip(str(missing))
    with Browser() as running:
        yield running


@pytest.fixture(scope="session")
def place(browser: Browser, s3_store: SeaweedFS, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Run the DAGs in a real Airflow, and leave it running."""
    s3_store.create_bucket(BUCKET)
    home, dags = tmp_path_factory.mktemp("airflow"), tmp_path_factory.mktemp("dags")
    (home / "config").mkdir()
    shutil.copy(HERE.parents[1] / "ui" / "auth.py", home / "config")
    shutil.copy(HERE / "dags" / "gallery.py", dags)
    with Sandbox(latency=1) as gateway:
        gateway.inject(Fault("content_refused", times=1_000, prompt="refused"))
        gateway.inject(Fault("content_refused", prompt="no. 7"))
        connections = {
            "aisa_default": gateway.connection,
            "aws_default": s3_store.airflow_connection(bucket=BUCKET),
        }
        with StandaloneAirflow(home, dags, connections=connections, config=CONFIG) as airflow:
            airflow.wait_until_ready()
            place = Place(airflow, gateway, s3_store.client(), browser)
            for dag_id in ("postcards", "catalogue", "secret_project"):
                airflow.unpause(dag_id)
            place.postcards = airflow.trigger("postcards")
            place.catalogue = airflow.trigger("catalogue")
            place.secret = airflow.trigger("secret_project")
            for dag_id, run_id in (("catalogue", place.catalogue), ("secret_project", place.secret)):
                airflow.wait_for_run(dag_id, run_id, WAIT)
            wait_for_postcards(place)
            yield place


def wait_for_postcards(place: Place) -> None:
    """Wait for all tasks but the one that waits for a person."""

    def is_done() -> bool:
        path = f"/api/v2/dags/postcards/dagRuns/{quote(place.postcards, safe='')}/taskInstances"
        found = place.airflow._request("GET", path)["task_instances"]
        states = {(one["task_id"], one["state"]) for one in found}
        waiting = {("approve", "deferred"), ("approve", "awaiting_input")}
        return bool(states & waiting) and {state for _, state in states - waiting} <= {"success", "failed"}

    place.airflow._poll(is_done, WAIT, "the postcards")


@pytest.fixture
def keep(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Return a function that keeps what is on the screen: in SCREENSHOTS, if that names a folder."""
    folder = Path(os.environ.get("SCREENSHOTS") or tmp_path)

    def screenshot(visit: Visit, name: str) -> None:
        visit.screenshot(folder / f"{name}.png")

    return screenshot


def theme_of(visit: Visit) -> dict[str, str]:
    """Return the colours of Airflow's page as it draws them."""
    found: dict[str, str] = visit.page.evaluate(
        """() => {
            const root = getComputedStyle(document.documentElement);
            const probe = document.body.appendChild(document.createElement("div"));
            probe.style.background = root.getPropertyValue("--chakra-colors-bg");
            probe.style.color = root.getPropertyValue("--chakra-colors-fg");
            const { backgroundColor, color } = getComputedStyle(probe);
            probe.remove();
            return { backgroundColor, color };
        }"""
    )
    return found


THEMES: tuple[Theme, ...] = ("light", "dark")
