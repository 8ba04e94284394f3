"""A local AIsa gateway and CDN: nothing here costs money, leaves the machine or imports Airflow.

Importing this package imports neither aiohttp nor Pillow: pytest does so, through the plugin, in every run of
everyone who has the provider installed. The first use of `Sandbox` does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from airflow_provider_aisa.sandbox.faults import Fault, FaultKind
from airflow_provider_aisa.sandbox.records import CdnRequest, GatewayRequest, LedgerEntry

if TYPE_CHECKING:
    from airflow_provider_aisa.sandbox.server import Sandbox

__all__ = ["CdnRequest", "Fault", "FaultKind", "GatewayRequest", "LedgerEntry", "Sandbox"]

_EXTRA = {"aiohttp", "PIL"}


def __getattr__(name: str) -> type[Sandbox]:
    """Load the server on first use. Raises ImportError with the command that installs what is missing."""
    if name != "Sandbox":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        server = importlib.import_module("airflow_provider_aisa.sandbox.server")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        raise ImportError(
            f"the AIsa sandbox needs {error.name}: pip install 'airflow-provider-aisa[sandbox]'"
        ) from error
    found: type[Sandbox] = server.Sandbox
    return found
