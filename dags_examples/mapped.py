"""One task per prompt, side by side in the triggerer; a pool keeps all of them to the key's limit.

Once: `airflow pools set aisa 20 'requests in flight at AIsa' --include-deferred`. For hundreds of prompts a
batch is better: see batch.py.
"""

from __future__ import annotations

from airflow.sdk import DAG

from airflow_provider_aisa.operators.seedream import SeedreamGenerateOperator

ANIMALS = ["A red panda", "A grey heron", "A hedgehog"]

with DAG("mapped_prompts", schedule=None, tags=["aisa"], description="A task per prompt", doc_md=__doc__):
    SeedreamGenerateOperator.partial(
        task_id="generate",
        size="1920x1920",
        s3_key="s3://my-images/animals/{{ ti.map_index }}.{ext}",
        pool="aisa",
        deferrable=True,
        retries=2,
    ).expand(prompt=[f"{animal} in a library, ink drawing" for animal in ANIMALS])
