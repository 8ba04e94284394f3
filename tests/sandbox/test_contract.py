from __future__ import annotations

import json
import time

import httpx
import pytest

from tests.sandbox.conftest import SEEDREAM, Api, error

VALID = {"model": SEEDREAM, "prompt": "x"}


@pytest.mark.parametrize(
    ("body", "status", "code", "words"),
    [
        ({"prompt": "x"}, 400, "missing_parameter", "model is required"),
        ({"model": SEEDREAM}, 400, "missing_parameter", "prompt is required"),
        ({**VALID, "prompt": 1}, 400, "invalid_parameter_type", "prompt must be a string"),
        ({**VALID, "size": None}, 400, "invalid_parameter_type", "size must be a string"),
        ({**VALID, "n": "1"}, 400, "invalid_parameter_type", "n must be an integer"),
        ({**VALID, "n": True}, 400, "invalid_parameter_type", "n must be an integer"),
        ({**VALID, "n": 1.5}, 400, "invalid_parameter_type", "n must be an integer"),
        ({**VALID, "n": 0}, 400, "InvalidParameter", "n must be at least 1"),
        ({**VALID, "n": 65}, 400, "InvalidParameter", "n must be at most 64 here"),
        ({**VALID, "size": "1024"}, 400, "invalid_request", "size must be WIDTHxHEIGHT, got '1024'"),
        ({**VALID, "size": "2K"}, 400, "invalid_request", "size must be WIDTHxHEIGHT, got '2K'"),
        ({**VALID, "size": "0x0"}, 400, "invalid_request", "size must be WIDTHxHEIGHT, got '0x0'"),
        ({**VALID, "size": "9" * 5000}, 400, "invalid_request", f"got '{'9' * 50}'"),
        (
            {**VALID, "size": "1024x1024"},
            400,
            "InvalidParameter",
            "image size must be at least 3686400 pixels",
        ),
        (
            {**VALID, "size": "1919x1921"},
            400,
            "InvalidParameter",
            "image size must be at least 3686400 pixels",
        ),
        ({**VALID, "size": "8193x8192"}, 400, "InvalidParameter", "at most 67108864 pixels in the sandbox"),
        ({**VALID, "model": "dall-e-3"}, 404, "unknown_model", "unknown model 'dall-e-3'"),
        ({**VALID, "model": "wan2.7-image"}, 404, "openai_error", "use /v1/chat/completions"),
        ({**VALID, "model": "wan2.7-image-pro"}, 404, "openai_error", "use /v1/chat/completions"),
        ({**VALID, "model": "gemini-2.5-flash-image"}, 404, "openai_error", "use /v1beta/models/"),
        ([], 400, "invalid_parameter_type", "the body must be a JSON object"),
    ],
)
def test_a_wrong_request_gets_the_documented_error_and_no_bill(
    api: Api, body: object, status: int, code: str, words: str
) -> None:
    response = api.http.post("/images/generations", json=body)
    assert error(response)[:2] == (status, code)
    assert words in error(response)[2]
    assert api.sandbox.ledger == []


def test_a_size_that_is_too_small_is_refused_in_exactly_the_documented_words(api: Api) -> None:
    assert error(api.generate(size="1536x1536")) == (
        400,
        "InvalidParameter",
        "image size must be at least 3686400 pixels",
    )


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"n": NaN}', b"[" * 100_000, b"1" * 5000])
def test_broken_json_is_json_parse_error(api: Api, content: bytes) -> None:
    response = api.http.post(
        "/images/generations", content=content, headers={"Content-Type": "application/json"}
    )
    assert error(response)[:2] == (400, "json_parse_error")


def test_another_content_type_is_refused(api: Api) -> None:
    response = api.http.post("/images/generations", data={"prompt": "x"})
    assert error(response)[:2] == (400, "invalid_request")


def test_a_body_above_one_mebibyte_is_refused(api: Api) -> None:
    assert error(api.generate(prompt="x" * 2**20)) == (
        400,
        "invalid_request",
        "the body is larger than 1 MiB, or incomplete",
    )


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (None, "missing_api_key"),
        ("", "missing_api_key"),
        ("Bearer sk-aisa-another", "invalid_api_key"),
        ("Basic sk-aisa-sandbox", "invalid_api_key"),
        ("sk-aisa-sandbox", "invalid_api_key"),
    ],
)
@pytest.mark.parametrize(("method", "path"), [("POST", "/images/generations"), ("GET", "/models")])
def test_a_request_without_the_right_key_is_401(
    api: Api, method: str, path: str, header: str | None, code: str
) -> None:
    headers = {} if header is None else {"Authorization": header}
    response = httpx.request(
        method, api.sandbox.base_url + path, headers=headers, json=VALID, trust_env=False
    )
    assert error(response)[:2] == (401, code)
    assert api.sandbox.billed == 0


def test_the_keys_scheme_is_case_insensitive(api: Api) -> None:
    assert api.http.get("/models", headers={"Authorization": "bearer sk-aisa-sandbox"}).status_code == 200


@pytest.mark.parametrize("path", ["/completions", "/images/edits", "/images/generations/1", "/"])
def test_an_unknown_endpoint_is_404(api: Api, path: str) -> None:
    assert error(api.http.post(path, json=VALID))[:2] == (404, "unknown_endpoint")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/images/generations", "POST"),
        ("DELETE", "/images/generations", "POST"),
        ("POST", "/models", "GET"),
    ],
)
def test_a_wrong_method_is_405_and_names_the_right_one(
    api: Api, method: str, path: str, allowed: str
) -> None:
    response = api.http.request(method, path)
    assert error(response)[:2] == (405, "method_not_allowed")
    assert response.headers["Allow"] == allowed


def test_the_response_has_the_documented_shape(api: Api) -> None:
    body = api.generate(n=3, size="2560x1920").json()
    assert list(body) == ["model", "created", "data", "usage"]
    assert body["model"] == SEEDREAM
    assert abs(body["created"] - time.time()) < 10
    assert [entry["size"] for entry in body["data"]] == ["2560x1920"] * 3
    assert len({entry["url"] for entry in body["data"]}) == 3
    assert body["usage"] == {"generated_images": 3, "output_tokens": 57_600, "total_tokens": 57_600}


def test_n_is_1_and_size_2048x2048_unless_given(api: Api) -> None:
    body = api.http.post("/images/generations", json=VALID).json()
    assert [entry["size"] for entry in body["data"]] == ["2048x2048"]
    assert body["usage"] == {"generated_images": 1, "output_tokens": 16_384, "total_tokens": 16_384}


@pytest.mark.parametrize("size", ["1920x1920", "2304x1600", "1x3686400", "8192x8192"])
def test_every_shape_between_the_bounds_is_accepted(api: Api, size: str) -> None:
    assert api.generate(size=size).json()["data"][0]["size"] == size


@pytest.mark.parametrize("prompt", ["", "\x00", "\ud800", "🐼 レッサーパンダ", "x" * 100_000])
def test_any_string_is_a_prompt(api: Api, prompt: str) -> None:
    response = api.http.post(
        "/images/generations",
        content=json.dumps({**VALID, "prompt": prompt}),  # httpx itself cannot encode a lone surrogate
        headers={"Content-Type": "application/json"},
    )
    assert api.cdn.get(response.json()["data"][0]["url"]).status_code == 200
    assert api.sandbox.ledger[0].prompt == prompt
