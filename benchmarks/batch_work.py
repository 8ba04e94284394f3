"""One measured batch in a process of its own: `python -m benchmarks.batch_work WAY COUNT IN_FLIGHT PREFIX`.

As `benchmarks.work`, with one image for each of many prompts: `ours`, `plain`, or `start`, which only reads
and checks the file of requests.
"""

from __future__ import annotations

import contextlib
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from benchmarks.work import BUCKET, MODEL, PROMPT, SIZE, S3Requests, load, measure

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.providers.common.compat.sdk import Context

FILE_KEY = "in/requests.jsonl"
FILE = f"s3://{BUCKET}/{FILE_KEY}"  # the requests of `start`


def prepare_ours(count: int, prefix: str) -> Callable[[], object]:
    """Import what the operator imports when it runs, and return its task."""
    from airflow_provider_aisa.operators.batch import SeedreamBatchOperator

    load("airflow.providers.amazon.aws.hooks.s3", "airflow_provider_aisa.core.batch.runner")
    task = SeedreamBatchOperator(
        task_id="ours",
        requests=[{"id": index, "prompt": f"{PROMPT} {index}"} for index in range(count)],
        size=SIZE,
        model=MODEL,
        s3_key=f"{prefix}/{{id}}.png",
        s3_bucket=BUCKET,
    )
    return lambda: task.execute(_context(prefix))


def prepare_start(prefix: str) -> Callable[[], object]:
    """Return a task that reads, checks and prices a file, looks for earlier attempts, and buys nothing."""
    from airflow_provider_aisa.exceptions import OverBudget
    from airflow_provider_aisa.operators.batch import SeedreamBatchOperator

    load("airflow.providers.amazon.aws.hooks.s3", "airflow_provider_aisa.core.batch.runner")
    task = SeedreamBatchOperator(
        task_id="ours", requests=FILE, s3_key=f"{prefix}/", s3_bucket=BUCKET, max_cost_usd=0
    )

    def run() -> None:
        with contextlib.suppress(OverBudget):
            task.execute(_context(prefix))

    return run


def _context(prefix: str) -> Context:
    ti = SimpleNamespace(
        dag_id="benchmark", run_id=prefix, task_id="ours", map_index=-1, try_number=1, max_tries=0
    )
    return cast("Context", {"ti": ti})


def prepare_plain(count: int, in_flight: int, prefix: str) -> Callable[[], object]:
    """Return the same work as a person writes it in a `@task` function: each image whole in memory."""
    import boto3
    import httpx
    import openai
    from botocore.config import Config

    load("openai.resources.images")

    def run() -> None:
        s3 = boto3.client("s3", config=Config(max_pool_connections=in_flight))
        with openai.OpenAI() as client, httpx.Client() as http, ThreadPoolExecutor(in_flight) as pool:

            def generate(index: int) -> None:
                prompt, size = f"{PROMPT} {index}", cast("Any", SIZE)
                answer = client.images.generate(model=MODEL, prompt=prompt, n=1, size=size)
                image = http.get((answer.data or [])[0].url or "").raise_for_status()
                s3.put_object(
                    Bucket=BUCKET,
                    Key=f"{prefix}/{index}.png",
                    Body=image.content,
                    ContentType=image.headers["content-type"],
                )

            list(pool.map(generate, range(count)))

    return run


def main(way: str, count: str, in_flight: str, prefix: str) -> None:
    """Do the work once and print what it took."""
    load("airflow.providers.common.compat.sdk", "airflow.sdk.execution_time.task_runner")
    if way == "ours":
        work = prepare_ours(int(count), prefix)
    elif way == "start":
        work = prepare_start(prefix)
    else:
        work = prepare_plain(int(count), int(in_flight), prefix)
    print(json.dumps(measure(work, S3Requests())))


if __name__ == "__main__":
    main(*sys.argv[1:])
