"""``extra_body``: further fields of a request, which may change a picture and never what is billed.

A field that this package sends itself, or one that asks for another number of images, another model or
another form of answer, is refused before anything is paid.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from airflow_provider_aisa.core.gateway.models import Route
from airflow_provider_aisa.exceptions import InvalidRequest

#: Fields that no route takes, as :func:`_read_as` has them: what is bought, and how it is answered.
_NEVER: Final = frozenset({"model", "n", "prompt", "stream", "streamoptions"})
#: Fields of each route that this package sends itself, or that change how many images are made and billed,
#: with what an author is to use instead. A dot leads into an object.
_OF_ROUTE: Final[Mapping[Route, Mapping[str, str]]] = MappingProxyType(
    {
        Route.IMAGES: MappingProxyType(
            {
                "size": "use size",
                "response_format": "the images are stored in S3 either way",
                "sequential_image_generation": "use n",
                "sequential_image_generation_options": "use n",
            }
        ),
        Route.CHAT: MappingProxyType(
            {"messages": "use prompt", "max_tokens": "it can end an image half-way", "num_images": "use n"}
        ),
        Route.GENERATE_CONTENT: MappingProxyType(
            {
                "contents": "use prompt",
                "generationConfig.responseModalities": "an image is what is paid for",
                "generationConfig.imageConfig.aspectRatio": "use aspect_ratio",
                "generationConfig.imageConfig.imageSize": "use image_size",
                "generationConfig.candidateCount": "use n",
                "generationConfig.maxOutputTokens": "it can end an image half-way",
            }
        ),
    }
)
_LARGEST: Final = 64 * 1024  # bytes of JSON
_DEEPEST: Final = 16


def parse_extra_body(value: object, route: Route) -> dict[str, Any]:
    """Return the further fields of a request's body.

    :param value: a dict of JSON values, or None. A string of JSON is accepted, because templates render to
        strings.
    :raises InvalidRequest: it is no such dict, or it would overwrite a parameter or change what is billed.
    """
    if value is None:
        return {}
    if isinstance(value, str):
        value = _from_text(value)
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"extra_body is a {type(value).__name__}: use a dict of fields, {{'seed': 7}}")
    plain: dict[str, Any] = {name: _plain(each, _DEEPEST) for name, each in _named(value)}
    if len(json.dumps(plain)) > _LARGEST:
        raise InvalidRequest(f"extra_body is more than {_LARGEST // 1024} KiB of JSON: send less")
    check_names(plain, route)
    return plain


def check_names(body: Mapping[str, Any], route: Route) -> None:
    """Raise InvalidRequest when a field is this package's own, or changes what is billed."""
    for path, value in _paths(body):
        name = _read_as(path)
        if name in _NEVER:
            raise InvalidRequest(
                f"extra_body may not set {path!r}: it decides what is bought. {_instead(name)}"
            )
        for own, instead in _OF_ROUTE[route].items():
            if _read_as(own) == name:
                raise InvalidRequest(f"extra_body may not set {path!r}: {instead}")
            if _read_as(own).startswith(f"{name}."):
                _check_object(path, value, spelled=".".join(own.split(".")[: path.count(".") + 1]))


def _read_as(path: str) -> str:
    """Return a name as a JSON reader may take it: Google's knows two spellings, some ignore the case."""
    return path.lower().replace("_", "")


def _check_object(path: str, value: object, *, spelled: str) -> None:
    """Refuse an object with fields of ours in it, unless it can be joined with ours."""
    if path != spelled:
        raise InvalidRequest(f"extra_body may not set {path!r}: write {spelled}")
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"extra_body may not replace {path!r} as a whole: use a dict of its fields")


def merged(body: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request's body with further fields; objects that are in both have the fields of both."""
    joined = dict(body)
    for name, value in extra.items():
        ours = joined.get(name)
        if isinstance(ours, Mapping) and isinstance(value, Mapping):
            joined[name] = merged(ours, value)
        else:
            joined[name] = value
    return joined


def _instead(name: str) -> str:
    return (
        f"Use the parameter {name}." if name in {"model", "n", "prompt"} else "The answer is read as a whole."
    )


def _from_text(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidRequest(
            "extra_body is a text that is no JSON: use a dict, or check the template"
        ) from None


def _plain(value: object, depth: int) -> object:
    """Return JSON values as they are; numbers that are no JSON, and other objects, are refused."""
    if depth == 0:
        raise InvalidRequest(f"extra_body is more than {_DEEPEST} levels deep: send less")
    if isinstance(value, Mapping):
        return {name: _plain(each, depth - 1) for name, each in _named(value)}
    if isinstance(value, list | tuple):
        return [_plain(each, depth - 1) for each in value]
    if (
        value is None
        or isinstance(value, str | bool | int)
        or (isinstance(value, float) and math.isfinite(value))
    ):
        return value
    raise InvalidRequest(f"extra_body holds a {type(value).__name__}: use values that JSON has")


def _named(value: Mapping[Any, object]) -> Iterator[tuple[str, object]]:
    for name, each in value.items():
        if not isinstance(name, str):
            raise InvalidRequest(f"extra_body has the name {name!r}: use strings")
        yield name, each


def _paths(body: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, object]]:
    """Yield each field, and those within objects: its names, joined by dots, and its value."""
    for name, value in body.items():
        yield f"{before}{name}", value
        if isinstance(value, Mapping):
            yield from _paths(value, f"{before}{name}.")
