"""What the matrix takes for a pass, and what it does not."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_aisa.sandbox import LedgerEntry
from airflow_provider_aisa.version import __version__
from tools.matrix.__main__ import table
from tools.matrix.checks import PROMPTS, Report, check, check_faces, check_listing, problems_of_dag
from tools.matrix.commands import CommandFailed, Commands
from tools.matrix.series import NOT_ABOUT_AIRFLOW, ROOT, SERIES, Series
from tools.matrix.venvs import Venv, VenvError, find_python

if TYPE_CHECKING:
    from collections.abc import Mapping

LISTED = {"package_name": "airflow-provider-aisa", "version": __version__}
HOOK = {"connection_type": "aisa", "class": "airflow_provider_aisa.hooks.aisa.AisaHook"}
IMAGES = [f"{number}.png" for number in range(len(PROMPTS))]


def report() -> Report:
    return Report(Series("3.3.2"))


def after_tests(printed: str, status: int) -> Report:
    """Return what is reported of a pytest that printed this and ended like this."""
    done = subprocess.CompletedProcess([], status, stdout=printed, stderr="")
    commands: Any = SimpleNamespace(venv=Venv(Path("venv")), run=lambda _: done)
    told = report()
    check_faces(commands, told)
    return told


def after_listing(rows: Mapping[str, list[dict[str, str]]]) -> list[str]:
    commands: Any = SimpleNamespace(rows=lambda _, what: rows[what])
    told = report()
    check_listing(commands, told)
    return told.problems


def entry(prompt: str, images: int = 1) -> LedgerEntry:
    return LedgerEntry(
        request_id="",
        model="",
        prompt=prompt,
        n=images,
        size="",
        images=images,
        cost_usd=Decimal("0.04"),
        status=200,
        time=datetime.now(UTC),
    )


@pytest.mark.parametrize(
    "line", ["511 passed, 2 skipped, 2 warnings in 137.81s (0:02:17)", "3 passed in 0.10s"]
)
def test_tests_that_passed_are_counted_and_no_problem(line: str) -> None:
    told = after_tests(f"..... [100%]\n{line}\n", 0)
    assert (told.tests, told.problems) == (line.partition(" in ")[0], [])


@pytest.mark.parametrize(
    ("printed", "status"),
    [
        ("F.\n1 failed, 511 passed in 3.00s\n", 1),
        ("511 passed, 4 errors in 3.00s\n", 1),
        ("no tests ran in 0.01s\n", 5),
        ("3 skipped in 0.01s\n", 0),
        ("ImportError while loading conftest\n", 4),
        ("511 passed in 3.00s\n", -9),
        ("", 0),
    ],
)
def test_tests_that_failed_or_did_not_run_are_a_problem(printed: str, status: int) -> None:
    assert len(after_tests(printed, status).problems) == 1


def test_a_provider_that_airflow_does_not_list_as_this_one_is_a_problem() -> None:
    other = {**LISTED, "version": "0.0.1"}
    assert after_listing({"list": [LISTED], "hooks": [HOOK]}) == []
    assert len(after_listing({"list": [], "hooks": [HOOK]})) == 1
    assert len(after_listing({"list": [other], "hooks": [HOOK]})) == 1
    assert len(after_listing({"list": [LISTED], "hooks": []})) == 1
    assert len(after_listing({"list": [LISTED], "hooks": [{**HOOK, "class": "somebody.elses.Hook"}]})) == 1


def test_each_image_has_to_be_billed_once_and_stored() -> None:
    once = [entry(prompt) for prompt in PROMPTS]
    assert problems_of_dag(once, IMAGES) == []
    assert len(problems_of_dag([*once, entry("sync")], IMAGES)) == 1
    assert len(problems_of_dag([*once[1:], entry(PROMPTS[0], images=2)], IMAGES)) == 1
    assert len(problems_of_dag([*once[1:], once[1]], IMAGES)) == 1
    assert len(problems_of_dag(once[1:], IMAGES)) == 1
    assert len(problems_of_dag(once, IMAGES[1:])) == 1
    assert len(problems_of_dag([], [])) == 2


def test_a_series_that_cannot_be_installed_is_a_failure_in_the_table() -> None:
    def refuse(_: Series) -> Venv:
        raise VenvError("uv pip failed")

    told = check(Series("3.3.2"), refuse)

    assert told.problems == ["uv pip failed"]
    assert table([told]).splitlines()[-1].endswith("FAILED")
    assert table([report()]).splitlines()[-1].endswith("ok")


def test_a_python_that_a_machine_does_not_have_is_said_in_the_table_and_fails_nothing() -> None:
    told = check(Series("3.3.2", python="3.99"), lambda series: Venv(find_python(series.python)))

    assert told.problems == []
    assert (
        table([told]).splitlines()[-1].endswith("not run: there is no Python 3.99 on the PATH nor in pyenv")
    )


def test_an_older_python_is_run_only_where_the_newest_is_missing() -> None:
    this = ".".join(map(str, sys.version_info[:2]))

    def refuse(_: Series) -> Venv:
        raise VenvError("it was to be run")

    spared = check(Series("3.3.2", instead_of=this), refuse)
    needed = check(Series("3.3.2", instead_of="3.99"), refuse)

    assert (spared.missing, spared.problems) == (f"Python {this} is there", [])
    assert needed.problems == ["it was to be run"]


def test_a_command_that_fails_is_an_error_with_what_it_printed(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    airflow = tmp_path / "bin" / "airflow"
    airflow.write_text("#!/bin/sh\necho said; echo shouted >&2; exit 3\n")
    airflow.chmod(0o755)
    commands = Commands(Venv(tmp_path), tmp_path, tmp_path, directory=tmp_path)
    with pytest.raises(CommandFailed, match=r"`airflow dags test` failed:\nsaid\nshouted"):
        commands.airflow("dags", "test")


def test_commands_see_none_of_the_callers_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AIRFLOW_HOME", "AISA_API_KEY", "AWS_ACCESS_KEY_ID", "PYTHONPATH"):
        monkeypatch.setenv(name, "mine")
    commands = Commands(Venv(tmp_path), tmp_path, tmp_path, directory=tmp_path)
    seen = commands.run(["env"], env={"AIRFLOW_CONN_X": "given"}).stdout
    assert "=mine" not in seen
    assert {f"AIRFLOW_HOME={tmp_path}", "AIRFLOW_CONN_X=given"} <= set(seen.splitlines())


def test_every_series_has_its_pins_and_its_tests_and_the_readme_names_it() -> None:
    readme = (ROOT / "README.md").read_text()
    for series in SERIES:
        assert f"apache-airflow=={series.airflow}\n" in series.constraints.read_text()
        assert series.airflow in readme
        assert [name for name in series.tests if not (ROOT / name).exists()] == []
    for name in NOT_ABOUT_AIRFLOW:
        file, _, test = name.partition("::")
        assert not test or f"def {test}(" in (ROOT / file).read_text()
        assert (ROOT / file).exists()
