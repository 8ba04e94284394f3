"""What people write into an Airflow connection, and what it means: its host and its key have many forms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_aisa.exceptions import AisaError, GatewayFailed, InvalidConnection, KeyRefused

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection


def spellings(password: str | None) -> list[str]:
    """Return the key as it is written in the connection, and as it is sent."""
    return [text for text in dict.fromkeys([password or "", (password or "").strip()]) if text]


def base_url_of(connection: Connection) -> str:
    """Return the base URL: the host field, completed by what a connection written as a URI puts elsewhere."""
    host = connection.host or ""
    scheme, _, name = host.rpartition("://")
    if not name or (scheme and "/" in name):
        return host
    is_scheme = connection.schema in {"http", "https"}
    scheme = scheme or (connection.schema if is_scheme else None) or "https"
    name = f"[{name}]" if name.count(":") > 1 and not name.startswith("[") else name
    port = f":{connection.port}" if connection.port else ""
    path = f"/{connection.schema.lstrip('/')}" if connection.schema and not is_scheme else ""
    return f"{scheme}://{name}{port}{path}"


def why_test_failed(error: AisaError, base_url: str) -> str | None:
    """Return what the Test button says about a failure, or None where the error itself says it best."""
    answer = " ".join(str(part) for part in (error.status, error.code) if part)
    if isinstance(error, KeyRefused):
        fix = "copy it again from" if error.status == 401 else "look at what it may do in"
        return f"{base_url} refuses the API key ({answer}): {fix} the AIsa console."
    if error.status in {200, 404}:
        return f"{base_url} has no list of models, so the API key is unverified. Check the Base URL."
    if isinstance(error, InvalidConnection) and error.status:
        return f"{base_url} redirects ({answer}), and the API key is not sent there. Check the Base URL."
    if isinstance(error, GatewayFailed) and error.status:
        return f"{base_url} failed ({answer}). Try again later."
    if isinstance(error, GatewayFailed):
        return f"{base_url} gave no answer. Check the Base URL, the network and the proxy."
    return None
