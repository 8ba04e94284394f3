"""The DAGs on README and docs run in a real Airflow, each as it stands there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.airflow.support import wait_for
from tests.docs.blocks import all_blocks

if TYPE_CHECKING:
    from tests.airflow.support import Airflow, Run

DAGS = dict(block.as_dag_file() for block in all_blocks("python", "dag"))


@pytest.fixture(scope="module")
def runs(airflow: Airflow) -> dict[str, Run]:
    """Start all of them: they wait for the gateway side by side."""
    wait_for(lambda: set(DAGS) <= airflow.dag_ids(), "the DAGs of the docs to be parsed, or an import error")
    return {dag_id: airflow.start_run(dag_id) for dag_id in DAGS}


@pytest.mark.parametrize("dag_id", DAGS)
def test_dag_that_is_shown_succeeds(dag_id: str, runs: dict[str, Run]) -> None:
    assert runs[dag_id].wait() == "success", f"{DAGS[dag_id]}\n{runs[dag_id].log('*')}"
