from __future__ import annotations

from ipaddress import ip_address

import pytest

from airflow_provider_aisa.core.images.addresses import is_allowed, why_not_public, why_refused

PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "99.84.1.1",
    "172.15.255.255",
    "172.32.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "192.0.1.0",
    "223.255.255.255",
    "2001:200::1",
    "2001:4860:4860::8888",
    "2600:1f18::1",
    "2a00:1450::1",
    "64:ff9b::808:808",
]
NOT_PUBLIC = [
    "0.0.0.0",  # noqa: S104 - refused here
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.255",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.0.9",
    "192.0.0.192",
    "192.0.2.1",
    "192.31.196.1",
    "192.52.193.1",
    "192.88.99.1",
    "192.168.1.1",
    "192.175.48.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "168.63.129.16",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::8.8.8.8",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "::ffff:100.100.100.200",
    "::ffff:0:8.8.8.8",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b::c000:c0",
    "64:ff9b:1::808:808",
    "100::1",
    "100:0:0:1::1",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:1::1",
    "2001:2::1",
    "2001:10::1",
    "2001:20::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:808:808::1",
    "2620:4f:8000::1",
    "3fff::1",
    "4000::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "2600:1f18::1%eth0",
    "fec0::1",
    "ff02::1",
]


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_unicast_address_is_allowed(address: str) -> None:
    assert why_not_public(ip_address(address)) is None
    assert is_allowed(ip_address(address), allow_loopback=False)
    assert why_refused(address, allow_loopback=False) is None


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_every_other_address_is_refused_and_named(address: str) -> None:
    assert why_not_public(ip_address(address))
    assert not is_allowed(ip_address(address), allow_loopback=False)
    assert "which is not a public address" in (why_refused(address, allow_loopback=False) or "")


@pytest.mark.parametrize(
    "address", [one for one in NOT_PUBLIC if one not in {"127.0.0.1", "127.255.255.255", "::1"}]
)
def test_a_gateway_on_this_machine_opens_loopback_and_nothing_else(address: str) -> None:
    assert not is_allowed(ip_address(address), allow_loopback=True)
    assert is_allowed(ip_address("127.0.0.1"), allow_loopback=True)
    assert is_allowed(ip_address("::1"), allow_loopback=True)


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST",
        "localhost.",
        "a.localhost",
        "localhost.localdomain",
        "printer.local",
        "metadata",
        "metadata.google.internal",
        "router.home.arpa",
        "127.1",
        "127.0.1",
        "127.0.0.1.",
        "127.0.0.01",
        "0177.0.0.1",
        "017700000001",
        "2130706433",
        "0x7f.1",
        "0x7f000001",
        "0X7F.0.0.1",
        "0x",
        "0",
        "1.1.1.1.",
        "8.8.8.8.8",
        "256.256.256.256",
        "a.1",
        "%31%32%37.0.0.1",
        "127%2e0%2e0%2e1",
        "cdn.test%00",
        "cdn..test",
        ".cdn.test",
        "cdn.test..",
        "",
        ".",
        "a b.test",
        "cdn.test\\",
        "cdn.test\n",
        "\uff11\uff12\uff17.0.0.1",
        "\u2460.test",
        f"{'a' * 64}.test",
        f"{'a.' * 200}test",
    ],
)
def test_a_spelling_that_may_mean_this_machine_or_network_is_refused(host: str) -> None:
    """A proxy resolves names itself, so the spelling is all there is to judge."""
    assert why_refused(host, allow_loopback=False)


@pytest.mark.parametrize(
    "host",
    [
        "cdn.test",
        "CDN.Test",
        "cdn.test.",
        "a_b.s3.amazonaws.com",
        "xn--bcher-kva.example",
        "1.2.3.4.test",
        "0x1.com",
    ],
)
def test_a_name_of_the_public_network_is_not_refused_by_its_spelling(host: str) -> None:
    assert why_refused(host, allow_loopback=False) is None
