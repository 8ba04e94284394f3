"""Commands of a virtual environment, with an Airflow home of their own and none of the caller's settings."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tools.matrix.venvs import Venv

FOREIGN = ("AIRFLOW", "AISA_", "AWS_", "PYTEST_", "COVERAGE_", "PYTHONPATH")
TIMEOUT = 900.0  # seconds, for one command: more than ten times what they take


class CommandFailed(RuntimeError):
    """A command has failed; the message ends in what it printed."""


@dataclass(frozen=True)
class Commands:
    """`folder` becomes the Airflow home, and `dags` the folder of its DAGs. Commands run in `directory`."""

    venv: Venv
    folder: Path
    dags: Path
    directory: Path

    def airflow(self, *arguments: str, env: Mapping[str, str] | None = None) -> str:
        """Run a command of Airflow and return all that it printed. Raises CommandFailed when it fails."""
        done = self.run([self.venv.scripts / "airflow", *arguments], env=env)
        printed = done.stdout + done.stderr
        if done.returncode:
            raise CommandFailed(f"`airflow {' '.join(arguments)}` failed:\n{printed[-4_000:]}")
        return printed

    def rows(self, *arguments: str) -> list[dict[str, Any]]:
        """Run a command of Airflow that prints a table, and return its rows. Raises CommandFailed."""
        printed = self.airflow(*arguments, "--output", "json")
        rows: list[dict[str, Any]]
        # Airflow may log before the table and after it.
        rows, _ = json.JSONDecoder().raw_decode(printed[printed.index("[{") :])
        return rows

    def run(
        self, command: Sequence[str | Path], *, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run any command, and wait for its end."""
        return subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            cwd=self.directory,
            env=self._environment() | dict(env or {}),
            timeout=TIMEOUT,
        )

    def _environment(self) -> dict[str, str]:
        env = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        return env | {
            "AIRFLOW_HOME": str(self.folder),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.dags),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            "PATH": os.pathsep.join([str(self.venv.scripts), env.get("PATH", os.defpath)]),
            "NO_PROXY": "127.0.0.1,localhost",
        }
