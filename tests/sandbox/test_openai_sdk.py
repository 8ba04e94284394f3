from __future__ import annotations

import httpx
import openai
import pytest

from airflow_provider_aisa.sandbox import Fault, Sandbox
from tests.sandbox.conftest import SEEDREAM, opened


@pytest.fixture
def client(aisa_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> openai.OpenAI:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return openai.OpenAI(base_url=aisa_sandbox.base_url, api_key=aisa_sandbox.api_key, max_retries=1)


def test_the_documents_python_example_yields_images_of_the_exact_size(
    aisa_sandbox: Sandbox, client: openai.OpenAI
) -> None:
    with client:
        answer = client.images.generate(
            model=SEEDREAM,
            prompt="A cute red panda, ultra-detailed, cinematic lighting",
            n=2,
            size="2304x1600",
        )
    assert answer.data is not None
    for item in answer.data:
        assert item.url is not None
        download = httpx.get(item.url, trust_env=False)
        assert opened(download.content).size == (2304, 1600)
        assert download.headers["Content-Type"] == "image/png"
    assert aisa_sandbox.billed == len(aisa_sandbox.cdn_requests) == 2


def test_the_sdk_lists_the_models(client: openai.OpenAI) -> None:
    with client:
        names = [model.id for model in client.models.list()]
    assert SEEDREAM in names
    assert {"wan2.7-image", "wan2.7-image-pro"} < set(names)
    assert any(name.startswith("gemini-") for name in names)


def test_the_sdk_understands_errors(client: openai.OpenAI) -> None:
    with client, pytest.raises(openai.BadRequestError, match="at least 3686400 pixels") as caught:
        client.images.generate(model=SEEDREAM, prompt="x", size="1024x1024")
    assert caught.value.code == "InvalidParameter"
    assert caught.value.request_id == "req_sandbox_00000001"


def test_the_sdk_retries_a_429_after_the_time_given(aisa_sandbox: Sandbox, client: openai.OpenAI) -> None:
    aisa_sandbox.inject(Fault("rate_limited", retry_after=0.05))
    with client:
        client.images.generate(model=SEEDREAM, prompt="x")
    assert [request.status for request in aisa_sandbox.requests] == [429, 200]
    assert aisa_sandbox.billed == 1
