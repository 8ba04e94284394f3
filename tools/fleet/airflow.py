"""Airflow as a fleet runs it: one process for each part, and a part that dies is started again.

A unit file or Kubernetes does the same: several parts of Airflow end when their database is gone.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import psutil

from tools.airflow_run import AirflowError, StandaloneAirflow
from tools.supervise import Supervised

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tools.fleet.services import PostgreSQL, Redis

RESTART_SECONDS = 5.0  # as RestartSec= in a unit file
OUTAGE_SECONDS = 90.0  # of the API server, after which a question counts as refused
ALONE = "--skip-serve-logs"  # the logs are read from disk

#: The parts that every fleet has, by their commands. Workers come as many as are asked for.
PARTS = {
    "api-server": ("api-server",),
    "scheduler": ("scheduler", ALONE),
    "dag-processor": ("dag-processor",),
    "triggerer-1": ("triggerer", ALONE),
    "triggerer-2": ("triggerer", ALONE),
}


@dataclass
class Part:
    """A part of the fleet, how often it was started, and whether it is to be kept alive."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    process: Supervised
    starts: int = 1
    wanted: bool = True
    ended: float | None = field(default=None)


class Fleet(StandaloneAirflow):
    """Scheduler, DAG processor, API server, two triggerers and Celery workers; a context manager.

    `workers` are started with the fleet, each with `slots` processes. `config` is as for StandaloneAirflow.
    """

    def __init__(
        self,
        home: Path,
        dags: Path,
        database: PostgreSQL,
        broker: Redis,
        *,
        workers: int,
        slots: int,
        connections: Mapping[str, str],
        config: Mapping[str, str],
    ) -> None:
        celery = {
            "core.executor": "CeleryExecutor",
            "core.parallelism": "64",
            "database.sql_alchemy_conn": f"postgresql+psycopg2://{database.address}",
            "database.sql_alchemy_conn_async": f"postgresql+asyncpg://{database.address}",
            "celery.broker_url": broker.url,
            "celery.result_backend": f"db+postgresql://{database.address}",
            "celery.worker_concurrency": str(slots),
            "celery.celery_config_options": "tools.fleet.celery_config.CELERY_CONFIG",
        }
        super().__init__(
            home, dags, connections=connections, config=celery | dict(config), on_wait=self.keep_alive
        )
        self.log = self.home / "api-server.log"
        self._workers = workers
        self._parts: dict[str, Part] = {}

    def __enter__(self) -> Self:
        self.home.mkdir(parents=True, exist_ok=True)
        migration = subprocess.run(
            [sys.executable, "-m", "airflow", "db", "migrate"],
            check=False,
            capture_output=True,
            text=True,
            env=self._env,
            cwd=self.home,
        )
        if migration.returncode:
            raise AirflowError(f"`airflow db migrate` failed:\n{migration.stdout}{migration.stderr}")
        for name, command in PARTS.items():
            self.launch(name, *command)
        for number in range(1, self._workers + 1):
            self.launch_worker(f"worker-{number}")
        return self

    def launch(self, name: str, *command: str, environment: Mapping[str, str] | None = None) -> None:
        """Start a part of the fleet, and keep it alive from now on."""
        environment = dict(environment or {})
        process = self._run_part(name, command, environment)
        self._parts[name] = Part(command, environment, process)

    def launch_worker(self, name: str, environment: Mapping[str, str] | None = None) -> None:
        """Start one more Celery worker."""
        options = (ALONE, "--celery-hostname", f"{name}@fleet", "--pid", str(self.home / f"{name}.pid"))
        self.launch(name, "celery", "worker", *options, environment=environment)

    def _run_part(self, name: str, command: tuple[str, ...], environment: Mapping[str, str]) -> Supervised:
        process = Supervised(
            [sys.executable, "-m", "airflow", *command],
            log=self.home / f"{name}.log",
            env=self._env | dict(environment),
            cwd=self.home,
            grace=10,
        )
        self._processes.append(self._stack.enter_context(process))
        return process

    def running(self) -> bool:
        """Tell whether the API server is to be waited for: it is started again when it ends."""
        return bool(self._parts)

    def keep_alive(self) -> None:
        """Start each part again that has ended some seconds ago. Call it often."""
        now = time.monotonic()
        for name, part in self._parts.items():
            if not part.wanted or part.process.running():
                part.ended = None
            elif part.ended is None:
                part.ended = now
            elif now - part.ended > RESTART_SECONDS:
                with contextlib.suppress(FileNotFoundError):
                    (self.home / f"{name}.pid").unlink()  # a killed worker leaves it, and the next refuses
                part.process = self._run_part(name, part.command, part.environment)
                part.starts, part.ended = part.starts + 1, None

    def kill(self, name: str) -> None:
        """End a part and all its processes as a power cut does. It is started again some seconds later."""
        part = self._parts[name]
        while part.process.processes():
            for process in part.process.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
            time.sleep(0.01)

    def end(self, name: str) -> None:
        """End a part for good, as a deploy does: it may finish what it is doing, for ten seconds."""
        self._parts[name].wanted = False
        self._parts[name].process.stop()

    def replace(self, name: str) -> None:
        """Deploy a part anew: end it with a signal, and start another at once."""
        self.end(name)
        part = self._parts[name]
        part.process = self._run_part(name, part.command, part.environment)
        part.starts, part.wanted = part.starts + 1, True

    def stop(self) -> None:
        """End all parts at once: one after another they would take their ten seconds each."""
        for part in self._parts.values():
            part.wanted = False
            for process in part.process.processes()[:1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGTERM)
        super().stop()

    def restarts(self) -> dict[str, int]:
        """Return how often each part had to be started again."""
        return {name: part.starts - 1 for name, part in self._parts.items() if part.starts > 1}

    def _request(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """Ask the API; a question is asked again while the server or its database is being restarted."""
        deadline = time.monotonic() + OUTAGE_SECONDS
        while True:
            try:
                return super()._request(method, path, **options)
            except AirflowError:
                if method != "GET" or time.monotonic() > deadline:
                    raise
            self.keep_alive()
            time.sleep(1)

    def pool(self, name: str, slots: int) -> None:
        """Make a pool that counts deferred tasks as well."""
        body = {"name": name, "slots": slots, "include_deferred": True}
        self._request("POST", "/api/v2/pools", json=body)

    def tries(self, dag_id: str, run_id: str, task_id: str) -> list[int]:
        """Return how often each instance of a mapped task was tried."""
        tries: list[int] = []
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances"
        while True:
            query = {"task_id": task_id, "limit": 100, "offset": len(tries)}
            answer = self._request("GET", path, params=query)
            tries += [instance["try_number"] for instance in answer["task_instances"]]
            if len(tries) >= answer["total_entries"] or not answer["task_instances"]:
                return tries

    def connections(self, name: str, port: int) -> int:
        """Return how many connections to a port on loopback a part has open: requests that it waits for."""
        found = 0
        for process in self._parts[name].process.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                open_ones = psutil.Process(process.pid).net_connections("tcp")
                found += sum(bool(one.raddr) and one.raddr.port == port for one in open_ones)
        return found

    def busiest_worker(self, dag_id: str, task_id: str) -> str:
        """Return the name of the worker that has started most instances of a task."""
        started = re.compile(
            rf"Executing workload in Celery: .*log_path='dag_id={dag_id}/.*/task_id={task_id}/"
        )
        logs = sorted(self.home.glob("worker-*.log"))
        return max(logs, key=lambda log: len(started.findall(log.read_text(errors="replace")))).stem

    def worker_log(self) -> str:
        """Return what all workers have logged."""
        return "".join(file.read_text(errors="replace") for file in sorted(self.home.glob("worker-*.log")))
