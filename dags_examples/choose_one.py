"""Three candidates, and a person picks one: the others are deleted, the asset hears of the one that stays.

Open the task `choose` while it waits, or Required Actions: it shows the candidates and asks. (Airflow 3.1 and
later. Whoever clears `generate` afterwards is told that the other images are gone.)
"""

from __future__ import annotations

from typing import Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import DAG, Asset, Metadata, task

from airflow_provider_aisa.choosing import choices, chosen, options, others
from airflow_provider_aisa.operators.seedream import SeedreamGenerateOperator

LOGO = Asset("s3://my-images/logo")
#: Not four: the page of Airflow 3.1 has a button for each of up to three answers, and a list from five on.
CANDIDATES = 3

with DAG(
    "choose_one", schedule=None, tags=["aisa"], description="A person picks one of three", doc_md=__doc__
):
    candidates = SeedreamGenerateOperator(
        task_id="generate",
        prompt="A logo for a tea shop: a fox and a cup, two colours, vector style",
        n=CANDIDATES,
        s3_key="s3://my-images/logo/{{ run_id }}/{index}.{ext}",
        max_cost_usd=0.2,
    )

    @task
    def show(result: dict[str, Any]) -> str:
        return choices(result)

    choose: Any = HITLOperator(
        task_id="choose",
        subject="Which logo?",
        body="{{ ti.xcom_pull('show') }}",
        options=options(CANDIDATES),
    )

    @task(outlets=[LOGO])
    def keep(result: dict[str, Any], answer: dict[str, Any]) -> Any:
        from airflow.providers.amazon.aws.hooks.s3 import S3Hook

        image = chosen(result, answer)
        S3Hook("aws_default").delete_objects(
            bucket=image["bucket"], keys=[other["key"] for other in others(result, answer)]
        )
        yield Metadata(
            LOGO, {"key": image["key"], "chosen_by": (answer.get("responded_by_user") or {}).get("name")}
        )

    show(candidates.output) >> choose
    keep(candidates.output, choose.output)
