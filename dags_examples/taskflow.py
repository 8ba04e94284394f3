"""TaskFlow: one function writes the brief, one makes a prompt of it, one takes the images that came.

The function under `@task.seedream` returns a prompt, or a dict of the operator's parameters. It runs at each
try: a retry pays nothing as long as it returns the same.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, task

with DAG("taskflow", schedule=None, tags=["aisa"], description="A prompt from a function", doc_md=__doc__):

    @task
    def brief() -> dict[str, str]:
        return {"product": "a brass desk lamp", "season": "winter", "size": "2560x1440"}

    @task.seedream(s3_bucket="my-images", max_cost_usd=0.1)
    def picture(wanted: dict[str, str]) -> dict[str, Any]:
        return {
            "prompt": f"{wanted['product']} on an oak table, {wanted['season']} light, product photo",
            "size": wanted["size"],
        }

    @task
    def use(result: dict[str, Any]) -> str:
        return f"{result['images'][0]['uri']} for {result['cost_usd']} USD"

    use(picture(brief()))
