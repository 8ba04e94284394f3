"""The manifest: one JSON line for each item of a batch, in the order of the input."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, TypeGuard

from airflow_provider_aisa.core.generate import GenerationResult, Pipeline
from airflow_provider_aisa.exceptions import AisaError, ContentRefused

STORED: Final = "stored"
FAILED: Final = "failed"
NOT_SENT: Final = "not_sent"

Line = Mapping[str, Any]
_NOTHING: Final[Line] = {
    "images": [],
    "usage": None,
    "cost_usd": None,
    "reused": False,
    "request_id": None,
    "unknown_outcomes": 0,
    "error": None,
    "code": None,
    "message": None,
    "journal_uri": None,
}


def is_line(document: object) -> TypeGuard[Line]:
    """Return whether JSON that was read back has all that a line has."""
    return isinstance(document, dict) and {"id", "status", *_NOTHING} <= document.keys()


def stored_line(item_id: str, result: GenerationResult) -> Line:
    """Return the line of an item whose images are in S3."""
    document = result.to_dict()
    found = {name: document[name] for name in _NOTHING if name in document}
    return {"id": item_id, "status": STORED, **_NOTHING, **found}


def failed_line(item_id: str, error: AisaError, pipeline: Pipeline) -> Line:
    """Return the line of an item that failed: what is paid for and what is stored all the same."""
    entry, unknown_outcomes = pipeline.entry, pipeline.unknown_outcomes
    response = (entry.response if entry else None) or {}
    return {
        "id": item_id,
        "status": FAILED,
        **_NOTHING,
        "images": [dict(image) for image in pipeline.images],
        "usage": response.get("usage"),
        "cost_usd": entry.cost_usd if entry else 0.0,
        "reused": pipeline.is_resumed,
        "request_id": error.request_id or response.get("request_id"),
        "unknown_outcomes": unknown_outcomes,
        "error": type(error).__name__,
        "code": error.code,
        "message": error_text(error),
        "journal_uri": pipeline.journal_uri if entry or unknown_outcomes else None,
    }


def error_text(error: AisaError) -> str:
    """Return an error's message; of a refused prompt not the gateway's, which may repeat the prompt."""
    if isinstance(error, ContentRefused):
        return "the gateway's content policy refused the prompt. Change it. Nothing was billed."
    return str(error)


def write_manifest(path: Path, lines: Iterable[tuple[str, str | None]]) -> None:
    """Write all lines to a file.

    :param lines: ids and lines; None for an item that was not sent.
    """
    with path.open("w", encoding="utf-8") as file:
        for item_id, line in lines:
            file.write(line or dump({"id": item_id, "status": NOT_SENT, **_NOTHING, "cost_usd": 0.0}))
            file.write("\n")


def dump(line: Line) -> str:
    """Return a line's text."""
    text = json.dumps(line, ensure_ascii=False, separators=(",", ":"))
    # Half a character, which JSON can carry and UTF-8 cannot, stays JSON's own escape.
    return text.encode(errors="backslashreplace").decode()
