"""A content refresh: one task writes what is to be drawn to S3, the next has all of it drawn."""

from __future__ import annotations

import json

from airflow.sdk import DAG, task

from airflow_provider_aisa.operators.batch import SeedreamBatchOperator

# Thousands, out of a database.
PRODUCTS = {"mug-01": "an enamel mug", "lamp-07": "a brass desk lamp", "vase-12": "a stoneware vase"}


with DAG(
    "batch", schedule=None, tags=["aisa"], description="A catalogue's photos in one task", doc_md=__doc__
):

    @task
    def write_requests(run_id: str | None = None) -> str:
        from airflow.providers.amazon.aws.hooks.s3 import S3Hook

        lines = [
            json.dumps({"id": sku, "prompt": f"{what} on an oak table, product photo, morning light"})
            for sku, what in PRODUCTS.items()
        ]
        uri = f"s3://my-images/catalogue/requests/{run_id}.jsonl"
        S3Hook("aws_default").load_string("\n".join(lines), uri, replace=True)
        return uri

    SeedreamBatchOperator(
        task_id="generate",
        requests=write_requests(),
        size="2048x2048",
        s3_key="s3://my-images/catalogue/{id}.{ext}",
        max_cost_usd=500,
        max_failures=0.05,
        on_item_failure="keep",
        retries=2,
    )
