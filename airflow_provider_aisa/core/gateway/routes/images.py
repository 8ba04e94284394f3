"""``POST /v1/images/generations``: a link, base64 or an error per image asked for.

Shapes: https://aisa.one/docs, "OpenAI-Compatible Image Generations". Upstream (BytePlus) may send fewer
images than asked, entries that hold an error, or base64 instead of a link.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_aisa.core.gateway.answers import read_object
from airflow_provider_aisa.core.gateway.response import GeneratedImage, GenerationResponse
from airflow_provider_aisa.core.gateway.routes.reading import (
    LONGEST_URL,
    error_entry,
    no_answer,
    response_of,
)

if TYPE_CHECKING:
    import httpx

    from airflow_provider_aisa.core.gateway.references import Attachment
    from airflow_provider_aisa.core.gateway.request import ImageRequest

ENDPOINT: Final = "images/generations"


def endpoint(_: ImageRequest) -> str:
    """Return where a request goes, below the base URL."""
    return ENDPOINT


def body(request: ImageRequest, _: Sequence[Attachment] = ()) -> dict[str, Any]:
    """Return the fields of a request."""
    return {"model": request.model, "prompt": request.prompt, "n": request.n, "size": request.size}


def read(response: httpx.Response, request: ImageRequest, *, api_key: str) -> GenerationResponse:
    """Read a 2xx answer; raise OutcomeUnknown when it is not the JSON that a billed request returns."""
    body = read_object(response.content)
    data = body.get("data")
    if not isinstance(data, list):
        raise no_answer(response, body, api_key=api_key, instead_of="a list of images")
    entries = [_read_entry(index, entry, api_key) for index, entry in enumerate(data)]
    return response_of(
        response, body, request, entries, usage=body.get("usage"), model=body.get("model"), api_key=api_key
    )


def _read_entry(index: int, entry: object, api_key: str) -> GeneratedImage:
    if isinstance(entry, dict):
        url, base64, error = entry.get("url"), entry.get("b64_json"), entry.get("error")
        if isinstance(url, str) and 0 < len(url) <= LONGEST_URL:
            return GeneratedImage(index, url=url)
        if isinstance(base64, str) and base64:
            return GeneratedImage(index, b64_json=base64)
        if isinstance(error, dict):
            return error_entry(index, error.get("code"), error.get("message"), api_key=api_key)
    return GeneratedImage(index, error_code="empty_entry", error_message="neither a link nor an image")
