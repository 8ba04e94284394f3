"""What assets are told: keys, usage and cost, by a URI that is not a new one in each run."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import Asset, AssetAlias, TaskDeferred

from airflow_provider_aisa.assets import asset_uri, folder_of, publish
from airflow_provider_aisa.operators.batch import SeedreamBatchOperator
from airflow_provider_aisa.operators.seedream import SeedreamGenerateOperator
from airflow_provider_aisa.triggers.generate import GenerateTrigger
from tests.operators.conftest import SMALL, Desk, context_of, desk
from tests.series import OutletEventAccessors, alias_events
from tests.triggers.run_trigger import first_event

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["desk"]

HERO = Asset("s3://shop/hero")
PICTURES = AssetAlias("pictures")


def run(operator: Any, **context: Any) -> tuple[dict[str, Any], OutletEventAccessors]:
    """Run a task, deferred or not, and return its result and what its outlets were told."""
    told = OutletEventAccessors()
    everything: Any = {**context_of(**context), "outlet_events": told}
    try:
        return operator.execute(everything), told
    except TaskDeferred as deferred:
        trigger = GenerateTrigger(**deferred.trigger.serialize()[1], earliest_event=0)
        event = asyncio.run(first_event(trigger))
        again = SeedreamGenerateOperator(
            task_id="generate", prompt="not asked for again", outlets=operator.outlets
        )
        return again.execute_complete(everything, event, **(deferred.kwargs or {})), told


@pytest.mark.parametrize("deferrable", [False, True], ids=["in a worker", "deferred"])
def test_an_assets_event_has_the_keys_the_usage_and_the_cost(desk: Desk, deferrable: bool) -> None:
    operator = SeedreamGenerateOperator(
        task_id="generate", prompt="An otter", n=2, deferrable=deferrable, outlets=[HERO]
    )

    result, told = run(operator)

    extra: Any = told[HERO].extra
    assert extra == {
        "bucket": desk.bucket,
        "images": 2,
        "keys": [image["key"] for image in result["images"]],
        "model": result["model"],
        "cost_usd": 0.08,
        "usage": result["usage"],
        "reused": False,
        "unknown_outcomes": 0,
    }
    assert "X-Signature" not in json.dumps(extra)


def test_an_alias_gets_one_asset_that_is_the_same_in_each_run(desk: Desk) -> None:
    """A URI becomes a row in Airflow's database that stays."""
    events = []
    for run_id in ("monday", "tuesday"):
        operator = SeedreamGenerateOperator(
            task_id="generate", prompt=f"An otter on {run_id}", outlets=[PICTURES]
        )
        _, told = run(operator, run_id=run_id)
        events.extend(alias_events(told[PICTURES]))

    assert {uri for uri, _ in events} == {f"s3://{desk.bucket}/seedream/{operator.dag_id}"}
    assert [extra["keys"] for _, extra in events] == [
        ["seedream/dag/monday/generate/0.png"],
        ["seedream/dag/tuesday/generate/0.png"],
    ]


@pytest.mark.parametrize(
    ("arguments", "folder"),
    [
        ({"s3_key": "shop/hero.png"}, "shop"),
        ({"s3_key": "shop/hero/{sha256}.{ext}"}, "shop/hero"),
        ({"s3_key": "größe/{index}.{ext}"}, "gr%C3%B6%C3%9Fe"),
        ({"s3_key": "hero.png"}, ""),
        ({"idempotency_key": "mug-01"}, "seedream"),
    ],
)
def test_an_aliass_asset_is_the_folder_that_the_author_chose(
    desk: Desk, arguments: Mapping[str, Any], folder: str
) -> None:
    operator = SeedreamGenerateOperator(task_id="generate", prompt="p", outlets=[PICTURES], **arguments)

    _, told = run(operator)

    [(uri, _)] = alias_events(told[PICTURES])
    assert uri == f"s3://{desk.bucket}/{folder}"


def test_a_batchs_event_names_its_manifest_and_no_image(desk: Desk) -> None:
    operator = SeedreamBatchOperator(
        task_id="generate",
        requests=["a", "b"],
        size=SMALL,
        s3_key="shop/{id}.{ext}",
        outlets=[HERO, PICTURES],
    )

    result, told = run(operator)

    extra: Any = told[HERO].extra
    assert (extra["items"], extra["images"], extra["cost_usd"]) == (2, 2, 0.08)
    assert extra["manifest_uri"] == result["manifest_uri"]
    assert "keys" not in extra
    assert alias_events(told[PICTURES]) == [(f"s3://{desk.bucket}/shop", extra)]


def test_an_outlet_that_cannot_be_told_does_not_fail_what_is_paid_for(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(dict[Any, Any]):
        def __missing__(self, key: object) -> object:
            raise RuntimeError("no such asset")

    operator = SeedreamGenerateOperator(task_id="generate", prompt="An otter", outlets=[HERO])

    result = operator.execute({**context_of(), "outlet_events": Broken()})

    assert len(result["images"]) == 1
    assert "The images are stored, but the outlet" in caplog.text


def test_without_outlets_nothing_is_told() -> None:
    publish({}, [], {"images": []}, bucket="b", folder="f")


def test_the_folder_of_a_result_holds_all_its_images() -> None:
    keys = ["shop/a/0.png", "shop/b/1.png", "shop/b/c/2.png"]

    assert folder_of({"images": [{"key": key} for key in keys]}) == "shop"
    assert folder_of({"images": []}) == ""


def test_a_uri_is_ascii_and_keeps_what_people_read() -> None:
    assert asset_uri("b", "dag=x/run_1/") == "s3://b/dag=x/run_1"
