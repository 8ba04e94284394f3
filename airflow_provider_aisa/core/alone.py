"""A single task's request, or requests, with tools of its own: what a task and its deferred form both do."""

from __future__ import annotations

from airflow_provider_aisa.core.budget import Budget
from airflow_provider_aisa.core.gateway.settings import ConnectionSettings
from airflow_provider_aisa.core.job import Job
from airflow_provider_aisa.core.parts import generate_all
from airflow_provider_aisa.core.receipt import Receipt
from airflow_provider_aisa.core.s3.bucket import Bucket
from airflow_provider_aisa.core.workbench import open_workbench


async def generate_alone(job: Job, *, settings: ConnectionSettings, bucket: Bucket) -> Receipt:
    """Do what is left to be done of a job, and return what it came to, errors included."""
    async with open_workbench(settings, bucket, Budget(job.max_cost_usd)) as bench:
        return await generate_all(job, bench)
