"""What tests of several modules use: settings of a gateway, and a pacer of its own."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from airflow_provider_aisa.core.gateway.pacing import Pacer
from airflow_provider_aisa.core.gateway.settings import ConnectionSettings
from tests.fakes.clock import Clock

if TYPE_CHECKING:
    from airflow_provider_aisa.sandbox import Sandbox

_keys = itertools.count()


def make_settings(**changes: Any) -> ConnectionSettings:
    """Return valid settings with a key of their own: the pacer of a key is shared in the whole process."""
    values: dict[str, Any] = {
        "conn_id": "aisa_test",
        "api_key": f"sk-aisa-test-{next(_keys):08d}",
        "base_url": "https://gateway.test/v1",
    }
    return ConnectionSettings(**values | changes)


def sandbox_settings(sandbox: Sandbox, **changes: Any) -> ConnectionSettings:
    """Return the settings of a client of this sandbox."""
    return make_settings(**{"base_url": sandbox.base_url, "api_key": sandbox.api_key, **changes})


def make_pacer(clock: Clock | None = None, *, concurrency: int = 5, per_minute: int | None = None) -> Pacer:
    """Return a pacer that nobody else uses."""
    clock = clock or Clock()
    return Pacer(max_concurrency=concurrency, requests_per_minute=per_minute, clock=clock, calendar=clock)
