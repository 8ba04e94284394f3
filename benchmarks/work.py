"""One measured task in a process of its own: `python -m benchmarks.work ours|plain|pool PREFIX`.

Every way imports everything first, what runs a task in Airflow included. What is measured lies between two
looks at the clock and at the memory of the process. Prints one JSON object.
"""

from __future__ import annotations

import gc
import importlib
import json
import resource
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.providers.common.compat.sdk import Context
    from botocore.session import Session

MODEL, SIZE, COUNT, PROMPT = "seedream-4-5-251128", "2048x2048", 4, "a lighthouse in fog"
BUCKET = "benchmark"
MIB = 1024 * 1024
_STATUS, _CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def prepare_ours(prefix: str) -> Callable[[], object]:
    """Import what the operator imports when it runs, and return its task."""
    from airflow_provider_aisa.operators.seedream import SeedreamGenerateOperator

    load("airflow.providers.amazon.aws.hooks.s3", "airflow_provider_aisa.core.generate")
    task = SeedreamGenerateOperator(
        task_id="ours", prompt=PROMPT, size=SIZE, n=COUNT, model=MODEL, s3_key=f"{prefix}/", s3_bucket=BUCKET
    )
    ti = SimpleNamespace(
        dag_id="benchmark", run_id=prefix, task_id="ours", map_index=-1, try_number=1, max_tries=0
    )
    return lambda: task.execute(cast("Context", {"ti": ti}))


def prepare_plain(prefix: str, *, workers: int = 1) -> Callable[[], object]:
    """Return the same work as a person writes it in a `@task` function: each image whole in memory."""
    import boto3
    import httpx
    import openai

    load("openai.resources.images")  # the SDK loads it at its first use

    def run() -> None:
        s3 = boto3.client("s3")
        with openai.OpenAI() as client, httpx.Client() as http, ThreadPoolExecutor(workers) as pool:
            answer = client.images.generate(model=MODEL, prompt=PROMPT, n=COUNT, size=cast("Any", SIZE))

            def move(index: int, url: str) -> None:
                image = http.get(url).raise_for_status()
                s3.put_object(
                    Bucket=BUCKET,
                    Key=f"{prefix}/{index}.png",
                    Body=image.content,
                    ContentType=image.headers["content-type"],
                )

            urls = [image.url or "" for image in answer.data or []]
            # One worker is the `for` loop that a person writes first.
            list(pool.map(move, range(len(urls)), urls))

    return run


def load(*modules: str) -> None:
    """Import modules that the work would otherwise import while it is measured."""
    for module in modules:
        importlib.import_module(module)


class S3Requests:
    """Counts and times the S3 requests of this process, whoever makes the client."""

    def __init__(self) -> None:
        import botocore

        self._lock = threading.Lock()
        self.journal: list[float] = []  # seconds of each request
        self.others: list[float] = []
        botocore.register_initializer(self._watch)

    def _watch(self, session: Session) -> None:
        session.register("before-parameter-build.s3", self._begin)
        session.register("after-call.s3", self._end)

    def _begin(self, **event: Any) -> None:
        event["context"]["benchmark"] = ("/_aisa/" in event["params"].get("Key", ""), time.perf_counter())

    def _end(self, **event: Any) -> None:
        is_journal, began = event["context"]["benchmark"]
        with self._lock:
            (self.journal if is_journal else self.others).append(time.perf_counter() - began)


def peak_mib() -> float:
    """Return the most memory this process has had resident since `forget_peak`, in MiB."""
    if _STATUS.exists():
        # Not ru_maxrss: a child inherits its parent's there.
        return _status("VmHWM")
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / MIB if sys.platform == "darwin" else used / 1024


def forget_peak() -> float:
    """Return the resident memory now, and let the peak begin from it where the system can do that."""
    if not _CLEAR_REFS.exists():
        return peak_mib()
    _CLEAR_REFS.write_text("5")
    return _status("VmRSS")


def _status(name: str) -> float:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) / 1024


def measure(work: Callable[[], object], requests: S3Requests) -> dict[str, float]:
    """Do the work once and return what it took."""
    # Else a full collection of what the imports left, 0.1 s with Airflow, falls to whoever comes to it first.
    gc.collect()
    gc.freeze()
    before = forget_peak()
    began, cpu = time.perf_counter(), time.process_time()
    work()
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    return {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "peak_mib": peak_mib() - before,
        "whole_mib": peak_mib(),
        "journal_requests": len(requests.journal),
        "journal_seconds": sum(requests.journal),
        "requests": len(requests.journal) + len(requests.others),
    }


def main(way: str, prefix: str) -> None:
    """Do the work once and print what it took."""
    load("airflow.providers.common.compat.sdk", "airflow.sdk.execution_time.task_runner")
    if way == "ours":
        work = prepare_ours(prefix)
    else:
        work = prepare_plain(prefix, workers=COUNT if way == "pool" else 1)
    print(json.dumps(measure(work, S3Requests())))


if __name__ == "__main__":
    main(*sys.argv[1:])
