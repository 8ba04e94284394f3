"""How a mapped task instance is called in Airflow's pages: by what it draws, not by its number alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from airflow.providers.common.compat.sdk import redact

#: Used unless a DAG's author has a ``map_index_template``. The number stays: logs and the API go by it.
MAP_INDEX_TEMPLATE: Final = "{{ ti.map_index }}: {{ task.map_label }}"
_LINE: Final = re.compile(r"\bline=(\d+)")
_LONGEST: Final = 60  # characters; Airflow keeps 250


def label_of(text: object) -> str:
    """Return the first words of a prompt, on one line, without what Airflow masks."""
    # Masked before it is cut: half of a secret would not be recognized.
    words = " ".join(str(redact(str(text))).split())
    if len(words) <= _LONGEST:
        return words
    start = words[:_LONGEST]
    whole = start.rpartition(" ")[0]
    # Not every language has spaces.
    return f"{(whole if len(whole) > _LONGEST // 2 else start).rstrip(' ,.;:')}…"


def label_of_requests(requests: object) -> str:
    """Return what a batch is called: its file, or how many requests it has and the first of them."""
    if isinstance(requests, str):
        file, _, chunk = requests.partition("#")
        line = _LINE.search(chunk)
        name = file.rpartition("/")[2]
        return label_of(f"{name} from line {line[1]}" if line else name)
    if not isinstance(requests, Sequence) or not requests:
        return ""
    first = requests[0]
    if isinstance(first, Mapping):
        first = first.get("id") or first.get("prompt") or ""
    return label_of(f"{len(requests):,} requests from {first}" if len(requests) > 1 else first)
