"""What was counted beside what was promised, as a table."""

from __future__ import annotations

from typing import NamedTuple


class Finding(NamedTuple):
    """One count and its promise, in words."""

    what: str
    counted: str
    promised: str
    holds: bool


def equal(what: str, counted: str | int, promised: str | int) -> Finding:
    """Promise exactly this."""
    return Finding(what, str(counted), str(promised), counted == promised)


def at_most(what: str, counted: int, most: int) -> Finding:
    """Promise no more than this."""
    return Finding(what, str(counted), f"at most {most}", counted <= most)


def at_least(what: str, counted: int, least: int) -> Finding:
    """Promise no less than this."""
    return Finding(what, str(counted), f"at least {least}", counted >= least)


def within(what: str, counted: int, least: int, most: int) -> Finding:
    """Promise something from `least` to `most`: received, and received or without a response."""
    return Finding(what, str(counted), f"{least} to {most}", least <= counted <= most)


def table(findings: list[Finding]) -> str:
    """Return the findings as lines of text, the broken promises marked."""
    rows = [("", "counted", "promised", "")]
    rows += [(one.what, one.counted, one.promised, "ok" if one.holds else "BROKEN") for one in findings]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)
