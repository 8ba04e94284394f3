"""Workers that can be killed: each is a process of its own, which runs one task as Airflow would.

Importing Airflow takes seconds, so this module is also a server: it imports everything once and forks a
process per task. A task's HTTP and S3 clients are made after the fork. Commands come in on standard input,
one JSON object a line; what becomes of the tasks goes out on standard output. When standard input ends, so
do the server and all that it forked.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import select
import signal
import sys
import tempfile
import traceback
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, cast
from unittest import mock

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.providers.common.compat.sdk import Context
    from airflow.triggers.base import BaseTrigger

#: In place of a minute: how long a dead worker's claim stands beyond its timeout. Tests cannot wait longer.
CLAIM_MARGIN = 1.0
#: In place of 5 s: a claim is looked at often, so that a test ends soon after it has gone stale.
_POLL = 0.25


def run_task(task: Mapping[str, Any]) -> dict[str, Any]:
    """Run one try of a task, which is a batch when it has requests, and return its value.

    Deferred, that is `execute` until it defers, the trigger until its first event, and `execute_complete`.
    When a try is run again that has deferred already, its triggerer has died: the trigger runs again.
    """
    from airflow.providers.common.compat.sdk import TaskDeferred

    from airflow_provider_aisa.core import workbench
    from airflow_provider_aisa.operators.batch import SeedreamBatchOperator
    from airflow_provider_aisa.operators.gemini import GeminiGenerateOperator
    from airflow_provider_aisa.operators.seedream import SeedreamGenerateOperator
    from airflow_provider_aisa.operators.wan import WanGenerateOperator

    operators = {"gemini": GeminiGenerateOperator, "wan": WanGenerateOperator}
    # The only way in: no author may change these times, so no operator takes them.
    mock.patch.object(workbench, "TIMING", workbench.Timing(poll=_POLL, claim_margin=CLAIM_MARGIN)).start()
    context = cast("Context", {"ti": SimpleNamespace(**task["ti"])})
    if "requests" in task["operator"]:
        return SeedreamBatchOperator(task_id=task["ti"]["task_id"], **task["operator"]).execute(context)
    options = dict(task["operator"])
    kind: Any = operators.get(options.pop("family", ""), SeedreamGenerateOperator)
    operator = kind(task_id=task["ti"]["task_id"], **options)
    trigger_row = Path(task["folder"], f"trigger-{task['ti']['run_id']}-{task['ti']['try_number']}.json")
    if not trigger_row.exists():
        try:
            return cast("dict[str, Any]", operator.execute(context))
        except TaskDeferred as deferred:
            row = [deferred.trigger.serialize(), deferred.method_name]
            draft = trigger_row.with_suffix(f".{os.getpid()}")
            draft.write_text(json.dumps(row))
            draft.rename(trigger_row)
    (path, kwargs), method_name = json.loads(trigger_row.read_text())
    event = asyncio.run(_first_event(_rebuilt(path, kwargs)))
    value: dict[str, Any] = getattr(operator, method_name)(context, event=json.loads(json.dumps(event)))
    return value


def _rebuilt(path: str, kwargs: dict[str, Any]) -> BaseTrigger:
    module, _, name = path.rpartition(".")
    # No scheduler looks at these tasks, so none can take an early event for a killed task.
    trigger: BaseTrigger = getattr(sys.modules[module], name)(**kwargs, earliest_event=0.0)
    return trigger


async def _first_event(trigger: BaseTrigger) -> object:
    async with aclosing(cast("Any", trigger.run())) as events:
        async for event in events:
            return event.payload
    raise RuntimeError("the trigger ended without an event")


def _be_a_worker(task: Mapping[str, Any]) -> NoReturn:
    """Run a task, write what came of it to a file, and end without any clean-up of the server's."""
    from airflow_provider_aisa.exceptions import AisaError

    os.environ.update(task["env"])
    tempfile.tempdir = task["folder"]
    outcome: dict[str, Any] = {}
    try:
        outcome["value"] = run_task(task)
    except AisaError as e:
        outcome["error"] = e.to_dict()
    except BaseException:
        outcome["traceback"] = traceback.format_exc()
    path = Path(task["outcome"])
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(outcome))
    draft.rename(path)
    os._exit(0)


class _Server:
    """Forks, kills and reaps workers. It has one thread, and no client of anything: forking is safe."""

    def __init__(self, reports: TextIO) -> None:
        self._ids: dict[int, int] = {}
        self._reports = reports
        self._woken, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def serve(self) -> None:
        self._report(event="ready")
        rest = b""
        while True:
            ready, _, _ = select.select([0, self._woken], [], [])
            if self._woken in ready:
                os.read(self._woken, 4096)
                self._reap(os.WNOHANG)
            if 0 in ready:
                block = os.read(0, 65536)
                if not block:
                    break
                *lines, rest = (rest + block).split(b"\n")
                for line in lines:
                    self._obey(json.loads(line))
        for pid in self._ids:
            os.kill(pid, signal.SIGKILL)
        while self._ids:
            self._reap(0)

    def _obey(self, command: dict[str, Any]) -> None:
        if "kill" in command:
            # Nobody else reaps: a worker that is still listed is still this process.
            for pid in [pid for pid, number in self._ids.items() if number == command["kill"]]:
                os.kill(pid, signal.SIGKILL)
            return
        pid = os.fork()
        if not pid:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            self._reports.close()
            _be_a_worker(command)
        self._ids[pid] = command["id"]

    def _reap(self, options: int) -> None:
        while self._ids:
            pid, status = os.waitpid(-1, options)
            if not pid:
                return
            self._report(event="ended", id=self._ids.pop(pid), status=os.waitstatus_to_exitcode(status))

    def _report(self, **report: object) -> None:
        self._reports.write(f"{json.dumps(report)}\n")


def main() -> None:
    """Import what every task needs, and serve."""
    # What Airflow and the tasks print goes to standard error: standard output belongs to the protocol.
    reports = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    import airflow_provider_aisa.core.batch.runner
    import airflow_provider_aisa.operators.batch
    import airflow_provider_aisa.operators.seedream
    import airflow_provider_aisa.triggers.generate  # noqa: F401 - so that a forked worker need not

    _warm_up()
    _Server(reports).serve()


def _warm_up() -> None:
    """Have what reads large files do it once. Nothing is connected to: a worker opens its own connections."""
    from airflow_provider_aisa.core.net.tls import ssl_context
    from airflow_provider_aisa.hooks.s3 import open_s3
    from tests.loading import read_models_once

    extra = {"endpoint_url": "http://127.0.0.1:1", "region_name": "us-east-1"}
    connection = {"conn_type": "aws", "login": "nobody", "password": "nothing", "extra": extra}
    os.environ["AIRFLOW_CONN_NOWHERE"] = json.dumps(connection)
    read_models_once()
    open_s3("nowhere")[0].close()
    ssl_context()
    gc.collect()
    gc.freeze()  # Forked processes share these pages for as long as no collection touches them.


if __name__ == "__main__":
    main()
