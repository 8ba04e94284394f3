"""What the answers of all routes have in common: an answer without images may be billed all the same."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_aisa.core.gateway.answers import ANSWER_LIMIT, MIB, clean, describe, read_request_id
from airflow_provider_aisa.core.gateway.errors import request_note
from airflow_provider_aisa.core.gateway.response import GeneratedImage, GenerationResponse
from airflow_provider_aisa.exceptions import ImageRefused, OutcomeUnknown

if TYPE_CHECKING:
    import httpx

    from airflow_provider_aisa.core.gateway.request import ImageRequest

_LARGE_IMAGE: Final = 16 * MIB  # of an image in base64: the largest models draw half of that
_LONGEST_ANSWER: Final = 256 * MIB
LONGEST_URL: Final = 8192
_LONGEST_USAGE: Final = 16 * 1024
_LARGEST_CREATED: Final = 2**53


def answer_limit(images: int) -> int:
    """Return the bytes that an answer may have: all images may come as base64, and are paid for."""
    return min(max(ANSWER_LIMIT, images * _LARGE_IMAGE), _LONGEST_ANSWER)


def no_answer(
    response: httpx.Response, body: Mapping[str, Any], *, api_key: str, instead_of: str
) -> OutcomeUnknown:
    """Return the error for a success that is not what a billed request returns."""
    request_id = read_request_id(response, body, api_key=api_key)
    return OutcomeUnknown(
        "Look at the usage page of the AIsa console before paying again: the images may have been "
        f"billed. AIsa answered {response.status_code} with {describe(response, api_key=api_key)}"
        f"{request_note(request_id)} instead of {instead_of}; a proxy may have replaced it.",
        status=response.status_code,
        request_id=request_id,
    )


def refused_in_words(
    response: httpx.Response, body: Mapping[str, Any], *, api_key: str, reason: str
) -> ImageRefused:
    """Return the error for an answer in which the model has written something, and drawn nothing.

    :param reason: the gateway's own word for it, such as ``IMAGE_SAFETY``. What the model wrote is not told:
        it may repeat the prompt.
    """
    request_id = read_request_id(response, body, api_key=api_key)
    code = clean(reason, api_key=api_key)[:80]
    return ImageRefused(
        "Change the prompt, so that it asks for an image and for nothing that the model refuses, and look at "
        "the usage page of the AIsa console: the answer may have been billed. The model answered without an "
        f"image ({code}){request_note(request_id)}.",
        status=response.status_code,
        code=code,
        request_id=request_id,
    )


def response_of(
    response: httpx.Response,
    body: Mapping[str, Any],
    request: ImageRequest,
    entries: Iterable[GeneratedImage],
    *,
    usage: object,
    model: object,
    api_key: str,
) -> GenerationResponse:
    """Return the typed response: as many images as were asked for, and the gateway's own figures."""
    entries = list(entries)
    created = body.get("created")
    is_time = isinstance(created, int) and not isinstance(created, bool) and 0 <= created < _LARGEST_CREATED
    return GenerationResponse(
        model=clean(model, api_key=api_key) if isinstance(model, str) and model else request.model,
        created=created if is_time else None,
        images=tuple(_asked_for(entries, request.n)),
        usage=_usage(usage),
        request_id=read_request_id(response, body, api_key=api_key),
        delivered=sum(entry.is_image for entry in entries),
    )


def image_at(index: int, value: object) -> GeneratedImage | None:
    """Return what a string stands for: a link, a ``data:`` URL or base64; None for anything else."""
    if not isinstance(value, str) or not value:
        return None
    if value.startswith(("https://", "http://")):
        return GeneratedImage(index, url=value) if len(value) <= LONGEST_URL else None
    if value.startswith("data:"):
        value = value.partition(",")[2]
    return GeneratedImage(index, b64_json=value) if value else None


def error_entry(index: int, code: object, message: object, *, api_key: str) -> GeneratedImage:
    """Return what stands in place of an image."""
    return GeneratedImage(
        index,
        error_code=clean(str(code or "no code"), api_key=api_key),
        error_message=clean(str(message or "no message"), api_key=api_key),
    )


def objects(value: object) -> list[Mapping[str, Any]]:
    """Return the objects of a list, and nothing for what is no list."""
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []


def object_at(value: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    """Return the first of the named members that is an object, or an empty one."""
    return next((value[name] for name in names if isinstance(value.get(name), Mapping)), {})


def _asked_for(entries: Iterable[GeneratedImage], n: int) -> Iterable[GeneratedImage]:
    """Yield the first n images, and the first n errors, in their order."""
    left = {True: n, False: n}
    for entry in entries:
        if left[entry.is_image]:
            left[entry.is_image] -= 1
            yield entry


def _usage(usage: object) -> Mapping[str, Any]:
    """Return the gateway's figures: verbatim, unless they are too long to be figures."""
    if not isinstance(usage, dict):
        return {}
    if len(json.dumps(usage)) <= _LONGEST_USAGE:
        return usage
    figure = usage.get("generated_images")
    return {"generated_images": figure} if isinstance(figure, int) else {}
