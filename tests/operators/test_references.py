"""Reference images: looked at before paying, part of the purchase, and shown to nobody but the gateway."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import re
from collections import Counter
from typing import Any

import httpx
import pytest
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_aisa.exceptions import (
    AisaError,
    ImageUnavailable,
    InvalidRequest,
    ModelNotRouted,
    StorageFailed,
)
from airflow_provider_aisa.hooks.aisa import AisaHook
from airflow_provider_aisa.operators.gemini import GeminiGenerateOperator
from airflow_provider_aisa.operators.image_batch import ImageBatchOperator
from airflow_provider_aisa.operators.seedream import SeedreamGenerateOperator
from airflow_provider_aisa.operators.wan import WanGenerateOperator
from airflow_provider_aisa.sandbox import Fault
from airflow_provider_aisa.triggers.generate import GenerateTrigger
from tests.fakes.png import png
from tests.operators.conftest import Desk, context_of

BOTH = pytest.mark.parametrize("operator", [WanGenerateOperator, GeminiGenerateOperator])
#: Once for each image that a request shows.
SHOWN = re.compile(rb'"image_url":(?= ?{)|"inline_data":')
OTTER, HERON = png("otter"), png("heron")


@pytest.fixture
def otter(desk: Desk) -> str:
    """Return the URI of an image in the bucket."""
    return put(desk, "in/otter.png", OTTER)


def put(desk: Desk, key: str, body: bytes) -> str:
    desk.s3.put_object(Bucket=desk.bucket, Key=key, Body=body)
    return f"s3://{desk.bucket}/{key}"


def task(operator: type[Any], references: object, **arguments: Any) -> Any:
    return operator(
        **{
            "task_id": "generate",
            "prompt": "The same, at night",
            "s3_key": "out/",
            "reference_images": references,
            **arguments,
        }
    )


def run(operator: type[Any], references: object, *, tries: int = 1, **arguments: Any) -> dict[str, Any]:
    result: dict[str, Any] = task(operator, references, **arguments).execute(context_of(tries=tries))
    return result


def shown(desk: Desk) -> list[bytes]:
    """Return the images that the last request shows to the gateway."""
    body = json.loads(desk.gateway.requests[-1].body)
    if "messages" in body:
        parts = body["messages"][0]["content"]
        return [httpx.get(part["image_url"]["url"]).content for part in parts if "image_url" in part]
    return [
        base64.b64decode(part["inline_data"]["data"])
        for part in body["contents"][0]["parts"]
        if "inline_data" in part
    ]


@BOTH
def test_the_gateway_is_shown_the_images_in_their_order(desk: Desk, otter: str, operator: type[Any]) -> None:
    heron = put(desk, "in/heron.png", HERON)
    result = run(operator, [otter, heron])

    assert shown(desk) == [OTTER, HERON]
    assert len(result["images"]) == desk.gateway.billed == 1


@BOTH
def test_a_retry_pays_nothing_and_another_version_is_another_purchase(
    desk: Desk, otter: str, operator: type[Any]
) -> None:
    first = run(operator, otter)
    assert run(operator, otter, tries=2)["reused"]
    assert desk.gateway.billed == 1

    put(desk, "in/otter.png", HERON)
    second = run(operator, otter, tries=2, s3_key="out/second/")

    assert desk.gateway.billed == 2
    assert shown(desk) == [HERON]
    assert first["journal_uri"] != second["journal_uri"]


@BOTH
@pytest.mark.parametrize(
    ("body", "words"),
    [
        (None, "put a reference image at s3://"),
        (b"", "empty|no PNG"),
        (b"<svg/>", "no PNG, JPEG or WebP"),
        (OTTER + bytes(20_000_001), "20,0"),
    ],
    ids=["missing", "empty", "SVG", "too large"],
)
def test_what_no_model_can_look_at_fails_before_anything_is_sent(
    desk: Desk, operator: type[Any], body: bytes | None, words: str
) -> None:
    uri = f"s3://{desk.bucket}/in/x.png" if body is None else put(desk, "in/x.png", body)
    with pytest.raises(InvalidRequest, match=words) as caught:
        run(operator, [uri])
    assert not caught.value.retryable
    assert desk.gateway.requests == []
    assert [key for key in desk.all_keys() if "_aisa/" in key] == []


def test_a_bucket_that_is_not_there_is_said_before_anything_is_sent(desk: Desk) -> None:
    with pytest.raises(InvalidRequest, match="put a reference image at s3://nowhere"):
        run(WanGenerateOperator, "s3://nowhere/x.png")
    assert desk.gateway.requests == []


def test_all_that_gemini_is_shown_has_to_fit_into_one_request(desk: Desk) -> None:
    half = put(desk, "in/half.png", OTTER + bytes(7_000_000))
    assert run(GeminiGenerateOperator, [half])["images"]
    with pytest.raises(InvalidRequest, match=r"together they have 14,0\d\d,\d\d\d bytes"):
        run(GeminiGenerateOperator, [half, half])
    assert desk.gateway.billed == 1


@BOTH
def test_an_image_that_is_deleted_later_takes_nothing_along_that_is_stored(
    desk: Desk, otter: str, operator: type[Any]
) -> None:
    """A cleanup job may be quicker than a retry, and the ETag is part of what identifies the purchase."""
    run(operator, otter)
    desk.s3.delete_object(Bucket=desk.bucket, Key="in/otter.png")

    assert run(operator, otter, tries=2)["reused"]
    assert desk.gateway.billed == 1


@pytest.mark.parametrize("key", [None, "sku-1"])
def test_an_image_that_is_deleted_after_paying_takes_nothing_along_that_is_paid(
    desk: Desk, otter: str, key: str | None
) -> None:
    desk.connect(max_retries=0)
    desk.gateway.inject(Fault("cdn_server_error"))
    with pytest.raises(ImageUnavailable):
        run(WanGenerateOperator, otter, idempotency_key=key)
    desk.s3.delete_object(Bucket=desk.bucket, Key="in/otter.png")

    assert run(WanGenerateOperator, otter, idempotency_key=key, tries=2)["images"]
    assert desk.gateway.billed == 1


@BOTH
def test_an_image_that_is_gone_and_not_paid_for_is_a_final_error(
    desk: Desk, otter: str, operator: type[Any]
) -> None:
    desk.gateway.inject(Fault("content_refused"))
    with pytest.raises(AisaError):
        run(operator, otter)
    desk.s3.delete_object(Bucket=desk.bucket, Key="in/otter.png")
    with pytest.raises(InvalidRequest, match="put a reference image at"):
        run(operator, otter, tries=2)
    assert (desk.gateway.billed, len(desk.gateway.requests)) == (0, 1)


def deferred(desk: Desk, operator: type[Any], references: object) -> dict[str, Any]:
    """Return what a deferred task keeps in the database, as JSON."""
    with pytest.raises(TaskDeferred) as caught:
        task(operator, references, deferrable=True).execute(context_of())
    arguments: dict[str, Any] = json.loads(json.dumps(caught.value.trigger.serialize()[1]))
    return arguments


def fire(arguments: dict[str, Any]) -> dict[str, Any]:
    async def event() -> Any:
        return await anext(GenerateTrigger(**arguments, earliest_event=0.0).run())

    payload: dict[str, Any] = asyncio.run(event()).payload
    return payload


@BOTH
def test_a_trigger_shows_the_version_that_its_task_has_looked_at(
    desk: Desk, otter: str, operator: type[Any]
) -> None:
    arguments = deferred(desk, operator, [otter])
    assert len(fire(arguments)["result"]["images"]) == desk.gateway.billed == 1
    assert shown(desk) == [OTTER]


@BOTH
def test_an_image_that_changes_before_it_is_sent_is_not_sent(
    desk: Desk, otter: str, operator: type[Any]
) -> None:
    arguments = deferred(desk, operator, [otter])
    put(desk, "in/otter.png", HERON)

    error = fire(arguments)["error"]

    assert "has changed since it was looked at" in error["message"]
    assert error["retryable"]
    assert desk.gateway.requests == []
    assert [key for key in desk.all_keys() if "_aisa/" in key] == []


def test_a_batch_shows_each_item_its_own_images_and_pays_once(desk: Desk, otter: str) -> None:
    heron = put(desk, "in/heron.png", HERON)
    requests: list[dict[str, Any]] = [
        {"id": "w", "prompt": "a", "model": "wan2.7-image", "reference_images": [otter]},
        {"id": "g", "prompt": "b", "model": "gemini-3-pro-image-preview", "reference_images": [heron, otter]},
        {"id": "none", "prompt": "c", "model": "wan2.7-image"},
    ]
    batch = ImageBatchOperator(task_id="generate", requests=requests, model="wan2.7-image", s3_key="out/")
    batch.execute(context_of())
    desk.s3.delete_object(Bucket=desk.bucket, Key="in/heron.png")

    again = batch.execute(context_of(tries=2))

    assert again["stored"] == 3
    assert desk.gateway.billed == 3
    counts = Counter(name for one in desk.gateway.requests for name in SHOWN.findall(one.body))
    assert counts == {b'"image_url":': 1, b'"inline_data":': 2}


def test_a_bad_reference_is_one_wrong_item_of_a_batch_that_sends_nothing(desk: Desk, otter: str) -> None:
    requests: list[dict[str, Any]] = [
        {"id": "a", "prompt": "a", "reference_images": [otter]},
        {"id": "b", "prompt": "b", "reference_images": [f"s3://{desk.bucket}/in/none.png"]},
    ]
    batch = ImageBatchOperator(task_id="generate", requests=requests, model="wan2.7-image", s3_key="out/")
    with pytest.raises(InvalidRequest, match="1 of 2 items are wrong") as caught:
        batch.execute(context_of())
    assert "requests[1]: put a reference image" in str(caught.value)
    assert desk.gateway.requests == []


@BOTH
def test_links_and_bytes_stand_in_no_log_no_result_no_trigger_and_no_journal(
    desk: Desk, otter: str, operator: type[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Also where every logger is at DEBUG: botocore would tell what a link is signed with."""
    caplog.set_level(logging.DEBUG)
    desk.gateway.inject(Fault("server_error"))
    arguments = deferred(desk, operator, [otter])
    event = fire(arguments)

    body = desk.gateway.requests[-1].body.decode()
    secrets = [base64.b64encode(OTTER).decode()[:80], "X-Amz-Signature"]
    if found := re.search(r"X-Amz-Signature=(\w+)", body):
        secrets.append(found[1])
    else:
        assert operator is GeminiGenerateOperator
    kept = "".join(
        desk.read(f"s3://{desk.bucket}/{key}").decode("latin-1") for key in desk.all_keys() if "_aisa/" in key
    )
    for place in (caplog.text, json.dumps(event), json.dumps(arguments), kept):
        assert not [secret for secret in secrets if secret in place]
    assert otter in kept


def test_a_link_works_no_longer_than_the_request_may_take(desk: Desk, otter: str) -> None:
    desk.connect(timeout=30)
    run(WanGenerateOperator, otter)
    assert "X-Amz-Expires=90&" in desk.gateway.requests[-1].body.decode()


def test_a_second_send_shows_the_same_image(desk: Desk, otter: str) -> None:
    desk.gateway.inject(Fault("unavailable", retry_after=1))
    run(WanGenerateOperator, otter)
    links = [
        json.loads(one.body)["messages"][0]["content"][0]["image_url"]["url"] for one in desk.gateway.requests
    ]
    assert len(links) == 2
    assert desk.gateway.billed == 1


def test_an_image_that_s3_refuses_to_show_is_named_before_anything_is_sent(desk: Desk, otter: str) -> None:
    desk.monkeypatch.setenv(
        "AIRFLOW_CONN_AWS_DEFAULT",
        json.dumps(
            {
                **json.loads(desk.store.airflow_connection(bucket=desk.bucket)),
                "login": "AKIDWRONG",
                "password": "wrong",
            }
        ),
    )
    with pytest.raises(StorageFailed, match=r"the reference image s3://.*in/otter\.png could not be read"):
        run(WanGenerateOperator, otter)
    assert desk.gateway.requests == []


def test_the_hook_shows_images_as_well(desk: Desk, otter: str) -> None:
    response = AisaHook().generate_images("p", model="wan2.7-image", reference_images=[otter])
    assert len(response.images) == 1
    assert shown(desk) == [OTTER]
    response = asyncio.run(
        AisaHook().agenerate_images("p", model="gemini-3-pro-image-preview", reference_images=otter)
    )
    assert shown(desk) == [OTTER]


@pytest.mark.parametrize(
    ("operator", "references", "words"),
    [
        (WanGenerateOperator, ["/tmp/x.png"], "use s3://bucket/key or an https URL"),
        (GeminiGenerateOperator, ["s3://b/k"] * 15, "takes 14"),
    ],
)
def test_a_wrong_literal_fails_the_dags_import(operator: type[Any], references: Any, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        task(operator, references)
    task(operator, ["{{ params.image }}"])
    task(operator, "{{ params.images }}")


def unknown(desk: Desk, name: str, *types: str) -> None:
    """Let the gateway sell a model that this package does not know."""
    from airflow_provider_aisa.sandbox import contract

    known = next(model for model in contract.MODELS.values() if set(types) & set(model.endpoint_types))
    desk.monkeypatch.setitem(contract.MODELS, name, known)
    listed = {"id": name, "object": "model", "supported_endpoint_types": list(types)}
    desk.monkeypatch.setitem(contract.MODEL_LIST, "data", [listed])


def test_an_unknown_model_of_another_family_names_its_operator(desk: Desk) -> None:
    unknown(desk, "panda-9", "gemini")
    with pytest.raises(ModelNotRouted, match=r"Use GeminiGenerateOperator.*list of models"):
        SeedreamGenerateOperator(task_id="generate", prompt="p", model="panda-9").execute(context_of())
    assert desk.gateway.billed == 0


@pytest.mark.parametrize(
    ("types", "path"),
    [
        (["image-generation", "openai"], "/v1/images/generations"),
        (["openai"], "/v1/chat/completions"),
        (["gemini"], "/v1beta/models/panda-9:generateContent"),
    ],
)
def test_an_unknown_model_is_asked_as_the_gateways_list_says(
    desk: Desk,
    types: list[str],
    path: str,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    unknown(desk, "panda-9", *types)
    batch = ImageBatchOperator(task_id="generate", requests=["p", {"prompt": "q"}], model="panda-9")
    batch.execute(context_of())
    AisaHook().generate_images("p", model="panda-9")

    asked = [request.path for request in desk.gateway.requests]
    assert asked == ["/v1/models", path, path, "/v1/models", path]
    said = caplog.text + capsys.readouterr().out  # Airflow 3 prints what its own classes log.
    assert "Model 'panda-9' is asked like those of" in said


def test_an_unknown_model_is_asked_by_the_rules_of_the_operator_it_is_given_to(desk: Desk) -> None:
    unknown(desk, "panda-9", "openai")
    WanGenerateOperator(task_id="generate", prompt="p", model="panda-9", n=2).execute(context_of())
    assert [request.path for request in desk.gateway.requests] == ["/v1/models", "/v1/chat/completions"]
    assert desk.gateway.billed == 2


def test_a_gateway_without_a_list_of_models_keeps_nobody_from_an_unknown_one(
    desk: Desk, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    unknown(desk, "panda-9", "image-generation")
    desk.connect(max_retries=0)
    desk.gateway.inject(Fault("server_error", path="/v1/models"))
    SeedreamGenerateOperator(task_id="generate", prompt="p", model="panda-9").execute(context_of())
    assert desk.gateway.billed == 1
    assert "rules and price cannot be checked" in caplog.text + capsys.readouterr().out
