"""Every command on README and docs is one that works."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import certifi
import pytest

from tests.docs.blocks import PAGES, ROOT, all_blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_aisa.sandbox import Sandbox

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SANDBOX = "airflow_provider_aisa.sandbox"
INLINE = re.compile(r"(?<!`)`((?:airflow|AIRFLOW__\w+=\w+ airflow|make|pip|python) [^`]+)`")
MAKEFILE = (ROOT / "Makefile").read_text()


class Command(NamedTuple):
    """One command, without the variables before it."""

    place: str
    words: tuple[str, ...]


def commands(program: str) -> list[Command]:
    """Return what README and docs show of a program, in blocks and in running text."""
    lines = [(block.name, line) for block in all_blocks("bash") for line in block.text.splitlines()]
    for page in PAGES:
        inline = re.findall(
            r"(?<!`)`((?:airflow|AIRFLOW__\w+=\w+ airflow|make|pip|python) [^`]+)`", page.read_text()
        )
        lines += [(page.name, text) for text in inline]
    found = []
    for place, line in lines:
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            del words[0]
        if words:
            found.append(Command(place, tuple(words)))
    return [command for command in found if program in {command.words[0], ""}]


def test_only_known_programs_are_shown() -> None:
    """`aws` is not run: it is another project's, and the page that shows it explains a key, not a command."""
    known = {"make", "pip", "python", "airflow", "aws", "cat", "export"}
    assert {command.words[0] for command in commands("")} <= known


def test_certificates_of_a_company_are_joined_with_the_usual_ones(tmp_path: Path) -> None:
    [block] = [block for block in all_blocks("bash") if "SSL_CERT_FILE" in block.text]
    (tmp_path / "corporate-ca.pem").write_text("corporate")
    script = block.text.replace("/etc/ssl", str(tmp_path)) + 'cat "$SSL_CERT_FILE"\n'
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    joined = subprocess.run(
        ["/bin/sh", "-euc", script],
        cwd=tmp_path,
        env={"PATH": path},
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert joined == Path(certifi.where()).read_text() + "corporate"


@pytest.mark.parametrize("command", commands("make"), ids=str)
def test_make_targets_exist(command: Command) -> None:
    for target in command.words[1:]:
        assert "=" in target or re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), target


@pytest.mark.parametrize("command", commands("pip"), ids=str)
def test_what_pip_installs_is_this_package_and_its_extras(command: Command) -> None:
    *_, package = command.words
    name, _, extras = package.rstrip("]").partition("[")

    assert command.words[:-1] == ("pip", "install")
    if name == PROJECT["name"]:
        assert set(filter(None, extras.split(","))) <= set(PROJECT["optional-dependencies"])
    else:  # something that this package, or its development, needs itself
        needed = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]
        assert any(re.match(rf"{name}\b", each) for each in needed)


def test_python_modules_exist() -> None:
    for command in commands("python"):
        assert command.words[1] == "-m"
        assert importlib.util.find_spec(command.words[2]), command


@pytest.mark.parametrize("command", [each for each in commands("python") if SANDBOX in each.words], ids=str)
def test_sandbox_starts_and_says_at_ctrl_c_what_it_has_billed(command: Command) -> None:
    process = subprocess.Popen(
        [sys.executable, *command.words[1:], "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        assert process.stdout is not None
        said = "".join(iter(process.stdout.readline, "\n"))  # a title, up to the first empty line
        process.send_signal(signal.SIGINT)
        said += process.stdout.read()

    assert "images billed" in said


class Answer(NamedTuple):
    status: int
    output: str


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Command, Answer]]:
    """Run all `airflow` commands in an Airflow of their own; return what each answered."""
    from airflow_provider_aisa.sandbox import Sandbox

    with Sandbox() as sandbox:
        yield run_airflow(commands("airflow"), tmp_path_factory.mktemp("airflow"), sandbox)


def run_airflow(shown: list[Command], home: Path, sandbox: Sandbox) -> dict[Command, Answer]:
    env = {
        **os.environ,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
        # It comes before what the commands save, so that no test asks the real gateway.
        "AIRFLOW_CONN_AISA_DEFAULT": sandbox.connection,
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.docs.airflow_commands"],
        input=json.dumps([command.words[1:] for command in shown]),
        capture_output=True,
        text=True,
        env=env,
        cwd=ROOT,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"status"')]
    assert len(lines) == len(shown), done.stdout + done.stderr
    return {command: Answer(**json.loads(line)) for command, line in zip(shown, lines, strict=True)}


@pytest.mark.parametrize("command", commands("airflow"), ids=str)
def test_airflow_commands_succeed(command: Command, answers: dict[Command, Answer]) -> None:
    assert answers[command].status == 0, answers[command].output
