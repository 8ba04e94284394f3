"""The rules of the gateway's models are data; the code that applies them is one function each.

Prices, routes and the size rule: https://aisa.one/docs, "OpenAI-Compatible Image Generations", "Image
Generation via Chat" and "generateContent". What Gemini's options may be, and that a request may have 20 MB in
all: https://ai.google.dev/gemini-api/docs. How large Wan's reference images may be:
https://www.alibabacloud.com/help/en/model-studio, "Wan image editing".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
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
class Family:
    """What the models of one maker have in common.

    :param operator: the name of the operator that generates with them.
    :param options: further parameters of a request, each with the values that it may have; ``size`` is not
        among them, since it is a rule of its own.
    :param most_images: of one request; None when nothing is documented.
    :param most_references: how many reference images a request may have.
    :param takes_bytes: whether they are in the request itself, instead of links to them.
    :param largest_reference: bytes of one, or, if they are in the request itself, of all together.
    :param requests_per_minute: the family's own cap, whatever the key's limits are.
    """

    name: str
    operator: str
    route: Route
    has_size: bool = False
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    most_images: int | None = None
    most_references: int = 0
    takes_bytes: bool = False
    largest_reference: int = 0
    requests_per_minute: int | None = None

    @property
    def is_one_by_one(self) -> bool:
        """Whether a request makes one image, so that several images are several requests."""
        return self.most_images == 1


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What is known of a model: its family, its price per image in USD, and its size rule."""

    family: Family
    price_usd: Decimal | None = None
    size: MinPixels | None = None

    @property
    def route(self) -> Route:
        """The endpoint that serves it."""
        return self.family.route


SEEDREAM: Final = Family("Seedream", "SeedreamGenerateOperator", Route.IMAGES, has_size=True)
WAN: Final = Family(
    "Wan",
    "WanGenerateOperator",
    Route.CHAT,
    most_images=4,
    most_references=9,
    largest_reference=20_000_000,
)
GEMINI: Final = Family(
    "Gemini",
    "GeminiGenerateOperator",
    Route.GENERATE_CONTENT,
    options=MappingProxyType(
        {
            "aspect_ratio": ("1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9"),
            "image_size": ("1K", "2K", "4K"),
        }
    ),
    most_images=1,
    most_references=14,
    takes_bytes=True,
    largest_reference=14_000_000,  # base64 makes 4 bytes of 3
    requests_per_minute=30,
)
#: All of them, by name.
ALL_FAMILIES: Final = MappingProxyType({family.name: family for family in (SEEDREAM, WAN, GEMINI)})
FAMILIES_WITH_REFERENCES: Final = tuple(name for name, each in ALL_FAMILIES.items() if each.most_references)

DEFAULT_MODEL: Final = "seedream-4-5-251128"
DEFAULT_SIZE: Final = "2048x2048"
DEFAULT_WAN_MODEL: Final = "wan2.7-image"
DEFAULT_GEMINI_MODEL: Final = "gemini-3-pro-image-preview"

MODELS: Final = MappingProxyType(
    {
        DEFAULT_MODEL: ModelSpec(SEEDREAM, Decimal("0.040"), MinPixels(3_686_400)),
        DEFAULT_WAN_MODEL: ModelSpec(WAN, Decimal("0.030")),
        "wan2.7-image-pro": ModelSpec(WAN, Decimal("0.075")),
        DEFAULT_GEMINI_MODEL: ModelSpec(GEMINI, Decimal("0.100")),
    }
)
#: Models that are known by the beginning of their name.
FAMILIES: Final = MappingProxyType({"gemini-": ModelSpec(GEMINI), "wan": ModelSpec(WAN)})


def find_model(name: str) -> ModelSpec | None:
    """Return what is known of a model; None for a model that this version has not heard of."""
    if spec := MODELS.get(name):
        return spec
    return next((spec for prefix, spec in FAMILIES.items() if name.startswith(prefix)), None)


def family_of(name: str) -> Family:
    """Return a model's family. One that nobody has heard of is taken for a model like Seedream."""
    spec = find_model(name)
    return SEEDREAM if spec is None else spec.family


#: What the gateway's list of models calls the routes, the one that says most first.
_ENDPOINT_TYPES: Final = MappingProxyType({"image-generation": SEEDREAM, "gemini": GEMINI, "openai": WAN})


def family_served_by(endpoint_types: Iterable[str]) -> Family | None:
    """Return whose route serves a model with these ``supported_endpoint_types``; None for none of ours."""
    served = set(endpoint_types)
    return next((family for name, family in _ENDPOINT_TYPES.items() if name in served), None)
