"""One Airflow, one gateway and one Chromium for all tests of this folder. `make test-browser` runs them.

`make screenshots` does, too, and keeps what it sees: SCREENSHOTS names the folder.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from airflow_provider_aisa.sandbox import Fault, Sandbox
from tests.browser.gallery import Place
from tests.browser.pages import Pages
from tools.airflow_run import StandaloneAirflow
from tools.browser import Browser

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tools.seaweedfs import SeaweedFS

DAGS = Path(__file__).parent / "dags"
EXAMPLES = Path(__file__).parents[2] / "dags_examples"
SETTINGS = Path(__file__).parent / "config"
AUTH = Path(__file__).parents[1] / "ui" / "auth.py"
BUCKET = "my-images"
CONFIG = {
    "core.parallelism": "6",
    "core.simple_auth_manager_users": "admin:admin,viewer:viewer",
    "core.test_connection": "Enabled",
    "dag_processor.min_file_process_interval": "3600",  # No file changes while the tests look at them.
}


@pytest.fixture(scope="session")
def gateway() -> Iterator[Sandbox]:
    with Sandbox(latency=1) as sandbox:
        sandbox.inject(Fault("content_refused", times=100, prompt="content policy"))
        yield sandbox


@pytest.fixture(scope="session")
def airflow(
    gateway: Sandbox, s3_store: SeaweedFS, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StandaloneAirflow]:
    """Run Airflow with a Test button, which somebody has to allow, and a viewer who may not see all DAGs."""
    s3_store.create_bucket(BUCKET)
    dags = tmp_path_factory.mktemp("dags")
    for file in (*DAGS.glob("*.py"), *EXAMPLES.glob("*.py")):
        shutil.copy(file, dags)
    connections = {"aisa_default": gateway.connection, "aws_default": s3_store.airflow_connection()}
    home = tmp_path_factory.mktemp("airflow")
    shutil.copytree(SETTINGS, home / "config")
    shutil.copy(AUTH, home / "config")
    with StandaloneAirflow(home, dags, connections=connections, config=CONFIG) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with Browser() as running:
        yield running


@pytest.fixture
def pages(browser: Browser, airflow: StandaloneAirflow, tmp_path: Path) -> Iterator[Pages]:
    """Open a window, signed in as the admin. Nothing that it shows may come from another machine."""
    images = Path(os.environ.get("SCREENSHOTS") or tmp_path)
    opened = Pages(browser.visit(airflow.url, token=airflow.log_in(airflow.user)), images)
    yield opened
    opened.keep("at-the-end") if not os.environ.get("SCREENSHOTS") else None
    assert opened.visit.foreign == []


@pytest.fixture(scope="session")
def ran(
    browser: Browser,
    airflow: StandaloneAirflow,
    gateway: Sandbox,
    s3_store: SeaweedFS,
    tmp_path_factory: pytest.TempPathFactory,
) -> Place:
    """Run the DAGs that the gallery is looked at with, once."""
    images = Path(os.environ.get("SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    place = Place(airflow, gateway, s3_store.client(), browser, images)
    place.run_dags()
    return place


@pytest.fixture
def place(ran: Place) -> Iterator[Place]:
    """Look at the gallery; the windows that a test has opened are closed after it."""
    yield ran
    ran.browser.close_windows()
