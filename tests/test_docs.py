"""What README and docs show is what the code does."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from airflow_provider_aisa import exceptions
from airflow_provider_aisa.exceptions import AisaError
from airflow_provider_aisa.operators.seedream import SeedreamGenerateOperator
from airflow_provider_aisa.provider_info import CONNECTION_FIELDS, get_provider_info

if TYPE_CHECKING:
    from tests.operators.conftest import Desk

from tests.operators.conftest import desk

__all__ = ["desk"]

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def rows(heading: str) -> dict[str, list[str]]:
    """Return the cells of the first table below a heading, by the name in the first cell."""
    section = README.partition(f"\n## {heading}\n")[2]
    lines = re.findall(r"^\| ?(.*?) ?\|$", section.partition("\n## ")[0], re.MULTILINE)
    return {line.split("|")[0].strip(" `"): [cell.strip() for cell in line.split("|")] for line in lines}


def test_the_readmes_dag_is_the_quickstart_example() -> None:
    example = (ROOT / "dags_examples" / "quickstart.py").read_text()
    [dag] = [block for block in blocks("python") if "DAG(" in block]

    assert example.endswith(dag)


def test_every_python_block_is_python() -> None:
    for block in blocks("python"):
        ast.parse(block)


def test_the_parameter_table_is_the_operators_signature() -> None:
    table = rows("Parameters")
    parameters = inspect.signature(SeedreamGenerateOperator.__init__).parameters
    documented = {name for name in table if name in parameters}

    own = set(parameters) - {"self", "kwargs", "aisa_conn_id", "aws_conn_id"}
    assert documented == own
    for name in own:
        assert (table[name][1] == "●") is (name in SeedreamGenerateOperator.template_fields)


def test_the_connection_table_names_every_extra_and_its_default() -> None:
    table = rows("Connections")
    for name, field in CONNECTION_FIELDS.items():
        [row] = [cells for cells in table.values() if f"`{name}`" in cells[0]]
        default = field["schema"].get("default")
        assert default is None or row[-1] == str(default)


def test_the_error_table_names_every_error_and_whether_it_is_tried_again() -> None:
    table = rows("Errors")
    documented = {name: cells[-1] for cells in table.values() for name in re.findall(r"`(\w+)`", cells[0])}
    errors = {
        name: kind
        for name, kind in vars(exceptions).items()
        if isinstance(kind, type) and issubclass(kind, AisaError) and kind is not AisaError
    }

    assert set(documented) == set(errors)
    for name, word in documented.items():
        if word in {"yes", "no"}:
            assert errors[name].retryable is (word == "yes"), name


def test_the_tree_of_errors_in_their_module_is_the_tree() -> None:
    drawn = re.findall(r"[├└]── (\w+)", exceptions.__doc__ or "")
    errors = [kind for kind in vars(exceptions).values() if isinstance(kind, type)]

    assert sorted(drawn) == sorted(
        kind.__name__ for kind in errors if issubclass(kind, AisaError) and kind is not AisaError
    )


def test_the_fixture_example_passes_as_it_is_written(tmp_path: Path) -> None:
    [example] = [block for block in blocks("python") if "def test_" in block]
    source = f"from airflow_provider_aisa.hooks.aisa import AisaHook\n\n{example}"
    (tmp_path / "test_example.py").write_text(source)

    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )

    assert "1 passed" in run.stdout, run.stdout + run.stderr


def test_the_documented_xcom_has_the_keys_of_a_real_one(desk: Desk) -> None:
    [documented] = [block for block in blocks("json") if '"images"' in block]
    result = desk.run(n=2)

    assert list(result) == list(ast.literal_eval(documented.replace("false", "False")))


def test_the_documented_journal_reads_like_a_real_one(desk: Desk) -> None:
    text = (ROOT / "docs" / "paying-once.md").read_text()
    [documented] = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    uri = desk.run()["journal_uri"]

    shown = ast.literal_eval(documented)
    assert set(shown) <= set(desk.journal(uri))
    assert set(shown) > {"format", "version", "state", "attempt", "history"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_to_files_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", document.read_text()):
        assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_make_targets_that_are_named_exist(document: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(
        r"\bmake ([a-z]+)\b", "\n".join(re.findall(r"`[^`]+`|```.*?```", document.read_text(), re.DOTALL))
    ):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_changelogs_newest_version_is_the_packages() -> None:
    newest = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0]

    assert [newest] == get_provider_info()["versions"]
