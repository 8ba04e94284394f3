"""What differs between Airflow's series."""

from __future__ import annotations

import pickle

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_aisa import airflow_compat
from airflow_provider_aisa.airflow_compat import as_failure
from airflow_provider_aisa.exceptions import AisaError, ContentRefused, GatewayFailed, ImageLinkExpired
from airflow_provider_aisa.operators.seedream import SeedreamGenerateOperator
from tests.series import needs_3_3


@pytest.fixture
def airflow_3_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(airflow_compat, "AIRFLOW_V_3_3_PLUS", False)


@pytest.mark.usefixtures("airflow_3_2")
@pytest.mark.parametrize("error", [ContentRefused("x", code="c", status=422), ImageLinkExpired("x")])
def test_before_airflow_3_3_a_final_error_is_not_retried_and_keeps_its_class(error: AisaError) -> None:
    """Callbacks get it as context["exception"]."""
    failure = as_failure(error)

    assert isinstance(failure, AirflowFailException)
    assert isinstance(failure, type(error))
    assert type(failure).__name__ == type(error).__name__
    assert failure.to_dict() == error.to_dict()
    assert type(pickle.loads(pickle.dumps(failure))) is type(error)  # noqa: S301 - our own


@pytest.mark.usefixtures("airflow_3_2")
def test_before_airflow_3_3_an_error_that_may_pass_is_raised_as_it_is() -> None:
    error = GatewayFailed("x")

    assert as_failure(error) is error


@needs_3_3
def test_from_airflow_3_3_on_the_retry_policy_decides() -> None:
    error = ContentRefused("x")

    assert as_failure(error) is error


@pytest.mark.usefixtures("airflow_3_2")
def test_before_airflow_3_3_operators_are_given_no_retry_policy() -> None:
    """Their base class would refuse the argument."""
    assert getattr(SeedreamGenerateOperator(task_id="t", prompt="p"), "retry_policy", None) is None
