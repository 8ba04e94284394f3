"""What differs between the series of Airflow, for tests that run on all of them (`make test-matrix`)."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.providers.common.compat.version_compat import (
    AIRFLOW_V_3_0_PLUS,
    AIRFLOW_V_3_2_PLUS,
    AIRFLOW_V_3_3_PLUS,
)

from airflow_provider_aisa.exceptions import AisaError

if TYPE_CHECKING:
    from collections.abc import Iterator

HAS_RETRY_POLICIES = AIRFLOW_V_3_3_PLUS
needs_3_0 = pytest.mark.skipif(not AIRFLOW_V_3_0_PLUS, reason="came with Airflow 3.0")
needs_3_2 = pytest.mark.skipif(not AIRFLOW_V_3_2_PLUS, reason="came with Airflow 3.2")


@contextlib.contextmanager
def typed_errors() -> Iterator[None]:
    """Let a task raise the same error on every series.

    Before 3.3 no retry policy can say that an error is final: an operator raises AirflowFailException in its
    place. That has to say the same, come from the typed error, and stand for a final one.
    """
    final: AirflowFailException | None = None
    try:
        yield
    except AirflowFailException as raised:
        final = raised
    if final:
        assert not HAS_RETRY_POLICIES
        assert isinstance(final.__cause__, AisaError)
        assert not final.__cause__.retryable
        assert str(final) == str(final.__cause__)
        raise final.__cause__
