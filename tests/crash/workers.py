"""The owner's end of the worker server: start a task in a process of its own, kill it, learn its end."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

_LONGEST_RUN = 120.0  # seconds; a run that takes longer hangs


@dataclass(frozen=True)
class Outcome:
    """How one worker ended: killed, or with a value, or with an error as `AisaError.to_dict` has it."""

    is_killed: bool
    value: dict[str, Any] | None = None
    error: dict[str, Any] | None = None

    @property
    def result(self) -> dict[str, Any]:
        """The value of a task that succeeded."""
        assert self.value is not None, f"no result: killed={self.is_killed}, error={self.error}"
        return self.value


@dataclass
class Run:
    """One worker process, from `Workers.start` on."""

    number: int
    _workers: Workers
    _outcome: Path
    _ended: threading.Event = field(default_factory=threading.Event)
    _status: int | None = None

    def kill(self) -> None:
        """Send SIGKILL; when this returns, the process is gone. Does nothing to one that has ended."""
        self._workers.send({"kill": self.number})
        self._wait()

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended yet."""
        return not self._ended.is_set()

    def wait(self) -> Outcome:
        """Wait for the end of the process. Raises AssertionError when it broke in an unforeseen way."""
        self._wait()
        if self._status == -signal.SIGKILL:
            return Outcome(is_killed=True)
        outcome: dict[str, Any] = json.loads(self._outcome.read_text())
        assert "traceback" not in outcome, outcome["traceback"]
        return Outcome(is_killed=False, value=outcome.get("value"), error=outcome.get("error"))

    def end(self, status: int | None) -> None:
        """Note that the process has been reaped."""
        self._status = status
        self._ended.set()

    def _wait(self) -> None:
        assert self._ended.wait(_LONGEST_RUN), "the worker hangs"
        assert self._status is not None, "the worker server died"


class Workers:
    """A server of workers; a context manager. Nothing of it is left afterwards."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="aisa-crash-")
        self._numbers = itertools.count(1)
        self._runs: dict[int, Run] = {}
        self._lock = threading.Lock()
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.worker"],
            cwd=Path(__file__).parents[2],
            env=_environment(Path(self._folder.name)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if os.environ.get("CRASH_LOG") else subprocess.DEVNULL,
        )
        assert self._server.stdout is not None
        if not self._server.stdout.readline():
            self.stop()
            raise RuntimeError("the worker server did not start: set CRASH_LOG=1 to see why")
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def start(self, task: Mapping[str, Any]) -> Run:
        """Run a task (see `tests.crash.worker`) in a new process."""
        number = next(self._numbers)
        outcome = Path(self._folder.name) / f"{number}.json"
        run = self._runs[number] = Run(number, self, outcome)
        self.send({**task, "id": number, "outcome": str(outcome), "folder": self._folder.name})
        return run

    def send(self, command: Mapping[str, Any]) -> None:
        """Send the server a command."""
        assert self._server.stdin is not None
        with self._lock:
            self._server.stdin.write(f"{json.dumps(command)}\n".encode())
            self._server.stdin.flush()

    def stop(self) -> None:
        """Kill what still runs, and reap everything."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait()
        if hasattr(self, "_reader"):
            self._reader.join()
        self._server.stdout.close()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _read(self) -> None:
        assert self._server.stdout is not None
        for line in self._server.stdout:
            report = json.loads(line)
            self._runs[report["id"]].end(report["status"])
        for run in self._runs.values():
            if run.is_running:
                run.end(None)


def _environment(folder: Path) -> dict[str, str]:
    """Return this process's environment, with an Airflow home of its own and nobody's account or proxy."""
    foreign = ("AIRFLOW_", "AWS_")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(foreign) and not name.lower().endswith("_proxy")
    }
    return kept | {
        "AIRFLOW_HOME": str(folder / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__UNIT_TEST_MODE": "True",  # else `execute` refuses to run outside of a task runner
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
