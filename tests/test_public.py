"""The public surface is small, sorted and on purpose."""

from __future__ import annotations

import subprocess
import sys

import pytest

import airflow_provider_aisa
from tests.series import HAS_RETRY_POLICIES


def test_the_public_names_are_these() -> None:
    assert airflow_provider_aisa.__all__ == [
        "AisaHook",
        "AisaRetryPolicy",
        "GeminiGenerateOperator",
        "GenerateTrigger",
        "ImageBatchOperator",
        "SeedreamBatchOperator",
        "SeedreamGenerateOperator",
        "WanGenerateOperator",
        "__version__",
        "chunk_requests",
    ]


@pytest.mark.parametrize("name", airflow_provider_aisa.__all__)
def test_every_public_name_is_there_or_says_which_airflow_it_needs(name: str) -> None:
    if name == "AisaRetryPolicy" and not HAS_RETRY_POLICIES:
        with pytest.raises(ImportError, match="needs Airflow 3"):
            getattr(airflow_provider_aisa, name)
    else:
        assert getattr(airflow_provider_aisa, name)


def test_another_name_is_not() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Aisa'"):
        airflow_provider_aisa.Aisa  # type: ignore[attr-defined]  # noqa: B018 - that is the point


def test_importing_the_package_loads_nothing_else() -> None:
    code = "import sys, airflow_provider_aisa; print('airflow' in sys.modules, 'httpx' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert run.stdout == "False False\n"
