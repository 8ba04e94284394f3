"""`POST /v1/images/generations`: Seedream."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence

from airflow_provider_aisa.sandbox.contract import (
    IMAGES,
    ImageOrder,
    Refusal,
    check_model,
    count_of,
    json_object,
    string_at,
)

ALWAYS_BASE64 = False
MAX_BODY_MIB = 1
MIN_PIXELS = 3_686_400
MAX_PIXELS = 4 * 16_777_216  # not in the document: keeps a typing error from filling the memory
MAX_IMAGES = 64  # likewise
DEFAULT_SIZE = "2048x2048"
_SIZE = re.compile(r"([1-9][0-9]{0,8})x([1-9][0-9]{0,8})")


def parse(_model: str, content_type: str, body: bytes) -> ImageOrder:
    """Read a request's body. Raises Refusal with the documented code."""
    fields = json_object(content_type, body)
    model, prompt = string_at(fields, "model"), string_at(fields, "prompt")
    check_model(model, IMAGES)
    n = count_of(fields.get("n", 1), MAX_IMAGES)
    width, height = _dimensions(string_at({"size": DEFAULT_SIZE, **fields}, "size"))
    return ImageOrder(model, prompt, n, width, height)


def answer(order: ImageOrder, entries: Sequence[Mapping[str, object]], count: int) -> dict[str, object]:
    """Return the body of a success."""
    tokens = count * order.tokens_per_image
    usage = {"generated_images": count, "output_tokens": tokens, "total_tokens": tokens}
    data = [entry if "error" in entry else {**entry, "size": order.size} for entry in entries]
    return {"model": order.model, "created": int(time.time()), "data": data, "usage": usage}


def refusal(refusal: Refusal) -> Refusal:
    """Return a refusal as it is."""
    return refusal


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
