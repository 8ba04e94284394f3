"""`POST /v1/chat/completions`: Wan. A request that does not say how many images is billed for four."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence

from airflow_provider_aisa.sandbox.contract import (
    CHAT,
    ImageOrder,
    Refusal,
    check_model,
    count_of,
    json_object,
    string_at,
)

ALWAYS_BASE64 = False
MAX_BODY_MIB = 1
DEFAULT_N = 4
MAX_N = 4
SIDE = 1024  # pixels; the model decides, since there is no size
_ROLES = ["system", "user", "assistant"]  # lists: what JSON holds need not be hashable
_INVALID = "invalid_parameter_error"


def parse(_model: str, content_type: str, body: bytes) -> ImageOrder:
    """Read a request's body. Raises Refusal with the documented code."""
    fields = json_object(content_type, body)
    model = string_at(fields, "model")
    check_model(model, CHAT)
    parts = list(_parts(fields.get("messages")))
    texts = [string_at(part, "text") for part in parts if part["type"] == "text"]
    references = [part for part in parts if part["type"] == "image_url"]
    n = count_of(fields.get("n", DEFAULT_N), MAX_N)
    return ImageOrder(model, "\n".join(texts), n, SIDE, SIDE, len(references))


def answer(order: ImageOrder, entries: Sequence[Mapping[str, object]], count: int) -> dict[str, object]:
    """Return the body of a success: one choice per image."""
    tokens = len(order.prompt.split())
    usage = {"prompt_tokens": tokens, "completion_tokens": 8 * count, "total_tokens": tokens + 8 * count}
    return {
        "id": f"chatcmpl-{uuid.uuid4()}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": order.model,
        "choices": [_choice(index, entry) for index, entry in enumerate(entries)],
        "usage": usage,
    }


def refusal(refusal: Refusal) -> Refusal:
    """Return a refusal as it is."""
    return refusal


def _choice(index: int, entry: Mapping[str, object]) -> dict[str, object]:
    image = entry.get("url") or entry.get("b64_json")
    content = [{"type": "image", "image": image}] if image else []
    reason = "stop" if image else "content_filter"
    return {"index": index, "finish_reason": reason, "message": {"role": "assistant", "content": content}}


def _parts(messages: object) -> Iterator[Mapping[str, object]]:
    if not isinstance(messages, list):
        raise Refusal(400, _INVALID, "messages must be a list")
    for message in messages:
        if not isinstance(message, Mapping) or message.get("role") not in _ROLES:
            raise Refusal(400, _INVALID, "each message needs a role")
        content = message.get("content")
        if not isinstance(content, list):
            raise Refusal(400, _INVALID, "Input should be a valid list: messages[*].content")
        for part in content:
            if not isinstance(part, Mapping) or part.get("type") not in ["text", "image_url"]:
                raise Refusal(400, _INVALID, "each part needs the type text or image_url")
            _check_link(part)
            yield part


def _check_link(part: Mapping[str, object]) -> None:
    if part["type"] != "image_url" and "image_url" not in part:
        return
    link = part.get("image_url")
    if not isinstance(link, Mapping) or not isinstance(link.get("url"), str):
        raise Refusal(400, _INVALID, "image_url must be an object with a url")
