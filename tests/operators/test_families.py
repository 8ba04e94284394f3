"""Wan and Gemini: the same promises as Seedream, whatever the route and wherever the image is."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_aisa.exceptions import (
    AisaError,
    ContentRefused,
    ImageRefused,
    InvalidRequest,
    ModelNotRouted,
)
from airflow_provider_aisa.operators.gemini import GeminiGenerateOperator
from airflow_provider_aisa.operators.image_batch import ImageBatchOperator
from airflow_provider_aisa.operators.seedream import SeedreamGenerateOperator
from airflow_provider_aisa.operators.wan import WanGenerateOperator
from airflow_provider_aisa.sandbox import Fault
from airflow_provider_aisa.triggers.generate import GenerateTrigger
from tests.operators.conftest import Desk, context_of

FACTS = {
    "model", "created", "request_id", "reused", "cost_usd", "usage", "unknown_outcomes", "images",
    "journal_uri",
}  # fmt: skip


def run(operator: type[Any], *, tries: int = 1, **arguments: Any) -> dict[str, Any]:
    task = operator(**{"task_id": "generate", "prompt": "A red panda", **arguments})
    result: dict[str, Any] = task.execute(context_of(tries=tries))
    return result


def test_wan_stores_what_it_was_asked_for_and_says_what_it_cost(desk: Desk) -> None:
    result = run(WanGenerateOperator, n=2, model="wan2.7-image-pro")

    assert set(result) == FACTS
    assert [image["key"] for image in result["images"]] == desk.keys()
    assert desk.keys()[0].startswith("wan/dag/run/generate/")
    assert (result["cost_usd"], desk.gateway.billed) == (0.15, 2)
    assert desk.gateway.cost_usd == Decimal("0.150")


def test_wan_asks_for_one_image_unless_told_otherwise(desk: Desk) -> None:
    """The gateway's own default is four, each billed."""
    run(WanGenerateOperator)
    assert desk.gateway.billed == 1


def test_geminis_image_is_stored_and_no_base64_is_left_anywhere(desk: Desk) -> None:
    result = run(GeminiGenerateOperator, aspect_ratio="16:9", image_size="1K")

    [image] = result["images"]
    assert image["width"] / image["height"] == pytest.approx(16 / 9, rel=0.01)
    assert len(desk.read(image["uri"])) == image["bytes"]
    assert set(result) == FACTS
    assert (result["cost_usd"], result["usage"]["candidatesTokenCount"] > 0) == (0.1, True)
    journal = desk.read(result["journal_uri"])
    assert len(journal) < 8_192
    assert json.loads(journal)["state"] == "stored"
    kept = [key for key in desk.all_keys() if ".answer-" in key]
    assert [len(desk.read(f"s3://{desk.bucket}/{key}")) for key in kept] == [0]


def test_several_gemini_images_are_purchases_of_their_own(desk: Desk) -> None:
    desk.gateway.inject(Fault("content_refused", after=1))
    with pytest.raises(ContentRefused, match=r"2 of 3 images are stored.*s3://"):
        run(GeminiGenerateOperator, n=3, s3_key="hero.png")
    assert desk.gateway.billed == 2

    result = run(GeminiGenerateOperator, n=3, s3_key="hero.png", tries=2)
    again = run(GeminiGenerateOperator, n=3, s3_key="hero.png", tries=3)

    assert desk.gateway.billed == 3
    assert [image["key"] for image in result["images"]] == ["hero-0.png", "hero-1.png", "hero-2.png"]
    assert [image["index"] for image in result["images"]] == [0, 1, 2]
    assert result["cost_usd"] == pytest.approx(0.3)
    assert again["reused"]


def test_more_gemini_images_later_pay_only_for_what_is_new(desk: Desk) -> None:
    run(GeminiGenerateOperator, n=2, s3_key="x/", idempotency_key="sku-1")
    run(GeminiGenerateOperator, n=4, s3_key="x/", idempotency_key="sku-1")
    assert desk.gateway.billed == 4


def test_a_budget_holds_for_all_gemini_images_and_all_tries(desk: Desk) -> None:
    with pytest.raises(InvalidRequest, match=r"cost 0\.300 USD"):
        run(GeminiGenerateOperator, n=3, max_cost_usd=0.25)
    desk.gateway.inject(Fault("server_error", billed=True, times=9))
    desk.connect(max_retries=0)
    with pytest.raises(AisaError):
        run(GeminiGenerateOperator, n=2, max_cost_usd=0.2)
    assert desk.gateway.billed == 2
    with pytest.raises(AisaError):
        run(GeminiGenerateOperator, n=2, max_cost_usd=0.2, tries=2)
    assert desk.gateway.billed == 2


@pytest.mark.parametrize("operator", [WanGenerateOperator, GeminiGenerateOperator])
def test_words_without_an_image_are_a_final_refusal_that_may_be_billed(
    desk: Desk, operator: type[Any]
) -> None:
    desk.gateway.inject(Fault("no_images"))
    with pytest.raises(ImageRefused) as caught:
        run(operator)
    assert caught.value.unknown_outcomes == 1
    assert not caught.value.retryable
    assert len(desk.gateway.requests) == 1


@pytest.mark.parametrize("operator", [WanGenerateOperator, GeminiGenerateOperator])
def test_a_deferred_task_returns_the_same(desk: Desk, operator: type[Any]) -> None:
    task = operator(task_id="generate", prompt="A red panda", n=2, deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(context_of())
    _, arguments = deferred.value.trigger.serialize()
    trigger = GenerateTrigger(**json.loads(json.dumps(arguments)), earliest_event=0.0)

    async def event() -> Any:
        return await anext(trigger.run())

    result = task.execute_complete(context_of(), asyncio.run(event()).payload)

    assert set(result) == FACTS
    assert len(result["images"]) == desk.gateway.billed == 2
    task.execute(context_of(tries=2))  # All is there: there is nothing to wait for.
    assert desk.gateway.billed == 2


@pytest.mark.parametrize(
    ("operator", "arguments", "words"),
    [
        (WanGenerateOperator, {"n": 5}, "makes at most 4 images"),
        (WanGenerateOperator, {"model": "seedream-4-5-251128"}, "Use SeedreamGenerateOperator"),
        (GeminiGenerateOperator, {"aspect_ratio": "2:1"}, "use one of 1:1"),
        (GeminiGenerateOperator, {"image_size": "8K"}, "use one of 1K"),
        (GeminiGenerateOperator, {"model": "wan2.7-image"}, "Use WanGenerateOperator"),
        (SeedreamGenerateOperator, {"model": "gemini-9"}, "Use GeminiGenerateOperator"),
        (SeedreamGenerateOperator, {"extra_body": {"n": 9}}, "extra_body may not set 'n'"),
        (WanGenerateOperator, {"extra_body": {"stream": True}}, "extra_body may not set 'stream'"),
        (
            ImageBatchOperator,
            {"requests": [{"prompt": "p", "size": "2048x2048"}], "model": "wan9"},
            "size out",
        ),
    ],
)
def test_a_wrong_literal_fails_the_dags_import(
    operator: type[Any], arguments: dict[str, Any], words: str
) -> None:
    prompt = {} if operator is ImageBatchOperator else {"prompt": "p"}
    with pytest.raises(InvalidRequest, match=words) as caught:
        operator(task_id="generate", **prompt, **arguments)
    assert isinstance(caught.value, ModelNotRouted) == ("Use " in words)


def test_further_fields_are_sent_and_tell_purchases_apart(desk: Desk) -> None:
    for seed in (1, 2, 1):
        run(SeedreamGenerateOperator, size="1920x1920", extra_body={"seed": seed}, s3_key=f"{seed}/")
    sent = [json.loads(request.body).get("seed") for request in desk.gateway.requests]
    assert sent == [1, 2]


def test_a_batch_takes_any_model_per_item(desk: Desk) -> None:
    requests: list[dict[str, Any]] = [
        {"id": "s", "prompt": "a", "size": "1920x1920", "model": "seedream-4-5-251128"},
        {"id": "w", "prompt": "b", "n": 2},
        {"id": "g", "prompt": "c", "model": "gemini-3-pro-image-preview", "aspect_ratio": "1:1"},
    ]
    task = ImageBatchOperator(task_id="generate", requests=requests, model="wan2.7-image")
    result = task.execute(context_of())

    costs = {line["id"]: line["cost_usd"] for line in desk.manifest()}
    assert costs == {"s": 0.04, "w": 0.06, "g": 0.1}
    assert (result["images"], result["cost_usd"]) == (4, pytest.approx(0.2))
    assert {request.path for request in desk.gateway.requests} == {
        "/v1/images/generations",
        "/v1/chat/completions",
        "/v1beta/models/gemini-3-pro-image-preview:generateContent",
    }
    stored = desk.keys()
    assert all(key.startswith("images/dag/run/generate/") for key in stored)
    task.execute(context_of(tries=2))
    assert desk.gateway.billed == 4
