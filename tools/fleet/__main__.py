"""`python -m tools.fleet`: put a fleet through everything, print the counts, fail at a broken promise.

This only makes the environment that has Celery; the rest is run by its interpreter, because Airflow's
commands are started with the one that starts them.
"""

from __future__ import annotations

import subprocess
import sys

from tools.matrix.series import FLEET, ROOT
from tools.matrix.venvs import VenvError, make_venv


def main() -> int:
    """Return the status of `python -m tools.fleet.run`, with the arguments of this command."""
    try:
        venv = make_venv(FLEET)
    except VenvError as error:
        print(f"The fleet cannot start: {error}", file=sys.stderr)
        return 1
    command = [str(venv.python), "-m", "tools.fleet.run", *sys.argv[1:]]
    return subprocess.run(command, check=False, cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
