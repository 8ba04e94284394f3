"""A batch on several machines: each mapped task draws a part of a file; a pool keeps to the key's limits.

Once: `airflow pools set aisa 20 'requests in flight at AIsa'`. See docs/batches.md for the numbers.
"""

from __future__ import annotations

from airflow.sdk import DAG, task

from airflow_provider_aisa import chunk_requests
from airflow_provider_aisa.operators.batch import SeedreamBatchOperator

with DAG(
    "batch_mapped",
    schedule=None,
    tags=["aisa"],
    description="A file of requests, cut into chunks",
    doc_md=__doc__,
):

    @task
    def cut() -> list[str]:
        return chunk_requests("s3://my-images/catalogue/requests.jsonl", size=500)

    SeedreamBatchOperator.partial(
        task_id="generate",
        s3_key="s3://my-images/catalogue/{id}.{ext}",
        max_concurrency=5,
        pool="aisa",
        pool_slots=5,
        retries=2,
    ).expand(requests=cut())
