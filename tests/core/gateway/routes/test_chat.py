"""The chat route: what goes out for Wan, and what an answer becomes."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from airflow_provider_aisa.core.gateway.request import ImageRequest
from airflow_provider_aisa.core.gateway.response import GeneratedImage, GenerationResponse
from airflow_provider_aisa.core.gateway.routes import generation as call_of
from airflow_provider_aisa.core.gateway.routes.chat import read
from airflow_provider_aisa.exceptions import ImageRefused, OutcomeUnknown

KEY = "sk-aisa-very-secret-1234"
LINK = "https://cdn.aisa.one/images/wan2.7/20260418-abc.png"
USAGE = {"prompt_tokens": 104, "completion_tokens": 8, "total_tokens": 112}


def wan(**changes: Any) -> ImageRequest:
    return ImageRequest.parse(**{"prompt": "a red panda", "model": "wan2.7-image", "n": 4, **changes})


def answer(*contents: object, **more: Any) -> dict[str, Any]:
    choices = [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
        for content in contents
    ]
    return {"model": "wan2.7-image", "created": 1776495713, "choices": choices, "usage": USAGE, **more}


def generation(body: object, **changes: Any) -> GenerationResponse:
    return read(httpx.Response(200, json=body, headers={"x-request-id": "r1"}), wan(**changes), api_key=KEY)


def test_the_number_of_images_is_always_sent_and_the_content_is_a_list_of_parts() -> None:
    call = call_of(wan(n=1))
    assert (call.method, call.endpoint) == ("POST", "chat/completions")
    assert call.json == {
        "model": "wan2.7-image",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "a red panda"}]}],
        "n": 1,
    }


def test_the_documented_response_is_read_with_its_usage_verbatim() -> None:
    response = generation(answer([{"type": "image", "image": LINK}]))
    assert response.images == (GeneratedImage(0, url=LINK),)
    assert (response.model, response.created, response.request_id) == ("wan2.7-image", 1776495713, "r1")
    assert response.usage == USAGE
    assert response.billed == 1


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "image": LINK},
        {"type": "image", "image": {"url": LINK}},
        {"type": "image_url", "image_url": {"url": LINK}},
        {"type": "image", "image_url": LINK},
    ],
)
def test_a_link_is_found_in_every_shape_that_aisas_own_client_knows(part: dict[str, object]) -> None:
    assert generation(answer([part])).images == (GeneratedImage(0, url=LINK),)


@pytest.mark.parametrize("image", ["aGk=", "data:image/png;base64,aGk="])
def test_base64_is_taken_in_place_of_a_link(image: str) -> None:
    assert generation(answer([{"type": "image", "image": image}])).images == (
        GeneratedImage(0, b64_json="aGk="),
    )


def test_each_image_is_billed_and_a_choice_without_one_stands_as_an_error() -> None:
    image = [{"type": "image", "image": LINK}]
    response = generation(answer(image, [{"type": "text", "text": "sk-aisa-12345678 no"}], image))
    assert [each.index for each in response.available] == [0, 2]
    assert [each.error_code for each in response.refused] == ["stop"]
    assert response.billed == 2


def test_more_images_than_asked_for_are_billed_and_not_kept() -> None:
    response = generation(answer(*[[{"type": "image", "image": LINK}]] * 4), n=1)
    assert (len(response.images), response.billed) == (1, 4)


@pytest.mark.parametrize("content", ["I would rather not", [{"type": "text", "text": "no"}], [], None, [5]])
def test_words_without_an_image_are_a_refusal_that_does_not_repeat_them(content: object) -> None:
    with pytest.raises(ImageRefused) as caught:
        generation(answer(content))
    assert caught.value.request_id == "r1"
    assert not caught.value.retryable
    assert "rather" not in str(caught.value)


@pytest.mark.parametrize("body", [{}, {"choices": None}, {"data": []}, [], "x"])
def test_what_is_no_list_of_choices_may_be_billed(body: object) -> None:
    with pytest.raises(OutcomeUnknown, match="instead of a list of choices") as caught:
        generation(body)
    assert type(caught.value) is OutcomeUnknown
