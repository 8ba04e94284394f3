"""What differs between the series of Airflow, for tests that run on all of them (`make test-matrix`)."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.providers.common.compat.version_compat import (
    AIRFLOW_V_3_0_PLUS,
    AIRFLOW_V_3_1_PLUS,
    AIRFLOW_V_3_2_PLUS,
    AIRFLOW_V_3_3_PLUS,
)

if AIRFLOW_V_3_0_PLUS:
    from airflow.sdk.execution_time.context import OutletEventAccessors
else:
    from airflow.utils.context import OutletEventAccessors

__all__ = [
    "HAS_RETRY_POLICIES",
    "LINEAGE",
    "OutletEventAccessors",
    "alias_events",
    "needs_3_0",
    "needs_3_1",
    "needs_3_2",
    "needs_3_3",
]

#: The module of the collector of hook-level lineage.
LINEAGE = "airflow.sdk.lineage" if AIRFLOW_V_3_2_PLUS else "airflow.lineage.hook"
HAS_RETRY_POLICIES = AIRFLOW_V_3_3_PLUS
needs_3_0 = pytest.mark.skipif(not AIRFLOW_V_3_0_PLUS, reason="came with Airflow 3.0")
needs_3_1 = pytest.mark.skipif(not AIRFLOW_V_3_1_PLUS, reason="came with Airflow 3.1")
needs_3_2 = pytest.mark.skipif(not AIRFLOW_V_3_2_PLUS, reason="came with Airflow 3.2")
needs_3_3 = pytest.mark.skipif(not AIRFLOW_V_3_3_PLUS, reason="came with Airflow 3.3")


def alias_events(accessor: Any) -> list[tuple[str, dict[str, Any]]]:
    """Return the URI and the extra of each event that an alias got. Airflow 2 calls assets datasets."""
    if AIRFLOW_V_3_0_PLUS:
        return [(event.dest_asset_key.uri, event.extra) for event in accessor.asset_alias_events]
    return [(event["dest_dataset_uri"], event["extra"]) for event in accessor.dataset_alias_events]
