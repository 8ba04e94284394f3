"""What `make dist` says of a release's files that lack something, or have too much."""

from __future__ import annotations

import tarfile
import zipfile
from typing import TYPE_CHECKING

import pytest

from airflow_provider_aisa.version import __version__
from tools.dist import problems_of_files, problems_of_metadata
from tools.matrix.series import ROOT

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = ("README.md", "LICENSE", "CHANGELOG.md", "docs/paying-once.md", "dags_examples/quickstart.py")
PACKAGE = [
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "airflow_provider_aisa").rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
]
METADATA = f"Metadata-Version: 2.4\nName: airflow-provider-aisa\nVersion: {__version__}\n\n# A provider\n"


def build(
    folder: Path, *, source: tuple[str, ...] = SOURCE, package: list[str] = PACKAGE, metadata: str = METADATA
) -> tuple[Path, Path]:
    """Write an sdist and a wheel whose files are empty."""
    sdist, wheel = folder / "a.tar.gz", folder / "a.whl"
    with tarfile.open(sdist, "w:gz") as archive:
        for name in source:
            archive.addfile(tarfile.TarInfo(f"a/{name}"))
    with zipfile.ZipFile(wheel, "w") as written:
        for name in package:
            written.writestr(name, "")
        written.writestr("a.dist-info/METADATA", metadata)
    return sdist, wheel


def test_complete_files_have_no_problem(tmp_path: Path) -> None:
    sdist, wheel = build(tmp_path)
    assert [*problems_of_files(sdist, wheel), *problems_of_metadata(wheel)] == []


@pytest.mark.parametrize("missing", SOURCE)
def test_a_file_that_the_sdist_lacks_is_named(tmp_path: Path, missing: str) -> None:
    files = build(tmp_path, source=tuple(name for name in SOURCE if name != missing))
    assert problems_of_files(*files) == [f"a.tar.gz has no {missing}"]


def test_a_wheel_has_each_file_of_the_package_and_no_other(tmp_path: Path) -> None:
    files = build(
        tmp_path, package=[*(name for name in PACKAGE if not name.endswith("py.typed")), "tests/conftest.py"]
    )
    assert problems_of_files(*files) == [
        "a.whl has no airflow_provider_aisa/py.typed",
        "a.whl has tests/conftest.py, which is not in the package",
    ]


def test_another_version_and_a_link_that_leads_nowhere_on_an_index_are_named(tmp_path: Path) -> None:
    text = "[docs](docs/deferral.md), [here](#a-dag) and [there](https://example.com/docs/x.md)"
    _, wheel = build(tmp_path, metadata=f"Metadata-Version: 2.4\nVersion: 0.0.9\n\n{text}\n")
    assert problems_of_metadata(wheel) == [
        "a.whl says 0.0.9",
        "the README links to docs/deferral.md, which no package index has",
    ]
