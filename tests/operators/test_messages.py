"""What a person reads first of an error: the next step. The log's page shows 120 characters of a line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from airflow_provider_aisa.exceptions import AisaError
from tests.docs.test_errors import SCENES
from tests.operators.conftest import desk

if TYPE_CHECKING:
    from tests.operators.conftest import Desk

__all__ = ["desk"]

WIDTH: Final = 120
#: The next step that each error names, in the order of the list of errors.
STEPS: Final = {
    "InvalidConnection": "use a number of seconds",
    "InvalidRequest": "try '1920x1920'",
    "ModelNotRouted": "Use WanGenerateOperator",
    "ContentRefused": "Change the prompt",
    "OverBudget": "Raise max_cost_usd",
    "KeyRefused": "Check the key",
    "QuotaExceeded": "Raise the key's spend cap",
    "RateLimited": "Lower max_concurrency",
    "GatewayFailed": "Try again later",
    "OutcomeUnknown": "Look at the usage page",
    "ImageRefused": "Change the prompt",
    "FewerImages": "Set on_partial='keep'",
    "ItemsFailed": "Fix the items that say so",
    "ImageUnavailable": "A retry fetches it again",
    "ImagesLost": "Restore the images",
    "ImageLinkExpired": "Clear the task with on_existing='regenerate'",
    "ImageUnusable": "A retry fetches it again",
    "AlreadyGenerated": "Use on_existing='reuse'",
    "JournalUnreadable": "Look at the journal's object",
    "StorageFailed": "Create the bucket, or correct s3_bucket",
}


def test_every_error_has_its_step_here() -> None:
    assert set(STEPS) == set(SCENES)


@pytest.mark.parametrize("name", STEPS)
def test_the_next_step_stands_in_the_first_line_that_a_screen_shows(name: str, desk: Desk) -> None:
    with pytest.raises(AisaError) as caught:
        SCENES[name](desk)

    first, _, _ = f"{name}: {caught.value}"[:WIDTH].partition("s3://")  # paths come last
    assert STEPS[name] in first
