"""A budget that is checked before anything is paid, and an alert that says what to do.

`max_cost_usd` counts all that the task has paid or may have paid, its earlier tries included. The callback
gets the error itself, by its class: `ContentRefused`, `OverBudget`. Its message begins with the next step.
"""

from __future__ import annotations

import logging
from typing import Any

from airflow.sdk import DAG, Variable

from airflow_provider_aisa.exceptions import AisaError
from airflow_provider_aisa.operators.seedream import SeedreamGenerateOperator


def alert(context: Any) -> None:
    """Tell people; a chat or a pager in real life."""
    error = context["exception"]
    if isinstance(error, AisaError):
        may_be_billed = f" Up to {error.unknown_outcomes} lost responses." if error.unknown_outcomes else ""
        told = f"{context['ti'].task_id}: {type(error).__name__}. {error}{may_be_billed}"
    else:
        told = f"{context['ti'].task_id}: {error!r}"
    Variable.set("last_alert", told)
    logging.getLogger(__name__).error("ALERT %s", told)


with DAG(
    "budget",
    schedule=None,
    params={"images": 1},
    tags=["aisa"],
    description="At most 10 cents, and an alert",
    doc_md=__doc__,
):
    SeedreamGenerateOperator(
        task_id="generate",
        prompt="A lighthouse in a gale, oil painting",
        n="{{ params.images }}",
        max_cost_usd=0.10,
        s3_bucket="my-images",
        retries=2,
        on_failure_callback=alert,
    )
