"""What an author may name as a reference image, and what is refused before anybody looks."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_aisa.core.gateway.models import GEMINI, SEEDREAM, WAN
from airflow_provider_aisa.core.gateway.references import (
    Attachment,
    Reference,
    known_references,
    parse_references,
)
from airflow_provider_aisa.core.gateway.request import ImageRequest
from airflow_provider_aisa.core.gateway.retries import Unattached
from airflow_provider_aisa.core.gateway.routes import generation
from airflow_provider_aisa.exceptions import InvalidRequest

SECRET = "https://cdn.example.com/a.png?X-Amz-Signature=abcdef&X-Amz-Expires=60"


def uris(value: object) -> list[str]:
    return [one.uri for one in parse_references(value, WAN, model="wan2.7-image")]


def wan(**fields: Any) -> ImageRequest:
    return ImageRequest.parse(prompt="p", model="wan2.7-image", **fields)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, []),
        ("", []),
        ([], []),
        ("s3://bucket/a b/ü.png", ["s3://bucket/a b/ü.png"]),
        (("s3://bucket/a.png", " https://example.com/b.png?size=2 "),
         ["s3://bucket/a.png", "https://example.com/b.png?size=2"]),
        ('["s3://bucket/a.png"]', ["s3://bucket/a.png"]),
        ("http://127.0.0.1:9/a.png", ["http://127.0.0.1:9/a.png"]),
    ],
)  # fmt: skip
def test_s3_uris_and_https_urls_are_taken(value: object, expected: list[str]) -> None:
    assert uris(value) == expected


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (7, "is a int: use a list"),
        ({"a": 1}, "is a dict: use a list"),
        ("[", "no JSON"),
        ([None], "of type NoneType is neither"),
        ([b"\x89PNG"], "of type bytes is neither"),
        (["/tmp/a.png"], "use s3://bucket/key or an https URL"),
        (["data:image/png;base64,AAAA"], "use s3://bucket/key or an https URL"),
        (["s3://bucket"], "write a reference image as s3://bucket/key"),
        (["s3://bucket/a\nb"], "write a reference image as s3://bucket/key"),
        (["http://example.com/a.png"], "use https"),
        (["https://a b"], "without blanks"),
        (["https://"], "use s3://bucket/key or an https URL"),
        (["https://[::1"], "one is none"),
        ([f"https://example.com/{'a' * 3_000}"], "at most 2048"),
        (["s3://bucket/a.png"] * 10, "takes 9, and 10 are given"),
    ],
)
def test_anything_else_is_refused_with_what_to_use(value: object, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        uris(value)


@pytest.mark.parametrize(
    "link", [SECRET, "https://me:pass@example.com/a.png", "https://example.com/?Sig=abcdef"]
)
def test_a_link_that_is_a_secret_is_refused_and_not_shown(link: str) -> None:
    """It would stand in the DAG's rendered fields, in the database and in the journal."""
    with pytest.raises(InvalidRequest, match="use the S3 URI") as caught:
        uris([link])
    assert not {"abcdef", "pass"} & set(str(caught.value).replace("?", " ").replace("=", " ").split())


def test_a_model_without_them_names_those_that_take_some() -> None:
    with pytest.raises(InvalidRequest, match=r"leave reference_images out.*Wan and Gemini"):
        parse_references(["s3://b/k"], SEEDREAM, model="seedream-4-5-251128")


def test_which_images_and_which_versions_tell_purchases_apart() -> None:
    one = wan(reference_images=["s3://b/1.png"])
    pinned = [
        ImageRequest(**{**fields, "reference_images": references})
        for fields in [{name: getattr(one, name) for name in one.__slots__}]
        for references in [
            (),
            (Reference("s3://b/1.png", "v1"),),
            (Reference("s3://b/1.png", "v2"),),
            (Reference("s3://b/2.png", "v1"),),
            (Reference("https://e.com/1.png"),),
        ]
    ]
    assert len({request.fingerprint() for request in pinned}) == len(pinned)
    assert known_references(pinned[1].summary()) == [Reference("s3://b/1.png", "v1")]


@given(st.recursive(st.none() | st.integers() | st.text(max_size=5), st.lists, max_leaves=8))
def test_a_summary_of_any_shape_is_read_without_an_error(listed: object) -> None:
    assert all(isinstance(one, Reference) for one in known_references({"reference_images": listed}))


@given(st.recursive(st.none() | st.integers() | st.text(max_size=30), st.lists, max_leaves=8))
def test_any_value_is_a_list_of_references_or_a_typed_error(value: object) -> None:
    try:
        found = parse_references(value, GEMINI, model="gemini-x")
    except InvalidRequest:
        return
    assert len(found) <= GEMINI.most_references


def test_a_request_without_what_stands_for_its_images_cannot_be_sent() -> None:
    assert generation(wan(reference_images=["s3://b/1.png"])).json is Unattached.UNATTACHED


def test_wan_is_given_links_before_the_text_and_gemini_bytes_after_it() -> None:
    links = [Attachment("", link="https://l/1"), Attachment("", link="https://l/2")]
    request = wan(reference_images=["s3://b/1.png", "s3://b/2.png"])
    [message] = generation(request, attachments=links).json["messages"]
    assert message["content"] == [
        {"type": "image_url", "image_url": {"url": "https://l/1"}},
        {"type": "image_url", "image_url": {"url": "https://l/2"}},
        {"type": "text", "text": "p"},
    ]
    request = ImageRequest.parse(prompt="p", model="gemini-x", reference_images="s3://b/1.png")
    [content] = generation(request, attachments=[Attachment("image/png", data="AAAA")]).json["contents"]
    assert content["parts"] == [
        {"text": "p"},
        {"inline_data": {"mime_type": "image/png", "data": "AAAA"}},
    ]


def test_nothing_that_is_printed_shows_a_link_or_bytes() -> None:
    request = wan(reference_images=["s3://b/1.png"])
    attachments = [Attachment("image/png", link="https://l/secret", data="secret")]
    assert "secret" not in f"{attachments}{generation(request, attachments=attachments)}"
