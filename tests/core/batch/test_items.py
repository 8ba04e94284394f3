"""What an author writes becomes a request, an id and a place; what is wrong is told without the prompt."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from airflow_provider_aisa.core.batch.spec import MAX_ID, ItemDefaults, parse_id
from airflow_provider_aisa.core.gateway.models import DEFAULT_MODEL
from airflow_provider_aisa.core.gateway.request import ImageRequest
from airflow_provider_aisa.core.layout import Target
from airflow_provider_aisa.exceptions import InvalidRequest

SECRET = "a prompt that nobody else may read"
DEFAULTS = ItemDefaults(
    size="2048x2048", n=1, model=DEFAULT_MODEL, target=Target("b", "out/{id}/{index}.{ext}")
)


def key_of(raw: object, target: str = "out/{id}/{index}.{ext}", n: object = 1) -> str:
    item = replace(DEFAULTS, target=Target("b", target), n=n).read(raw)
    return item.target.key(index=0, ext="png", sha256="5", several=item.request.n > 1)


def refusal_of(raw: object, **defaults: Any) -> str:
    with pytest.raises(InvalidRequest) as caught:
        replace(DEFAULTS, **defaults).read(raw)
    return str(caught.value)


def test_a_prompt_alone_has_the_defaults_of_the_batch() -> None:
    item = replace(DEFAULTS, size="1920x1920", n="3").read("A fox")
    assert item.request == ImageRequest("A fox", 1920, 1920, 3, DEFAULT_MODEL)
    assert not item.is_given


def test_an_item_says_otherwise_field_by_field() -> None:
    item = DEFAULTS.read(
        {"prompt": "A fox", "id": "sku-1", "size": "2560x1440", "n": 2, "model": "new", "s3_key": "to/{id}/"}
    )
    assert item.request == ImageRequest("A fox", 2560, 1440, 2, "new")
    assert (item.id, item.is_given) == ("sku-1", True)
    assert item.target == Target("b", "to/sku-1/sku-1/{index}.{ext}")


def test_a_field_that_is_null_means_the_default() -> None:
    nulls = dict.fromkeys(("id", "size", "n", "model", "s3_key"))
    assert DEFAULTS.read({"prompt": "A fox", **nulls}) == DEFAULTS.read("A fox")


def test_an_id_that_is_derived_stays_the_same_in_every_version() -> None:
    # A changed rule would make every running batch pay anew.
    assert DEFAULTS.read("A fox").id == "647936ba127e2c9e"


@pytest.mark.parametrize(
    "other",
    [
        {"prompt": "A fox"},
        {"prompt": "A fox", "n": 1},
        {"prompt": "A fox", "n": "1"},
        {"size": " 2048X2048 ", "prompt": "A fox"},
        {"prompt": "A fox", "model": DEFAULT_MODEL, "s3_key": "elsewhere/"},
    ],
)
def test_ids_are_derived_from_what_is_generated_however_it_is_written(other: object) -> None:
    assert DEFAULTS.read(other).id == DEFAULTS.read("A fox").id


@pytest.mark.parametrize(
    "other",
    [
        "a fox",
        "A fox ",
        {"prompt": "A fox", "n": 2},
        {"prompt": "A fox", "size": "2048x2049"},
        {"prompt": "A fox", "model": "new"},
    ],
)
def test_requests_for_other_images_have_other_ids(other: object) -> None:
    assert DEFAULTS.read(other).id != DEFAULTS.read("A fox").id


def test_a_default_and_the_same_value_in_the_item_make_the_same_id() -> None:
    assert replace(DEFAULTS, n=2).read("A fox").id == DEFAULTS.read({"prompt": "A fox", "n": 2}).id


@pytest.mark.parametrize(
    ("given", "item_id"),
    [("sku-1", "sku-1"), (7, "7"), (0, "0"), (-1, "-1"), (2**63 - 1, "9223372036854775807"), ("ä b", "ä b")],
)
def test_an_id_is_text_or_a_whole_number(given: object, item_id: str) -> None:
    assert parse_id(given) == item_id
    assert DEFAULTS.read({"prompt": "A fox", "id": given}).id == item_id


@pytest.mark.parametrize(
    "wrong", ["", "  ", "a\nb", "a\x00", "\ud800", "x" * (MAX_ID + 1), True, 1.5, ["a"], {"a": 1}, b"a"]
)
def test_what_is_no_id_is_refused_and_shown_in_short(wrong: object) -> None:
    message = refusal_of({"prompt": SECRET, "id": wrong})
    assert message.endswith("is no id: use 1 to 200 printable characters, or a whole number")
    assert len(message) < 200
    assert SECRET not in message


def test_the_longest_id_is_kept_whole() -> None:
    assert parse_id("x" * MAX_ID) == "x" * MAX_ID


@pytest.mark.parametrize(
    ("raw", "default", "key"),
    [
        ({"prompt": "p", "id": "a"}, "out/{id}/{index}.{ext}", "out/a/0.png"),
        ({"prompt": "p", "id": "a"}, "{id}.{ext}", "a.png"),
        ({"prompt": "p", "id": "a", "n": 2}, "{id}.{ext}", "a-0.png"),
        ({"prompt": "p", "id": "a", "s3_key": "my/"}, "out/{id}.{ext}", "my/a/0.png"),
        ({"prompt": "p", "id": "a", "s3_key": "my.png"}, "out/{id}.{ext}", "my.png"),
        ({"prompt": "p", "id": "a", "s3_key": "{id}-{index}"}, "out/{id}.{ext}", "a-0"),
        ({"prompt": "p", "id": "a", "s3_key": "s3://b/x/{id}.{ext}"}, "out/{id}.{ext}", "x/a.png"),
        ({"prompt": "p", "id": "a", "s3_key": "s3://b"}, "out/{id}.{ext}", "a/0.png"),
    ],
)
def test_an_items_images_go_where_it_or_the_batch_says(raw: object, default: str, key: str) -> None:
    assert key_of(raw, default) == key


def test_ids_that_are_no_names_for_s3_still_lead_to_different_keys() -> None:
    ids = ["a/b", "a b", "a_b", "..", ".", "{index}", "{id}", "ä", "ö"]
    keys = {key_of({"prompt": "p", "id": item_id}) for item_id in ids}
    assert len(keys) == len(ids)
    assert all(key.count("/") == 2 for key in keys)


def test_an_item_in_another_bucket_is_refused_with_both_names() -> None:
    message = refusal_of({"prompt": SECRET, "s3_key": "s3://other/{id}.png"})
    assert "'other'" in message
    assert "'b'" in message
    assert SECRET not in message


def test_an_id_that_makes_keys_too_long_is_refused() -> None:
    message = refusal_of({"prompt": SECRET, "id": "x" * 200}, target=Target("b", "{id}" * 6))
    assert "more than 1024 bytes" in message


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (None, "is a NoneType: use a prompt, or a dict of prompt, id, size, n, model, s3_key"),
        (7, "is a int: use a prompt"),
        ([SECRET], "is a list: use a prompt"),
        ({}, "has no prompt: say what to draw"),
        ({"prompt": None, "id": "a"}, "has no prompt"),
        ({"prompt": "  "}, "prompt is blank"),
        ("", "prompt is blank"),
        ({"prompt": [SECRET]}, "prompt is a list, not a string"),
        ({"prompt": f"{SECRET}\ud83d"}, "not valid Unicode"),
        ({"prompt": SECRET, "promt": "x"}, "has 'promt', which means nothing here: use prompt, id, size"),
        ({"prompt": SECRET, 5: "x"}, "has '5', which means nothing here"),
        ({"prompt": SECRET, "x" * 1_000: 1}, f"has '{'x' * 50}', which"),
        ({"prompt": SECRET, "size": "2K"}, "try '2048x2048'"),
        ({"prompt": SECRET, "size": ""}, "is not WIDTHxHEIGHT"),
        ({"prompt": SECRET, "size": "512x512"}, "needs at least 3,686,400: try '1920x1920'"),
        ({"prompt": SECRET, "n": 0}, "n 0 is not a number of images"),
        ({"prompt": SECRET, "n": True}, "n True is not a number of images"),
        ({"prompt": SECRET, "n": 1.5}, "n 1.5 is not a number of images"),
        ({"prompt": SECRET, "model": ""}, "model '' is not a model id"),
        ({"prompt": SECRET, "s3_key": ""}, "None: s3_key is ''"),
        ({"prompt": SECRET, "s3_key": "{name}.png"}, "nobody fills in {name}"),
        ({"prompt": SECRET, "s3_key": 5}, "None: s3_key is 5"),
    ],
)
def test_what_is_wrong_with_an_item_is_told_without_its_prompt(raw: object, words: str) -> None:
    message = refusal_of(raw)
    assert words in message
    assert SECRET not in message


def test_an_item_may_be_of_any_family_and_the_defaults_of_others_do_not_reach_it() -> None:
    wan = DEFAULTS.read({"prompt": "A fox", "model": "wan2.7-image"}).request
    gemini = DEFAULTS.read({"prompt": "A fox", "n": 1, "model": "gemini-9", "aspect_ratio": "16:9"}).request
    assert (wan.size, wan.n) == (None, DEFAULTS.n)
    assert (gemini.size, gemini.options) == (None, {"aspect_ratio": "16:9"})


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ({"model": "wan2.7-image", "size": "1920x1920"}, "leave size out: wan2.7-image takes none"),
        ({"model": "gemini-9", "n": 2}, "an item with an id of its own"),
        ({"model": "wan2.7-image", "extra_body": {"n": 4}}, "extra_body may not set 'n'"),
    ],
)
def test_an_item_is_refused_what_its_family_does_not_take(item: dict[str, Any], words: str) -> None:
    assert words in refusal_of({"prompt": "A fox", **item})


def test_a_number_of_thousands_of_digits_is_no_id() -> None:
    assert "is no id" in refusal_of({"prompt": "A fox", "id": 10**5_000})
