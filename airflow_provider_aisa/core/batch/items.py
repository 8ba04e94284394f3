"""What an author writes for one image request of a batch becomes a valid request with an id and a place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from airflow_provider_aisa.core.gateway.request import ImageRequest
from airflow_provider_aisa.core.layout import Target
from airflow_provider_aisa.exceptions import InvalidRequest

FIELDS: Final = ("prompt", "id", "size", "n", "model", "s3_key")
MAX_ID: Final = 200  # characters
_MOST: Final = 10**MAX_ID  # as a number; Python refuses to write far longer ones
_DERIVED_ID: Final = 16  # hex digits of the request's fingerprint


@dataclass(frozen=True, slots=True)
class BatchItem:
    """One request of a batch. Build it with :meth:`Defaults.read`.

    :param is_given: its author chose the id; otherwise it is made of the request.
    :param target: with ``{id}`` filled in.
    """

    id: str
    is_given: bool
    request: ImageRequest
    target: Target


@dataclass(frozen=True, slots=True)
class Defaults:
    """What an item has that does not say otherwise; all as in :meth:`ImageRequest.parse`.

    :param target: parsed for items, with the batch's bucket as soon as that is known.
    """

    size: object
    n: object
    model: object
    target: Target

    def read(self, raw: object) -> BatchItem:
        """Read a prompt, or a dict with ``prompt`` and optionally the other :data:`FIELDS`.

        :raises InvalidRequest: whatever is wrong with it; the message does not hold the prompt.
        """
        fields = _fields(raw)
        request = ImageRequest.parse(
            prompt=fields["prompt"],
            size=_given(fields, "size", self.size),
            n=_given(fields, "n", self.n),
            model=_given(fields, "model", self.model),
        )
        given = fields.get("id")
        item_id = request.fingerprint()[:_DERIVED_ID] if given is None else parse_id(given)
        target = self.target
        if fields.get("s3_key") is not None:
            target = Target.parse(fields["s3_key"], target.bucket, has_items=True)
        return BatchItem(item_id, given is not None, request, target.of_item(item_id))


def parse_id(value: object) -> str:
    """Return an item's id as text; a whole number, such as a SKU's, is one too."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < _MOST:
        value = str(value)
    if isinstance(value, str) and value.strip() and len(value) <= MAX_ID and value.isprintable():
        return value
    raise InvalidRequest(
        f"id {_shown(value)} is no id: use 1 to {MAX_ID} printable characters, or a whole number"
    )


def _shown(value: object) -> str:
    return repr(value[:50]) if isinstance(value, str) else f"of type {type(value).__name__}"


def _fields(raw: object) -> Mapping[str, Any]:
    if isinstance(raw, str):
        return {"prompt": raw}
    if not isinstance(raw, Mapping):
        raise InvalidRequest(f"is a {type(raw).__name__}: use a prompt, or a dict of {', '.join(FIELDS)}")
    if unknown := [str(name)[:50] for name in raw if name not in FIELDS]:
        raise InvalidRequest(f"has {unknown[0]!r}, which means nothing here: use {', '.join(FIELDS)}")
    if raw.get("prompt") is None:
        raise InvalidRequest("has no prompt: say what to draw")
    return raw


def _given(fields: Mapping[str, Any], name: str, default: object) -> object:
    value = fields.get(name)
    return default if value is None else value
