"""A real Airflow whose tasks ask a local gateway and write to a real object store, and one run in it."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_aisa.core.layout import Owner
from tools.airflow_run import AirflowError, StandaloneAirflow
from tools.supervise import Process, descendants

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mypy_boto3_s3 import S3Client

    from airflow_provider_aisa.sandbox import Sandbox

DAGS = Path(__file__).parent / "dags"
BUCKET = "images"
EXAMPLE_BUCKET = "my-images"  # what README, docs and dags_examples write to
WAIT = 120.0  # seconds; all but a hanging test need a tenth of it
EXAMPLES = Path(__file__).parents[2] / "dags_examples"
#: Those of dags/ and of the examples: tests wait until all have been parsed.
DAG_IDS = (
    *("sync", "deferred", "limited", "mapped", "elsewhere", "unconnected", "batches", "quick", "faults"),
    *("quickstart", "taskflow", "refresh", "batch", "batch_mapped", "mapped_prompts", "draw_banners"),
    *("publish", "choose_one", "budget", "teams_marketing", "teams_catalogue"),
)

#: Airflow imports this file in each of its processes, the triggerer's included. The claim of a process that
#: died is stale after the connection's timeout and this margin: six minutes by default, 11 s here.
LOCAL_SETTINGS = """
from airflow_provider_aisa.core import workbench

workbench.TIMING = workbench.Timing(poll=0.5, claim_margin=1.0)
"""
TIMEOUT = 10  # seconds; of the AIsa connections
CONFIG = {
    "core.dags_are_paused_at_creation": "False",
    "core.test_connection": "Enabled",
    # No file changes while tests run. Dozens of them, parsed anew every 30 s, would keep a core busy.
    "dag_processor.min_file_process_interval": "3600",
    "core.parallelism": "8",  # a worker that has deferred its task stays for up to 5 s more
    # A triggerer that was killed is given up after 30 s by default, and its triggers go to the next one.
    "triggerer.triggerer_health_check_threshold": "6",
    "triggerer.job_heartbeat_sec": "1",
}


#: Seconds between two questions to Airflow's API: each takes it a thirtieth of a second of a core.
ASKED_EVERY = 0.5


def wait_for(
    condition: Callable[[], bool], what: str, timeout: float = WAIT, every: float = ASKED_EVERY
) -> None:
    """Wait until something is true; fail, saying what it was, when it takes too long."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout:.0f} s in vain for {what}"
        time.sleep(every)


def paid(gateway: Sandbox, prompt: str) -> int:
    """Return how many images the gateway billed for prompts that begin like this."""
    return sum(entry.images for entry in gateway.ledger if entry.prompt.startswith(prompt))


def wait_for_request(gateway: Sandbox, prompt: str) -> None:
    """Wait until a request for this prompt is at the gateway and has no answer yet."""

    def is_under_way() -> bool:
        return any(request.status is None and prompt.encode() in request.body for request in gateway.requests)

    wait_for(is_under_way, f"a request for {prompt!r}", every=0.05)


class Airflow(StandaloneAirflow):
    """A standalone Airflow, with what the tests ask of its API besides."""

    def __enter__(self) -> Airflow:
        (self.home / "config").mkdir(parents=True)
        (self.home / "config" / "airflow_local_settings.py").write_text(LOCAL_SETTINGS)
        super().__enter__()
        return self

    def has(self, path: str) -> bool:
        """Return whether there is something at a path of the API."""
        try:
            self.api("GET", path)
        except AirflowError:
            return False
        return True

    def wait_until_parsed(self) -> None:
        """Wait until every DAG file has been imported, or has failed to."""
        wait_for(lambda: set(DAG_IDS) <= self.dag_ids() and bool(self.import_errors()), "the DAG files")

    def dag_ids(self) -> set[str]:
        """Return the ids of the DAGs that have been parsed."""
        return {dag["dag_id"] for dag in self.api("GET", "/api/v2/dags", params={"limit": 100})["dags"]}

    def import_errors(self) -> list[dict[str, Any]]:
        """Return the DAG files that cannot be imported."""
        errors: list[dict[str, Any]] = self.api("GET", "/api/v2/importErrors")["import_errors"]
        return errors

    def kill_triggerer(self) -> None:
        """End the triggerer as a power cut does: it, its runner and its log server are gone at once."""
        triggerer = self._triggerer()
        for process in [triggerer, *descendants(triggerer.pid)]:
            os.kill(process.pid, signal.SIGKILL)
        self._wait_for_end(triggerer)

    def terminate_triggerer(self) -> None:
        """End the triggerer as a deploy does: it may take its time."""
        triggerer = self._triggerer()
        os.kill(triggerer.pid, signal.SIGTERM)
        self._wait_for_end(triggerer)

    def _triggerer(self) -> Process:
        return self.processes("airflow triggerer")[0]

    def _wait_for_end(self, process: Process) -> None:
        wait_for(lambda: process not in self.processes(), f"the end of {process.command}")

    def start_run(self, dag_id: str, **conf: Any) -> Run:
        """Trigger a DAG; ``conf`` replaces its params."""
        return Run(self, dag_id, self.trigger(dag_id, conf))


@dataclass(frozen=True)
class Run:
    """A run of a DAG in which one task, ``generate``, is what matters."""

    airflow: Airflow
    dag_id: str
    run_id: str

    def wait(self, timeout: float = WAIT) -> str:
        """Wait until the run has ended; return its state."""
        return self.airflow.wait_for_run(self.dag_id, self.run_id, timeout)

    def task(self, task_id: str = "generate", map_index: int = -1) -> dict[str, Any]:
        """Return the task instance as the API describes it."""
        return self.airflow.task_instance(self.dag_id, self.run_id, task_id, map_index)

    def wait_for_task(self, state: str) -> dict[str, Any]:
        """Wait until the task is in this state, and return it."""
        wait_for(lambda: self.task()["state"] == state, f"{self.dag_id} to be {state}")
        return self.task()

    def result(self, map_index: int = -1) -> dict[str, Any]:
        """Return what the task returned."""
        found: dict[str, Any] = self.airflow.xcom(self.dag_id, self.run_id, "generate", map_index=map_index)
        return found

    def log(self, task_id: str = "generate") -> str:
        """Return all that the task and its triggers have logged."""
        return self.airflow.task_log(self.dag_id, self.run_id, task_id)

    def journal_state(self, client: S3Client) -> str | None:
        """Return how far the journal says that the purchase got; None when it has no entry."""
        prefix = f"seedream/{Owner(self.dag_id, self.run_id, 'generate').path()}/_aisa/"
        found = client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
        if not found:
            return None
        [entry] = found
        state: str = json.loads(client.get_object(Bucket=BUCKET, Key=entry["Key"])["Body"].read())["state"]
        return state

    def kill_worker(self) -> None:
        """Kill the process that runs the task, as the kernel does when memory runs out."""
        [process] = self.airflow.processes(f"airflow worker -- {self.task()['id']}")
        os.kill(process.pid, signal.SIGKILL)

    def clear(self) -> None:
        """Press Clear."""
        self.airflow.clear(self.dag_id, self.run_id, "generate")

    def mark_failed(self) -> None:
        """Press Mark as failed."""
        path = f"/api/v2/dags/{self.dag_id}/dagRuns/{self.run_id}/taskInstances/generate"
        self.airflow.api("PATCH", path, json={"new_state": "failed"})


def contents(airflow: Airflow) -> Iterator[tuple[str, bytes]]:
    """Yield every file below Airflow's home with what it holds."""
    with closing(sqlite3.connect(airflow.home / "airflow.db")) as database:
        database.execute("PRAGMA wal_checkpoint(PASSIVE)")
    for path in airflow.home.rglob("*"):
        if path.is_file():
            yield str(path.relative_to(airflow.home)), path.read_bytes()
