"""Runs `airflow` commands, given as JSON on standard input, in one process: starting one takes seconds.

Prints a line of JSON for each: its exit status, and what it printed.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import traceback


def run(arguments: list[str]) -> tuple[int, str]:
    """Run one command; return its exit status and its output."""
    from airflow.cli.cli_parser import get_parser

    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            options = get_parser().parse_args(arguments)
            options.func(options)
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(bool(end.code)), output.getvalue()
        except Exception:
            return 1, output.getvalue() + traceback.format_exc()
    return 0, output.getvalue()


def main() -> None:
    """Create the database, then do what standard input says."""
    commands = json.load(sys.stdin)
    run(["db", "migrate"])
    for arguments in commands:
        if arguments[:2] == ["connections", "add"]:  # pages show the same connection in different ways
            run(["connections", "delete", arguments[2]])
        status, output = run(arguments)
        sys.stdout.write(json.dumps({"status": status, "output": output}) + "\n")


if __name__ == "__main__":
    main()
