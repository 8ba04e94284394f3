"""The manifest: one JSON line for each item of a batch, in the order of the input."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from airflow_provider_aisa.core.journal.entry import Entry, EntryState
from airflow_provider_aisa.core.receipt import Receipt
from airflow_provider_aisa.exceptions import AisaError, ContentRefused

STORED: Final = "stored"
FAILED: Final = "failed"
NOT_SENT: Final = "not_sent"
#: An entry of the journal that no request of this attempt asks for, such as one with another prompt.
UNMATCHED: Final = "unmatched"

ManifestLine = Mapping[str, Any]
_NOTHING: Final[ManifestLine] = {
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


def line_of(item_id: str, receipt: Receipt) -> ManifestLine:
    """Return an item's line: what is paid for and what is stored, also when it failed."""
    response, error = receipt.response, receipt.error
    line = {
        "id": item_id,
        "status": STORED if error is None else FAILED,
        **_NOTHING,
        "images": [image.to_dict() for image in receipt.images],
        "usage": dict(response.usage) if response else None,
        "cost_usd": receipt.cost_usd,
        "reused": receipt.is_reused,
        "request_id": response.request_id if response else None,
        "unknown_outcomes": receipt.unknown_outcomes,
        "journal_uri": None if receipt.is_empty else receipt.journal_uri,
    }
    if isinstance(error, AisaError):
        line |= {
            "error": type(error).__name__,
            "code": error.code,
            "message": error_text(error),
            "request_id": error.request_id or line["request_id"],
        }
    return line


def unmatched_line(entry: Entry, journal_uri: str) -> ManifestLine:
    """Return the line of a purchase that no request of this attempt asks for any more."""
    bought = entry.stored or entry
    response = bought.response
    return {
        "id": entry.item,
        "status": UNMATCHED,
        **_NOTHING,
        "images": [image.to_dict() for image in bought.images],
        "usage": dict(response.usage) if response else None,
        "cost_usd": bought.cost_usd if response else 0.0,
        "reused": True,
        "request_id": response.request_id if response else None,
        "unknown_outcomes": len(entry.may_be_billed),
        "message": _why_unmatched(entry),
        "journal_uri": journal_uri,
    }


def _why_unmatched(entry: Entry) -> str:
    if entry.stored is not None:
        return "an earlier attempt of this task has paid for these images, and no request asks for them now."
    if entry.state is EntryState.PAID:
        return (
            "an earlier attempt of this task has paid for images that are not stored, and no request asks "
            "for them now. Put the request back to get them while their links work, or ask AIsa's "
            "support with the request id."
        )
    return (
        "an earlier attempt of this task has sent a request that may have been billed without a response, "
        "and that is not among the requests any more. Look at the usage page of the AIsa console."
    )


def error_text(error: AisaError) -> str:
    """Return an error's message; of a refused prompt not the gateway's, which may repeat the prompt."""
    if isinstance(error, ContentRefused):
        return "Change the prompt: the gateway's content policy refused it. Nothing was billed."
    return str(error)


def write_manifest(path: Path, lines: Iterable[tuple[str, str | None]]) -> None:
    """Write all lines to a file.

    :param lines: ids and lines; None for an item that was not sent.
    """
    with path.open("w", encoding="utf-8") as file:
        for item_id, line in lines:
            file.write(line or dump({"id": item_id, "status": NOT_SENT, **_NOTHING, "cost_usd": 0.0}))
            file.write("\n")


def dump(line: ManifestLine) -> str:
    """Return a line's text."""
    text = json.dumps(line, ensure_ascii=False, separators=(",", ":"))
    # Half a character, which JSON can carry and UTF-8 cannot, stays JSON's own escape.
    return text.encode(errors="backslashreplace").decode()
