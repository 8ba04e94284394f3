"""What a series has to pass: the provider is listed, the faces' tests pass, a DAG is billed as promised."""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_provider_aisa.sandbox import Sandbox
from airflow_provider_aisa.version import __version__
from tools.matrix.commands import CommandFailed, Commands
from tools.matrix.series import NOT_ABOUT_AIRFLOW, ROOT
from tools.matrix.venvs import NoSuchPython, VenvError, has_python
from tools.seaweedfs import SeaweedFS, SeaweedFSError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from airflow_provider_aisa.sandbox import LedgerEntry
    from tools.matrix.series import Series
    from tools.matrix.venvs import Venv

DAGS = Path(__file__).parent / "dags"
DAG_ID, BUCKET = "every_face", "images"
#: What tools/matrix/dags/every_face.py asks for: each prompt once.
PROMPTS = ("batch 0", "batch 1", "batch 2", "decorated", "deferred", "mapped 0", "mapped 1", "sync")
#: Only our own warnings are errors: other packages' are about Airflow's own use of them, series by series.
WARNINGS = "filterwarnings=default\nerror:::airflow_provider_aisa"
PAGES = "tests/browser"
WORKERS = "4"  # the tests wait half of their time
OUTCOME = re.compile(r"^=*\s*((?:\d+ \w+,? ?)+)in [\d.]+s", re.MULTILINE)


@dataclass
class Report:
    """What came out for one series, as the table shows it; `problems` is empty when all is well.

    `missing` says why it was not run: a machine need not have a second Python, nor a third one.
    """

    series: Series
    tests: str = "-"
    billed: str = "-"
    seconds: float = 0.0
    missing: str = ""
    problems: list[str] = field(default_factory=list)


def check(series: Series, make_venv: Callable[[Series], Venv], *, pages: bool = False) -> Report:
    """Run everything for a series; what fails is in the report, and does not keep the rest from running.

    :param pages: look at Airflow's pages in a browser, and do nothing else.
    """
    report, start = Report(series), time.monotonic()
    if series.instead_of and has_python(series.instead_of):
        report.missing = f"Python {series.instead_of} is there"
        return report
    with tempfile.TemporaryDirectory(prefix="aisa-matrix-") as folder:
        try:
            commands = Commands(make_venv(series), Path(folder), DAGS, directory=ROOT)
        except NoSuchPython as missing:
            report.missing = str(missing)
            return report
        except VenvError as error:
            report.problems.append(str(error))
            return report
        for one in (check_pages,) if pages else (check_listing, check_faces, check_dag):
            try:
                one(commands, report)
            except (CommandFailed, SeaweedFSError, subprocess.TimeoutExpired) as error:
                report.problems.append(str(error))
    report.seconds = time.monotonic() - start
    return report


def check_listing(commands: Commands, report: Report) -> None:
    """Airflow finds the package, its version and its connection type."""
    listed = {entry["package_name"]: entry["version"] for entry in commands.rows("providers", "list")}
    if listed.get("airflow-provider-aisa") != __version__:
        report.problems.append("`airflow providers list` does not name airflow-provider-aisa")
    hooks = {entry["connection_type"]: entry["class"] for entry in commands.rows("providers", "hooks")}
    if hooks.get("aisa") != "airflow_provider_aisa.hooks.aisa.AisaHook":
        report.problems.append(f"`airflow providers hooks` gives {hooks.get('aisa')!r} for type aisa")


def check_faces(commands: Commands, report: Report) -> None:
    """Run the unit tests of what Airflow calls."""
    without = [f"--deselect={name}" for name in NOT_ABOUT_AIRFLOW]
    _run_tests(commands, report, "-n", WORKERS, "--maxfail", "20", *without, *report.series.tests)


def check_pages(commands: Commands, report: Report) -> None:
    """Run the tests in a browser, one after the other."""
    _run_tests(commands, report, PAGES)


def _run_tests(commands: Commands, report: Report, *options: str) -> None:
    always = ("-q", "-p", "no:cacheprovider", "-o", WARNINGS, "--disable-warnings")
    done = commands.run([commands.venv.python, "-m", "pytest", *always, *options])
    found = OUTCOME.search(done.stdout)
    report.tests = found[1].strip() if found else "no test ran"
    if done.returncode or "passed" not in report.tests:
        report.problems.append(f"the tests: {report.tests}\n{done.stdout[-4_000:]}")


def check_dag(commands: Commands, report: Report) -> None:
    """Run a DAG with a task of every kind, twice: each image is billed once, and stored once."""
    with Sandbox(latency=0.2) as gateway, SeaweedFS() as store:
        store.create_bucket(BUCKET)
        connections = {
            "AIRFLOW_CONN_AISA_DEFAULT": gateway.connection,
            "AIRFLOW_CONN_AWS_DEFAULT": store.airflow_connection(bucket=BUCKET),
        }
        commands.airflow("db", "migrate")
        for day in ("2026-01-01", "2026-01-02"):
            printed = commands.airflow("dags", "test", DAG_ID, day, env=connections)
            if gateway.api_key in printed and not report.series.prints_masks:
                report.problems.append("`airflow dags test` printed the API key")
        found = store.client().list_objects_v2(Bucket=BUCKET).get("Contents", [])
        images = [item["Key"] for item in found if item["Key"].endswith(".png")]
        report.billed = f"{gateway.billed} of {len(PROMPTS)}"
        report.problems += problems_of_dag(gateway.ledger, images)


def problems_of_dag(ledger: Sequence[LedgerEntry], images: Sequence[str]) -> list[str]:
    """Return where the bill or the bucket differs from one image for each prompt."""
    billed: Counter[str] = Counter()
    for entry in ledger:
        billed[entry.prompt] += entry.images
    problems = []
    if billed != Counter(PROMPTS):
        problems.append(f"billed: {dict(billed)}; asked for, once each: {PROMPTS}")
    if len(images) != len(PROMPTS):
        problems.append(f"{len(images)} images are stored, not {len(PROMPTS)}: {images}")
    return problems
