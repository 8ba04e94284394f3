"""What the gateway accepts, by its OpenAPI document. Every refusal is one documented status and code."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import NoReturn

SEEDREAM = "seedream-4-5-251128"
PRICE_USD = Decimal("0.040")
MIN_PIXELS = 3_686_400
MAX_PIXELS = 4 * 16_777_216  # not in the document: keeps a typing error from filling the memory
MAX_IMAGES = 64  # likewise
DEFAULT_SIZE = "2048x2048"

ELSEWHERE = {
    "wan2.7-image": "/v1/chat/completions",
    "wan2.7-image-pro": "/v1/chat/completions",
    "gemini-2.5-flash-image": "/v1beta/models/{model}:generateContent",
    "gemini-3-pro-image-preview": "/v1beta/models/{model}:generateContent",
}
MODELS: dict[str, object] = {
    "object": "list",
    "data": [
        {"id": model, "object": "model", "created": 1_764_288_000, "owned_by": owner}
        for model, owner in [(SEEDREAM, "bytedance")]
        + [(model, "alibaba" if model.startswith("wan") else "google") for model in ELSEWHERE]
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
_SIZE = re.compile(r"([1-9][0-9]{0,8})x([1-9][0-9]{0,8})")


class Refusal(Exception):
    """A refused request. The gateway answers it in the documented error shape, the CDN in XML."""

    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, headers or {}

    def body(self, request_id: str) -> dict[str, dict[str, str]]:
        """Return the JSON body."""
        kind = _TYPES.get(self.status, "api_error")
        error = {"type": kind, "code": self.code, "message": self.message, "request_id": request_id}
        return {"error": error}


@dataclass(frozen=True)
class ImageOrder:
    """A valid request for images."""

    model: str
    prompt: str
    n: int
    width: int
    height: int

    @property
    def size(self) -> str:
        """The dimensions as the API writes them."""
        return f"{self.width}x{self.height}"

    @property
    def tokens_per_image(self) -> int:
        """Output tokens: 16,384 for a 2048x2048 image, as in the document's example."""
        return self.width * self.height // 256


def parse_order(content_type: str, body: bytes) -> ImageOrder:
    """Read the body of `POST /v1/images/generations`. Raises Refusal with the documented code."""
    fields = _json_object(content_type, body)
    model, prompt = _string(fields, "model"), _string(fields, "prompt")
    _check_model(model)
    n = _count(fields.get("n", 1))
    width, height = _dimensions(_string({"size": DEFAULT_SIZE, **fields}, "size"))
    return ImageOrder(model, prompt, n, width, height)


def _json_object(content_type: str, body: bytes) -> dict[str, object]:
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


def _string(fields: dict[str, object], name: str) -> str:
    if name not in fields:
        raise Refusal(400, "missing_parameter", f"{name} is required")
    value = fields[name]
    if not isinstance(value, str):
        raise Refusal(400, "invalid_parameter_type", f"{name} must be a string")
    return value


def _check_model(model: str) -> None:
    if route := ELSEWHERE.get(model):
        raise Refusal(404, "openai_error", f"model {model} is not routed through this endpoint: use {route}")
    if model != SEEDREAM:
        raise Refusal(404, "unknown_model", f"unknown model {model!r}: GET /v1/models lists them")


def _count(n: object) -> int:
    if isinstance(n, bool) or not isinstance(n, int):
        raise Refusal(400, "invalid_parameter_type", "n must be an integer")
    if n < 1:
        raise Refusal(400, "InvalidParameter", "n must be at least 1")
    if n > MAX_IMAGES:
        raise Refusal(400, "InvalidParameter", f"n must be at most {MAX_IMAGES} in the sandbox")
    return n


def _dimensions(size: str) -> tuple[int, int]:
    match = _SIZE.fullmatch(size)
    if match is None:
        raise Refusal(400, "invalid_request", f"size must be WIDTHxHEIGHT, got {size[:50]!r}")
    width, height = int(match[1]), int(match[2])
    if width * height < MIN_PIXELS:
        raise Refusal(400, "InvalidParameter", f"image size must be at least {MIN_PIXELS} pixels")
    if width * height > MAX_PIXELS:
        raise Refusal(
            400, "InvalidParameter", f"image size must be at most {MAX_PIXELS} pixels in the sandbox"
        )
    return width, height
