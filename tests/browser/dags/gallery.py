"""What the gallery is looked at with: one request with four images, mapped tasks, a batch, and failures."""

from __future__ import annotations

from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import DAG, task

from airflow_provider_aisa.choosing import choices
from airflow_provider_aisa.operators.batch import SeedreamBatchOperator
from airflow_provider_aisa.operators.seedream import SeedreamGenerateOperator

MOTIFS = (
    "A red panda reading a map on a mountain pass, watercolour, morning light",
    "An otter floating under paper lanterns, ink and gold leaf",
    "A heron in a flooded library, oil on canvas, candle light",
    "A fox asleep among foxgloves, risograph print",
    "A snow leopard on a rooftop at blue hour, cinematic",
    "<img src=x onerror=\"document.title='broken into'\"> & a hedgehog",
)
THINGS = (
    "an enamel mug",
    "a linen apron",
    "a cast-iron pan",
    "a wooden spoon",
    "a glass carafe",
    "a stoneware bowl",
)
GROUNDS = ("on an oak table", "on white marble", "against terracotta", "in soft window light", "on raw linen")


#: All images are in this bucket.
TO = {"s3_bucket": "my-images"}


def motifs() -> list[str]:
    return list(MOTIFS)


def products(params: dict[str, Any]) -> list[dict[str, str]]:
    return [
        {
            "id": f"sku-{number:04d}",
            "prompt": f"{THINGS[number % 6]} {GROUNDS[number % 5]}, product photograph, no. {number}"
            + (" against the content policy" if number == 7 else ""),
        }
        for number in range(params["items"])
    ]


def count() -> int:
    return 3


with DAG("postcards", schedule=None, description="Postcards of animals", default_args=TO):
    cover = SeedreamGenerateOperator(
        task_id="cover",
        prompt="A harbour town seen from the sea at dawn, linocut, warm palette",
        n=4,
        size="1920x1920",
    )
    prompts: Any = task(motifs)
    SeedreamGenerateOperator.partial(task_id="motif", size="2560x1440").expand(prompt=prompts())
    # The gallery shows tasks in the order in which they began: an image comes first.
    cover >> SeedreamGenerateOperator(
        task_id="refused", prompt="Something against the content policy", size="1920x1920"
    )
    task(count)()
    show: Any = task(choices)
    ApprovalOperator(task_id="approve", subject="Publish?", body=show(cover.output))

with DAG("catalogue", schedule=None, params={"items": 12}, description="Product shots", default_args=TO):
    listed: Any = task(products)
    SeedreamBatchOperator(
        task_id="shots", requests=listed(), size="1920x1920", max_concurrency=4, on_item_failure="keep"
    )

with DAG("secret_project", schedule=None, default_args=TO):
    SeedreamGenerateOperator(task_id="cover", prompt="Nobody may read this", size="1920x1920")
