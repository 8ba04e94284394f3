"""What installing the package does to others: nothing is imported that they did not ask for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import get_args

import pytest

import airflow_provider_aisa.sandbox as package
from airflow_provider_aisa.sandbox import FaultKind
from airflow_provider_aisa.sandbox.faults import KINDS
from tests.sandbox.conftest import run


def output(code: str) -> str:
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "module", ["airflow_provider_aisa.sandbox", "airflow_provider_aisa.sandbox.pytest_plugin"]
)
def test_importing_the_package_or_its_pytest_plugin_loads_nothing_heavy(module: str) -> None:
    code = (
        f"import sys, {module}; print({{'aiohttp', 'PIL', 'airflow', 'httpx', 'asyncio'}} & set(sys.modules))"
    )
    assert output(code).strip() == "set()"


@pytest.mark.parametrize("missing", ["aiohttp", "PIL"])
def test_without_the_extra_the_error_names_the_command(missing: str) -> None:
    code = f"""
import sys
sys.modules["{missing}"] = None
try:
    from airflow_provider_aisa.sandbox import Sandbox
except ImportError as error:
    print(error)
"""
    assert "pip install 'airflow-provider-aisa[sandbox]'" in output(code)


def test_without_the_extra_the_command_line_says_so() -> None:
    main = "from airflow_provider_aisa.sandbox.cli import main; main([])"
    done = run("-c", f"import sys; sys.modules['aiohttp'] = None; {main}")
    assert done.returncode == 2
    assert "pip install 'airflow-provider-aisa[sandbox]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_another_missing_module_is_not_blamed_on_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("airflow_provider_aisa.sandbox.server")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "airflow_provider_aisa.sandbox.cdn", None)
    with pytest.raises(ModuleNotFoundError, match=r"airflow_provider_aisa\.sandbox\.cdn"):
        _ = package.Sandbox


def test_the_public_names_are_sorted_and_exist() -> None:
    assert package.__all__ == sorted(package.__all__)
    assert all(getattr(package, name) for name in package.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'sandbox_'"):
        _ = getattr(package, "sandbox_")  # noqa: B009  # mypy knows that it is not there


def test_every_fault_kind_is_in_the_table() -> None:
    assert list(KINDS) == list(get_args(FaultKind))


FIXTURES = """
import json, os

def test_fixture(aisa_sandbox, aisa_sandbox_connection):
    assert aisa_sandbox_connection == "aisa_default"
    connection = json.loads(os.environ["AIRFLOW_CONN_AISA_DEFAULT"])
    assert connection["host"] == aisa_sandbox.base_url
    assert aisa_sandbox.billed == 0

def test_the_variable_is_gone():
    assert "AIRFLOW_CONN_AISA_DEFAULT" not in os.environ
"""


def test_the_plugin_points_the_airflow_connection_at_a_fresh_sandbox(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(FIXTURES)
    done = run("-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", cwd=tmp_path)
    assert "2 passed" in done.stdout, done.stdout + done.stderr
