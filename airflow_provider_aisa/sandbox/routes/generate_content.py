"""`POST /v1beta/models/{model}:generateContent`: Gemini. One image, in the answer itself."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from math import sqrt

from airflow_provider_aisa.sandbox.contract import (
    GENERATE_CONTENT,
    GoogleRefusal,
    ImageOrder,
    Refusal,
    check_model,
    json_object,
)

ALWAYS_BASE64 = True
MAX_BODY_MIB = 32  # reference images are in it
SIDES = {"1K": 1024, "2K": 2048, "4K": 4096}  # pixels of a square
RATIOS = ["1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9"]
_ROLES = ["system", "user", "assistant", "model"]  # a list: what JSON holds need not be hashable
#: Further fields of a request, and what each has to be.
_FIELDS: dict[str, type] = {
    "tools": list,
    "toolConfig": Mapping,
    "safetySettings": list,
    "systemInstruction": Mapping,
    "generationConfig": Mapping,
    "cachedContent": str,
}


def parse(model: str, content_type: str, body: bytes) -> ImageOrder:
    """Read a request's body. Raises Refusal, in upstream's shape where upstream refuses."""
    check_model(model, GENERATE_CONTENT)
    fields = json_object(content_type, body)
    for name, kind in _FIELDS.items():
        if name in fields and not isinstance(fields[name], kind):
            raise GoogleRefusal(400, f"Invalid value at '{name}'")
    if "systemInstruction" in fields:
        list(_parts_of(fields["systemInstruction"]))
    for name in ("tools", "safetySettings"):
        if not all(isinstance(each, Mapping) for each in _list(fields.get(name, []), name)):
            raise GoogleRefusal(400, f"Invalid value at '{name}'")
    if "contents" not in fields:
        raise GoogleRefusal(400, "contents is not specified")
    parts = [part for content in _list(fields["contents"], "contents") for part in _parts_of(content)]
    references = [part for part in parts if _inline(part) is not None]
    for part in references:
        _check_image(_inline(part))
    width, height = _dimensions(fields.get("generationConfig"))
    prompt = "\n".join(str(part["text"]) for part in parts if "text" in part)
    return ImageOrder(model, prompt, 1, width, height, len(references))


def answer(order: ImageOrder, entries: Sequence[Mapping[str, object]], count: int) -> dict[str, object]:
    """Return the body of a success: words next to the image, or words alone."""
    parts: list[dict[str, object]] = [{"text": "Here is your image." if entries else "I would rather not."}]
    parts += [
        {"inlineData": {"mimeType": "image/png", "data": entry["b64_json"]}}
        for entry in entries
        if "b64_json" in entry
    ]
    prompt = len(order.prompt.split())
    usage = {
        "promptTokenCount": prompt,
        "candidatesTokenCount": count * order.tokens_per_image,
        "totalTokenCount": prompt + count * order.tokens_per_image,
    }
    reason = "STOP" if len(parts) > 1 else "IMAGE_SAFETY"
    candidate = {"content": {"role": "model", "parts": parts}, "finishReason": reason, "index": 0}
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": order.model}


def refusal(refusal: Refusal) -> Refusal:
    """Return a refusal in upstream's shape; a model of another route is AIsa's own to refuse."""
    if isinstance(refusal, GoogleRefusal) or refusal.code == "openai_error":
        return refusal
    return GoogleRefusal(refusal.status, refusal.message, refusal.headers)


def _list(value: object, name: str) -> list[object]:
    if not isinstance(value, list):
        raise GoogleRefusal(400, f"Invalid value at '{name}'")
    return value


def _parts_of(content: object) -> Iterator[Mapping[str, object]]:
    if not isinstance(content, Mapping) or content.get("role", "user") not in _ROLES:
        raise GoogleRefusal(400, "Invalid value at 'contents': a role is user or model")
    for part in _list(content.get("parts", []), "parts"):
        if not isinstance(part, Mapping) or not ("text" in part or _inline(part) is not None):
            raise GoogleRefusal(400, "Invalid value at 'parts': text or inline_data is needed")
        if not isinstance(part.get("text", ""), str):
            raise GoogleRefusal(400, "Invalid value at 'parts': text is no string")
        yield part


def _inline(part: Mapping[str, object]) -> object:
    return part.get("inline_data", part.get("inlineData"))


def _check_image(inline: object) -> None:
    data = inline.get("data", "") if isinstance(inline, Mapping) else None
    try:
        base64.b64decode(data if isinstance(data, str) else "?", validate=True)
    except (binascii.Error, ValueError):
        raise GoogleRefusal(400, "Invalid value at 'inline_data': it needs mime_type and data") from None


def _dimensions(config: object) -> tuple[int, int]:
    image = config.get("imageConfig", {}) if isinstance(config, Mapping) else {}
    if not isinstance(image, Mapping):
        raise GoogleRefusal(400, "Invalid value at 'generationConfig.imageConfig'")
    ratio, size = image.get("aspectRatio", "1:1"), image.get("imageSize", "1K")
    if ratio not in RATIOS or size not in list(SIDES):
        raise GoogleRefusal(400, "Invalid value at 'generationConfig.imageConfig': aspectRatio or imageSize")
    wide, high = map(int, str(ratio).split(":"))
    side = SIDES[str(size)]
    return _even(side * sqrt(wide / high)), _even(side * sqrt(high / wide))


def _even(pixels: float) -> int:
    return max(16, round(pixels / 16) * 16)
