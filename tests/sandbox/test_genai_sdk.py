"""Google's own SDK, and OpenAI's chat, against the sandbox: what they understand is what AIsa serves."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest
from google import genai
from google.genai import errors, types

from airflow_provider_aisa.sandbox import Fault, Sandbox
from tests.sandbox.conftest import opened

MODEL = "gemini-3-pro-image-preview"
PANDA = "A cute red panda, ultra-detailed, cinematic lighting"


@pytest.fixture
def client(aisa_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> genai.Client:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return genai.Client(
        api_key=aisa_sandbox.api_key,
        http_options=types.HttpOptions(
            base_url=aisa_sandbox.base_url.removesuffix("/v1"),
            headers={"Authorization": f"Bearer {aisa_sandbox.api_key}"},
        ),
    )


def test_googles_sdk_gets_one_image_of_the_shape_it_asked_for(
    aisa_sandbox: Sandbox, client: genai.Client
) -> None:
    image_config = types.ImageConfig(aspect_ratio="16:9", image_size="2K")
    answer = client.models.generate_content(
        model=MODEL,
        contents=PANDA,
        config=types.GenerateContentConfig(response_modalities=["TEXT", "IMAGE"], image_config=image_config),
    )
    parts: list[Any] = answer.candidates[0].content.parts if answer.candidates else []  # type: ignore[union-attr, assignment]
    [image] = [part.inline_data for part in parts if part.inline_data]
    width, height = opened(image.data).size
    assert width / height == pytest.approx(16 / 9, rel=0.01)
    assert image.mime_type == "image/png"
    assert answer.usage_metadata is not None
    assert aisa_sandbox.billed == 1


def test_googles_sdk_sends_reference_images_and_gets_words_alone(
    aisa_sandbox: Sandbox, client: genai.Client
) -> None:
    aisa_sandbox.inject(Fault("no_images"))
    reference: Any = types.Part.from_bytes(data=b"a picture", mime_type="image/png")
    answer = client.models.generate_content(
        model=MODEL, contents=[reference, types.Part.from_text(text=PANDA)]
    )
    assert answer.text
    assert aisa_sandbox.billed == 0


def test_googles_sdk_understands_errors(client: genai.Client) -> None:
    with pytest.raises(errors.ClientError) as caught:
        client.models.generate_content(model="gemini-unknown", contents=PANDA)
    assert (caught.value.code, caught.value.status) == (404, "NOT_FOUND")


def test_openais_sdk_gets_wans_images_from_a_chat(
    aisa_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    messages: Any = [{"role": "user", "content": [{"type": "text", "text": PANDA}]}]
    chat = openai.OpenAI(base_url=aisa_sandbox.base_url, api_key=aisa_sandbox.api_key, max_retries=0)
    with chat:
        answer = chat.chat.completions.create(model="wan2.7-image", messages=messages, n=2)
        links = [part["image"] for choice in answer.choices for part in _parts(choice.message.content)]
        for link in links:
            assert opened(httpx.get(link, trust_env=False).content).size == (1024, 1024)
        with pytest.raises(openai.BadRequestError) as caught:
            chat.chat.completions.create(model="wan2.7-image", messages=[{"role": "user", "content": PANDA}])
    assert caught.value.code == "invalid_parameter_error"
    assert aisa_sandbox.billed == len(links) == 2


def _parts(content: Any) -> list[dict[str, str]]:
    """Return the typed parts, which the SDK passes on as they come."""
    return [part for part in content if part["type"] == "image"]
