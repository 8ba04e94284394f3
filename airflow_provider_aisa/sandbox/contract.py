"""What all routes of the gateway have in common. Every refusal is one documented status and code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import NoReturn

#: The paths that generate images; a model's name takes the place of ``{model}``.
IMAGES = "/v1/images/generations"
CHAT = "/v1/chat/completions"
GENERATE_CONTENT = "/v1beta/models/{model}:generateContent"


@dataclass(frozen=True)
class Model:
    """A model that the gateway sells. `price_usd` is per image."""

    owner: str
    path: str
    price_usd: Decimal
    endpoint_types: tuple[str, ...]


_WAN = ("alibaba", CHAT)
_GEMINI = ("google", GENERATE_CONTENT)
MODELS = {
    "seedream-4-5-251128": Model("bytedance", IMAGES, Decimal("0.040"), ("image-generation",)),
    "wan2.7-image": Model(*_WAN, Decimal("0.030"), ("openai",)),
    "wan2.7-image-pro": Model(*_WAN, Decimal("0.075"), ("openai",)),
    "gemini-2.5-flash-image": Model(*_GEMINI, Decimal("0.100"), ("gemini",)),
    "gemini-3-pro-image-preview": Model(*_GEMINI, Decimal("0.100"), ("gemini",)),
}
MODEL_LIST: dict[str, object] = {
    "object": "list",
    "data": [
        {
            "id": name,
            "object": "model",
            "created": 1_764_288_000,
            "owned_by": model.owner,
            "supported_endpoint_types": list(model.endpoint_types),
        }
        for name, model in MODELS.items()
    ],
}
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
}
_GOOGLE = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    429: "RESOURCE_EXHAUSTED",
}


class Refusal(Exception):
    """A refused request. The gateway answers it in the documented error shape, the CDN in XML."""

    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, headers or {}

    def body(self, request_id: str) -> dict[str, dict[str, object]]:
        """Return the JSON body."""
        kind = _TYPES.get(self.status, "api_error")
        return {"error": {"type": kind, "code": self.code, "message": self.message, "request_id": request_id}}


class GoogleRefusal(Refusal):
    """A request that Gemini's own route refuses: in the shape of upstream's errors."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(status, _GOOGLE[status], message, headers)

    def body(self, request_id: str) -> dict[str, dict[str, object]]:
        """Return the JSON body."""
        return {"error": {"code": self.status, "message": self.message, "status": self.code}}


@dataclass(frozen=True)
class ImageOrder:
    """A valid request for images."""

    model: str
    prompt: str
    n: int
    width: int
    height: int
    references: int = 0

    @property
    def size(self) -> str:
        """The dimensions as the API writes them."""
        return f"{self.width}x{self.height}"

    @property
    def tokens_per_image(self) -> int:
        """Output tokens: 16,384 for a 2048x2048 image, as in the document's example."""
        return self.width * self.height // 256

    @property
    def price_usd(self) -> Decimal:
        """Of one image."""
        return MODELS[self.model].price_usd


def json_object(content_type: str, body: bytes) -> dict[str, object]:
    """Read a request's body. Raises Refusal."""
    if content_type != "application/json":
        raise Refusal(400, "invalid_request", f"Content-Type must be application/json, got {content_type!r}")
    try:
        fields = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, "json_parse_error", f"the body is not valid JSON: {error}") from error
    if not isinstance(fields, dict):
        raise Refusal(400, "invalid_parameter_type", "the body must be a JSON object")
    return fields


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def string_at(fields: Mapping[str, object], name: str) -> str:
    """Return a required string. Raises Refusal."""
    if name not in fields:
        raise Refusal(400, "missing_parameter", f"{name} is required")
    value = fields[name]
    if not isinstance(value, str):
        raise Refusal(400, "invalid_parameter_type", f"{name} must be a string")
    return value


def check_model(model: str, path: str) -> None:
    """Raise Refusal when a model is unknown, or served by another path."""
    if model not in MODELS:
        raise Refusal(404, "unknown_model", f"unknown model {model!r}: GET /v1/models lists them")
    if (route := MODELS[model].path) != path:
        raise Refusal(404, "openai_error", f"model {model} is not routed through this endpoint: use {route}")


def count_of(n: object, most: int) -> int:
    """Return the number of images. Raises Refusal."""
    if isinstance(n, bool) or not isinstance(n, int):
        raise Refusal(400, "invalid_parameter_type", "n must be an integer")
    if n < 1:
        raise Refusal(400, "InvalidParameter", "n must be at least 1")
    if n > most:
        raise Refusal(400, "InvalidParameter", f"n must be at most {most} here")
    return n
