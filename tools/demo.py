"""`make demo`: the quickstart DAG in a real Airflow, against a local gateway and a real object store.

With AISA_API_KEY set the gateway is the real one, once somebody has said yes to the cost. `make demo KEEP=1`
leaves all of it running until Ctrl-C. Whatever happens, a signal included, no process outlives the demo.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_aisa.exceptions import AisaError
from tools.airflow_run import AirflowError, StandaloneAirflow
from tools.demo_album import Album
from tools.demo_gateway import Gateway, NotConfirmed, open_gateway
from tools.demo_summary import Summary, invitation
from tools.seaweedfs import SeaweedFS, SeaweedFSError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import FrameType

    from mypy_boto3_s3 import S3Client

ROOT = Path(__file__).parents[1]
WORK = ROOT / ".demo"
IMAGES = ROOT / "demo-images"
# What dags_examples/quickstart.py says; a test compares.
DAG_ID, TASK_ID, BUCKET, COUNT = "quickstart", "generate", "my-images", 2


class DemoError(RuntimeError):
    """The demo cannot go on; the message says why, and what to do."""


@dataclass
class Progress:
    """Prints each step with the seconds since the start, and a sign of life during the long ones."""

    started: float
    last: float = 0.0

    @property
    def seconds(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self.started

    def say(self, message: str) -> None:
        """Print a step."""
        self.last = self.seconds
        print(f"[{self.seconds:5.1f} s] {message}", flush=True)

    def waiting(self) -> None:
        """Print something every five seconds."""
        if self.seconds - self.last >= 5:
            self.say("    ...")


def main() -> int:
    """Run the demo. Return 0, 1 when it failed, 2 when nobody said yes to the cost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave Airflow running until Ctrl-C")
    keep = parser.parse_args().keep
    _end_cleanly_on_signals()
    try:
        with _only_one_demo():
            summary = run(Progress(time.monotonic()), os.environ, keep=keep)
    except NotConfirmed as error:
        print(f"\n{error}", file=sys.stderr)
        return 2
    except (DemoError, AirflowError, SeaweedFSError, AisaError) as error:
        print(f"\nThe demo failed: {error}", file=sys.stderr)
        if isinstance(error, AirflowError):
            print(_tail(WORK / "airflow" / "standalone.log"), file=sys.stderr)
        print("Nothing is left running. When that is fixed: make demo", file=sys.stderr)
        return 1
    print("" if keep else summary.report())
    print(f"Nothing is left running, after {summary.seconds:.0f} s.")
    if summary.leaks:
        print(f"The API key is in .demo: {', '.join(summary.leaks)}", file=sys.stderr)
    return 1 if summary.leaks else 0


def run(progress: Progress, environ: Mapping[str, str], *, keep: bool = False) -> Summary:
    """Do all the steps, stop everything again, and write down what came out.

    With `keep` everything goes on running, once it is done, until a signal comes.
    """
    airflow_version = version("apache-airflow")
    with contextlib.ExitStack() as stack:
        progress.say("Opening the gateway: " + _which_gateway(environ))
        gateway = stack.enter_context(open_gateway(COUNT, environ))
        progress.say("Starting the object store: SeaweedFS")
        store = stack.enter_context(SeaweedFS())
        store.create_bucket(BUCKET)
        progress.say(f"Starting Airflow {airflow_version}: scheduler, DAG processor, triggerer, API server")
        airflow = stack.enter_context(_airflow(progress, gateway, store))
        airflow.wait_until_ready()
        with Album(store.client(), BUCKET, IMAGES, is_paid=gateway.sandbox is None) as album:
            run_id = run_dag(progress, airflow)
            result = airflow.xcom(DAG_ID, run_id, TASK_ID)
            progress.say(f"Copying the images from the bucket to {IMAGES.name}/")
            summarize = partial(
                Summary,
                gateway=gateway.name,
                airflow_version=airflow_version,
                dag_id=DAG_ID,
                run_id=run_id,
                result=result,
                files=[album.save(image["key"]) for image in result["images"]],
                journal=download_journal(store.client(), result),
            )
            if keep:
                _keep_running(airflow, summarize(billed=_billed(gateway), seconds=progress.seconds))
        progress.say("Stopping everything")
    summary = summarize(
        billed=_billed(gateway), leaks=find_secret(gateway.api_key, WORK), seconds=progress.seconds
    )
    summary.write(WORK / "summary.json")
    return summary


def _keep_running(airflow: StandaloneAirflow, summary: Summary) -> None:
    """Say where Airflow is, and return when a signal comes."""
    summary.write(WORK / "summary.json")
    with contextlib.suppress(SystemExit):  # Signals end a demo like this, and here that is wanted.
        print(summary.report())
        print(invitation(summary, airflow.url, airflow.user, airflow.password), flush=True)
        while airflow.running():
            time.sleep(0.5)
        raise AirflowError(f"`airflow standalone` has ended: see {airflow.log}")


def _billed(gateway: Gateway) -> int | None:
    return gateway.sandbox.billed if gateway.sandbox else None


def _which_gateway(environ: Mapping[str, str]) -> str:
    if environ.get("AISA_API_KEY"):
        return "the real one, with your AISA_API_KEY"
    return "a sandbox on this machine, free of charge (AISA_API_KEY=... for the real one)"


def _airflow(progress: Progress, gateway: Gateway, store: SeaweedFS) -> StandaloneAirflow:
    connections = {"aisa_default": gateway.airflow_connection(), "aws_default": store.airflow_connection()}
    return StandaloneAirflow(
        WORK / "airflow",
        ROOT / "dags_examples",
        connections=connections,
        config={"core.test_connection": "Enabled"},
        on_wait=progress.waiting,
    )


def run_dag(progress: Progress, airflow: StandaloneAirflow) -> str:
    """Trigger the DAG through the API and wait for its success. Return the run's id."""
    airflow.unpause(DAG_ID)
    run_id = airflow.trigger(DAG_ID)
    progress.say(f"Running DAG {DAG_ID}, triggered through Airflow's API: {run_id}")
    state = airflow.wait_for_run(DAG_ID, run_id, timeout=600)
    log = airflow.task_log(DAG_ID, run_id)
    (WORK / "task.log").write_text(log)
    progress.say(f"The run has ended: {state}")
    if state != "success":
        end = "\n".join(read_log(log)[-15:])
        raise DemoError(f"the DAG run ended as {state!r}. The end of the task's log, .demo/task.log:\n{end}")
    return run_id


def read_log(log: str) -> list[str]:
    """Return the messages and exceptions of a task's log, which has one JSON object a line."""
    lines = []
    for line in log.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            lines.append(line)
            continue
        if not entry["event"].startswith("::"):
            lines.append(f"{entry.get('level', '')}: {entry['event']}")
        lines += [f"  {error['exc_type']}: {error['exc_value']}" for error in entry.get("error_detail") or []]
    return lines


def download_journal(client: S3Client, result: dict[str, Any]) -> str | None:
    """Copy the journal of the request, where the result names one; return its path."""
    if not (uri := result.get("journal_uri")):
        return None
    client.download_file(BUCKET, uri.removeprefix(f"s3://{BUCKET}/"), str(WORK / "journal.json"))
    return ".demo/journal.json"


def find_secret(secret: str, folder: Path) -> list[str]:
    """Return the files under a folder which hold the secret."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [str(path.relative_to(folder)) for path in files if secret.encode() in path.read_bytes()]


def _tail(log: Path, lines: int = 15) -> str:
    if not log.exists():
        return f"There is no {log}."
    end = log.read_text(errors="replace").splitlines()[-lines:]
    return "\n".join([f"The end of {log}:", *end])


@contextlib.contextmanager
def _only_one_demo() -> Iterator[None]:
    """Empty the working folder and keep it for this demo alone."""
    WORK.mkdir(exist_ok=True)
    with (WORK / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DemoError("another demo is running in this folder: wait for it, or stop it") from None
        shutil.rmtree(WORK / "airflow", ignore_errors=True)
        for name in ("summary.json", "task.log", "journal.json"):
            (WORK / name).unlink(missing_ok=True)
        yield


def _end_cleanly_on_signals() -> None:
    """Turn the first signal into SystemExit, so that everything is stopped, and ignore further ones."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def end(number: int, _: FrameType | None) -> None:
        for each in signals:
            signal.signal(each, signal.SIG_IGN)
        print("\nStopping everything, a few seconds ...", file=sys.stderr, flush=True)
        sys.exit(128 + number)

    for each in signals:
        if signal.getsignal(each) is not signal.SIG_IGN:  # nohup, or a shell's background job
            signal.signal(each, end)


if __name__ == "__main__":
    sys.exit(main())
