"""`python -m tools.leaks COMMAND ...`: run a command, and fail when it leaves a process behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from tools.supervise import Process, adopt_orphans, descendants

SETTLE_SECONDS = 3.0  # what was told to end may take a moment


def find_leaks() -> list[Process]:
    """Return the processes below this one which do not end by themselves."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while (left := descendants(os.getpid())) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def main() -> int:
    """Return the command's status; 1 when it succeeded and left processes behind, which are listed."""
    adopt_orphans()
    status = subprocess.run(sys.argv[1:], check=False).returncode
    left = find_leaks()
    for process in left:
        print(f"left behind: {process.pid} {process.command}", file=sys.stderr)
    return status or int(bool(left))


if __name__ == "__main__":
    sys.exit(main())
