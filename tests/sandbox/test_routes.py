"""The sandbox serves all three routes; the package's own client buys on each of them."""

from __future__ import annotations

import base64
from decimal import Decimal
from typing import Any

import httpx
import pytest

from airflow_provider_aisa.core.gateway.client import AisaClient
from airflow_provider_aisa.core.gateway.request import ImageRequest
from airflow_provider_aisa.exceptions import (
    ContentRefused,
    GatewayFailed,
    ImageRefused,
    InvalidRequest,
    KeyRefused,
    ModelNotRouted,
    RateLimited,
)
from airflow_provider_aisa.sandbox import Fault, Sandbox
from tests.sandbox.conftest import SEEDREAM, Api, opened
from tests.support import sandbox_settings

WAN, GEMINI = "wan2.7-image", "gemini-3-pro-image-preview"
CHAT, GENERATE = "/chat/completions", f"/v1beta/models/{GEMINI}:generateContent"
TEXT = [{"role": "user", "content": [{"type": "text", "text": "a red panda"}]}]
CONTENTS = [{"role": "user", "parts": [{"text": "a red panda"}]}]


def ask(api: Api, path: str, body: object) -> httpx.Response:
    origin = api.sandbox.base_url.removesuffix("/v1")
    return api.http.post(f"{origin}{path}" if path.startswith("/v1") else path, json=body)


def generate(sandbox: Sandbox, **request: Any) -> Any:
    with AisaClient(sandbox_settings(sandbox, max_retries=0)) as client:
        return client.generate(ImageRequest.parse(**{"prompt": "a red panda", **request}))


def test_wan_makes_four_images_for_who_does_not_say_how_many_and_bills_each(api: Api) -> None:
    answer = ask(api, CHAT, {"model": WAN, "messages": TEXT}).json()
    [[part], *others] = [choice["message"]["content"] for choice in answer["choices"]]
    assert len(others) == 3
    assert part["type"] == "image"
    assert opened(api.cdn.get(part["image"]).content).size == (1024, 1024)
    assert (api.sandbox.billed, api.sandbox.cost_usd) == (4, Decimal("0.120"))


@pytest.mark.parametrize("version", ["v1", "v1beta"])
def test_gemini_puts_its_image_into_the_answer(api: Api, version: str) -> None:
    config = {"imageConfig": {"aspectRatio": "16:9", "imageSize": "2K"}}
    path = GENERATE.replace("v1beta", version)
    answer = ask(api, path, {"contents": CONTENTS, "generationConfig": config}).json()
    words, image = answer["candidates"][0]["content"]["parts"]
    width, height = opened(base64.b64decode(image["inlineData"]["data"])).size
    assert words["text"]
    assert width / height == pytest.approx(16 / 9, rel=0.01)
    assert (api.sandbox.billed, api.sandbox.cost_usd) == (1, Decimal("0.100"))
    assert api.sandbox.cdn_requests == []


@pytest.mark.parametrize(
    ("request_", "images"),
    [({"model": SEEDREAM, "n": 2}, 2), ({"model": WAN, "n": 1}, 1), ({"model": GEMINI}, 1)],
)
def test_the_client_buys_what_was_asked_for_on_each_route(
    aisa_sandbox: Sandbox, request_: dict[str, Any], images: int
) -> None:
    response = generate(aisa_sandbox, **request_)
    assert len(response.available) == response.billed == aisa_sandbox.billed == images


@pytest.mark.parametrize("model", [WAN, GEMINI])
@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("content_refused", ContentRefused),
        ("unauthorized", KeyRefused),
        ("bad_gateway", GatewayFailed),
        ("no_images", ImageRefused),
    ],
)
def test_a_fault_of_any_kind_strikes_on_each_route(
    aisa_sandbox: Sandbox, model: str, kind: Any, error: type[Exception]
) -> None:
    aisa_sandbox.inject(Fault(kind))
    with pytest.raises(error):
        generate(aisa_sandbox, model=model)
    assert aisa_sandbox.billed == 0


def test_a_fault_may_be_narrowed_to_one_route(aisa_sandbox: Sandbox) -> None:
    aisa_sandbox.inject(Fault("content_refused", path="/v1/chat/completions"))
    generate(aisa_sandbox, model=SEEDREAM)
    with pytest.raises(ContentRefused):
        generate(aisa_sandbox, model=WAN)
    assert aisa_sandbox.billed == 1


def test_wan_may_answer_in_base64(aisa_sandbox: Sandbox) -> None:
    aisa_sandbox.inject(Fault("b64_json"))
    [image] = generate(aisa_sandbox, model=WAN).available
    assert opened(base64.b64decode(image.b64_json)).size == (1024, 1024)


def test_gemini_has_a_limit_of_its_own(aisa_sandbox: Sandbox) -> None:
    aisa_sandbox.gemini_requests_per_minute = 1
    generate(aisa_sandbox, model=GEMINI)
    generate(aisa_sandbox, model=WAN)
    with pytest.raises(RateLimited) as caught:
        generate(aisa_sandbox, model=GEMINI)
    assert caught.value.retry_after is not None
    assert aisa_sandbox.billed == 2


def test_gemini_refuses_in_the_shape_of_its_upstream(api: Api) -> None:
    answer = ask(api, GENERATE, {"contents": "a red panda"})
    assert (answer.status_code, answer.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert answer.json()["error"]["code"] == 400
    with pytest.raises(InvalidRequest, match=r"400 INVALID_ARGUMENT.*Nothing was billed"):
        generate(api.sandbox, model=GEMINI, extra_body={"tools": "none"})


@pytest.mark.parametrize(
    "message",
    [{"role": "user", "content": "a red panda"}, {"role": "user"}, {"content": []}, "a red panda", None],
)
def test_wan_wants_a_list_of_typed_parts(api: Api, message: object) -> None:
    answer = ask(api, CHAT, {"model": WAN, "messages": [message]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_parameter_error")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"model": SEEDREAM, "messages": TEXT}),
        ("/images/generations", {"model": WAN, "prompt": "x"}),
        (GENERATE.replace(GEMINI, WAN), {"contents": CONTENTS}),
    ],
)
def test_a_model_of_another_route_is_404_openai_error(api: Api, path: str, body: object) -> None:
    answer = ask(api, path, body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "openai_error")
    assert api.sandbox.billed == 0


def test_an_unknown_model_of_the_clients_goes_to_the_images_route(aisa_sandbox: Sandbox) -> None:
    with pytest.raises(InvalidRequest) as caught:
        generate(aisa_sandbox, model="seedream-9")
    assert not isinstance(caught.value, ModelNotRouted)
    assert aisa_sandbox.requests[-1].path == "/v1/images/generations"


def test_the_list_of_models_says_how_each_is_asked(api: Api) -> None:
    models = {
        model["id"]: model["supported_endpoint_types"] for model in api.http.get("/models").json()["data"]
    }
    assert models[SEEDREAM] == ["image-generation"]
    assert models[WAN] == ["openai"]
    assert models[GEMINI] == ["gemini"]
