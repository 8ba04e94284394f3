"""``POST /v1/images/generations``: a link, base64 or an error per image asked for.

Shapes: https://aisa.one/docs, "OpenAI-Compatible Image Generations". Upstream (BytePlus) may send fewer
images than asked, entries that hold an error, or base64 instead of a link.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_aisa.core.gateway.answers import (
    ANSWER_LIMIT,
    MIB,
    clean,
    describe,
    read_object,
    read_request_id,
)
from airflow_provider_aisa.core.gateway.errors import request_note
from airflow_provider_aisa.core.gateway.response import GeneratedImage, GenerationResponse
from airflow_provider_aisa.core.gateway.retries import Call
from airflow_provider_aisa.exceptions import OutcomeUnknown

if TYPE_CHECKING:
    import httpx

    from airflow_provider_aisa.core.gateway.request import ImageRequest

ENDPOINT: Final = "images/generations"
_LARGE_IMAGE: Final = 16 * MIB  # of an image in base64: the largest models draw half of that
_LONGEST_ANSWER: Final = 256 * MIB
_LONGEST_URL: Final = 8192
_LONGEST_USAGE: Final = 16 * 1024
_LARGEST_CREATED: Final = 2**53


def build(request: ImageRequest, *, at_most_once: bool = False) -> Call:
    """Return the call that generates a request's images."""
    # What is asked for may all come as base64 in one answer, and is paid for.
    limit = min(max(ANSWER_LIMIT, request.n * _LARGE_IMAGE), _LONGEST_ANSWER)
    return Call("POST", ENDPOINT, json=request.payload(), at_most_once=at_most_once, answer_limit=limit)


def read(response: httpx.Response, request: ImageRequest, *, api_key: str) -> GenerationResponse:
    """Read a 2xx answer; raise OutcomeUnknown when it is not the JSON that a billed request returns."""
    body = read_object(response.content)
    data = body.get("data")
    request_id = read_request_id(response, body, api_key=api_key)
    if not isinstance(data, list):
        msg = (
            "Look at the usage page of the AIsa console before paying again: the images may have been "
            f"billed. AIsa answered {response.status_code} with {describe(response, api_key=api_key)}"
            f"{request_note(request_id)} instead of a list of images; a proxy may have replaced it."
        )
        raise OutcomeUnknown(msg, status=response.status_code, request_id=request_id)
    entries = [_read_entry(index, entry, api_key) for index, entry in enumerate(data)]
    images = [entry for entry in entries if entry.is_image]
    created, model = body.get("created"), body.get("model")
    is_time = isinstance(created, int) and not isinstance(created, bool) and 0 <= created < _LARGEST_CREATED
    return GenerationResponse(
        model=clean(model, api_key=api_key) if isinstance(model, str) and model else request.model,
        created=created if is_time else None,
        images=tuple(_asked_for(entries, request.n)),
        usage=_usage(body.get("usage")),
        request_id=request_id,
        delivered=len(images),
    )


def _asked_for(entries: Iterable[GeneratedImage], n: int) -> Iterable[GeneratedImage]:
    """Yield the first n images, and the first n errors, in their order."""
    left = {True: n, False: n}
    for entry in entries:
        if left[entry.is_image]:
            left[entry.is_image] -= 1
            yield entry


def _read_entry(index: int, entry: object, api_key: str) -> GeneratedImage:
    if isinstance(entry, dict):
        url, base64, error = entry.get("url"), entry.get("b64_json"), entry.get("error")
        if isinstance(url, str) and 0 < len(url) <= _LONGEST_URL:
            return GeneratedImage(index, url=url)
        if isinstance(base64, str) and base64:
            return GeneratedImage(index, b64_json=base64)
        if isinstance(error, dict):
            return GeneratedImage(
                index,
                error_code=clean(str(error.get("code") or "no code"), api_key=api_key),
                error_message=clean(str(error.get("message") or "no message"), api_key=api_key),
            )
    return GeneratedImage(index, error_code="empty_entry", error_message="neither a link nor an image")


def _usage(usage: object) -> Mapping[str, Any]:
    """Return the gateway's figures: verbatim, unless they are too long to be figures."""
    if not isinstance(usage, dict):
        return {}
    if len(json.dumps(usage)) <= _LONGEST_USAGE:
        return usage
    figure = usage.get("generated_images")
    return {"generated_images": figure} if isinstance(figure, int) else {}
