"""`python -m benchmarks [NAME ...] [--runs N] [--write]`: measure, print, keep."""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from typing import Final

from benchmarks.report import DOCUMENT, Table, machine, write

MODULES: Final = {
    "import": "import_time",
    "task": "task",
    "journal": "journal",
    "links": "links",
    "triggerer": "triggerer",
    "batch": "batch",
    "limits": "limits",
    "gallery": "gallery",
}


def main() -> int:
    """Run the benchmarks that were asked for, or all. A missed target is no error: machines are busy."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("benchmarks", nargs="*", metavar="|".join(MODULES), help="all of them by default")
    parser.add_argument("--runs", type=int, default=3, help="measurements for each median (default 3)")
    parser.add_argument("--write", action="store_true", help=f"put the figures into docs/{DOCUMENT.name}")
    options = parser.parse_args()
    if unknown := sorted(set(options.benchmarks) - set(MODULES)):
        parser.error(f"there is no benchmark {', '.join(unknown)}: choose from {', '.join(MODULES)}")
    if options.runs < 1:
        parser.error("--runs must be at least 1")
    if options.write and options.benchmarks:
        parser.error("--write replaces all figures: leave the names out")
    tables: list[Table] = []
    for name in options.benchmarks or MODULES:
        tables += _run(name, options.runs)
    if options.write:
        write(tables, machine())
    missed = [table.title for table in tables if any(note.endswith("MISSED.") for note in table.notes)]
    print(f"Targets missed in: {', '.join(missed)}" if missed else "All targets met.")
    return 0


def _run(name: str, runs: int) -> list[Table]:
    began = time.monotonic()
    found = importlib.import_module(f"benchmarks.{MODULES[name]}").main(runs)
    tables: list[Table] = [found] if isinstance(found, Table) else list(found)
    for table in tables:
        print(f"{table.text()}\n")
    print(f"({name}: {time.monotonic() - began:.0f} s)\n", flush=True)
    return tables


if __name__ == "__main__":
    sys.exit(main())
