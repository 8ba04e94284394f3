"""Which proxy a URL goes through, and what is said about one that cannot be used."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_aisa.core.net.proxies import Proxy, ProxyRules, parse_proxy, read_proxies
from airflow_provider_aisa.exceptions import InvalidConnection
from tests.support import make_settings

PASSWORD = "pr0xy-pa55"
WRONG = f"user:{PASSWORD}#@proxy:3128"


def rules(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], **settings: Any) -> ProxyRules:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return read_proxies(make_settings(**settings))


@pytest.mark.parametrize(
    ("value", "proxy"),
    [
        ("http://proxy:3128", Proxy("http", "proxy", 3128)),
        ("proxy:3128", Proxy("http", "proxy", 3128)),
        ("proxy", Proxy("http", "proxy", 80)),
        (" http://proxy:3128/ ", Proxy("http", "proxy", 3128)),
        ("https://proxy", Proxy("https", "proxy", 443)),
        ("HTTP://Proxy:1", Proxy("http", "proxy", 1)),
        ("user:pass@proxy:3128", Proxy("http", "proxy", 3128, "user", "pass")),
        ("http://user:p%40s%23s@proxy:3128", Proxy("http", "proxy", 3128, "user", "p@s#s")),
        ("user:p@ss@proxy:3128", Proxy("http", "proxy", 3128, "user", "p@ss")),
        ("user@proxy", Proxy("http", "proxy", 80, "user", None)),
        ("[::1]:3128", Proxy("http", "::1", 3128)),
        ("socks5://proxy", Proxy("socks5", "proxy", 1080)),
        ("socks5h://user:pass@proxy:9", Proxy("socks5h", "proxy", 9, "user", "pass")),
    ],
)
def test_a_proxy_is_read_as_curl_and_httpx_do(value: str, proxy: Proxy) -> None:
    assert parse_proxy(value) == proxy


@pytest.mark.parametrize(
    "value",
    [
        "",
        "http://",
        "http://[::1",
        "http://proxy:99999",
        "http://proxy:0",
        "http://proxy:port",
        f"http://user:{PASSWORD}@",
        f"user:{PASSWORD}#@proxy:3128",
        f"user:{PASSWORD}/@proxy:3128",
        f"user:{PASSWORD}?@proxy:3128",
        f"http://user:{PASSWORD}\n@proxy",
        f"socks4://user:{PASSWORD}@proxy",
        "ftp://proxy",
        "http://proxy/path",
        3128,
        None,
        ["http://proxy"],
    ],
)
def test_what_is_no_proxy_is_none(value: object) -> None:
    assert parse_proxy(value) is None


@given(st.text(max_size=40) | st.builds("{}@{}".format, st.text(max_size=10), st.text(max_size=10)))
def test_any_text_is_a_proxy_or_none(value: str) -> None:
    proxy = parse_proxy(value)
    assert proxy is None or (proxy.host and 0 < proxy.port < 65_536)


@pytest.mark.parametrize(
    ("environment", "settings", "where"),
    [
        ({}, {"proxy": WRONG, "conn_id": "aisa_eu"}, "extra 'proxy' of connection 'aisa_eu'"),
        ({"HTTPS_PROXY": WRONG}, {}, "HTTPS_PROXY of the environment"),
        ({"ALL_PROXY": WRONG}, {}, "ALL_PROXY of the environment"),
    ],
)
def test_a_proxy_that_is_none_is_refused_with_its_place_and_without_its_value(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], settings: dict[str, Any], where: str
) -> None:
    with pytest.raises(InvalidConnection) as caught:
        rules(monkeypatch, environment, **settings)
    assert str(caught.value).startswith(f"{where} is not a proxy URL: use one such as http://proxy:3128, or")
    assert PASSWORD not in str(caught.value)


def test_the_password_of_a_proxy_is_not_in_its_repr() -> None:
    assert PASSWORD not in repr(ProxyRules(parse_proxy(f"user:{PASSWORD}@proxy")))


@pytest.mark.parametrize(
    ("environment", "host"),
    [
        ({"HTTPS_PROXY": f"user:{PASSWORD}@one:1"}, "one"),
        ({"https_proxy": "http://one:1"}, "one"),
        ({"ALL_PROXY": "http://all:1"}, "all"),
        ({"all_proxy": "all:1"}, "all"),
        ({"HTTPS_PROXY": "http://one:1", "ALL_PROXY": "http://all:1"}, "one"),
        ({"HTTP_PROXY": "http://plain:1"}, None),
        ({"HTTPS_PROXY": ""}, None),
        ({}, None),
    ],
)
def test_the_environments_proxy_is_the_same_for_the_gateway_and_for_links(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], host: str | None
) -> None:
    found = rules(monkeypatch, environment)
    for target in ("gateway.test", "cdn.test"):
        proxy = found.choose(target, 443)
        assert (proxy.host if proxy else None) == host


def test_the_connections_own_proxy_comes_first_and_knows_no_exceptions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = rules(monkeypatch, {"HTTPS_PROXY": "env:1", "NO_PROXY": "*"}, proxy="http://own:1")
    assert found.choose("gateway.test", 443) == Proxy("http", "own", 1)


def test_a_gateway_on_this_machine_is_never_behind_the_environments_proxy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = rules(monkeypatch, {"ALL_PROXY": "socks5://env:1"}, base_url="http://127.0.0.1:8080/v1")
    assert found.choose("127.0.0.1", 8080) is None


@pytest.mark.parametrize(
    ("no_proxy", "host", "is_direct"),
    [
        ("*", "gateway.test", True),
        ("gateway.test", "gateway.test", True),
        ("GATEWAY.test.", "gateway.TEST", True),
        ("test", "gateway.test", True),
        (".test", "gateway.test", True),
        ("*.test", "gateway.test", True),
        ("way.test", "gateway.test", False),
        ("other.test, gateway.test", "gateway.test", True),
        ("other.test gateway.test", "gateway.test", True),
        ("gateway.test:443", "gateway.test", True),
        ("gateway.test:8443", "gateway.test", False),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.0.0.0/8", "gateway.test", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("2.3", "10.1.2.3", False),
        ("::1", "::1", True),
        ("[::1]", "::1", True),
        ("fd00::/8", "fd12::1", True),
        (",, ", "gateway.test", False),
        ("[", "gateway.test", False),
        (".", "gateway.test", False),
    ],
)
def test_no_proxy_lists_domains_addresses_networks_and_ports(
    monkeypatch: pytest.MonkeyPatch, no_proxy: str, host: str, is_direct: bool
) -> None:
    found = rules(monkeypatch, {"HTTPS_PROXY": "proxy:1", "NO_PROXY": no_proxy})
    assert (found.choose(host, 443) is None) is is_direct


@given(no_proxy=st.text(max_size=20), host=st.text(max_size=20))
def test_any_list_of_exceptions_and_any_host_get_an_answer(no_proxy: str, host: str) -> None:
    ProxyRules(Proxy("http", "proxy", 1), tuple(no_proxy.split())).choose(host, 443)


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
def test_a_socks_proxy_without_its_package_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    monkeypatch.setitem(sys.modules, "socksio", None)  # as if it were not installed
    with pytest.raises(InvalidConnection, match=r"pip install 'httpx\[socks\]'") as caught:
        rules(monkeypatch, {"ALL_PROXY": f"{scheme}://user:{PASSWORD}@proxy:1"})
    assert "the proxy proxy:1 speaks SOCKS" in str(caught.value)
    assert PASSWORD not in str(caught.value)
