"""What the tests of this folder run. A run's conf decides what is asked for: each run can be told apart."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from airflow.sdk import DAG, Asset, task

from airflow_provider_aisa.operators.seedream import SeedreamGenerateOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

PARAMS: Final[dict[str, Any]] = {
    "prompt": "a red panda",
    "size": "2048x2048",
    "n": 1,
    "on_existing": "reuse",
}
ASKED: Final[dict[str, Any]] = {name: f"{{{{ params.{name} }}}}" for name in PARAMS}


def say_success(context: Context) -> None:
    logging.getLogger(__name__).info("on_success_callback of %s", context["ti"].task_id)


def say_failure(context: Context) -> None:
    logging.getLogger(__name__).info("on_failure_callback of %s", context["ti"].task_id)


def generate(**options: Any) -> SeedreamGenerateOperator:
    return SeedreamGenerateOperator(
        task_id="generate",
        on_success_callback=say_success,
        on_failure_callback=say_failure,
        outlets=[Asset("s3://images/seedream/")],
        **{**ASKED, **options},
    )


def list_prompts(params: dict[str, Any]) -> list[str]:
    return [f"{params['prompt']}, {animal}" for animal in ("panda", "otter", "heron")]


AGAIN: Final[dict[str, Any]] = {"retries": 2, "retry_delay": timedelta(seconds=1)}

with DAG("sync", schedule=None, params=PARAMS, default_args=AGAIN):
    generate()

with DAG("deferred", schedule=None, params=PARAMS, default_args=AGAIN):
    generate(deferrable=True)

with DAG("limited", schedule=None, params=PARAMS, default_args=AGAIN):
    # A connection of its own: all users of a key wait out its Retry-After.
    generate(deferrable=True, aisa_conn_id="aisa_limited")

with DAG("mapped", schedule=None, params=PARAMS, default_args=AGAIN):
    prompts: Any = task(list_prompts)  # Any: the decorator's type has lost its arguments
    SeedreamGenerateOperator.partial(task_id="generate", deferrable=True).expand(prompt=prompts())
    SeedreamGenerateOperator.partial(task_id="wrong", prompt=ASKED["prompt"]).expand(size=["1x1", "2x2"])

with DAG("elsewhere", schedule=None, params={**PARAMS, "bucket": "images"}, default_args=AGAIN):
    generate(s3_bucket="{{ params.bucket }}")

with DAG("unconnected", schedule=None, params=PARAMS, default_args=AGAIN):
    generate(aisa_conn_id="no_such")
