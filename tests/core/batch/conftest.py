from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.core.batch.scene import Scene

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """Yield a batch that may do anything, and check that no image is left on the disk."""
    scene = Scene(tmp_path)
    yield scene
    scene.close()
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert left <= {"plan.sqlite", "manifest.jsonl"}, "an image's file outlived its item"
