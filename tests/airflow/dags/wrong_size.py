"""A DAG that must not be imported: its size is below what Seedream draws."""

from __future__ import annotations

from airflow.sdk import DAG

from airflow_provider_aisa.operators.seedream import SeedreamGenerateOperator

with DAG("wrong_size", schedule=None):
    SeedreamGenerateOperator(task_id="generate", prompt="a red panda", size="640x480")
