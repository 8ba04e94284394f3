"""Every fault of the sandbox: most in one batch, those that stop a batch and some of links in tasks."""

from __future__ import annotations

from typing import Final, get_args

from airflow.sdk import DAG

from airflow_provider_aisa.operators.batch import SeedreamBatchOperator
from airflow_provider_aisa.operators.seedream import SeedreamGenerateOperator
from airflow_provider_aisa.sandbox import FaultKind

KINDS: Final[tuple[FaultKind, ...]] = get_args(FaultKind)
STOPPING: Final = ("unauthorized", "forbidden", "quota_exceeded", "redirect")
OF_LINKS: Final = ("expired_link", "bad_link", "private_link", "cdn_redirect_private")
IMPATIENT: Final = {"aisa_conn_id": "aisa_impatient"}

with DAG("faults", schedule=None, default_args=IMPATIENT):
    SeedreamBatchOperator(
        task_id="batch",
        # What succeeds stands between the faults: a batch stops when the gateway seems to be down.
        requests=[
            {"id": item_id, "prompt": prompt, "n": 2}
            for kind in KINDS
            if kind not in STOPPING
            for item_id, prompt in ((kind, f"<batch meets {kind}>"), (f"after_{kind}", f"A {kind}, in oil"))
        ],
        size="1920x1920",
        on_item_failure="keep",
    )
    for kind in (*STOPPING, *OF_LINKS):
        SeedreamGenerateOperator(task_id=f"sync_{kind}", prompt=f"<sync meets {kind}>")
    for kind in OF_LINKS:  # Each waits for eight seconds: no trigger ends earlier.
        SeedreamGenerateOperator(
            task_id=f"deferred_{kind}", prompt=f"<deferred meets {kind}>", deferrable=True
        )
