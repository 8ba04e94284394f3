"""The demo's gateway: a sandbox, or the real one after a clear yes to its cost. Money needs a yes, always."""

from __future__ import annotations

import contextlib
import json
import secrets
import sys
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from airflow_provider_aisa.core.gateway.client import AisaClient
from airflow_provider_aisa.core.gateway.models import DEFAULT_MODEL, MODELS
from airflow_provider_aisa.core.gateway.settings import DEFAULT_BASE_URL, ConnectionSettings
from airflow_provider_aisa.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import TextIO

FREE = "to try it for free, unset AISA_API_KEY"


class NotConfirmed(RuntimeError):
    """Nobody said yes to the cost, so nothing was paid."""


class Gateway(NamedTuple):
    """Where the images come from. `sandbox` is None when it is the real one."""

    name: str
    base_url: str
    api_key: str
    sandbox: Sandbox | None = None

    def airflow_connection(self) -> str:
        """Return the JSON of the AIsa connection."""
        return json.dumps({"conn_type": "aisa", "host": self.base_url, "password": self.api_key})


@contextlib.contextmanager
def open_gateway(count: int, environ: Mapping[str, str]) -> Iterator[Gateway]:
    """Give the real gateway when there is a key for it, a sandbox of our own otherwise.

    Raises AisaError when the real one is out of reach or refuses the key, NotConfirmed without a yes to
    the cost of `count` images.
    """
    if api_key := environ.get("AISA_API_KEY"):
        base_url = environ.get("AISA_BASE_URL") or DEFAULT_BASE_URL
        check_gateway(base_url, api_key)
        confirm_cost(count, base_url, environ, sys.stdin)
        yield Gateway(base_url, base_url, api_key)
        return
    with Sandbox(api_key=f"sk-aisa-{secrets.token_hex(12)}") as sandbox:
        yield Gateway("the sandbox", sandbox.base_url, sandbox.api_key, sandbox)


def check_gateway(base_url: str, api_key: str) -> None:
    """Make sure, for free, that the gateway answers and takes the key. Raises AisaError."""
    extras = {"max_retries": 0, "timeout": 20}
    source = "AISA_BASE_URL, AISA_API_KEY"
    settings = ConnectionSettings.parse(conn_id=source, host=base_url, api_key=api_key, extras=extras)
    with AisaClient(settings) as client:
        client.list_models()


def confirm_cost(count: int, base_url: str, environ: Mapping[str, str], stdin: TextIO) -> None:
    """Say what `count` images cost; return only after a clear yes. Raises NotConfirmed."""
    price = MODELS[DEFAULT_MODEL].price_usd or Decimal(0)
    print(
        f"\nThis generates {count} images at {base_url}: {count} x ${price} = ${count * price}.", flush=True
    )
    if environ.get("AISA_DEMO_YES") == "1":
        print("AISA_DEMO_YES=1 says yes to that.\n")
        return
    if not stdin.isatty():
        raise NotConfirmed(f"Nothing was paid. Set AISA_DEMO_YES=1 to pay for it; {FREE}.")
    print("Type yes to pay for it: ", end="", flush=True)
    if stdin.readline().strip().lower() != "yes":
        raise NotConfirmed(f"Nothing was paid; {FREE}.")
