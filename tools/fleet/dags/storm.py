"""What the fleet runs while its parts die. A run's conf says how much of it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, task

from airflow_provider_aisa import chunk_requests
from airflow_provider_aisa.operators.batch import SeedreamBatchOperator
from airflow_provider_aisa.operators.seedream import SeedreamGenerateOperator

SMALL = "1920x1920"
AGAIN: dict[str, Any] = {"retries": 5, "retry_delay": timedelta(seconds=5)}


def cut(params: dict[str, Any]) -> list[Any]:
    return chunk_requests(params["file"], size=params["size"])


def write_prompts(params: dict[str, Any]) -> list[str]:
    return [f"deferred {number:03}" for number in range(params["count"])]


with DAG("chunks", schedule=None, params={"file": "", "size": 50}, default_args=AGAIN):
    chunks: Any = task(cut)  # Any: the decorator's type has lost its arguments
    # Five requests in flight for five slots: a pool of 20 keeps the fleet at the 20 of the key.
    SeedreamBatchOperator.partial(
        task_id="generate",
        size=SMALL,
        s3_key="chunks/{id}.{ext}",
        max_concurrency=5,
        pool="aisa",
        pool_slots=5,
    ).expand(requests=chunks())

with DAG("deferred", schedule=None, params={"count": 200}, default_args=AGAIN):
    prompts: Any = task(write_prompts)  # Any: as above
    SeedreamGenerateOperator.partial(
        task_id="generate",
        size=SMALL,
        s3_key="deferred/{{ ti.map_index }}.{ext}",
        aisa_conn_id="aisa_deferred",
        deferrable=True,
        max_active_tis_per_dag=64,
    ).expand(prompt=prompts())

with DAG("slow", schedule=None, default_args=AGAIN):
    SeedreamGenerateOperator(
        task_id="generate", prompt="slow", size=SMALL, s3_key="slow/{index}.{ext}", aisa_conn_id="aisa_slow"
    )
