"""Gemini's route: what goes out, and what an answer becomes."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from airflow_provider_aisa.core.gateway.models import DEFAULT_MODEL
from airflow_provider_aisa.core.gateway.request import ImageRequest
from airflow_provider_aisa.core.gateway.response import GeneratedImage, GenerationResponse
from airflow_provider_aisa.core.gateway.routes import generation as call_of
from airflow_provider_aisa.core.gateway.routes.generate_content import read
from airflow_provider_aisa.exceptions import ImageRefused, InvalidRequest, OutcomeUnknown
from tests.core.faces import Gateway

KEY = "sk-aisa-very-secret-1234"
MODEL = "gemini-3-pro-image-preview"
IMAGE = {"inline_data": {"mime_type": "image/png", "data": "aGk="}}
USAGE = {"promptTokenCount": 4, "candidatesTokenCount": 1120, "totalTokenCount": 1124}


def gemini(**changes: Any) -> ImageRequest:
    return ImageRequest.parse(**{"prompt": "a red panda", "model": MODEL, **changes})


def generation(body: object) -> GenerationResponse:
    return read(httpx.Response(200, json=body, headers={"x-request-id": "r1"}), gemini(), api_key=KEY)


def candidates(*parts: object) -> dict[str, Any]:
    return {"candidates": [{"content": {"role": "model", "parts": list(parts)}, "finishReason": "STOP"}]}


def test_a_request_asks_for_one_image_with_its_options() -> None:
    call = call_of(gemini(aspect_ratio="16:9", image_size="2K"))
    assert (call.method, call.endpoint) == ("POST", f"../v1beta/models/{MODEL}:generateContent")
    assert call.json == {
        "contents": [{"role": "user", "parts": [{"text": "a red panda"}]}],
        "generationConfig": {
            "responseModalities": ["TEXT", "IMAGE"],
            "imageConfig": {"aspectRatio": "16:9", "imageSize": "2K"},
        },
    }


def test_extra_fields_stand_next_to_ours() -> None:
    body = call_of(gemini(image_size="1K", extra_body={"generationConfig": {"seed": 7}})).json
    assert body["generationConfig"] == {
        "responseModalities": ["TEXT", "IMAGE"],
        "imageConfig": {"imageSize": "1K"},
        "seed": 7,
    }


def test_a_models_name_cannot_lead_elsewhere() -> None:
    assert call_of(gemini(model="gemini-x/../../v1/images")).endpoint.count("/") == 3


def test_a_request_for_several_images_is_never_sent_as_one() -> None:
    with pytest.raises(InvalidRequest, match="leave n out"):
        call_of(gemini(n=2))


@pytest.mark.parametrize(
    "body",
    [
        candidates({"text": "Here it is."}, IMAGE),
        candidates({"inlineData": {"mimeType": "image/png", "data": "aGk="}}),
        {"candidates": [{"parts": [{"text": "Here."}, IMAGE]}]},
        candidates({"thought": True, **IMAGE, "text": "a draft"}, IMAGE),
    ],
)
def test_an_image_is_found_in_every_shape_that_occurs(body: dict[str, Any]) -> None:
    response = generation({**body, "usageMetadata": USAGE, "modelVersion": "gemini-x"})
    assert response.images == (GeneratedImage(0, b64_json="aGk="),)
    assert (response.usage, response.model, response.request_id) == (USAGE, "gemini-x", "r1")
    assert response.billed == 1


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (candidates({"text": "I would rather not."}), "STOP"),
        ({"candidates": [{"finishReason": "IMAGE_SAFETY"}]}, "IMAGE_SAFETY"),
        ({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}, "PROHIBITED_CONTENT"),
        ({"candidates": []}, "no reason given"),
        (candidates({"inline_data": {"data": "https://elsewhere.example/x.png"}}), "STOP"),
        (candidates({"thought": True, **IMAGE}), "STOP"),
    ],
)
def test_words_without_an_image_are_a_refusal_whose_bill_is_unknown(body: dict[str, Any], code: str) -> None:
    with pytest.raises(ImageRefused, match="may have been billed") as caught:
        generation(body)
    assert (caught.value.code, caught.value.request_id, caught.value.retryable) == (code, "r1", False)
    assert "rather" not in str(caught.value)


@pytest.mark.parametrize("body", [{}, {"candidates": "x"}, [], None])
def test_what_is_no_list_of_candidates_may_be_billed(body: object) -> None:
    with pytest.raises(OutcomeUnknown, match="instead of a list of candidates") as caught:
        generation(body)
    assert type(caught.value) is OutcomeUnknown


def test_a_models_own_limit_spaces_its_requests_and_no_others() -> None:
    """Thirty a minute: one each two seconds, whatever the key allows."""
    image = httpx.Response(200, json=candidates(IMAGE))
    link = httpx.Response(200, json={"data": [{"url": "https://cdn.aisa.one/x"}]})
    gateway = Gateway([image, image, link, link, image])
    moments = []
    with gateway.client() as client:
        for model in (MODEL, MODEL, DEFAULT_MODEL, DEFAULT_MODEL, MODEL):
            client.generate(gemini(model=model))
            moments.append(gateway.clock())
    assert [moment - moments[0] for moment in moments] == [0.0, 2.0, 2.0, 2.0, 4.0]
