"""What a series has to pass: the provider is listed, the faces' tests pass, a DAG is billed as promised."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_aisa.sandbox import Sandbox
from airflow_provider_aisa.version import __version__
from tools.matrix.series import ROOT
from tools.seaweedfs import SeaweedFS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tools.matrix.series import Series
    from tools.matrix.venvs import Venv

DAGS = Path(__file__).parent / "dags"
DAG_ID, BUCKET = "every_face", "images"
#: What tools/matrix/dags/every_face.py asks for: each prompt once.
PROMPTS = ("batch 0", "batch 1", "batch 2", "deferred", "mapped 0", "mapped 1", "sync")
FOREIGN = ("AIRFLOW", "AISA_", "AWS_", "PYTEST_", "COVERAGE_")  # what the caller has set for itself
TIMEOUT = 600.0  # seconds, for one command: more than ten times what they take
#: Only our own warnings are errors: other packages' are about Airflow's own use of them, series by series.
WARNINGS = "filterwarnings=default\nerror:::airflow_provider_aisa"
OUTCOME = re.compile(r"^=*\s*((?:\d+ \w+,? ?)+)in [\d.]+s", re.MULTILINE)


class CheckFailed(RuntimeError):
    """A command that the checks need has failed; the message ends in what it printed."""


@dataclass
class Report:
    """What came out for one series, as the table shows it; `problems` is empty when all is well."""

    series: Series
    tests: str = "-"
    billed: str = "-"
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


def check(series: Series, make_venv: Callable[[Series], Venv]) -> Report:
    """Run everything for a series; what fails is in the report, and does not keep the rest from running."""
    report, start = Report(series), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="aisa-matrix-") as folder:
        try:
            series_run = SeriesRun(series, make_venv(series), Path(folder))
            series_run.check_listing(report)
            series_run.check_faces(report)
            series_run.check_dag(report)
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            report.problems.append(str(error))
    report.seconds = time.monotonic() - start
    return report


@dataclass(frozen=True)
class SeriesRun:
    """The commands of one environment, with a home of their own. The caller's settings do not reach them."""

    series: Series
    venv: Venv
    home: Path

    def check_listing(self, report: Report) -> None:
        """Airflow finds the package, its version and its connection type."""
        listed = {entry["package_name"]: entry["version"] for entry in self._json("providers", "list")}
        if listed.get("airflow-provider-aisa") != __version__:
            report.problems.append("`airflow providers list` does not name airflow-provider-aisa")
        hooks = {entry["connection_type"]: entry["class"] for entry in self._json("providers", "hooks")}
        if hooks.get("aisa") != "airflow_provider_aisa.hooks.aisa.AisaHook":
            report.problems.append(f"`airflow providers hooks` gives {hooks.get('aisa')!r} for type aisa")

    def check_faces(self, report: Report) -> None:
        """Run the unit tests of what Airflow calls."""
        tests = [test for test in self.series.tests if (ROOT / test).exists()]
        options = ("-q", "-n", "2", "-p", "no:cacheprovider", "--maxfail", "20", "-o", WARNINGS)
        done = self._run([self.venv.python, "-m", "pytest", *options, *tests])
        found = OUTCOME.search(done.stdout)
        report.tests = found[1].strip() if found else "no test ran"
        if done.returncode or "passed" not in report.tests:
            report.problems.append(f"the tests of the faces: {report.tests}\n{done.stdout[-4_000:]}")

    def check_dag(self, report: Report) -> None:
        """Run a DAG with a task of every kind, twice: each image is billed once, and stored once."""
        with Sandbox(latency=0.2) as gateway, SeaweedFS() as store:
            store.create_bucket(BUCKET)
            connections = {
                "AIRFLOW_CONN_AISA_DEFAULT": gateway.connection,
                "AIRFLOW_CONN_AWS_DEFAULT": store.airflow_connection(bucket=BUCKET),
            }
            self._airflow("db", "migrate")
            for day in ("2026-01-01", "2026-01-02"):
                printed = self._airflow("dags", "test", DAG_ID, day, env=connections)
                if gateway.api_key in printed and not self.series.prints_masks:
                    report.problems.append("`airflow dags test` printed the API key")
            billed = Counter({entry.prompt: entry.images for entry in gateway.ledger})
            report.billed = f"{gateway.billed} of {len(PROMPTS)}"
            if gateway.billed != len(PROMPTS) or billed != Counter(PROMPTS):
                report.problems.append(f"billed: {dict(billed)}; asked for, once each: {PROMPTS}")
            found = store.client().list_objects_v2(Bucket=BUCKET).get("Contents", [])
            images = [item["Key"] for item in found if item["Key"].endswith(".png")]
            if len(images) != len(PROMPTS):
                report.problems.append(f"{len(images)} images are stored, not {len(PROMPTS)}: {images}")

    def _json(self, *arguments: str) -> list[dict[str, Any]]:
        printed = self._run([self.venv.scripts / "airflow", *arguments, "--output", "json"]).stdout
        rows: list[dict[str, Any]] = json.loads(printed[printed.index("[{") :])  # Airflow may log before it
        return rows

    def _airflow(self, *arguments: str, env: Mapping[str, str] | None = None) -> str:
        """Run a command of Airflow and return all that it printed. Raises CheckFailed when it fails."""
        done = self._run([self.venv.scripts / "airflow", *arguments], env=env)
        printed = done.stdout + done.stderr
        if done.returncode:
            raise CheckFailed(f"`airflow {' '.join(arguments)}` failed:\n{printed[-4_000:]}")
        return printed

    def _run(
        self, command: Sequence[str | Path], *, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=self._environment() | dict(env or {}),
            timeout=TIMEOUT,
        )

    def _environment(self) -> dict[str, str]:
        env = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        return env | {
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            "PATH": os.pathsep.join([str(self.venv.scripts), env.get("PATH", os.defpath)]),
            "NO_PROXY": "127.0.0.1,localhost",
        }
