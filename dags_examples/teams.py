"""Two teams, each with its own key, prices, limits and folder: said once, used in all of their DAGs.

`default_args` reach the operators of this package like any others. Where that is not enough, a function of
your own is the house's operator: it adds the style that every prompt of the house has.

Each connection has a key of its own. Its extras are that team's: `{"prices": {"seedream-4-5-251128": 0.035},
"max_concurrency": 3}`.
"""

from __future__ import annotations

from typing import Final

from airflow.sdk import DAG

from airflow_provider_aisa.operators.seedream import SeedreamGenerateOperator

MARKETING: Final = {
    "aisa_conn_id": "aisa_marketing",
    "s3_bucket": "my-images",
    "max_cost_usd": 0.50,
    "deferrable": True,
    "retries": 2,
}


def catalogue_photo(sku: str, what: str, *, n: int = 1) -> SeedreamGenerateOperator:
    """Make a task that draws a product in the catalogue's style, and pays for it once."""
    return SeedreamGenerateOperator(
        task_id=f"photo_{sku}",
        prompt=f"{what}, product photo on white, soft shadow, centred",
        size="1920x1920",
        n=n,
        s3_key=f"s3://my-images/shop/{sku}.{{ext}}",
        idempotency_key=f"catalogue-{sku}",
        aisa_conn_id="aisa_catalogue",
    )


with DAG(
    "teams_marketing",
    schedule=None,
    default_args=MARKETING,
    tags=["aisa"],
    description="A team's defaults",
    doc_md=__doc__,
):
    SeedreamGenerateOperator(task_id="hero", prompt="A tea shop at dawn, cinematic", size="2560x1440")
    SeedreamGenerateOperator(task_id="tile", prompt="A tea cup from above, flat lay", size="1920x1920")

with DAG(
    "teams_catalogue", schedule=None, tags=["aisa"], description="A house's own operator", doc_md=__doc__
):
    catalogue_photo("mug-01", "An enamel mug")
    catalogue_photo("lamp-07", "A brass desk lamp", n=2)
