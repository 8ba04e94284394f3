"""A batch that is mapped over the chunks of what another task returned."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, task

from airflow_provider_aisa import chunk_requests
from airflow_provider_aisa.operators.batch import SeedreamBatchOperator


def cut(params: dict[str, Any]) -> list[Any]:
    """Return five requests in two chunks. Their braces mean nothing: no template wrote them."""
    requests = [
        {"id": f"sku-{number}", "prompt": f"{params['prompt']}, no. {number} {{{{ params }}}}"}
        for number in range(5)
    ]
    return chunk_requests(requests, size=3)


with DAG("batches", schedule=None, params={"prompt": "a red panda"}, default_args={"retries": 1}):
    chunks: Any = task(cut)  # Any: the decorator's type has lost its arguments
    SeedreamBatchOperator.partial(task_id="generate", size="1920x1920", max_concurrency=3).expand(
        requests=chunks()
    )
