"""The batch that the gallery's benchmark looks at: its items are numbered."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, task

from airflow_provider_aisa.operators.batch import SeedreamBatchOperator


def requests(params: dict[str, Any]) -> list[dict[str, str]]:
    return [
        {
            "id": f"sku-{number:04d}",
            "prompt": f"product photograph no. {number}, an enamel mug on an oak table",
        }
        for number in range(params["items"])
    ]


with DAG("gallery_benchmark", schedule=None, params={"items": 1}):
    listed: Any = task(requests)
    SeedreamBatchOperator(task_id="shots", requests=listed(), size="2048x2048", s3_bucket="benchmark")
