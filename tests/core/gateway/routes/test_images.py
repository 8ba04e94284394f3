"""The images route: what goes out, and what an answer becomes."""

from __future__ import annotations

import json

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_aisa.core import typed_json
from airflow_provider_aisa.core.gateway.answers import MIB
from airflow_provider_aisa.core.gateway.request import ImageRequest
from airflow_provider_aisa.core.gateway.response import GeneratedImage, GenerationResponse
from airflow_provider_aisa.core.gateway.routes import generation as call_of
from airflow_provider_aisa.core.gateway.routes.images import read
from airflow_provider_aisa.exceptions import OutcomeUnknown

KEY = "sk-aisa-very-secret-1234"
HTML = "<!DOCTYPE html><html><head><title>\n 502 Bad\tgateway </title></head><body>nginx</body></html>"
EXAMPLE = {  # the response of the documentation
    "model": "seedream-4-5-251128",
    "created": 1776495432,
    "data": [{"url": "https://cdn.example/0.jpeg?signature=1", "size": "2048x2048"}],
    "usage": {"generated_images": 1, "output_tokens": 16384, "total_tokens": 16384},
}


def generation(body: object, *, n: int = 4, headers: dict[str, str] | None = None) -> GenerationResponse:
    request = ImageRequest.parse(prompt="a red panda", n=n, model="asked")
    return read(httpx.Response(200, json=body, headers=headers), request, api_key=KEY)


def read_bytes(content: bytes, **headers: str) -> GenerationResponse:
    request = ImageRequest.parse(prompt="a red panda", model="asked")
    return read(httpx.Response(200, content=content, headers=headers), request, api_key=KEY)


def test_the_documented_response_is_read_with_its_usage_verbatim() -> None:
    response = generation(EXAMPLE)
    assert (response.model, response.created) == ("seedream-4-5-251128", 1776495432)
    assert response.images == (GeneratedImage(0, url="https://cdn.example/0.jpeg?signature=1"),)
    assert response.available == response.images
    assert response.refused == ()
    assert response.usage == EXAMPLE["usage"]
    assert response.request_id is None


def test_usage_is_the_gateways_own_whatever_it_holds() -> None:
    usage = {"generated_images": "many", "new_field": {"a": [1.5, None]}}
    assert generation({**EXAMPLE, "usage": usage}).usage == usage


@pytest.mark.parametrize("usage", [None, [], "x", 1])
def test_usage_that_is_no_object_becomes_empty(usage: object) -> None:
    assert generation({**EXAMPLE, "usage": usage}).usage == {}


def test_a_response_without_model_created_and_usage_has_the_model_that_was_asked() -> None:
    response = generation({"data": []})
    assert (response.model, response.created, response.usage, response.images) == ("asked", None, {}, ())


def test_values_of_the_wrong_type_are_left_out() -> None:
    response = generation({**EXAMPLE, "model": 5, "created": "yesterday"})
    assert (response.model, response.created) == ("asked", None)


def test_entries_keep_their_index_and_errors_stand_in_place_of_images() -> None:
    data = [
        {"url": "https://cdn.example/0"},
        {"error": {"code": "OutputImageSensitiveContentDetected", "message": "refused: sk-aisa-12345678"}},
        {"b64_json": "aGk="},
        {"url": "", "b64_json": "aGk="},
    ]
    response = generation({"data": data})
    assert [image.index for image in response.available] == [0, 2, 3]
    assert [image.b64_json for image in response.available] == [None, "aGk=", "aGk="]
    (refused,) = response.refused
    assert not refused.is_image
    assert refused == GeneratedImage(
        1, error_code="OutputImageSensitiveContentDetected", error_message="refused: sk-***"
    )


@pytest.mark.parametrize(
    "entry", [{}, None, "https://cdn.example", [], 7, {"url": None}, {"b64_json": ""}, {"error": "x"}]
)
def test_an_entry_that_is_neither_is_counted_as_refused(entry: object) -> None:
    response = generation({"data": [entry]})
    assert response.available == ()
    assert response.refused[0].error_code == "empty_entry"


def test_an_error_without_code_and_message_says_so() -> None:
    (refused,) = generation({"data": [{"error": {}}]}).refused
    assert (refused.error_code, refused.error_message) == ("no code", "no message")


@pytest.mark.parametrize(
    ("body", "header", "found"), [("req_b", "req_h", "req_b"), (None, "req_h", "req_h"), (5, "", "5")]
)
def test_the_request_id_is_the_bodys_or_the_headers(body: object, header: str, found: str) -> None:
    assert generation({**EXAMPLE, "request_id": body}, headers={"x-request-id": header}).request_id == found


def test_neither_a_link_nor_base64_is_in_the_repr() -> None:
    """Whoever reads a signed link can fetch the image; reprs end up in logs."""
    response = generation({"data": [{"url": "https://cdn.example/?sig=1"}, {"b64_json": "aGk="}]})
    assert "sig=1" not in repr(response)
    assert "aGk=" not in repr(response)


@pytest.mark.parametrize(
    "content",
    [
        HTML.encode(),
        b"",
        b"{",
        json.dumps(EXAMPLE).encode()[:60],
        b"[]",
        b"null",
        b'"x"',
        b"{}",
        b'{"data": {}}',
        b"\xff",
        b"[" * 100_000,
    ],
)
def test_an_unreadable_success_is_an_unknown_outcome_and_never_a_result(content: bytes) -> None:
    """A proxy may have replaced the response of a request that was billed."""
    with pytest.raises(OutcomeUnknown, match="may have been billed") as caught:
        read_bytes(content, **{"x-request-id": "req_7"})
    assert (caught.value.status, caught.value.request_id) == (200, "req_7")
    assert "(request req_7)" in str(caught.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=3,
)
known = st.sampled_from(
    ["model", "created", "data", "usage", "error", "code", "message", "request_id", "url"]
)


@settings(max_examples=50)
@given(
    body=json_values
    | st.dictionaries(
        known, json_values | st.lists(st.dictionaries(known, json_values, max_size=2), max_size=2), max_size=4
    )
)
def test_any_json_is_a_response_or_one_of_our_errors(body: object) -> None:
    try:
        response = read_bytes(json.dumps(body).encode())
    except OutcomeUnknown:
        return
    assert len(response.available) + len(response.refused) == len(response.images)


@pytest.mark.parametrize("n", [1, 2])
def test_at_most_as_many_images_are_kept_as_were_asked_for_and_the_rest_is_counted(n: int) -> None:
    data = [{"error": {"code": "c"}}, *({"url": f"https://cdn.example/{each}"} for each in range(3_000))]
    response = generation({"data": data}, n=n)
    assert [image.index for image in response.available] == list(range(1, n + 1))
    assert (len(response.refused), response.delivered) == (1, 3_000)
    assert response.billed == 3_000
    assert generation({"data": data, "usage": {"generated_images": n}}, n=n).billed == n


def test_as_many_errors_are_kept_as_images_were_asked_for() -> None:
    response = generation({"data": [{"error": {"code": str(each)}} for each in range(3_000)]}, n=2)
    assert [image.error_code for image in response.refused] == ["0", "1"]
    assert (response.available, response.delivered) == ((), 0)


def test_usage_that_is_too_long_for_figures_keeps_what_is_billed() -> None:
    long = {"generated_images": 1, "x": ["y" * 100] * 1_000}
    assert generation({**EXAMPLE, "usage": long}).usage == {"generated_images": 1}
    assert generation({**EXAMPLE, "usage": {"x": "y" * 100_000}}).usage == {}


def test_a_link_that_is_too_long_to_be_one_is_no_image() -> None:
    assert generation({"data": [{"url": "https://cdn.example/" + "a" * 10_000}]}).available == ()


@pytest.mark.parametrize("figure", [True, -1, 10**100, 1.5, "2", None, [1]])
def test_a_figure_that_nobody_can_have_billed_counts_what_was_delivered(figure: object) -> None:
    response = generation({**EXAMPLE, "usage": {"generated_images": figure}})
    assert response.billed == 1
    assert not response.is_known_unbilled


@pytest.mark.parametrize("created", [True, -1, 10**100, 1.5, "1", None])
def test_a_time_that_is_none_is_left_out(created: object) -> None:
    assert generation({**EXAMPLE, "created": created}).created is None


def test_room_is_left_for_all_images_to_come_as_base64() -> None:
    requests = [ImageRequest.parse(prompt="a", n=n) for n in (1, 4, 5, 15, 999_999)]
    limits = [call_of(request).answer_limit // MIB for request in requests]
    assert limits == [64, 64, 80, 240, 256]


@pytest.mark.parametrize(
    ("usage", "billed"),
    [({"generated_images": 5}, 5), ({"generated_images": 0}, 0), ({}, 1), ({"generated_images": "2"}, 1)],
)
def test_the_gateways_figure_decides_what_was_billed_and_else_what_it_delivered(
    usage: dict[str, object], billed: int
) -> None:
    assert generation({**EXAMPLE, "usage": usage}).billed == billed


def test_a_response_survives_the_journal_and_its_links_are_gone_once_stored() -> None:
    data = [{"url": "https://cdn.example/0"}, {"error": {"code": "c", "message": "m"}}, {"b64_json": "aGk="}]
    response = generation({**EXAMPLE, "data": data, "request_id": "req_1"})
    kept = typed_json.dump(response)
    assert typed_json.load(GenerationResponse, json.loads(json.dumps(kept))) == response
    stored = response.without_links()
    assert stored.images == response.refused
    assert (stored.usage, stored.request_id, stored.created) == (EXAMPLE["usage"], "req_1", 1776495432)
