"""Python on README and docs runs as it stands there; other blocks are run or compared, every one of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import groupby
from typing import TYPE_CHECKING, Any

import pytest

from tests.docs.blocks import EXAMPLES, PAGES, ROOT, Block, all_blocks, read_blocks
from tests.docs.test_texts import COMPARED
from tests.operators.conftest import desk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.operators.conftest import Desk

__all__ = ["desk"]

SCRIPTS = {page: list(blocks) for page, blocks in groupby(all_blocks("python", "script"), lambda b: b.page)}


def name(value: object) -> str:
    return value.name if isinstance(value, Block) else str(value)


@pytest.mark.parametrize("page", SCRIPTS, ids=lambda page: page.name)
def test_scripts_of_a_page_run_one_after_the_other(page: Path, desk: Desk, environment: None) -> None:
    names: dict[str, Any] = {}
    for block in SCRIPTS[page]:
        exec(compile(block.text, block.name, "exec"), names)  # noqa: S102 - that is the point


@pytest.fixture
def environment() -> Iterator[None]:
    """Let a script set variables, for itself only."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize("block", all_blocks("python", "test"), ids=name)
def test_tests_pass_with_the_fixtures_that_come_with_the_package(block: Block, tmp_path: Path) -> None:
    (tmp_path / "test_shown.py").write_text(block.text)

    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )

    assert "1 passed" in run.stdout, run.stdout + run.stderr


def test_every_example_is_shown_on_the_page_of_examples() -> None:
    shown = [block.example for block in read_blocks(ROOT / "docs" / "examples.md", "python")]
    assert sorted(filter(None, shown)) == sorted(EXAMPLES)


@pytest.mark.parametrize("block", all_blocks("json"), ids=name)
def test_json_is_json(block: Block) -> None:
    json.loads(block.text)


def test_no_block_is_only_for_show() -> None:
    """A language that nobody runs, a command that nobody knows, a text that nobody compares: say how."""
    for page in PAGES:
        for block in read_blocks(page):
            assert block.language in {"python", "bash", "json", ""}, f"{block.name}: who runs that?"
            if block.language in {"json", ""} and page.name != "errors.md":  # test_errors.py compares those
                assert any(mark in block.text for mark in COMPARED), f"{block.name}: who compares that?"
