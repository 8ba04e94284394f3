from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from airflow_provider_aisa.core.gateway.models import DEFAULT_MODEL, GEMINI, WAN, Family
from airflow_provider_aisa.core.gateway.models import SEEDREAM as SEEDREAM_FAMILY
from airflow_provider_aisa.core.gateway.request import ImageRequest, parse_max_cost, parse_n, parse_size
from airflow_provider_aisa.exceptions import InvalidRequest, ModelNotRouted, OverBudget

SEEDREAM = "seedream-4-5-251128"
LIST_PRICE = Decimal("0.040")


def parse(**changes: Any) -> ImageRequest:
    return ImageRequest.parse(**{"prompt": "a red panda", **changes})


def refusal(kind: type[Exception] = InvalidRequest, **changes: Any) -> str:
    with pytest.raises(InvalidRequest) as caught:
        parse(**changes)
    assert type(caught.value) is kind
    return str(caught.value)


def test_a_request_is_what_the_documentation_shows() -> None:
    request = parse(size="2304x1600", n=2)
    assert request.identity() == {"model": SEEDREAM, "prompt": "a red panda", "n": 2, "size": "2304x1600"}
    assert (request.width, request.height, request.size) == (2304, 1600, "2304x1600")


def test_the_defaults_are_one_image_of_2048x2048() -> None:
    request = parse()
    assert (request.model, request.n, request.size) == (DEFAULT_MODEL, 1, "2048x2048")


@pytest.mark.parametrize("size", ["2048x2048", "2048X2048", "2048X2048 ", " 2048x2048\n", "1920x1920"])
def test_a_size_is_normalised(size: str) -> None:
    assert parse(size=size).size == size.strip().lower()


@pytest.mark.parametrize(
    ("size", "nearest"),
    [
        ("1024", "1920x1920"),
        ("2K", "2048x2048"),
        ("1k", "1920x1920"),
        ("4K", "4096x4096"),
        ("9K", "1920x1920"),
        ("2048*2048", "2048x2048"),
        ("2560×1440", "2560x1440"),  # noqa: RUF001 - what a word processor makes of an x
        ("0x9000000", "2048x2048"),
        ("-2048x-2048", "2048x2048"),
        ("２０４８x2048", "2048x2048"),  # noqa: RUF001 - full-width digits are the point
        ("2048x2048x3", "2048x2048"),
        ("02048x2048", "2048x2048"),
        ("2048 x 2048", "2048x2048"),
        ("2048.0x2048", "2048x2048"),
        ("big", "2048x2048"),
        ("", "2048x2048"),
        ("9" * 5_000 + "x1", "2048x2048"),
        ("1" + "0" * 9 + "x1", "2048x2048"),
        (None, "2048x2048"),
        (2048, "2048x2048"),
        ((2560, 1440), "2560x1440"),
        (b"2048x2048", "2048x2048"),
    ],
)
def test_a_malformed_size_is_refused_with_the_rule_and_a_size_that_works(size: object, nearest: str) -> None:
    message = refusal(size=size)
    assert message.startswith(f"size {size!r} is not WIDTHxHEIGHT in pixels")
    assert message.endswith(f"try '{nearest}'")
    assert parse(size=nearest).size == nearest


@pytest.mark.parametrize(
    ("size", "pixels", "nearest"),
    [
        ("1024x1024", "1,048,576", "1920x1920"),
        ("1919x1920", "3,684,480", "1920x1920"),
        ("1x1", "1", "1920x1920"),
    ],
)
def test_a_size_below_the_minimum_is_refused_with_both_figures(size: str, pixels: str, nearest: str) -> None:
    assert refusal(size=size) == (
        f"size {size!r} has {pixels} pixels; {SEEDREAM} needs at least 3,686,400: try '{nearest}'"
    )


def test_only_the_shape_of_a_size_is_checked_when_the_model_has_no_rule() -> None:
    assert parse(model="seedream-9", size="64x64").size == "64x64"
    message = refusal(model="seedream-9", size="64")
    assert message.endswith("try '64x64'")


@given(size=st.from_regex(r"\A[0-9xX*+-]{0,12}\Z") | st.text(max_size=12))
@example("٢٠٤٨x2048")  # noqa: RUF001 - digits, but not ours
@example("2048x2048\n")
def test_no_size_is_accepted_but_two_whole_numbers_joined_by_x(size: str) -> None:
    try:
        width, height = parse_size(size, model="seedream-9", spec=None)
    except InvalidRequest:
        return
    assert re.fullmatch(r"[1-9][0-9]*x[1-9][0-9]*", size.strip().lower(), re.ASCII)
    assert f"{width}x{height}" == size.strip().lower()


@given(
    size=st.one_of(st.text(), st.integers(), st.floats(), st.none(), st.binary(), st.tuples(st.integers()))
)
def test_whatever_is_given_as_a_size_is_accepted_or_refused_with_one_that_works(size: object) -> None:
    try:
        parse(size=size)
    except InvalidRequest as error:
        parse(size=re.findall(r"try '(.*)'$", str(error))[0])


@pytest.mark.parametrize(("n", "number"), [(1, 1), (4, 4), ("3", 3), (" 3 ", 3), ("999999", 999_999)])
def test_n_is_a_whole_number_or_a_string_of_one(n: object, number: int) -> None:
    assert parse(n=n).n == number


@pytest.mark.parametrize(
    "n", [0, -1, 1.5, 1.0, "two", "", "0", "-1", "1.5", "03", "٣", "1000000", True, False, None, [1]]
)
def test_what_is_no_number_of_images_is_refused(n: object) -> None:
    message = refusal(n=n)
    assert message.startswith(f"n {n!r} is not a number of images: use a whole number from 1")


@given(st.one_of(st.text(), st.floats(), st.integers(), st.booleans()))
def test_an_accepted_n_is_at_least_one(n: object) -> None:
    try:
        number = parse_n(n)
    except InvalidRequest:
        return
    assert number >= 1
    assert str(number) == str(n).strip()


@pytest.mark.parametrize("prompt", ["", " ", "\n\t", "\u3000"])
def test_a_blank_prompt_is_refused(prompt: str) -> None:
    assert refusal(prompt=prompt).startswith("prompt is blank: say what to draw")


@pytest.mark.parametrize(("prompt", "kind"), [(None, "NoneType"), (7, "int"), (b"cat", "bytes")])
def test_a_prompt_that_is_no_text_is_refused(prompt: object, kind: str) -> None:
    assert refusal(prompt=prompt).startswith(f"prompt is a {kind}, not a string")


def test_a_lone_surrogate_is_refused_with_its_position_before_anything_can_be_sent() -> None:
    assert "position 3 that is not valid Unicode" in refusal(prompt="cat\ud83d")


@pytest.mark.parametrize("prompt", [" kept as it is \n", "дом", "🐼" * 3, "a.json", "{{ not rendered }}"])
def test_a_prompt_is_sent_as_it_was_written(prompt: str) -> None:
    assert parse(prompt=prompt).identity()["prompt"] == prompt


@pytest.mark.parametrize(
    ("family", "model", "words"),
    [
        (SEEDREAM_FAMILY, "wan2.7-image", f"Use WanGenerateOperator, or another model such as {SEEDREAM}: "),
        (SEEDREAM_FAMILY, "gemini-9", f"Use GeminiGenerateOperator, or another model such as {SEEDREAM}: "),
        (WAN, SEEDREAM, "Use SeedreamGenerateOperator, or another model such as wan2.7-image, "),
        (GEMINI, "wan2.7-image-pro", "Use WanGenerateOperator, or another model such as gemini-3-pro-image"),
    ],
)
def test_a_model_of_another_family_is_refused_with_the_operator_to_use(
    family: Family, model: str, words: str
) -> None:
    message = refusal(ModelNotRouted, model=model, family=family)
    assert message.startswith(words)
    assert message.endswith(f"and {family.operator} generates with {family.name}")


def test_each_family_takes_its_own_parameters() -> None:
    wan = parse(model="wan2.7-image", n=4)
    gemini = parse(model="gemini-3-pro-image-preview", n=9, aspect_ratio=" 16:9 ", image_size="2K")
    assert (wan.size, wan.n, wan.options) == (None, 4, {})
    assert (gemini.size, gemini.options) == (None, {"aspect_ratio": "16:9", "image_size": "2K"})
    assert gemini.identity() == {
        "model": "gemini-3-pro-image-preview",
        "prompt": "a red panda",
        "n": 9,
        "aspect_ratio": "16:9",
        "image_size": "2K",
    }


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "wan2.7-image", "size": "2048x2048"}, "leave size out: wan2.7-image takes none"),
        ({"model": "wan2.7-image", "n": 5}, "a request to wan2.7-image makes at most 4 images"),
        ({"model": "wan2.7-image", "aspect_ratio": "1:1"}, "leave aspect_ratio out"),
        ({"model": "gemini-9", "size": "2048x2048"}, "use aspect_ratio and image_size"),
        ({"model": "gemini-9", "aspect_ratio": "2:1"}, "'2:1' is unknown to gemini-9: use one of 1:1, 2:3"),
        ({"model": "gemini-9", "image_size": 2}, "image_size 2 is unknown"),
        ({"image_size": "2K"}, "leave image_size out: seedream-4-5-251128 takes none; use size"),
    ],
)
def test_what_another_family_takes_is_refused(changes: dict[str, Any], words: str) -> None:
    assert words in refusal(**changes)


def test_a_request_for_one_image_each_falls_into_requests_with_fingerprints_of_their_own() -> None:
    several = parse(model="gemini-9", n=3)
    parts = several.parts()
    assert [(part.n, part.number) for part in parts] == [(1, 0), (1, 1), (1, 2)]
    assert len({part.fingerprint() for part in parts}) == 3
    assert parts[0].fingerprint() == parse(model="gemini-9").fingerprint()
    assert parse(model="wan2.7-image", n=3).parts() == (parse(model="wan2.7-image", n=3),)
    with pytest.raises(InvalidRequest, match="leave n out, and ask once for each image"):
        several.check_single()


@pytest.mark.parametrize("model", ["", " ", None, 4, True])
def test_what_is_no_model_id_is_refused_with_one_that_works(model: object) -> None:
    assert refusal(model=model) == f"model {model!r} is not a model id: use '{SEEDREAM}'"


def test_a_model_that_is_newer_than_this_package_passes() -> None:
    request = parse(model="seedream-9")
    assert request.model == "seedream-9"
    assert not request.is_known_model
    assert parse().is_known_model


requests = st.builds(
    ImageRequest.parse,
    prompt=st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4).filter(
        str.strip
    ),
    size=st.sampled_from(["2048x2048", "2304x1600", "1600x2304"]),
    n=st.integers(1, 3),
    model=st.sampled_from([SEEDREAM, "seedream-9"]),
)


@given(one=requests, other=requests)
@example(one=parse(prompt="1", n=1), other=parse(prompt="1", n="1"))
@example(one=parse(prompt="é"), other=parse(prompt="e\u0301"))
def test_fingerprints_are_equal_if_and_only_if_what_they_ask_for_is(
    one: ImageRequest, other: ImageRequest
) -> None:
    assert (one.fingerprint() == other.fingerprint()) == (one.identity() == other.identity())
    assert re.fullmatch(r"[0-9a-f]{64}", one.fingerprint())


def test_a_fingerprint_is_the_same_in_every_version() -> None:
    """A journal outlives a release: another fingerprint for the same request would pay again."""
    fingerprint = parse(prompt="рыжая панда", size="2304x1600", n=2).fingerprint()
    assert fingerprint == "f5294ab938b08c8a9bf12ec4ff565e6a6beebe6460d74f33a5c65c4981b09a54"


@given(requests)
def test_what_a_request_asks_for_is_json(request_: ImageRequest) -> None:
    assert json.loads(json.dumps(request_.identity())) == request_.identity()


def test_a_summary_is_the_payload_with_the_beginning_of_the_prompt() -> None:
    request = parse(prompt="x" * 1_000, n=2)
    assert request.summary() == {**request.identity(), "prompt": "x" * 200}


def test_the_price_is_the_connections_before_the_list_price_and_never_zero_when_unknown() -> None:
    assert parse().price_usd({}) == LIST_PRICE
    assert parse().price_usd({SEEDREAM: Decimal("0.01")}) == Decimal("0.01")
    assert parse(model="seedream-9").price_usd({}) is None
    assert parse(model="seedream-9").price_usd({"seedream-9": Decimal(0)}) == 0


@pytest.mark.parametrize("limit", [None, 0.12, "0.12", " 0.12 ", Decimal("0.12"), "0.120", 1, "1e0"])
def test_a_request_that_costs_no_more_than_its_limit_passes(limit: object) -> None:
    parse(n=3).check_budget(limit, LIST_PRICE)


def test_three_times_a_tenth_is_three_tenths() -> None:
    """Not so in binary: there the request would cost more than its limit."""
    assert 3 * 0.1 > 0.3
    parse(n=3).check_budget(0.3, Decimal("0.1"))


@pytest.mark.parametrize("limit", [0.1199, "0.11", 0, "0"])
def test_a_request_over_its_limit_is_refused_with_both_figures(limit: object) -> None:
    with pytest.raises(OverBudget) as caught:
        parse(n=3).check_budget(limit, LIST_PRICE)
    assert str(caught.value) == (
        f"Raise max_cost_usd, or ask for fewer images: it is {limit} USD, and 3 image(s) of {SEEDREAM} at "
        "0.040 USD cost 0.120 USD. Nothing was sent."
    )


def test_a_limit_on_an_unknown_price_is_refused_with_where_to_put_the_price() -> None:
    with pytest.raises(OverBudget) as caught:
        parse(model="seedream-9").check_budget("0.5", None)
    assert str(caught.value).startswith('Add "prices": {"seedream-9": 0.04} to the AIsa connection')
    assert "max_cost_usd is 0.5 USD, and the price of model 'seedream-9' is not known" in str(caught.value)


def test_without_a_limit_an_unknown_price_passes() -> None:
    parse(model="seedream-9").check_budget(None, None)


@pytest.mark.parametrize(
    "limit", ["", "  ", True, False, float("nan"), float("inf"), "NaN", "sNaN", "-1", -0.01, "cheap", [], {}]
)
def test_what_is_no_amount_is_refused_and_never_lifts_the_limit(limit: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse().check_budget(limit, LIST_PRICE)
    assert type(caught.value) is InvalidRequest
    assert str(caught.value).startswith(f"max_cost_usd {limit!r} is not an amount in USD")


@given(n=st.integers(1, 10_000), cents=st.integers(1, 10_000))
def test_a_limit_is_exact_to_the_last_digit(n: int, cents: int) -> None:
    request, price = parse(n=n), Decimal(cents) / 1000
    request.check_budget(str(price * n), price)
    below = price * n - Decimal("0.000001")
    assume(below >= 0)
    with pytest.raises(OverBudget):
        request.check_budget(str(below), price)


def test_a_float_limit_means_the_digits_that_were_written() -> None:
    assert parse_max_cost(0.1) == Decimal("0.1")
