"""Figures as tables, on the terminal and in docs/benchmarks.md. Nothing that names a machine gets in."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

DOCUMENT = Path(__file__).parents[1] / "docs" / "benchmarks.md"
BEGIN, END = "<!-- figures:begin (python -m benchmarks --write) -->", "<!-- figures:end -->"


@dataclass(frozen=True, slots=True)
class Table:
    """What one benchmark found. `notes` say what a figure is, and whether a target was met."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def text(self) -> str:
        """Return the table for a terminal."""
        lines = [self.columns, *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.columns))]
        aligned = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
        return "\n".join([self.title, *(f"  {line}" for line in (*aligned, *self.notes))])

    def markdown(self) -> str:
        """Return the table for the document."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        rows = [f"| {' | '.join(line)} |" for line in lines]
        return "\n".join([f"### {self.title}", "", *rows, "", *(f"- {note}" for note in self.notes)]).rstrip()


def machine() -> str:
    """Say what the figures were measured on."""
    names = ("apache-airflow", "apache-airflow-providers-amazon", "httpx", "boto3", "openai")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    system = f"{platform.system()} on {platform.machine()}"
    return f"{os.cpu_count()} cores, {system}, Python {platform.python_version()}, {versions}"


def write(tables: Iterable[Table], facts: str) -> None:
    """Replace what stands between the document's two markers. Raises ValueError when they are missing."""
    document = DOCUMENT.read_text(encoding="utf-8")
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{DOCUMENT.name} has no {BEGIN} … {END}")
    figures = "\n\n".join([f"Medians, measured on {facts}.", *(table.markdown() for table in tables)])
    DOCUMENT.write_text(f"{before}{begin}\n\n{figures}\n\n{end}{after}", encoding="utf-8")


def medians(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the median of each figure over several runs."""
    return {name: median(one[name] for one in figures) for name in figures[0]}


def verdict(what: str, *, met: bool) -> str:
    """Say whether a target was met."""
    return f"Target: {what}: {'met' if met else 'MISSED'}."
