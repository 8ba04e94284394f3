"""PostgreSQL and Redis from Debian's packages, on loopback, with data folders and passwords of their own.

Both can be cut off as a power failure does it, and started again where they were.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tools.ports import find_free_ports
from tools.supervise import Supervised

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

READY_SECONDS = 60.0
PACKAGES = "apt-get update && apt-get install -y --no-install-recommends postgresql redis-server"


class ServiceError(RuntimeError):
    """A server cannot run here; the message says which, and what to do."""


class PostgreSQL:
    """A database server with one empty database, `airflow`, and a role of the same name that owns it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "postgresql"
        self._log = folder / "postgresql.log"
        self._data = self._folder / "data"
        self._password = secrets.token_urlsafe(24)
        [self._port] = find_free_ports(1)
        self._make_cluster()
        self._start()
        self._run("createdb", "airflow")

    @property
    def address(self) -> str:
        """Return `user:password@host:port/database`, without a scheme."""
        return f"airflow:{self._password}@127.0.0.1:{self._port}/airflow"

    def _make_cluster(self) -> None:
        self._folder.mkdir()
        password = self._folder / "password"
        password.write_text(self._password)
        if os.geteuid() == 0:  # it refuses to run as root
            for path in (self._folder, password):
                shutil.chown(path, "postgres", "postgres")
        options = ("--username=airflow", "--auth=scram-sha-256", f"--pwfile={password}", "--no-sync")
        subprocess.run(
            _as_postgres(_postgresql("initdb"), f"--pgdata={self._data}", *options),
            check=True,
            capture_output=True,
            cwd="/",
        )

    def _start(self) -> None:
        settings = {
            "port": self._port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": 300,
            "fsync": "off",  # a killed server loses nothing by it, only a killed machine does
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        command = _as_postgres(_postgresql("postgres"), "-D", str(self._data), *options)
        self._server = Supervised(command, log=self._log, cwd=Path("/"))
        _wait_until(self._answers, "PostgreSQL", self._log)

    def _answers(self) -> bool:
        return self._run("psql", "--dbname=postgres", "--command=SELECT 1", check=False)

    def _run(self, name: str, *arguments: str, check: bool = True) -> bool:
        where = ("--host=127.0.0.1", f"--port={self._port}", "--username=airflow", "--no-password")
        done = subprocess.run(
            [_postgresql(name), *where, *arguments],
            check=check,
            capture_output=True,
            env={**os.environ, "PGPASSWORD": self._password},
        )
        return done.returncode == 0

    def restart(self) -> None:
        """Cut the server off and start it again: it recovers from its log."""
        self._server.stop()
        self._start()

    def stop(self) -> None:
        """End the server."""
        self._server.stop()


class Redis:
    """A broker that writes every message down, so that a restart loses none."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "redis.log"
        self._config = folder / "redis.conf"
        self._password = secrets.token_urlsafe(24)
        [self._port] = find_free_ports(1)
        data = folder / "redis"
        data.mkdir()
        self._config.touch(mode=0o600)
        self._config.write_text(
            f"bind 127.0.0.1\nport {self._port}\ndir {data}\nrequirepass {self._password}\n"
            'appendonly yes\nappendfsync always\nsave ""\n'
        )
        self._start()

    @property
    def url(self) -> str:
        """Return the address as Celery takes it, password included."""
        return f"redis://:{self._password}@127.0.0.1:{self._port}/0"

    def _start(self) -> None:
        self._server = Supervised([_find("redis-server"), self._config], log=self._log)
        _wait_until(self._answers, "Redis", self._log)

    def _answers(self) -> bool:
        done = subprocess.run(
            [_find("redis-cli"), "-h", "127.0.0.1", "-p", str(self._port), "ping"],
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, "REDISCLI_AUTH": self._password},
        )
        return done.stdout.strip() == "PONG"  # an error while it still reads its data

    def restart(self) -> None:
        """Cut the broker off and start it again with what it has written down."""
        self._server.stop()
        self._start()

    def stop(self) -> None:
        """End the broker."""
        self._server.stop()


def _wait_until(condition: Callable[[], bool], what: str, log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise ServiceError(f"{what} did not answer within {READY_SECONDS:.0f} s: see {log}")
        time.sleep(0.1)


def _as_postgres(*command: str) -> Sequence[str]:
    return ("runuser", "-u", "postgres", "--", *command) if os.geteuid() == 0 else command


def _postgresql(name: str) -> str:
    # Debian keeps its servers out of the PATH, in a folder for each major version.
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    return _find(name, os.pathsep.join([*map(str, reversed(folders)), os.environ.get("PATH", os.defpath)]))


def _find(name: str, path: str | None = None) -> str:
    if (found := shutil.which(name, path=path)) is None:
        raise ServiceError(f"there is no {name} here. On Debian: {PACKAGES}")
    return found
