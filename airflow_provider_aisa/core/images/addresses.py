"""Only public places are asked for images: whatever is not known to be public is refused.

What counts as public is decided by the tables below and not by ``ipaddress.is_global``, whose answers differ
between versions of Python. A name is judged twice: by its spelling here, which is all that can be done when a
proxy resolves it, and by each address that it resolves to, before a connection is made to that address.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

Address = IPv4Address | IPv6Address

#: Source: https://www.iana.org/assignments/iana-ipv4-special-registry (each entry that is not globally
#: reachable, and the anycast services, which serve no images), https://www.iana.org/assignments/multicast-addresses
_SPECIAL_IPV4: Final = {
    IPv4Network("0.0.0.0/8"): "this network",
    IPv4Network("10.0.0.0/8"): "private use",
    IPv4Network("100.64.0.0/10"): "shared address space",
    IPv4Network("127.0.0.0/8"): "loopback",
    IPv4Network("169.254.0.0/16"): "link-local",
    IPv4Network("172.16.0.0/12"): "private use",
    IPv4Network("192.0.0.0/24"): "IETF protocol assignments",
    IPv4Network("192.0.2.0/24"): "documentation",
    IPv4Network("192.31.196.0/24"): "AS112",
    IPv4Network("192.52.193.0/24"): "AMT",
    IPv4Network("192.88.99.0/24"): "6to4 relay",
    IPv4Network("192.168.0.0/16"): "private use",
    IPv4Network("192.175.48.0/24"): "AS112",
    IPv4Network("198.18.0.0/15"): "benchmarking",
    IPv4Network("198.51.100.0/24"): "documentation",
    IPv4Network("203.0.113.0/24"): "documentation",
    IPv4Network("224.0.0.0/4"): "multicast",
    IPv4Network("240.0.0.0/4"): "reserved, or broadcast",
    # No registry has it: https://learn.microsoft.com/azure/virtual-network/what-is-ip-address-168-63-129-16
    IPv4Network("168.63.129.16/32"): "Azure's own platform",
}
#: The only part of IPv6 from which unicast addresses are given out. Outside of it lie, among others,
#: loopback, IPv4-mapped and IPv4-compatible addresses, unique local (fc00::/7), link-local (fe80::/10),
#: site-local (fec0::/10), segment routing (5f00::/16) and multicast (ff00::/8).
#: Source: https://www.iana.org/assignments/ipv6-address-space
_UNICAST_IPV6: Final = IPv6Network("2000::/3")
#: Source: https://www.iana.org/assignments/iana-ipv6-special-registry (what of it lies in 2000::/3)
_SPECIAL_IPV6: Final = {
    IPv6Network("2001::/32"): "Teredo",
    IPv6Network("2001::/23"): "IETF protocol assignments",
    IPv6Network("2001:db8::/32"): "documentation",
    IPv6Network("2002::/16"): "6to4",
    IPv6Network("2620:4f:8000::/48"): "AS112",
    IPv6Network("3fff::/20"): "documentation",
}
#: RFC 6052: the address of an IPv4 host as machines see it that have IPv6 only. What it holds decides.
_NAT64: Final = IPv6Network("64:ff9b::/96")

#: Names that mean a machine nearby, whoever resolves them, and "internal", which ICANN keeps for private use.
#: Source: https://www.iana.org/assignments/special-use-domain-names
_LOCAL_NAMES: Final = frozenset({"localhost", "localdomain", "local", "internal", "home.arpa"})
_NAME: Final = re.compile(r"(?=.{1,253}\Z)([a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}")
#: Resolvers and proxies read such a last part as the end of an IPv4 address: 127.1, 0x7f.1, 2130706433.
_ENDS_AS_NUMBER: Final = re.compile(r"(.*\.)?([0-9]+|0x[0-9a-f]*)")


def why_not_public(address: Address) -> str | None:
    """Return what an address is if it is not a public unicast address; None for one that is."""
    if isinstance(address, IPv6Address):
        if address in _NAT64:
            return why_not_public(IPv4Address(address.packed[-4:]))
        if address not in _UNICAST_IPV6 or address.scope_id is not None:
            return "loopback" if address.is_loopback else "no global unicast"
        return next((what for network, what in _SPECIAL_IPV6.items() if address in network), None)
    return next((what for network, what in _SPECIAL_IPV4.items() if address in network), None)


def is_allowed(address: Address, *, allow_loopback: bool) -> bool:
    """Return whether a connection to an address may be made.

    :param allow_loopback: the gateway is on this machine, so its images may be here as well.
    """
    return why_not_public(address) is None or (allow_loopback and is_loopback(address))


def is_loopback(address: Address | None) -> bool:
    """Return whether an address is this machine's own, in its plain form only."""
    return address is not None and address.is_loopback and not _is_mapped(address)


def literal_address(host: str) -> Address | None:
    """Return the address that a host is, written as such; None for a name."""
    try:
        return ip_address(host)
    except ValueError:
        return None


def why_refused(host: str, *, allow_loopback: bool) -> str | None:
    """Return why a URL's host may not be asked, as far as its spelling tells; None if nothing is wrong.

    :param host: as it is sent: ASCII, without the brackets of IPv6.
    """
    address = literal_address(host)
    if address is not None:
        if is_allowed(address, allow_loopback=allow_loopback):
            return None
        return f"leads to {address}, which is not a public address ({why_not_public(address)})"
    return _why_name_refused(host.lower().removesuffix("."), allow_loopback=allow_loopback)


def _why_name_refused(name: str, *, allow_loopback: bool) -> str | None:
    if not _NAME.fullmatch(name):
        return "has no host name that can exist"
    if _ENDS_AS_NUMBER.fullmatch(name):
        return "spells an IP address in an unusual way, which is not a public address for certain"
    if name == "localhost":
        return None if allow_loopback else "leads to this machine, which is not a public address"
    labels = name.split(".")
    if len(labels) == 1 or labels[-1] in _LOCAL_NAMES or ".".join(labels[-2:]) in _LOCAL_NAMES:
        return "leads to a name of a local network, which is not a public address"
    return None


def _is_mapped(address: Address) -> bool:
    return isinstance(address, IPv6Address) and address.ipv4_mapped is not None
