"""``POST /v1beta/models/{model}:generateContent``: Gemini's image is in the answer itself, as base64.

Shapes: https://aisa.one/docs, "generateContent", and AIsa's own client (``creative/media-gen``), which also
finds parts outside of ``content`` and names in camel case. There is no link to come back to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from airflow_provider_aisa.core.gateway.answers import read_object
from airflow_provider_aisa.core.gateway.response import GeneratedImage, GenerationResponse
from airflow_provider_aisa.core.gateway.routes.reading import (
    no_answer,
    object_at,
    objects,
    refused_in_words,
    response_of,
)

if TYPE_CHECKING:
    import httpx

    from airflow_provider_aisa.core.gateway.references import Attachment
    from airflow_provider_aisa.core.gateway.request import ImageRequest

#: Beside the base URL's own last part, ``/v1``: a gateway behind a proxy may have a path before both.
ENDPOINT: Final = "../v1beta/models/{model}:generateContent"
_IMAGE_OPTIONS: Final = {"aspect_ratio": "aspectRatio", "image_size": "imageSize"}


def endpoint(request: ImageRequest) -> str:
    """Return where a request goes, beside the base URL."""
    return ENDPOINT.format(model=quote(request.model, safe=""))


def body(request: ImageRequest, attachments: Sequence[Attachment] = ()) -> dict[str, Any]:
    """Return the fields of a request for its one image, its reference images after the text."""
    config: dict[str, Any] = {"responseModalities": ["TEXT", "IMAGE"]}
    if request.options:
        config["imageConfig"] = {_IMAGE_OPTIONS[name]: value for name, value in request.options.items()}
    images = [{"inline_data": {"mime_type": one.content_type, "data": one.data}} for one in attachments]
    parts = [{"text": request.prompt}, *images]
    return {"contents": [{"role": "user", "parts": parts}], "generationConfig": config}


def read(response: httpx.Response, request: ImageRequest, *, api_key: str) -> GenerationResponse:
    """Read a 2xx answer.

    :raises OutcomeUnknown: it is not the JSON that a billed request returns.
    :raises ImageRefused: it holds no image, only words.
    """
    body = read_object(response.content)
    feedback = object_at(body, "promptFeedback", "prompt_feedback")
    if not isinstance(body.get("candidates"), list) and not feedback:
        raise no_answer(response, body, api_key=api_key, instead_of="a list of candidates")
    candidates = objects(body.get("candidates"))
    # Inline data is base64, and never a link.
    images = [data for data in _images(candidates) if data and not data.startswith("http")]
    entries = [GeneratedImage(index, b64_json=data) for index, data in enumerate(images)]
    if not entries:
        raise refused_in_words(response, body, api_key=api_key, reason=_reason(candidates, feedback))
    return response_of(
        response,
        body,
        request,
        entries,
        usage=object_at(body, "usageMetadata", "usage_metadata"),
        model=body.get("modelVersion"),
        api_key=api_key,
    )


def _images(candidates: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for candidate in candidates:
        for part in objects(object_at(candidate, "content").get("parts")) or objects(candidate.get("parts")):
            # What a model draws while it thinks is a draft, and no result.
            if not part.get("thought"):
                data = object_at(part, "inline_data", "inlineData").get("data")
                yield data if isinstance(data, str) else ""


def _reason(candidates: Sequence[Mapping[str, Any]], feedback: Mapping[str, Any]) -> str:
    """Return the gateway's word for why there is no image."""
    words = [feedback.get("blockReason"), *(candidate.get("finishReason") for candidate in candidates)]
    return next((word for word in words if isinstance(word, str) and word), "no reason given")
