"""Many deferred tasks at once. What the gateway does to each is told by its prompt."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, task

from airflow_provider_aisa.operators.seedream import SeedreamGenerateOperator


def list_prompts(params: dict[str, Any]) -> list[str]:
    return [f"{params['prompt']} {number:02}" for number in range(params["count"])]


with DAG("quick", schedule=None, params={"prompt": "a red panda", "count": 3}):
    prompts: Any = task(list_prompts)  # Any: the decorator's type has lost its arguments
    SeedreamGenerateOperator.partial(
        task_id="generate",
        size="1920x1920",
        deferrable=True,
        aisa_conn_id="aisa_quick",  # allows as many requests in flight as there are tasks
        retries=2,
        retry_delay=timedelta(seconds=1),
    ).expand(prompt=prompts())
