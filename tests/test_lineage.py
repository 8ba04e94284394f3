"""What lineage tools are told of a task."""

from __future__ import annotations

import asyncio
import importlib
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.lineage.hook import get_hook_lineage_collector
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_aisa.exceptions import ContentRefused
from airflow_provider_aisa.lineage import collect
from airflow_provider_aisa.operators.batch import SeedreamBatchOperator
from airflow_provider_aisa.operators.seedream import SeedreamGenerateOperator
from airflow_provider_aisa.operators.wan import WanGenerateOperator
from airflow_provider_aisa.sandbox import Fault
from airflow_provider_aisa.triggers.generate import GenerateTrigger
from tests.operators.conftest import SMALL, Desk, context_of, desk
from tests.series import LINEAGE, needs_3_0
from tests.triggers.run_trigger import first_event

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage

__all__ = ["desk"]

pytest.importorskip("airflow.providers.openlineage")
MODEL = ("aisa://api.aisa.one", "models/seedream-4-5-251128")


def names(datasets: list[Any]) -> list[tuple[str, str]]:
    return [(dataset.namespace, dataset.name) for dataset in datasets]


def facet(lineage: OperatorLineage[Any, Any]) -> Any:
    return lineage.run_facets["aisa_usage"]


def test_before_it_runs_a_task_names_the_model_it_will_ask() -> None:
    lineage = SeedreamGenerateOperator(task_id="generate", prompt="p").get_openlineage_facets_on_start()

    assert (names(lineage.inputs), lineage.outputs, lineage.run_facets) == ([MODEL], [], {})


def test_a_finished_task_names_its_folder_and_what_it_cost(desk: Desk) -> None:
    operator = SeedreamGenerateOperator(task_id="generate", prompt="An otter", n=2, s3_key="shop/hero/")
    result = operator.execute(context_of())

    lineage = operator.get_openlineage_facets_on_complete(None)

    assert names(lineage.inputs) == [MODEL]
    assert names(lineage.outputs) == [(f"s3://{desk.bucket}", "shop/hero")]
    usage = facet(lineage)
    assert (usage.costUsd, usage.images, usage.unknownOutcomes) == (0.08, 2, 0)
    assert (usage.usage, usage.requestId, usage.isReused) == (result["usage"], result["request_id"], False)


def test_a_deferred_task_tells_the_same_when_it_is_done(desk: Desk) -> None:
    operator = SeedreamGenerateOperator(task_id="generate", prompt="An otter", deferrable=True)
    with pytest.raises(TaskDeferred) as caught:
        operator.execute(context_of())
    event = asyncio.run(first_event(GenerateTrigger(**caught.value.trigger.serialize()[1], earliest_event=0)))
    again = SeedreamGenerateOperator(task_id="generate", prompt="An otter")
    again.execute_complete(context_of(), event)

    lineage = again.get_openlineage_facets_on_complete(None)

    assert names(lineage.outputs) == [(f"s3://{desk.bucket}", "seedream/dag/run/generate")]
    assert facet(lineage).costUsd == 0.04


def test_a_batch_tells_its_folder_and_the_cost_of_all(desk: Desk) -> None:
    operator = SeedreamBatchOperator(task_id="generate", requests=["a", "b"], size=SMALL)
    operator.execute(context_of())

    lineage = operator.get_openlineage_facets_on_complete(None)

    assert names(lineage.outputs) == [(f"s3://{desk.bucket}", "seedream/dag/run/generate")]
    assert (facet(lineage).costUsd, facet(lineage).images) == (0.08, 2)


def test_a_failed_task_names_the_model_and_no_cost(desk: Desk) -> None:
    desk.gateway.inject(Fault("content_refused"))
    operator = SeedreamGenerateOperator(task_id="generate", prompt="An otter")
    with pytest.raises(ContentRefused):
        operator.execute(context_of())

    lineage = operator.get_openlineage_facets_on_failure(None)

    assert (names(lineage.inputs), lineage.run_facets) == ([MODEL], {})


def test_the_facet_can_be_sent(desk: Desk) -> None:
    """Its own fields next to those that OpenLineage wants of every facet."""
    from openlineage.client.serde import Serde

    operator = SeedreamGenerateOperator(task_id="generate", prompt="An otter")
    operator.execute(context_of())

    sent = Serde.to_dict(facet(operator.get_openlineage_facets_on_complete(None)))

    assert sent["costUsd"] == 0.04
    assert {"_producer", "_schemaURL"} <= set(sent)


def test_reference_images_are_inputs_next_to_the_model() -> None:
    references = ["s3://shop/in/otter.png", "https://example.com/a/heron.png?size=2"]
    operator = WanGenerateOperator(task_id="generate", prompt="p", reference_images=references)

    lineage = operator.get_openlineage_facets_on_start()

    assert names(lineage.inputs) == [
        ("aisa://api.aisa.one", "models/wan2.7-image"),
        ("s3://shop", "in/otter.png"),
        ("https://example.com", "a/heron.png"),
    ]


def test_references_that_are_none_fail_no_lineage() -> None:
    operator = WanGenerateOperator(task_id="generate", prompt="p", reference_images="{{ params.image }}")
    assert len(operator.get_openlineage_facets_on_failure(None).inputs) == 1


@needs_3_0  # 2.11 calls assets datasets here too
def test_those_who_read_hook_level_lineage_see_the_folder(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector: Any = importlib.import_module(LINEAGE).HookLineageCollector()
    monkeypatch.setattr(f"{LINEAGE}.get_hook_lineage_collector", lambda: collector)
    assert get_hook_lineage_collector() is collector  # type: ignore[no-untyped-call]

    SeedreamGenerateOperator(task_id="generate", prompt="An otter").execute(context_of())

    written = [output.asset.uri for output in collector.collected_assets.outputs]
    assert f"s3://{desk.bucket}/seedream/dag/run/generate" in written


def test_a_uri_that_a_collector_refuses_fails_nothing() -> None:
    collect(object(), read=["s3://größe/ä"], written=["s3://größe/ä"])
