"""What holds for all items: where the batch keeps its records, and how many failures it takes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from airflow_provider_aisa.core.batch.spec import parse_max_concurrency, parse_max_failures
from airflow_provider_aisa.exceptions import InvalidRequest
from tests.core.batch.scene import OWNER, make_spec


@pytest.mark.parametrize("value", [None, 0, 1, 10, 10**6, 0.0, 0.05, 1.0])
def test_a_limit_of_failures_is_a_count_a_share_or_none(value: float | None) -> None:
    parsed = parse_max_failures(value)
    assert (parsed, type(parsed)) == (value, type(value))


@pytest.mark.parametrize("value", [-1, -0.1, 1.1, 5.0, math.nan, math.inf, True, False, "10", "5%", [1]])
def test_what_is_no_limit_of_failures_is_refused_with_examples(value: object) -> None:
    with pytest.raises(
        InvalidRequest, match=r"use a whole number such as 10, a float such as 0\.05, or None"
    ):
        parse_max_failures(value)


@pytest.mark.parametrize("value", [None, 1, 5, 1_000])
def test_a_concurrency_is_a_whole_number_from_one_or_the_connections(value: int | None) -> None:
    assert parse_max_concurrency(value) == value


@pytest.mark.parametrize("value", [0, -1, True, 1.0, "5", math.inf])
def test_what_is_no_concurrency_is_refused(value: object) -> None:
    with pytest.raises(InvalidRequest, match="use a whole number from 1, or None"):
        parse_max_concurrency(value)


@pytest.mark.parametrize(
    ("limit", "total", "allowed"),
    [(None, 10, math.inf), (0, 10, 0), (3, 10, 3), (0.0, 10, 0), (0.25, 10, 2.5), (1.0, 10, 10), (1, 10, 1)],
)
def test_a_share_of_failures_is_of_all_items_and_a_count_is_itself(
    limit: float | None, total: int, allowed: float
) -> None:
    assert make_spec(max_failures=limit).allowed_failures(total) == allowed


def test_everything_but_images_is_kept_in_one_folder_next_to_them() -> None:
    layout = make_spec(s3_key="out/{id}.png").layout
    assert layout.folder.startswith("out/_aisa/")
    assert layout.entries == f"{layout.folder}items/"
    assert layout.description == f"{layout.folder}batch.json"
    assert layout.manifest.startswith(f"{layout.folder}manifest-")


def test_with_an_authors_own_key_the_folder_does_not_move_with_the_images() -> None:
    one, other = (make_spec(s3_key=key, idempotency_key="refresh").layout for key in ("a/", "b/"))
    assert one.folder == other.folder
    assert one.folder.startswith("_aisa/")


@pytest.mark.parametrize("changes", [{"dag_id": "x"}, {"run_id": "x"}, {"task_id": "x"}, {"map_index": 0}])
def test_two_task_instances_share_a_folder_only_with_an_authors_own_key(
    changes: dict[str, str | int],
) -> None:
    one, other = make_spec(), make_spec(owner=replace(OWNER, **changes))  # type: ignore[arg-type]  # of a table of fields
    assert one.layout.folder != other.layout.folder
    one, other = (replace(spec, idempotency_key="refresh") for spec in (one, other))
    assert one.layout.folder == other.layout.folder
    # What became of the items of one attempt is not overwritten by the other's.
    assert one.layout.manifest != other.layout.manifest


def test_a_retry_and_a_clear_find_the_same_folder() -> None:
    assert make_spec(max_tries=0).layout == make_spec(max_tries=3).layout
