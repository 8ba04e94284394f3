from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tools.supervise import Supervised, descendants

if TYPE_CHECKING:
    from collections.abc import Callable

SLEEP = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"]
ROOT = Path(__file__).parents[2]

# A child in a session of its own, orphaned at once, deaf to SIGTERM: what a process group would lose.
ESCAPE = """
import os, signal, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("escaped", flush=True)
        time.sleep(600)
    os._exit(0)
time.sleep(600)
"""

# A process whose first thread has ended looks like a zombie, and lives on in its other thread.
WITHOUT_ITS_FIRST_THREAD = """
import ctypes, subprocess, sys, threading, time
child = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"])
threading.Thread(target=time.sleep, args=(600,)).start()
print(child.pid, flush=True)
ctypes.CDLL(None).pthread_exit(None)
"""


def wait_until(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Tell whether a process runs; one that only waits to be reaped does not."""
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_stop_ends_the_command_and_leaves_no_process(tmp_path: Path) -> None:
    child = Supervised(SLEEP, log=tmp_path / "log", grace=5)
    wait_until(child.processes)
    pids = [process.pid for process in child.processes()]
    child.stop()
    child.stop()
    assert [pid for pid in pids if alive(pid)] == []
    assert not child.running()


@pytest.mark.parametrize("grace", [0, 0.3])
def test_an_orphan_in_its_own_session_that_ignores_sigterm_is_ended(tmp_path: Path, grace: float) -> None:
    log = tmp_path / "log"
    with Supervised([sys.executable, "-c", ESCAPE], log=log, grace=grace) as child:
        wait_until(lambda: "escaped" in log.read_text())
        pids = [process.pid for process in child.processes()]
        assert len(pids) == 2
    assert [pid for pid in pids if alive(pid)] == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the kernel has to tell the threads")
def test_a_process_that_has_lost_its_first_thread_is_ended_with_its_children(tmp_path: Path) -> None:
    log = tmp_path / "log"
    child = Supervised([sys.executable, "-I", "-S", "-c", WITHOUT_ITS_FIRST_THREAD], log=log)
    wait_until(log.read_text)
    (command,) = (each.pid for each in child.processes() if each.pid != int(log.read_text()))
    wait_until(lambda: not alive(command))  # by its first thread
    stopping = threading.Thread(target=child.stop, daemon=True)
    stopping.start()
    stopping.join(20)
    left = [each for each in (command, int(log.read_text())) if Path(f"/proc/{each}").exists()]
    for each in left:
        os.kill(each, signal.SIGKILL)
    assert left == []
    assert not stopping.is_alive()


def test_the_command_ends_when_its_owner_is_killed(tmp_path: Path) -> None:
    """No `finally` runs after SIGKILL: the processes and the directory must go all the same."""
    directory = tmp_path / "directory"
    directory.mkdir()
    owner_code = (
        "import sys, time; from pathlib import Path; from tools.supervise import Supervised\n"
        f"log, directory = Path({str(tmp_path / 'log')!r}), Path({str(directory)!r})\n"
        f"child = Supervised({SLEEP!r}, log=log, remove=[directory]); time.sleep(600)"
    )
    owner = subprocess.Popen([sys.executable, "-c", owner_code], cwd=ROOT)
    wait_until(lambda: len(descendants(owner.pid)) == 2)
    pids = [process.pid for process in descendants(owner.pid)]
    owner.kill()
    owner.wait()
    wait_until(lambda: not any(alive(pid) for pid in pids))
    assert not directory.exists()


def test_ctrl_c_during_a_slow_stop_does_not_cut_it_short(tmp_path: Path) -> None:
    log = tmp_path / "log"
    child = Supervised([sys.executable, "-c", ESCAPE], log=log, grace=1)
    wait_until(lambda: "escaped" in log.read_text())
    pids = [process.pid for process in child.processes()]
    # Whoever runs the tests in the background of a shell has Ctrl-C ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Timer(0.3, signal.raise_signal, [signal.SIGINT]).start()
        with pytest.raises(KeyboardInterrupt):
            child.stop()
    finally:
        signal.signal(signal.SIGINT, before)
    assert [pid for pid in pids if alive(pid)] == []


def test_sigterm_to_the_supervisor_itself_leaves_no_process(tmp_path: Path) -> None:
    with Supervised(SLEEP, log=tmp_path / "log") as child:
        wait_until(child.processes)
        (command,) = child.processes()
        supervisor = int(Path(f"/proc/{command.pid}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(supervisor, signal.SIGTERM)
        assert child.wait(20) == 128 + signal.SIGKILL
        assert not alive(command.pid)


def test_wait_returns_the_exit_status_and_the_log_holds_both_outputs(tmp_path: Path) -> None:
    code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(7)"
    with Supervised([sys.executable, "-c", code], log=tmp_path / "log") as child:
        assert child.wait(20) == 7
    assert sorted((tmp_path / "log").read_text().split()) == ["err", "out"]


def test_the_command_gets_ctrl_c_back_from_a_background_shell(tmp_path: Path) -> None:
    """A shell starts background jobs with SIGINT ignored; Airflow would then never end on it."""
    code = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Supervised([sys.executable, "-c", code], log=tmp_path / "log") as child:
            assert child.wait(20) == 0
    finally:
        signal.signal(signal.SIGINT, before)
    assert (tmp_path / "log").read_text().strip() == "True"
