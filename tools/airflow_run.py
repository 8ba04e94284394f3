"""A real Airflow on loopback for demo and tests: scheduler, DAG processor, triggerer and API server.

Everything it keeps is under one `home`, and of the caller's own Airflow and AWS settings it sees nothing.
Connections reach it through its environment alone: their secrets are on no command line and in no file.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import sysconfig
import time
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

import httpx

from tools.ports import find_free_ports
from tools.supervise import Process, Supervised

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

READY_SECONDS = 180.0  # 15 s on two idle cores
#: Python's SQLite waits 5 s for a lock, and Airflow's API answers 500 after that. While many DAG files are
#: parsed on a busy machine, others hold the lock for longer.
LOCK_SECONDS = 60
COMPONENTS = ("scheduler", "dag_processor", "triggerer")  # as /monitor/health names them
PASSWORDS = "simple_auth_manager_passwords.json.generated"
FOREIGN = ("AIRFLOW", "AISA_", "AWS_")  # settings of the caller's own, keys among them
FINAL_STATES = frozenset({"success", "failed"})


class AirflowError(RuntimeError):
    """Airflow did not do what was asked; the message says what, and where its log is."""


class StandaloneAirflow:
    """`airflow standalone` as a context manager. Entering starts it; `wait_until_ready` comes next.

    A person logs in at `url` as `user` with `password`, which is there once Airflow is ready.
    `connections` maps connection ids to their JSON, `config` "section.option" to a value, as in airflow.cfg.
    `on_wait` is called twice a second while something is awaited.
    All methods but `processes` and `task_log` ask the public API, and raise AirflowError when it refuses.
    """

    user = "admin"

    def __init__(
        self,
        home: Path,
        dags_folder: Path,
        *,
        connections: Mapping[str, str] | None = None,
        config: Mapping[str, str] | None = None,
        on_wait: Callable[[], None] = lambda: None,
    ) -> None:
        self.home = home.resolve()
        self.log = self.home / "standalone.log"
        api, worker_logs, trigger_logs = find_free_ports(3)
        self.url = f"http://127.0.0.1:{api}"
        defaults = {
            "core.dags_folder": str(dags_folder.resolve()),
            "core.load_examples": "False",
            "database.sql_alchemy_conn": f"sqlite:///{self.home}/airflow.db?timeout={LOCK_SECONDS}",
            "core.parallelism": "4",  # LocalExecutor starts that many processes at once
            "core.execution_api_server_url": f"{self.url}/execution/",
            "core.simple_auth_manager_users": f"{self.user}:admin",
            "api.host": "127.0.0.1",
            "api.port": str(api),
            "logging.worker_log_server_port": str(worker_logs),
            "logging.trigger_log_server_port": str(trigger_logs),
            "usage_data_collection.enabled": "False",
            # The same in every component from the first moment on, whichever writes airflow.cfg.
            "api.secret_key": secrets.token_urlsafe(32),
            "api_auth.jwt_secret": secrets.token_urlsafe(32),
        }
        self._env = _environment(self.home, {**defaults, **(config or {})}, connections or {})
        self._on_wait = on_wait
        self._processes: list[Supervised] = []
        self._stack = contextlib.ExitStack()
        api_client = httpx.Client(base_url=self.url, timeout=2 * LOCK_SECONDS, trust_env=False)
        self._api = self._stack.enter_context(api_client)

    def __enter__(self) -> Self:
        self.home.mkdir(parents=True, exist_ok=True)
        self.start("standalone")
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, component: str) -> Supervised:
        """Start `airflow <component>`, such as a triggerer after the first one was killed."""
        command = [sys.executable, "-m", "airflow", component]
        log = self.home / f"{component}.log"
        process = Supervised(command, log=log, env=self._env, cwd=self.home, grace=5)
        self._processes.append(self._stack.enter_context(process))
        return process

    def stop(self) -> None:
        """End every component and every task; return when no process is left."""
        self._stack.close()

    def processes(self, name: str = "") -> list[Process]:
        """List Airflow's processes whose command line holds `name`, such as "airflow triggerer"."""
        found = [process for each in self._processes for process in each.processes()]
        return [process for process in found if name in process.command]

    def running(self) -> bool:
        """Tell whether `airflow standalone` itself still runs."""
        return self._processes[0].running()

    def wait_until_ready(self, timeout: float = READY_SECONDS) -> None:
        """Wait until every component is healthy, and log in as the admin of this run."""
        self.wait_until(
            self._is_healthy, timeout, "a healthy scheduler, DAG processor, triggerer and API server"
        )
        self.password: str = self._passwords()[self.user]
        self._api.headers["Authorization"] = f"Bearer {self.log_in(self.user)}"

    def log_in(self, username: str) -> str:
        """Return a token of a user of this run: for the Authorization header, or a browser's cookie."""
        credentials = {"username": username, "password": self._passwords()[username]}
        return str(self._request("POST", "/auth/token", json=credentials)["access_token"])

    def _passwords(self) -> dict[str, str]:
        found: dict[str, str] = json.loads((self.home / PASSWORDS).read_text())
        return found

    def _is_healthy(self) -> bool:
        if not self.running():
            raise AirflowError(f"`airflow standalone` has ended: see {self.log}")
        try:
            health = self._api.get("/api/v2/monitor/health").json()
        except (httpx.TransportError, ValueError):
            return False
        return all(health.get(component, {}).get("status") == "healthy" for component in COMPONENTS)

    def unpause(self, dag_id: str, timeout: float = 60) -> None:
        """Wait until the DAG has been parsed and let its runs start."""
        self.wait_until(lambda: self._is_parsed(dag_id), timeout, f"DAG {dag_id!r} to be parsed")
        self._request("PATCH", f"/api/v2/dags/{dag_id}", json={"is_paused": False})

    def _is_parsed(self, dag_id: str) -> bool:
        if self._api.get(f"/api/v2/dags/{dag_id}").is_success:
            return True
        for error in self._request("GET", "/api/v2/importErrors")["import_errors"]:
            raise AirflowError(f"{error['filename']} cannot be imported:\n{error['stack_trace']}")
        return False

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None) -> str:
        """Start a run as a person does, without a logical date. Return its id."""
        body = {"logical_date": None, "conf": dict(conf or {})}
        return str(self._request("POST", f"/api/v2/dags/{dag_id}/dagRuns", json=body)["dag_run_id"])

    def wait_for_run(self, dag_id: str, run_id: str, timeout: float) -> str:
        """Wait until the run has ended; return "success" or "failed"."""
        what = f"run {run_id} of DAG {dag_id!r} to end"
        self.wait_until(lambda: self.run_state(dag_id, run_id) in FINAL_STATES, timeout, what)
        return self.run_state(dag_id, run_id)

    def run_state(self, dag_id: str, run_id: str) -> str:
        """Return the state of a DAG run."""
        return str(self._request("GET", _run_path(dag_id, run_id))["state"])

    def task_instance(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> dict[str, Any]:
        """Return the task instance as the API describes it: state, try_number, trigger and more."""
        return self._request("GET", _task_path(dag_id, run_id, task_id, map_index))

    def xcom(
        self, dag_id: str, run_id: str, task_id: str, key: str = "return_value", map_index: int = -1
    ) -> Any:  # noqa: ANN401 - whatever the task returned
        """Return an XCom's value. A missing one raises AirflowError."""
        path = f"{_run_path(dag_id, run_id)}/taskInstances/{task_id}/xcomEntries/{key}"
        query = {"map_index": map_index, "deserialize": False, "stringify": False}
        return self._request("GET", path, params=query)["value"]

    def clear(self, dag_id: str, run_id: str, task_id: str) -> None:
        """Do what the Clear button does: run the task again, as a new try."""
        body = {"dry_run": False, "dag_run_id": run_id, "task_ids": [task_id], "only_failed": False}
        self._request("POST", f"/api/v2/dags/{dag_id}/clearTaskInstances", json=body)

    def task_log(self, dag_id: str, run_id: str, task_id: str = "*") -> str:
        """Return what the task logged, all tries and its triggers, one JSON object a line."""
        files = (self.home / "logs").glob(f"dag_id={dag_id}/run_id={run_id}/task_id={task_id}/**/*.log*")
        return "".join(file.read_text(errors="replace") for file in sorted(files))

    def command(self, *arguments: str, config: Mapping[str, str] | None = None, fails: bool = False) -> str:
        """Run `airflow <arguments>` in this Airflow, and return what it prints.

        :param config: settings of this command's own, as in `__init__`.
        :param fails: whether it may; what it prints as errors is returned as well.
        """
        words = [sys.executable, "-m", "airflow", *arguments]
        env = {**self._env, **_as_variables(config or {})}
        done = subprocess.run(words, capture_output=True, text=True, check=False, env=env, cwd=self.home)
        if fails:
            return f"{done.stdout}{done.stderr}"
        if done.returncode:
            raise AirflowError(
                f"airflow {arguments[0]} ended with {done.returncode}: {done.stdout}{done.stderr}"
            )
        return done.stdout

    def api(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """Ask the API as the admin."""
        return self._request(method, path, **options)

    def _request(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        try:
            answer = self._api.request(method, path, **options)
        except httpx.TransportError as error:
            raise AirflowError(f"{method} {path} got no answer ({error}): see {self.log}") from error
        if not answer.is_success:
            raise AirflowError(f"{method} {path} answered {answer.status_code}: {answer.text[:500]}")
        found: dict[str, Any] = answer.json()
        return found

    def wait_until(self, condition: Callable[[], bool], timeout: float, what: str) -> None:
        """Wait for a condition; `what` says in the error what was waited for."""
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                raise AirflowError(f"waited {timeout:.0f} s in vain for {what}: see {self.log}")
            self._on_wait()
            time.sleep(0.5)


def _run_path(dag_id: str, run_id: str) -> str:
    return f"/api/v2/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}"


def _task_path(dag_id: str, run_id: str, task_id: str, map_index: int) -> str:
    path = f"{_run_path(dag_id, run_id)}/taskInstances/{task_id}"
    return path if map_index < 0 else f"{path}/{map_index}"


def _as_variables(config: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variable of each setting, which is named "section.option"."""
    return {f"AIRFLOW__{option.replace('.', '__')}".upper(): value for option, value in config.items()}


def _environment(home: Path, config: Mapping[str, str], connections: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment, less what would reach into the run, plus what it needs."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    env["AIRFLOW_HOME"] = str(home)
    env |= _as_variables(config)
    for connection_id, connection in connections.items():
        env[f"AIRFLOW_CONN_{connection_id}".upper()] = connection
    # `airflow standalone` starts its parts by name, and they talk to each other without any proxy.
    env["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), env.get("PATH", os.defpath)])
    env["NO_PROXY"] = env["no_proxy"] = ",".join(filter(None, ["127.0.0.1,localhost", env.get("NO_PROXY")]))
    env["PYTHONUNBUFFERED"] = "1"
    return env
