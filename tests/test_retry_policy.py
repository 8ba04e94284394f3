"""Retries are for what can succeed by itself, and wait as long as the gateway asked."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import RetryAction

from airflow_provider_aisa.exceptions import (
    ContentRefused,
    GatewayFailed,
    ImageLinkExpired,
    ImageUnavailable,
    InvalidRequest,
    OutcomeUnknown,
    QuotaExceeded,
    RateLimited,
)
from airflow_provider_aisa.operators.seedream import SeedreamGenerateOperator
from airflow_provider_aisa.retry_policy import AisaRetryPolicy


@pytest.mark.parametrize(
    ("error", "action", "delay"),
    [
        (InvalidRequest("x"), RetryAction.FAIL, None),
        (ContentRefused("x"), RetryAction.FAIL, None),
        (QuotaExceeded("x", retry_after=60), RetryAction.FAIL, None),
        (ImageLinkExpired("x"), RetryAction.FAIL, None),
        (OutcomeUnknown("x", retryable=False), RetryAction.FAIL, None),
        (OutcomeUnknown("x"), RetryAction.DEFAULT, None),
        (GatewayFailed("x"), RetryAction.DEFAULT, None),
        (ImageUnavailable("x"), RetryAction.DEFAULT, None),
        (RateLimited("x"), RetryAction.DEFAULT, None),
        (RateLimited("x", retry_after=120), RetryAction.RETRY, timedelta(seconds=120)),
        (RateLimited("x", retry_after=999_999_999), RetryAction.RETRY, timedelta(days=1)),
        (RateLimited("x", retry_after=float("inf")), RetryAction.RETRY, timedelta(days=1)),
        (RuntimeError("x"), RetryAction.DEFAULT, None),
    ],
)
def test_decision(error: Exception, action: RetryAction, delay: timedelta | None) -> None:
    decision = AisaRetryPolicy().evaluate(error, try_number=1, max_tries=3)

    assert (decision.action, decision.retry_delay) == (action, delay)


def test_the_policy_can_be_stored() -> None:
    assert isinstance(AisaRetryPolicy.deserialize(AisaRetryPolicy().serialize()), AisaRetryPolicy)


def test_it_is_the_default_also_for_an_explicit_none_and_the_users_own_wins() -> None:
    class Own(AisaRetryPolicy):
        pass

    def policy_of(**arguments: Any) -> object:
        return SeedreamGenerateOperator(task_id="t", prompt="p", **arguments).retry_policy

    assert type(policy_of()) is AisaRetryPolicy
    assert type(policy_of(retry_policy=None)) is AisaRetryPolicy
    assert type(policy_of(retry_policy=Own())) is Own
