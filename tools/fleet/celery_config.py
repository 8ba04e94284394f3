"""Celery's settings for the fleet: Airflow's own, and what every task needs is loaded before workers fork.

A task then starts with it instead of loading it, which takes a second of a core each time.
"""

from __future__ import annotations

from airflow.providers.celery.executors.default_celery import DEFAULT_CELERY_CONFIG

CELERY_CONFIG = {
    **DEFAULT_CELERY_CONFIG,
    "imports": (
        "airflow.sdk.execution_time.task_runner",
        "airflow.providers.amazon.aws.hooks.s3",
        "airflow_provider_aisa.operators.batch",
        "airflow_provider_aisa.operators.seedream",
        "airflow_provider_aisa.triggers.generate",
        "airflow_provider_aisa.core.workbench",
        "airflow_provider_aisa.core.generate",
        "airflow_provider_aisa.core.batch.runner",
    ),
}
