"""Everything a connection says, typed and checked once; the rest of the core never sees a raw extra."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from ipaddress import ip_address
from types import MappingProxyType
from typing import Any, Final, Self
from urllib.parse import SplitResult, quote, urlsplit

from airflow_provider_aisa.core.net.proxies import HOW_TO_WRITE, parse_proxy
from airflow_provider_aisa.exceptions import InvalidConnection

DEFAULT_BASE_URL: Final = "https://api.aisa.one/v1"
DEFAULT_TIMEOUT: Final = 300.0
DEFAULT_MAX_RETRIES: Final = 4
DEFAULT_MAX_CONCURRENCY: Final = 5  # the free tier's limit
_LONGEST_TIMEOUT: Final = 86_400  # seconds; the operating system refuses what it cannot count
_LONGEST_SHOWN: Final = 100  # characters of a wrong value in a message
#: What a connection's fields are called in its form, and elsewhere.
_API_KEY: Final = "API key (password)"
_BASE_URL: Final = "Base URL (host)"
_LARGEST: Final = 10**9  # '1e999999999' is a number, too


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """One gateway and how to talk to it. The key is left out of ``repr``.

    :param base_url: without a trailing slash, e.g. ``https://api.aisa.one/v1``.
    :param timeout: seconds for one request and its response as a whole, connecting included.
    :param max_retries: how often a failed request may be sent again.
    :param max_concurrency: requests in flight at once, per process.
    :param requests_per_minute: None for no limit of our own.
    :param proxy: URL of an HTTP or SOCKS proxy; None to follow the environment.
    :param prices: USD per image by model; they win over the list prices.
    """

    conn_id: str
    api_key: str = field(repr=False)
    base_url: str = DEFAULT_BASE_URL
    timeout: float = DEFAULT_TIMEOUT
    max_retries: int = DEFAULT_MAX_RETRIES
    max_concurrency: int = DEFAULT_MAX_CONCURRENCY
    requests_per_minute: int | None = None
    proxy: str | None = field(default=None, repr=False)
    prices: Mapping[str, Decimal] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def parse(cls, *, conn_id: str, host: str | None, api_key: str | None, extras: Mapping[str, Any]) -> Self:
        """Check every field; raise InvalidConnection naming the connection and all that is wrong with it."""
        values: dict[str, Any] = {}
        problems: list[str] = []
        fields: list[tuple[str, Callable[[str, Any], Any], Any]] = [
            ("api_key", _parse_api_key, api_key),
            ("base_url", _parse_base_url, host),
        ]
        fields += [
            (name, parse, extras[name])
            for name, parse in _EXTRAS.items()
            if extras.get(name) not in (None, "")
        ]
        for name, parse, value in fields:
            try:
                values[name] = parse(name, value)
            except _WrongError as e:
                problems.append(str(e))
        if not problems and (problem := _sends_key_unencrypted(values["base_url"], values.get("proxy"))):
            problems.append(problem)
        if problems:
            raise InvalidConnection(f"connection {conn_id!r}: {'; '.join(problems)}")
        return cls(conn_id=conn_id, **values)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be shown anywhere: the key as it is sent, a proxy's password in both spellings."""
        proxy = parse_proxy(self.proxy)
        password = proxy.password if proxy is not None else None
        spellings = [password, quote(password, safe="")] if password else []
        return tuple(dict.fromkeys([self.api_key, *spellings]))

    @property
    def is_loopback(self) -> bool:
        """Whether the gateway is a server on this machine, such as the sandbox."""
        return _is_loopback(urlsplit(self.base_url).hostname or "")


def unknown_extras(extras: Mapping[str, Any]) -> list[str]:
    """Return the names of extras that mean nothing here: most likely misspelt."""
    return sorted(set(extras) - set(_EXTRAS))


class _WrongError(Exception):
    """What is wrong with one field, and how to fix it."""

    def __init__(self, name: str, what: str, fix: str) -> None:
        super().__init__(f"{name} {what}: {fix}")


def _parse_api_key(_: str, value: str | None) -> str:
    # Never shown: it is the key itself. A line break at its end comes from copying.
    key = (value or "").strip()
    if not key:
        raise _WrongError(_API_KEY, "is empty", "put the AIsa API key there")
    if not re.fullmatch(r"[!-~]+", key):
        raise _WrongError(_API_KEY, "has characters that no API key has", "copy the key again")
    return key


def _parse_base_url(_: str, host: str | None) -> str:
    if not host or not host.strip():
        return DEFAULT_BASE_URL
    text = host.strip() if "://" in host else f"https://{host.strip()}"
    try:
        url = urlsplit(text)
        is_complete = bool(url.hostname) and url.port != 0
    except ValueError:
        is_complete = False
    if not is_complete or url.scheme not in {"http", "https"} or any(c.isspace() for c in text):
        raise _WrongError(_BASE_URL, "is not a base URL", f"use one such as {DEFAULT_BASE_URL}")
    if url.username is not None or url.query or url.fragment:
        raise _WrongError(_BASE_URL, "holds more than a base URL", "leave out user, query and fragment")
    if url.scheme == "http" and not _is_loopback(url.hostname or ""):
        raise _WrongError(_BASE_URL, "would send the key unencrypted", "use https://")
    return _with_path(url)


def _sends_key_unencrypted(base_url: str, proxy: str | None) -> str | None:
    """Say what is wrong with plain http through another machine: it would read the key."""
    through = parse_proxy(proxy)
    if urlsplit(base_url).scheme != "http" or through is None or _is_loopback(through.host):
        return None
    return str(
        _WrongError(
            "extra 'proxy'",
            "would get the key unencrypted, because the host is an http:// URL",
            "leave the proxy out: a gateway on this machine needs none",
        )
    )


def _with_path(url: SplitResult) -> str:
    """Return the URL without a trailing slash; a bare host means its /v1, as in AIsa's documentation."""
    path = url.path.rstrip("/") or "/v1"
    return f"{url.scheme}://{url.netloc}{path}"


def _is_loopback(hostname: str) -> bool:
    try:
        return ip_address(hostname).is_loopback
    except ValueError:
        return hostname == "localhost"


def _number(value: object) -> Decimal | None:
    """Return a finite number, or None. Strings count: URI connections have no other type."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = Decimal(str(value).strip())
    except InvalidOperation:
        return None
    return number if number.is_finite() and -_LARGEST <= number <= _LARGEST else None


def _seconds(name: str, value: object) -> float:
    number = _number(value)
    if number is None or not 0 < number <= _LONGEST_TIMEOUT:
        fix = f"use a number of seconds above 0, at most {_LONGEST_TIMEOUT}"
        raise _WrongError(f"extra {name!r}", f"is {_shown(value)}", fix)
    return float(number)


def _whole(minimum: int) -> Callable[[str, object], int]:
    def parse(name: str, value: object) -> int:
        number = _number(value)
        if number is None or number != int(number) or number < minimum:
            raise _WrongError(f"extra {name!r}", f"is {_shown(value)}", f"use a whole number from {minimum}")
        return int(number)

    return parse


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def _proxy(name: str, value: object) -> str:
    if parse_proxy(value) is None:
        raise _WrongError(f"extra {name!r}", "is not a proxy URL", HOW_TO_WRITE)
    return str(value).strip()


def _prices(name: str, value: object) -> Mapping[str, Decimal]:
    fix = 'use USD per image by model, such as {"seedream-4-5-251128": 0.04}'
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, dict):
        raise _WrongError(f"extra {name!r}", "is not a JSON object", fix)
    prices = {model: _number(price) for model, price in value.items()}
    if wrong := [model for model, price in prices.items() if price is None or price < 0]:
        raise _WrongError(f"extra {name!r}", f"has no valid price for {_shown(wrong[0])}", fix)
    return MappingProxyType({model: price for model, price in prices.items() if price is not None})


_EXTRAS: Final[dict[str, Callable[[str, object], Any]]] = {
    "timeout": _seconds,
    "max_retries": _whole(0),
    "max_concurrency": _whole(1),
    "requests_per_minute": _whole(1),
    "proxy": _proxy,
    "prices": _prices,
}
