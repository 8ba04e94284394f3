from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_aisa.core.gateway.models import (
    DEFAULT_MODEL,
    DEFAULT_SIZE,
    MODELS,
    MinPixels,
    Route,
    find_model,
)

RULE = MinPixels(3_686_400)
side = st.integers(min_value=1, max_value=5_000)


@pytest.mark.parametrize(("width", "height"), [(1920, 1920), (2304, 1600), (2560, 1440), (3_686_400, 1)])
def test_a_size_that_is_exactly_the_minimum_is_allowed(width: int, height: int) -> None:
    assert width * height == RULE.pixels
    assert RULE.allows(width, height)
    assert not RULE.allows(width, height - 1)
    assert RULE.nearest(width, height) == (width, height)


@pytest.mark.parametrize(
    ("asked", "nearest"),
    [
        ((1024, 1024), (1920, 1920)),
        ((1919, 1920), (1920, 1920)),
        ((1600, 900), (2560, 1440)),
        ((900, 1600), (1440, 2560)),
        ((1, 1), (1920, 1920)),
        ((1_000_000, 1), (1_843_200, 2)),
    ],
)
def test_the_nearest_size_is_the_one_a_person_would_name(
    asked: tuple[int, int], nearest: tuple[int, int]
) -> None:
    assert RULE.nearest(*asked) == nearest


@given(width=side, height=side)
def test_the_nearest_size_is_allowed_and_neither_a_row_nor_a_column_can_be_spared(
    width: int, height: int
) -> None:
    wide, high = RULE.nearest(width, height)
    assert RULE.allows(wide, high)
    if not RULE.allows(width, height):
        assert not RULE.allows(wide - 1, high)
        assert not RULE.allows(wide, high - 1)


@given(width=st.integers(100, 1_600), height=st.integers(100, 1_600))
def test_the_nearest_size_keeps_the_shape_within_one_percent(width: int, height: int) -> None:
    wide, high = RULE.nearest(width, height)
    assert (wide / high) / (width / height) == pytest.approx(1, rel=0.01)


@given(pixels=st.integers(1, 10**12), width=st.integers(1, 10**9), height=st.integers(1, 10**9))
def test_the_nearest_size_of_any_rule_is_allowed(pixels: int, width: int, height: int) -> None:
    """Exact arithmetic: no float is between a size and its number of pixels."""
    rule = MinPixels(pixels)
    assert rule.allows(*rule.nearest(width, height))


@pytest.mark.parametrize(
    ("model", "route", "price"),
    [
        ("seedream-4-5-251128", Route.IMAGES, "0.040"),
        ("wan2.7-image", Route.CHAT, "0.030"),
        ("wan2.7-image-pro", Route.CHAT, "0.075"),
        ("wan9", Route.CHAT, None),
        ("gemini-3-pro-image-preview", Route.GENERATE_CONTENT, "0.100"),
        ("gemini-9", Route.GENERATE_CONTENT, None),
    ],
)
def test_a_known_model_has_its_route_and_list_price(model: str, route: Route, price: str | None) -> None:
    spec = find_model(model)
    assert spec is not None
    assert (spec.route, spec.price_usd) == (route, None if price is None else Decimal(price))


def test_a_model_that_nobody_has_heard_of_has_no_spec() -> None:
    assert find_model("seedream-9") is None


def test_the_default_size_is_allowed_for_the_default_model() -> None:
    rule = MODELS[DEFAULT_MODEL].size
    assert rule == RULE
    assert rule is not None
    assert rule.allows(*map(int, DEFAULT_SIZE.split("x")))
