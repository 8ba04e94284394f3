"""The fenced blocks of README and docs. Each is of a kind that a test runs or compares: nothing is for show.

A Python block is one of these, told by what is in it:

- an *example*: lines of a file in dags_examples, each of which runs in a real Airflow;
- a *test*: holds `def test_`, and runs under pytest with the package's fixtures;
- a *dag*: builds a DAG or operators, and runs in a real Airflow. Without a DAG of its own it gets one, and
  the imports of `PREAMBLE`;
- a *script*: anything else. It runs after the page's other scripts, with their names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent, indent
from typing import Literal

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
EXAMPLES = {path.name: path.read_text() for path in sorted((ROOT / "dags_examples").glob("*.py"))}

Kind = Literal["example", "test", "dag", "script"]

_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_INCLUDE = re.compile(r'^--8<-- "(.+)"$', re.MULTILINE)
_MAKES_TASKS = re.compile(r"\bDAG\(|@dag\b|@task\b|^\w*Operator[.(]", re.MULTILINE)

PREAMBLE = """\
from airflow.sdk import DAG, Asset, task

from airflow_provider_aisa.operators.batch import SeedreamBatchOperator
from airflow_provider_aisa.operators.seedream import SeedreamGenerateOperator
"""


@dataclass(frozen=True)
class Block:
    """One fenced block: where it begins, its language ("" for none) and its text, less its indentation."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        """Return what a test is called by, such as ``docs/batches.md:46``."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def kind(self) -> Kind:
        """Return what kind of Python this is."""
        if self.example:
            return "example"
        if "def test_" in self.text:
            return "test"
        return "dag" if _MAKES_TASKS.search(self.text) else "script"

    @property
    def example(self) -> str | None:
        """Return the name of the file in dags_examples that holds these lines, one after the other."""
        return next((name for name, text in EXAMPLES.items() if _holds(text, self.text)), None)

    def as_dag_file(self) -> tuple[str, str]:
        """Return the id of this block's DAG, and a file that holds it."""
        if found := re.search(r"\bDAG\(\s*\"(\w+)\"", self.text):
            return found[1], self.text
        dag_id = "docs_" + re.sub(r"\W", "_", self.name.removeprefix("docs/"))
        body = indent(self.text, "    ")
        return dag_id, f'{PREAMBLE}\nwith DAG("{dag_id}", schedule=None):\n{body}'


def _holds(whole: str, part: str) -> bool:
    return part in whole or any(indent(part, "    " * depth) in whole for depth in (1, 2))


def read_blocks(page: Path, language: str | None = None) -> list[Block]:
    """Return a page's blocks, those of one language when it is named."""
    text = re.sub(_INCLUDE, lambda match: (ROOT / match[1]).read_text().rstrip(), page.read_text())
    found = [
        Block(page, text.count("\n", 0, match.start()) + 1, match[1], dedent(match[2]))
        for match in re.finditer(_FENCE, text)
    ]
    return [block for block in found if language in {None, block.language}]


def all_blocks(language: str, *kinds: Kind) -> list[Block]:
    """Return the blocks of all pages that are of a language and, for Python, of one of these kinds."""
    found = [block for page in PAGES for block in read_blocks(page, language)]
    return [block for block in found if not kinds or block.kind in kinds]
