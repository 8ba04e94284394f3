"""A DAG that runs when new images are there, and hears which.

The first DAG draws them, and tells the asset `s3://my-images/banners`. The second one is scheduled on that
asset: the event says where the images are, what was used and what it cost.
"""

from __future__ import annotations

import logging
from typing import Any

from airflow.sdk import DAG, Asset, task

from airflow_provider_aisa.operators.seedream import SeedreamGenerateOperator

BANNERS = Asset("s3://my-images/banners")

with DAG("draw_banners", schedule=None, tags=["aisa"], description="Draws two banners", doc_md=__doc__):
    SeedreamGenerateOperator(
        task_id="generate",
        prompt="A banner for a tea shop: cups, steam, autumn leaves, flat illustration",
        size="3072x1280",
        n=2,
        s3_key="s3://my-images/banners/{{ run_id }}/{index}.{ext}",
        outlets=[BANNERS],
    )

with DAG(
    "publish", schedule=[BANNERS], tags=["aisa"], description="Publishes banners that are new", doc_md=__doc__
):

    @task
    def publish(triggering_asset_events: Any = None) -> list[str]:
        new = [event.extra for event in triggering_asset_events[BANNERS]]
        for extra in new:
            logging.getLogger(__name__).info("%d new banners cost %s USD", extra["images"], extra["cost_usd"])
        return [f"s3://{extra['bucket']}/{key}" for extra in new for key in extra["keys"]]

    publish()
