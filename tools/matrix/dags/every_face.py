"""Every way of asking for an image, in one DAG that each series of Airflow runs.

Each task has a key of its own, so a second run of the DAG finds everything paid.
"""

from __future__ import annotations

from typing import Any

from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_aisa.operators.batch import SeedreamBatchOperator
from airflow_provider_aisa.operators.seedream import SeedreamGenerateOperator

SMALL = "1920x1920"

with DAG("every_face", schedule=None):
    SeedreamGenerateOperator(task_id="sync", prompt="sync", size=SMALL, idempotency_key="sync")

    SeedreamGenerateOperator(
        task_id="deferred", prompt="deferred", size=SMALL, idempotency_key="deferred", deferrable=True
    )

    SeedreamGenerateOperator.partial(
        task_id="mapped", size=SMALL, idempotency_key="mapped-{{ ti.map_index }}"
    ).expand(prompt=["mapped 0", "mapped 1"])

    @task
    def write_requests() -> list[dict[str, Any]]:
        return [{"id": f"item-{number}", "prompt": f"batch {number}"} for number in range(3)]

    SeedreamBatchOperator(task_id="batch", requests=write_requests(), size=SMALL, idempotency_key="batch")

    @task.seedream(size=SMALL, idempotency_key="decorated")
    def decorated() -> str:
        return "decorated"

    decorated()
