"""Which proxy a URL goes through: one rule for the gateway and for the images' links.

The connection's own proxy comes first. Without one, ``HTTPS_PROXY``, then ``ALL_PROXY`` of the environment,
but for the hosts of ``NO_PROXY``. A gateway on this machine is never looked for behind the environment's.
Plain http leaves this machine never, so ``HTTP_PROXY`` means nothing here. A value is never shown: proxies
carry passwords.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from airflow_provider_aisa.exceptions import InvalidConnection

if TYPE_CHECKING:
    from airflow_provider_aisa.core.gateway.settings import ConnectionSettings

#: What to do about a value that is no proxy. The value itself is not shown.
HOW_TO_WRITE: Final = (
    "use one such as http://proxy:3128, or http://user:password@proxy:3128 with special characters written "
    "as %40"
)
_PORTS: Final = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy, without its credentials in ``repr``. User and password are decoded; None for none."""

    scheme: str
    host: str
    port: int
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    @property
    def is_socks(self) -> bool:
        """Whether it speaks SOCKS 5 rather than HTTP."""
        return self.scheme.startswith("socks")


@dataclass(frozen=True, slots=True)
class ProxyRules:
    """What decides which proxy a request goes through.

    :param proxy: None when every connection is direct.
    :param excepted: hosts that are connected to directly, as ``NO_PROXY`` lists them.
    """

    proxy: Proxy | None = None
    excepted: tuple[str, ...] = ()

    def choose(self, host: str, port: int) -> Proxy | None:
        """Return the proxy for a host, or None for a direct connection."""
        if self.proxy is None or any(_matches(entry, host, port) for entry in self.excepted):
            return None
        return self.proxy


def read_proxies(settings: ConnectionSettings) -> ProxyRules:
    """Return the rules for a connection's gateway and its images' links.

    :raises InvalidConnection: a proxy is named that cannot be used, and what to do about it. Nothing was
        sent.
    """
    if settings.proxy is not None:
        rules = ProxyRules(_parse(settings.proxy, f"extra 'proxy' of connection {settings.conn_id!r}"))
    elif settings.is_loopback:
        rules = ProxyRules()
    else:
        rules = _from_environment()
    if rules.proxy is not None and rules.proxy.is_socks and find_spec("socksio") is None:
        raise InvalidConnection(
            f"the proxy {rules.proxy.host}:{rules.proxy.port} speaks SOCKS, which needs the package socksio: "
            "pip install 'httpx[socks]', or use an http:// proxy. Nothing was sent."
        )
    return rules


def parse_proxy(value: object) -> Proxy | None:
    """Return a proxy, or None for what is none. Without a scheme it is ``http://``, as for curl and httpx."""
    text = value.strip() if isinstance(value, str) else ""
    try:
        url = urlsplit(text if "://" in text else f"http://{text}")
        host, port = url.hostname, url.port
    except ValueError:
        return None
    is_clean = re.fullmatch(r"[!-~]+", text) and url.path in {"", "/"} and not url.query and not url.fragment
    if not host or port == 0 or url.scheme not in _PORTS or not is_clean:
        return None
    user = None if url.username is None else unquote(url.username)
    password = None if url.password is None else unquote(url.password)
    return Proxy(url.scheme, host, port or _PORTS[url.scheme], user, password)


def _parse(value: str, source: str) -> Proxy:
    if (proxy := parse_proxy(value)) is None:
        raise InvalidConnection(f"{source} is not a proxy URL: {HOW_TO_WRITE}. Nothing was sent.")
    return proxy


def _from_environment() -> ProxyRules:
    from urllib.request import getproxies  # Not while DAGs are parsed: it loads all of the standard's http.

    values = getproxies()
    excepted = _split(values.get("no", ""))
    for name in ("https", "all"):
        if value := values.get(name):
            proxy = _parse(value, f"{name.upper()}_PROXY of the environment")
            return ProxyRules(proxy, tuple(excepted))
    return ProxyRules()


def _split(no_proxy: str) -> Sequence[str]:
    return [entry.lower() for entry in re.split(r"[,\s]+", no_proxy) if entry]


def _matches(entry: str, host: str, port: int) -> bool:
    """Return whether an entry of NO_PROXY means a host: a domain, an address or a network, or one port."""
    if entry == "*":
        return True
    host = host.lower().rstrip(".").strip("[]")
    if (network := _network(entry)) is not None:
        address = _address(host)
        return address is not None and address.version == network.version and address in network
    name, _, wanted = entry.rpartition(":") if re.search(r":[0-9]+$", entry) else (entry, "", "")
    if wanted and wanted != str(port):
        return False
    domain = name.strip("[]").removeprefix("*").strip(".")
    return bool(domain) and (host == domain or (_address(host) is None and host.endswith(f".{domain}")))


def _network(entry: str) -> IPv4Network | IPv6Network | None:
    try:
        return ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        return None


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None
