"""`python -m tools.matrix [--renew | --pages] [SERIES ...]`: check the series that are named, or all."""

from __future__ import annotations

import argparse
import sys

from tools.matrix.checks import Report, check
from tools.matrix.series import FLEET, SERIES
from tools.matrix.venvs import make_venv, renew_constraints


def main() -> int:
    """Check the series one after another and print a table; return 1 when one of them has a problem."""
    parser = argparse.ArgumentParser(prog="python -m tools.matrix", description=__doc__)
    parser.add_argument("series", nargs="*", help="releases of Airflow; all of them by default")
    parser.add_argument("--renew", action="store_true", help="resolve the pins anew, and check nothing")
    parser.add_argument(
        "--pages", action="store_true", help="look at the pages of 3.1 and later in a Chromium instead"
    )
    options = parser.parse_args()
    chosen = [series for series in SERIES if not options.series or series.airflow in options.series]
    if not chosen:
        parser.error(f"no such series: choose from {', '.join(series.airflow for series in SERIES)}")
    if options.pages:
        chosen = [series for series in chosen if series.has_gallery]
    if options.renew:
        for series in (*chosen, FLEET):
            renew_constraints(series)
            print(f"wrote {series.constraints}")
        return 0
    reports = []
    for series in chosen:
        reports.append(check(series, make_venv, pages=options.pages))
        print(describe(reports[-1]), flush=True)
    print(table(reports))
    return int(any(report.problems for report in reports))


def describe(report: Report) -> str:
    """Return a line on a series, and its problems below it."""
    head = f"{report.series.name}: {report.tests}; billed {report.billed}; {report.seconds:.0f} s"
    return "\n".join([head, *(f"  problem: {problem}" for problem in report.problems)])


def table(reports: list[Report]) -> str:
    """Return all series side by side."""
    rows = [("Airflow", "Python", "tests", "images billed", "seconds", "")]
    rows += [
        (
            report.series.airflow,
            report.series.python or ".".join(map(str, sys.version_info[:2])),
            report.tests,
            report.billed,
            f"{report.seconds:.0f}",
            "FAILED" if report.problems else f"not run: {report.missing}" if report.missing else "ok",
        )
        for report in reports
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(["", *lines])


if __name__ == "__main__":
    sys.exit(main())
