"""`make demo KEEP=1`, used as a person would: look, log in, run a DAG again, press Ctrl-C."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import httpx
import pytest

from tests.airflow.support import wait_for
from tools.supervise import descendants

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_aisa.sandbox import Sandbox

ROOT = Path(__file__).parents[2]


class Demo(NamedTuple):
    """A demo that goes on running, and what it said."""

    process: subprocess.Popen[str]
    said: str


@contextmanager
def demo_kept(folder: Path, gateway: Sandbox) -> Iterator[Demo]:
    """Run `make demo KEEP=1` in a checkout of its own, as for a gateway that has to be paid."""
    for name in ("Makefile", "tools", "dags_examples"):
        (folder / name).symlink_to(ROOT / name)
    key = {"AISA_API_KEY": gateway.api_key, "AISA_BASE_URL": gateway.base_url, "AISA_DEMO_YES": "1"}
    make = [str(shutil.which("make")), "-o", "install", "demo"]
    # A shell's background job ignores Ctrl-C, and so would everything that it starts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            [*make, "KEEP=1", f"BIN={Path(sys.executable).parent}"],
            cwd=folder,
            env=os.environ | key,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # a terminal's Ctrl-C goes to a whole group of processes
        )
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        try:
            yield Demo(process, read_until(process, "Press Ctrl-C to stop everything"))
        finally:
            for each in descendants(process.pid):
                os.kill(each.pid, signal.SIGKILL)
            process.kill()


def read_until(process: subprocess.Popen[str], mark: str) -> str:
    """Read what the demo says until it says this; fail when it ends before."""
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if mark in line:
            return said
    pytest.fail(f"the demo has ended, and never said {mark!r}:\n{said}")


def run_the_dag_again(said: str) -> None:
    """Log in with what the demo said, and run its DAG once more."""
    [url] = re.findall(r"all DAGs +(\S+)/dags\n", said)
    [(user, password)] = re.findall(r"log in as +(\w+), with the password (\S+)\n", said)
    with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
        token = client.post("/auth/token", json={"username": user, "password": password}).json()
        client.headers["Authorization"] = f"Bearer {token['access_token']}"
        runs = "/api/v2/dags/quickstart/dagRuns"
        run = client.post(runs, json={"logical_date": None}).json()["dag_run_id"]
        wait_for(lambda: client.get(f"{runs}/{run}").json()["state"] == "success", "the second run")
        [first_run] = re.findall(r"^  the run +(\S+)$", said, re.MULTILINE)
        assert client.get(first_run).status_code == 200


def test_demo_that_is_kept_ends_at_ctrl_c_and_loses_no_paid_image(
    tmp_path: Path, aisa_sandbox: Sandbox
) -> None:
    with demo_kept(tmp_path, aisa_sandbox) as demo:
        run_the_dag_again(demo.said)
        processes = descendants(demo.process.pid)
        os.killpg(demo.process.pid, signal.SIGINT)
        end = read_until(demo.process, "Nothing is left running")
        demo.process.wait(30)

    assert [each for each in processes if Path(f"/proc/{each.pid}").exists()] == []
    assert len(processes) > 5  # the gateway is not among them: it is the real one, so to say
    assert end.count("Saved: ") == 2
    assert aisa_sandbox.billed == len(list((tmp_path / "demo-images").iterdir())) == 4
