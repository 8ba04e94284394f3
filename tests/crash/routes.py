"""What the proofs read of a request or an answer, whatever the route: its prompt, and the images in it."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.crash.tripwire import Seen


def prompt_of(seen: Seen) -> str:
    """Return the prompt of a request to the gateway."""
    body = json.loads(seen.body)
    if "messages" in body:
        return str(body["messages"][0]["content"][-1]["text"])
    if "contents" in body:
        return str(body["contents"][0]["parts"][0]["text"])
    return str(body["prompt"])


def images_in(body: bytes) -> list[str] | None:
    """Return the SHA-256 of each image that is in an answer itself; None if it is not an answer with images.

    An answer with links has images, and none of them is in it.
    """
    try:
        found = list(_images(json.loads(body)))
    except (ValueError, KeyError, TypeError):
        return None
    return [
        hashlib.sha256(base64.b64decode(image)).hexdigest()
        for image in found
        if not image.startswith("http")
    ] if found else None  # fmt: skip


def _images(answer: dict[str, Any]) -> Iterator[str]:
    for entry in answer.get("data", []):
        yield entry.get("url") or entry["b64_json"]
    for choice in answer.get("choices", []):
        for part in choice["message"]["content"]:
            yield part["image"]
    for candidate in answer.get("candidates", []):
        for part in candidate["content"]["parts"]:
            if "inlineData" in part:
                yield part["inlineData"]["data"]
