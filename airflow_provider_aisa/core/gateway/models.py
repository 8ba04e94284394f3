"""The rules of the gateway's models are data; the code that applies them is one function each.

Prices, routes and the size rule: https://aisa.one/docs, "OpenAI-Compatible Image Generations".
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from math import isqrt
from types import MappingProxyType
from typing import Final


class Route(StrEnum):
    """An endpoint of the gateway that generates images."""

    IMAGES = "POST /v1/images/generations"
    CHAT = "POST /v1/chat/completions"
    GENERATE_CONTENT = "POST /v1beta/models/{model}:generateContent"


@dataclass(frozen=True, slots=True)
class MinPixels:
    """The size rule of Seedream: any shape, as long as width x height reaches ``pixels``."""

    pixels: int

    def allows(self, width: int, height: int) -> bool:
        """Return whether an image of this size (in pixels) may be asked for."""
        return width * height >= self.pixels

    def nearest(self, width: int, height: int) -> tuple[int, int]:
        """Return the smallest allowed size of about the same shape."""
        if self.allows(width, height):
            return width, height
        high = -(-self.pixels // _ceil_sqrt(self.pixels * width, height))
        return -(-self.pixels // high), high


def _ceil_sqrt(numerator: int, denominator: int) -> int:
    """Return the smallest integer whose square is at least numerator / denominator, exactly."""
    return isqrt(-(-numerator // denominator) - 1) + 1


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What is known of a model: its route, its price per image in USD, and its size rule."""

    route: Route
    price_usd: Decimal | None = None
    size: MinPixels | None = None


DEFAULT_MODEL: Final = "seedream-4-5-251128"
DEFAULT_SIZE: Final = "2048x2048"

MODELS: Final = MappingProxyType(
    {
        DEFAULT_MODEL: ModelSpec(Route.IMAGES, Decimal("0.040"), MinPixels(3_686_400)),
        "wan2.7-image": ModelSpec(Route.CHAT, Decimal("0.030")),
        "wan2.7-image-pro": ModelSpec(Route.CHAT, Decimal("0.075")),
    }
)
#: Models that are known by the beginning of their name.
FAMILIES: Final = MappingProxyType(
    {"gemini-": ModelSpec(Route.GENERATE_CONTENT), "wan": ModelSpec(Route.CHAT)}
)


def find_model(name: str) -> ModelSpec | None:
    """Return what is known of a model; None for a model that this version has not heard of."""
    if spec := MODELS.get(name):
        return spec
    return next((spec for prefix, spec in FAMILIES.items() if name.startswith(prefix)), None)
