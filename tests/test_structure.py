"""The shape of the package: arrows point one way, nothing heavy is loaded while DAGs are parsed."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import airflow_provider_aisa

PACKAGE = Path(airflow_provider_aisa.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
STATIC = sorted((PACKAGE / "ui" / "static").iterdir())
NAME = "airflow_provider_aisa"
HEAVY = {
    "PIL",
    "aiohttp",
    "boto3",
    "botocore",
    "httpcore",
    "httpx",
    "imagesize",
    "pydantic",
    "pydantic_core",
}


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (module, name) of every import in a file, those in functions and for type checkers included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield from ((node.module or "", alias.name) for alias in node.names)


def loaded_after(statement: str) -> set[str]:
    """Return the modules that a fresh interpreter has loaded after a statement."""
    code = f"import sys, json\n{statement}\nprint('\\n' + json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "path",
    [path for path in MODULES if name_of(path).startswith(("core/", "sandbox/", "exceptions"))],
    ids=name_of,
)
def test_the_core_the_sandbox_and_the_errors_import_no_airflow(path: Path) -> None:
    assert [module for module, _ in imports(path) if module.partition(".")[0] == "airflow"] == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_arrows_point_from_faces_to_hook_to_core(path: Path) -> None:
    layer = name_of(path).partition("/")[0]
    may_use = {
        "core": {"core", "exceptions", "version"},
        "sandbox": {"sandbox", "version"},
        "version.py": set(),
        "exceptions.py": set(),
        "provider_info.py": {"version"},
        "hooks": {"hooks", "core", "exceptions", "provider_info", "version"},
    }.get(layer)
    used = {module.split(".")[1] for module, _ in imports(path) if module.startswith(f"{NAME}.")}
    assert may_use is None or used <= may_use
    assert layer == "sandbox" or "sandbox" not in used


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_module_needs_anothers_private_names(path: Path) -> None:
    taken = [(module, name) for module, name in imports(path) if module.startswith(NAME)]
    private = [name for _, name in taken if name.startswith("_") and name != "__version__"]
    assert private == []


@pytest.mark.parametrize("path", MODULES + STATIC, ids=name_of)
def test_a_module_fits_in_one_reading(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 350


def test_importing_operators_loads_nothing_that_airflow_has_not_loaded_itself() -> None:
    """Airflow parses DAG files every 30 seconds."""
    operators = [f"{NAME}.operators.{name}" for name in ("batch", "gemini", "image_batch", "seedream", "wan")]
    before = loaded_after("from airflow.providers.common.compat.sdk import BaseOperator")
    after = loaded_after(f"import {', '.join(operators)}")
    added = after - before
    roots = {module.partition(".")[0] for module in added}
    assert roots & HEAVY == set()
    assert roots - sys.stdlib_module_names <= {"airflow", NAME}
    assert [module for module in added if module.startswith(f"{NAME}.sandbox")] == []
    assert set(operators) <= added


def test_importing_the_core_loads_no_airflow() -> None:
    loaded = loaded_after(f"import {NAME}.core.generate, {NAME}.core.batch.runner, {NAME}.sandbox")
    assert [module for module in loaded if module.partition(".")[0] == "airflow"] == []
