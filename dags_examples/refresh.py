"""A new hero image each week, paid for once a week however often the DAG runs.

The week is part of the idempotency key: a second run in the same week, by hand or after a Clear, returns the
image that exists. A run by hand has no logical date, and what depends on one, such as `{{ ds }}`, is
undefined in it. Every run has a `run_after`.
"""

from __future__ import annotations

import pendulum
from airflow.sdk import DAG

from airflow_provider_aisa.operators.seedream import SeedreamGenerateOperator

WEEK = "{{ dag_run.run_after.strftime('%G-W%V') }}"

with DAG(
    "refresh",
    schedule="@weekly",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    tags=["aisa"],
    description="A new hero image each week",
    doc_md=__doc__,
):
    SeedreamGenerateOperator(
        task_id="generate",
        prompt=f"A shop window in week {WEEK}, decorated for the season, photo",
        s3_key=f"s3://my-images/heroes/{WEEK}.{{ext}}",
        idempotency_key=f"hero-{WEEK}",
        deferrable=True,
        retries=2,
    )
