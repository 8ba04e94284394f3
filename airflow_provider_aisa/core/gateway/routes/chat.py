"""``POST /v1/chat/completions``: Wan's images, one choice each, as a link or as base64.

Shapes: https://aisa.one/docs, "Image Generation via Chat", and AIsa's own client (``creative/media-gen``),
which also takes ``image_url`` and an object with ``url`` for an image. The gateway's default of ``n`` is 4,
and each image is billed: ``n`` is always sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_aisa.core.gateway.answers import read_object
from airflow_provider_aisa.core.gateway.response import GeneratedImage, GenerationResponse
from airflow_provider_aisa.core.gateway.routes.reading import (
    error_entry,
    image_at,
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

ENDPOINT: Final = "chat/completions"


def endpoint(_: ImageRequest) -> str:
    """Return where a request goes, below the base URL."""
    return ENDPOINT


def body(request: ImageRequest, attachments: Sequence[Attachment] = ()) -> dict[str, Any]:
    """Return the fields of a request: links to its reference images before the text."""
    links = [{"type": "image_url", "image_url": {"url": one.link}} for one in attachments]
    # A list of typed parts: a plain string is refused.
    content = [*links, {"type": "text", "text": request.prompt}]
    return {"model": request.model, "messages": [{"role": "user", "content": content}], "n": request.n}


def read(response: httpx.Response, request: ImageRequest, *, api_key: str) -> GenerationResponse:
    """Read a 2xx answer.

    :raises OutcomeUnknown: it is not the JSON that a billed request returns.
    :raises ImageRefused: it holds no image, only words.
    """
    body = read_object(response.content)
    if not isinstance(body.get("choices"), list):
        raise no_answer(response, body, api_key=api_key, instead_of="a list of choices")
    choices = objects(body["choices"])
    entries = list(_entries(choices, api_key))
    if not any(entry.is_image for entry in entries):
        reason = next(
            (str(choice["finish_reason"]) for choice in choices if choice.get("finish_reason")), "empty"
        )
        raise refused_in_words(response, body, api_key=api_key, reason=reason)
    return response_of(
        response, body, request, entries, usage=body.get("usage"), model=body.get("model"), api_key=api_key
    )


def _entries(choices: Sequence[Mapping[str, Any]], api_key: str) -> Iterator[GeneratedImage]:
    """Yield the images of all choices, and an error for each choice without one."""
    index = 0
    for choice in choices:
        images = list(_images(object_at(choice, "message").get("content")))
        for image in images:
            found = image_at(index, image)
            yield found or error_entry(index, "empty_entry", "neither a link nor an image", api_key=api_key)
            index += 1
        if not images:
            yield error_entry(
                index, choice.get("finish_reason"), "an answer without an image", api_key=api_key
            )
            index += 1


def _images(content: object) -> Iterator[object]:
    """Yield what stands for an image in a message's content."""
    for part in objects(content):
        if part.get("type") in {"image", "image_url"}:
            value = part.get("image") or part.get("image_url")
            yield value.get("url") if isinstance(value, Mapping) else value
