"""Run a command that cannot outlive whoever started it, nor can anything that it starts.

A process group does not hold Airflow's children (they open sessions of their own), and PR_SET_PDEATHSIG
reaches one process only, when one *thread* of the parent ends. So this file runs a second time, as a small
process between the owner and the command. It is the subreaper of whatever the command starts, and it lives as
long as its standard input stays open: the kernel closes that when the owner dies, even by SIGKILL.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>


class Process(NamedTuple):
    """One running process. `command` is its argument vector in one line, as the process shows it."""

    pid: int
    command: str


class Supervised:
    """A running command and all its descendants; `stop` ends them all and returns when none is left.

    Output goes to `log`. Stopping sends SIGTERM to every descendant and, `grace` seconds later, SIGKILL;
    afterwards the paths in `remove` are deleted, also when the owner was killed.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        grace: float = 0,
        remove: Sequence[Path] = (),
    ) -> None:
        removals = [f"--remove={path}" for path in remove]
        supervisor = [sys.executable, "-I", "-S", __file__, f"--grace={grace}", *removals, "--"]
        with log.open("ab") as output:
            self._supervisor = subprocess.Popen(
                [*supervisor, *map(str, command)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=env,
                cwd=cwd,
                start_new_session=True,  # Ctrl-C in a terminal must reach the owner only
            )

    def processes(self) -> list[Process]:
        """List every process alive below this one, parents first, the supervisor itself left out."""
        return descendants(self._supervisor.pid)

    def running(self) -> bool:
        """Tell whether the command itself still runs."""
        return self._supervisor.poll() is None

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the command has ended by itself and return its exit status, 128 + n after signal n."""
        return self._supervisor.wait(timeout)

    def stop(self) -> None:
        """End the command and everything it started. May be called again."""
        if self._supervisor.stdin is not None:
            self._supervisor.stdin.close()
        try:
            self._supervisor.wait()
        finally:  # a Ctrl-C meanwhile must not let the owner go before its processes
            self._supervisor.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def descendants(pid: int) -> list[Process]:
    """List the live descendants of `pid`, parents first."""
    children: dict[int, list[int]] = {}
    for child, parent in _parents():
        children.setdefault(parent, []).append(child)
    found: list[Process] = []
    generation = [pid]
    while generation:
        generation = [child for parent in generation for child in children.get(parent, [])]
        found += [Process(child, _command_line(child)) for child in generation]
    return found


def adopt_orphans() -> None:
    """Make this process the parent of every orphan below it, where the kernel can (Linux)."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _parents() -> list[tuple[int, int]]:
    """Return (pid, parent's pid) of every process that is not a zombie.

    A process whose first thread has ended has a zombie's state as long as its other threads live, and keeps
    its children for so long: it is listed.
    """
    if not Path("/proc/self/stat").exists():  # macOS
        listing = subprocess.run(
            ["ps", "-A", "-o", "pid=,ppid=,stat="], capture_output=True, text=True, check=True
        )
        rows = [line.split() for line in listing.stdout.splitlines()]
        return [(int(pid), int(parent)) for pid, parent, state in rows if not state.startswith("Z")]
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):  # it ended while we looked
                # The command's name may hold spaces and brackets: the fields start after its last bracket.
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                state, parent, threads = fields[0], int(fields[1]), int(fields[17])
                if state != "Z" or threads > 1:
                    found.append((int(entry.name), parent))
    return found


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def main() -> int:
    """Be the process in between: start the command, wait for its end or the owner's, leave nothing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--grace", type=float, required=True)
    parser.add_argument("--remove", type=Path, action="append", default=[])
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    adopt_orphans()
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a background job of a shell inherits "ignore"
    command = subprocess.Popen(options.command, stdin=subprocess.DEVNULL)
    _wait_for_an_end(command, sys.stdin.fileno(), woken)
    _end_all(command, options.grace)
    for path in options.remove:
        _remove(path)
    status = command.wait()
    return status if status >= 0 else 128 - status


def _wait_for_an_end(command: subprocess.Popen[bytes], owner: int, woken: int) -> None:
    while command.poll() is None:
        ready, _, _ = select.select([owner, woken], [], [])
        if owner in ready or signal.SIGTERM in os.read(woken, 4096):
            return


def _end_all(command: subprocess.Popen[bytes], grace: float) -> None:
    deadline = time.monotonic() + grace
    if grace:
        _signal_all(signal.SIGTERM)
        while _are_left(command) and time.monotonic() < deadline:
            time.sleep(0.02)
    while _are_left(command):
        _signal_all(signal.SIGKILL)
        time.sleep(0.01)


def _are_left(command: subprocess.Popen[bytes]) -> bool:
    """Tell whether anything lives below this process, and reap what has ended.

    The kernel is asked for children: a listing can miss a process whose parent ends while it is made.
    Where orphans are not adopted (macOS) they are no children of this process, and nobody finds them.
    """
    try:
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return True
            if pid == command.pid:
                command.returncode = os.waitstatus_to_exitcode(status)
    except ChildProcessError:
        return False


def _signal_all(number: signal.Signals) -> None:
    for process in descendants(os.getpid()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
