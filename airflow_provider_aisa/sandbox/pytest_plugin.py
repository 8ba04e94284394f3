"""Fixtures for DAG tests. Every pytest run next to this package loads it: it imports only what is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_aisa.sandbox.server import Sandbox


@pytest.fixture
def aisa_sandbox() -> Iterator[Sandbox]:
    """Run a local AIsa gateway and CDN for one test, on free ports: free of charge, with faults on demand."""
    from airflow_provider_aisa.sandbox import Sandbox  # with it, aiohttp and Pillow

    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def aisa_sandbox_connection(aisa_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> str:
    """Point the Airflow connection `aisa_default` at the sandbox, and return its id."""
    monkeypatch.setenv("AIRFLOW_CONN_AISA_DEFAULT", aisa_sandbox.connection)
    return "aisa_default"
