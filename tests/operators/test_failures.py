"""What a person sees of a failed task: the message, and not the way it came."""

from __future__ import annotations

import logging
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import airflow_provider_aisa
from airflow_provider_aisa.exceptions import AisaError, ContentRefused, InvalidRequest, StorageFailed
from airflow_provider_aisa.operators.batch import SeedreamBatchOperator
from airflow_provider_aisa.operators.seedream import SeedreamGenerateOperator
from airflow_provider_aisa.sandbox import Fault
from tests.operators.conftest import context_of

if TYPE_CHECKING:
    from tests.operators.conftest import Desk

PACKAGE = Path(airflow_provider_aisa.__file__).parent


def frames_of_ours(error: BaseException) -> list[str]:
    """Return where in this package the traceback of an error passes through."""
    frames = traceback.extract_tb(error.__traceback__)
    return [Path(frame.filename).name for frame in frames if PACKAGE in Path(frame.filename).parents]


def test_a_failure_shows_one_frame_of_ours_and_no_other_error(desk: Desk) -> None:
    """Airflow prints each frame in a line, and so of each error before this one."""
    with pytest.raises(StorageFailed) as caught:
        desk.run(s3_bucket="no-such-bucket")

    assert frames_of_ours(caught.value) == ["base.py"]
    assert len(traceback.format_exception(caught.value)) == len(
        traceback.format_exception(caught.value, chain=False)
    )


def test_a_deferred_failure_shows_one_frame_of_ours(desk: Desk) -> None:
    operator = SeedreamGenerateOperator(task_id="generate", prompt="p")

    with pytest.raises(ContentRefused) as caught:
        operator.execute_complete(context_of(), {"error": {"error": "ContentRefused", "message": "x"}})

    assert frames_of_ours(caught.value) == ["generate.py"]


def test_at_debug_level_the_whole_way_of_an_error_is_told(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.gateway.inject(Fault("content_refused"))
    operator = SeedreamGenerateOperator(task_id="generate", prompt="p")

    with (
        caplog.at_level(logging.DEBUG, logger="airflow_provider_aisa.operators.base"),
        pytest.raises(ContentRefused),
    ):
        operator.execute(context_of())

    assert "in next_delay" in caplog.text  # far down in the core


@pytest.mark.parametrize(
    ("operator", "arguments"),
    [(SeedreamGenerateOperator, {"prompt": "p"}), (SeedreamBatchOperator, {"requests": ["p"]})],
)
def test_a_wrong_literal_names_its_task_and_shows_no_more_than_it_has_to(
    operator: type[SeedreamGenerateOperator] | type[SeedreamBatchOperator], arguments: dict[str, object]
) -> None:
    """Of an import error Airflow shows the last two frames: neither would be the DAG's."""
    with pytest.raises(InvalidRequest, match=r"try '2217x1663' \(Task 'hero_image'\.\)") as caught:
        operator(task_id="hero_image", size="640x480", **arguments)  # type: ignore[arg-type]

    assert len(frames_of_ours(caught.value)) == 2
    assert caught.value.__cause__ is None


def test_a_bucket_that_is_missing_is_not_worth_a_retry(desk: Desk) -> None:
    """It does not appear by itself."""
    with pytest.raises(StorageFailed) as caught:
        desk.run(s3_bucket="no-such-bucket")

    assert caught.value.retryable is False
    assert desk.gateway.requests == []


def test_a_bucket_that_may_not_be_written_yet_is_worth_a_retry(desk: Desk) -> None:
    """Permissions take effect some time after they were granted."""
    connection = desk.store.airflow_connection(bucket=desk.bucket, read_only=True)
    desk.monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", connection)

    with pytest.raises(AisaError) as caught:
        desk.run()

    assert caught.value.retryable is True
