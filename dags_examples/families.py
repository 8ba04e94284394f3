"""One prompt through every model of AIsa, side by side, to see which one suits the picture.

Each task is a purchase of its own, with one journal format, one kind of result, and its own price. All images
land in one folder, called by their model. The last task shows Gemini what Wan has drawn.
"""

from __future__ import annotations

from airflow.sdk import DAG

from airflow_provider_aisa.operators.gemini import GeminiGenerateOperator
from airflow_provider_aisa.operators.seedream import SeedreamGenerateOperator
from airflow_provider_aisa.operators.wan import WanGenerateOperator

PROMPT = "A red panda reading a map on a mountain pass, watercolour, morning light"
FOLDER = "s3://my-images/families/{{ run_id }}"

with DAG("families", schedule=None, tags=["aisa"], description="One prompt, every model", doc_md=__doc__):
    SeedreamGenerateOperator(
        task_id="seedream",
        prompt=PROMPT,
        size="2560x1440",
        extra_body={"watermark": False},
        s3_key=f"{FOLDER}/seedream.{{ext}}",
    )
    wan = WanGenerateOperator(task_id="wan", prompt=PROMPT, s3_key=f"{FOLDER}/wan.{{ext}}")
    WanGenerateOperator(
        task_id="wan_pro", prompt=PROMPT, model="wan2.7-image-pro", s3_key=f"{FOLDER}/wan-pro.{{ext}}"
    )
    GeminiGenerateOperator(
        task_id="gemini",
        prompt=PROMPT,
        aspect_ratio="16:9",
        image_size="2K",
        s3_key=f"{FOLDER}/gemini.{{ext}}",
    )
    wan >> GeminiGenerateOperator(
        task_id="at_night",
        prompt="The same picture at night, with a lantern",
        reference_images=["{{ ti.xcom_pull('wan')['images'][0]['uri'] }}"],
        s3_key=f"{FOLDER}/at-night.{{ext}}",
    )
