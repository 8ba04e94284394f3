"""`extra_body` may change a picture, and never what is bought."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_aisa.core.gateway.extra import merged, parse_extra_body
from airflow_provider_aisa.core.gateway.models import Route
from airflow_provider_aisa.core.gateway.request import ImageRequest
from airflow_provider_aisa.core.gateway.routes import generation
from airflow_provider_aisa.exceptions import InvalidRequest

WATERMARK = {"watermark": False, "seed": 7}


@pytest.mark.parametrize("model", ["seedream-4-5-251128", "wan2.7-image", "gemini-9", "seedream-9"])
def test_further_fields_are_sent_and_are_part_of_what_is_bought(model: str) -> None:
    plain = ImageRequest.parse(prompt="p", model=model)
    request = ImageRequest.parse(prompt="p", model=model, extra_body=WATERMARK)
    sent, without = generation(request).json, generation(plain).json
    assert sent == {**without, **WATERMARK}
    assert request.fingerprint() != plain.fingerprint()
    assert request.summary()["extra_body"] == ["seed", "watermark"]


@pytest.mark.parametrize("value", [None, {}, "{}"])
def test_no_further_fields_leave_a_request_what_it_was(value: object) -> None:
    request = ImageRequest.parse(prompt="p", extra_body=value)
    assert request.fingerprint() == ImageRequest.parse(prompt="p").fingerprint()


def test_a_template_may_render_to_json() -> None:
    assert parse_extra_body('{"seed": 7}', Route.IMAGES) == {"seed": 7}


@pytest.mark.parametrize("route", Route)
@pytest.mark.parametrize("name", ["model", "n", "prompt", "stream", "N", "Model"])
def test_what_decides_about_the_bill_is_refused_on_every_route(route: Route, name: str) -> None:
    """Some JSON readers do not tell names apart by their case."""
    with pytest.raises(InvalidRequest, match=f"may not set '{name}'"):
        parse_extra_body({name: 2}, route)


@pytest.mark.parametrize(
    ("route", "body"),
    [
        (Route.IMAGES, {"size": "4096x4096"}),
        (Route.IMAGES, {"sequential_image_generation": "auto"}),
        (Route.CHAT, {"messages": []}),
        (Route.GENERATE_CONTENT, {"contents": []}),
        (Route.GENERATE_CONTENT, {"generationConfig": {"candidateCount": 4}}),
        (Route.GENERATE_CONTENT, {"generationConfig": {"responseModalities": ["TEXT"]}}),
        (Route.GENERATE_CONTENT, {"generationConfig": {"imageConfig": {"imageSize": "4K"}}}),
        (Route.GENERATE_CONTENT, {"generationConfig": None}),
        (Route.GENERATE_CONTENT, {"generation_config": {"candidateCount": 4}}),
        # Google reads each name in snake case, too.
        (Route.GENERATE_CONTENT, {"generationConfig": {"candidate_count": 4}}),
        (Route.GENERATE_CONTENT, {"generationConfig": {"image_config": {"imageSize": "4K"}}}),
        (Route.GENERATE_CONTENT, {"generationConfig": {"imageConfig": {"image_size": "4K"}}}),
        (Route.GENERATE_CONTENT, {"GenerationConfig": {"temperature": 0.4}}),
        (Route.IMAGES, {"sequentialImageGeneration": "auto"}),
        (Route.CHAT, {"numImages": 4}),
    ],
)
def test_what_this_package_sends_itself_is_refused(route: Route, body: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="extra_body may not"):
        parse_extra_body(body, route)


@pytest.mark.parametrize(
    "value",
    [5, [], "no JSON", "[]", {1: 2}, {"a": {1: 2}}, {"a": float("nan")}, {"a": b"x"}, {"a": "x" * 70_000}],
)
def test_what_is_no_json_object_is_refused(value: object) -> None:
    with pytest.raises(InvalidRequest, match="extra_body"):
        parse_extra_body(value, Route.IMAGES)


def test_a_body_of_endless_levels_is_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(50):
        deep = {"a": deep}
    with pytest.raises(InvalidRequest, match="levels deep"):
        parse_extra_body(deep, Route.IMAGES)


def test_objects_that_are_in_both_have_the_fields_of_both() -> None:
    assert merged({"a": {"b": 1}, "c": 2}, {"a": {"d": 3}}) == {"a": {"b": 1, "d": 3}, "c": 2}
