"""`make docs`: the site of docs/ in build/site. Whatever its tools warn of is an error.

Zensical's strict mode finds pages, sections and references that do not exist. What Griffe says of docstrings
that contradict their signatures it passes on as text, so that is looked for here.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SITE = ROOT / "build" / "site"
# Clean: a page that is in the cache is not warned about again.
COMMAND = ["-m", "zensical", "build", "--strict", "--clean", "--config-file", "mkdocs.yml"]
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def build() -> tuple[int, str]:
    """Build the site; return 0, or 1 when there was a warning, and what was said."""
    shutil.rmtree(SITE, ignore_errors=True)
    env = os.environ | {"NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, *COMMAND], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    said = _COLOUR.sub("", done.stdout + done.stderr).partition("Traceback (")[0]
    return int(done.returncode != 0 or has_warning(said)), said


def has_warning(said: str) -> bool:
    """Tell whether there is a warning of Griffe in the output: Zensical succeeds all the same."""
    return re.search(r"^griffe: ", said, re.MULTILINE) is not None


def main() -> int:
    """Build, and say where the site is."""
    status, said = build()
    print(said)
    site = SITE.relative_to(ROOT)
    print("A warning is an error here." if status else f"Look at it: python -m http.server -d {site}")
    return status


if __name__ == "__main__":
    sys.exit(main())
