from __future__ import annotations

import pickle
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_aisa.core.gateway.settings import ConnectionSettings, unknown_extras
from airflow_provider_aisa.core.net.proxies import HOW_TO_WRITE
from airflow_provider_aisa.exceptions import InvalidConnection

KEY = "sk-aisa-very-secret-1234"
PASSWORD = "pr0xy-pa55"
PROXY = f"http://user:{PASSWORD}@proxy.example:3128"


def parse(host: str | None = None, api_key: str | None = KEY, **extras: Any) -> ConnectionSettings:
    return ConnectionSettings.parse(conn_id="aisa_eu", host=host, api_key=api_key, extras=extras)


def refusal(host: str | None = None, api_key: str | None = KEY, **extras: Any) -> str:
    with pytest.raises(InvalidConnection) as caught:
        parse(host, api_key, **extras)
    message = str(caught.value)
    assert message.startswith("connection 'aisa_eu': ")
    return message.removeprefix("connection 'aisa_eu': ")


def test_a_connection_with_nothing_but_a_key_has_the_documented_defaults() -> None:
    assert parse() == ConnectionSettings(
        conn_id="aisa_eu",
        api_key=KEY,
        base_url="https://api.aisa.one/v1",
        timeout=300.0,
        max_retries=4,
        max_concurrency=5,
        requests_per_minute=None,
        proxy=None,
        prices={},
    )


@pytest.mark.parametrize("empty", [None, ""])
@pytest.mark.parametrize(
    "name", ["timeout", "max_retries", "max_concurrency", "requests_per_minute", "proxy", "prices"]
)
def test_an_empty_extra_means_its_default(name: str, empty: Any) -> None:
    """The form in the UI sends every field, the empty ones as well."""
    assert parse(**{name: empty}) == parse()


@pytest.mark.parametrize(
    ("name", "value", "parsed"),
    [
        ("timeout", 30, 30.0),
        ("timeout", "30", 30.0),
        ("timeout", 0.5, 0.5),
        ("timeout", "0.5", 0.5),
        ("timeout", 86_400, 86_400.0),
        ("max_retries", 0, 0),
        ("max_retries", "0", 0),
        ("max_retries", 7.0, 7),
        ("max_concurrency", 1, 1),
        ("max_concurrency", "50", 50),
        ("requests_per_minute", 600, 600),
        ("requests_per_minute", " 600 ", 600),
        ("proxy", PROXY, PROXY),
        ("proxy", "https://proxy", "https://proxy"),
        (
            "prices",
            {"a": 0.04, "b": "0.05", "c": 0},
            {"a": Decimal("0.04"), "b": Decimal("0.05"), "c": Decimal(0)},
        ),
        ("prices", '{"a": 0.04}', {"a": Decimal("0.04")}),
        ("prices", {}, {}),
    ],
)
def test_an_extra_is_read_as_its_type_strings_of_numbers_included(
    name: str, value: Any, parsed: object
) -> None:
    found = getattr(parse(**{name: value}), name)
    assert found == parsed
    if not isinstance(parsed, dict):
        assert type(found) is type(parsed)


@pytest.mark.parametrize(
    ("name", "values", "fix"),
    [
        (
            "timeout",
            [0, -1, "soon", True, [], {}, "nan", "inf", 86_401, "1e400"],
            "use a number of seconds above 0",
        ),
        ("max_retries", [-1, 1.5, "two", False, [], "inf", "1e999999999"], "use a whole number from 0"),
        ("max_concurrency", [0, -1, 1.5, "many", True, {}], "use a whole number from 1"),
        ("requests_per_minute", [0, "0", 0.5, "fast", True, []], "use a whole number from 1"),
    ],
)
def test_a_number_of_the_wrong_kind_is_refused_with_connection_field_and_rule(
    name: str, values: list[Any], fix: str
) -> None:
    for value in values:
        assert refusal(**{name: value}).startswith(f"extra {name!r} is {value!r}: {fix}")


@pytest.mark.parametrize(
    "proxy",
    [
        "http://",
        "http://[::1",
        "http://p:99999",
        "socks4://proxy",
        f"http://user:{PASSWORD}#@p",
        3128,
        True,
        [],
    ],
)
def test_what_is_no_proxy_url_is_refused_without_showing_it(proxy: object) -> None:
    """Proxies carry passwords."""
    assert refusal(proxy=proxy) == f"extra 'proxy' is not a proxy URL: {HOW_TO_WRITE}"


@pytest.mark.parametrize("proxy", ["proxy", "proxy:3128", f"user:{PASSWORD}@proxy:3128", "socks5://proxy"])
def test_a_proxy_may_be_written_as_for_curl(proxy: str) -> None:
    assert parse(proxy=f" {proxy} ").proxy == proxy


def test_all_that_is_wrong_is_said_at_once() -> None:
    message = refusal("http://api.aisa.one", "", timeout=0, max_retries="x", proxy="http://", prices="{")
    assert [problem.partition(":")[0] for problem in message.split("; ")] == [
        "API key (password) is empty",
        "Base URL (host) would send the key unencrypted",
        "extra 'timeout' is 0",
        "extra 'max_retries' is 'x'",
        "extra 'proxy' is not a proxy URL",
        "extra 'prices' is not a JSON object",
    ]


@pytest.mark.parametrize("host", ["http://127.0.0.1:8080", "http://localhost:8080"])
def test_plain_http_through_another_machine_would_show_it_the_key(host: str) -> None:
    """The gateway on this machine may be reached without encryption; a proxy elsewhere would read along."""
    message = "extra 'proxy' would get the key unencrypted, because the host is an http:// URL: "
    assert refusal(host, proxy=PROXY).startswith(message)
    assert PASSWORD not in refusal(host, proxy=PROXY)
    assert parse(host, proxy="http://127.0.0.1:3128").proxy == "http://127.0.0.1:3128"
    assert parse(host.replace("http:", "https:"), proxy=PROXY).proxy == PROXY


def test_the_secrets_of_a_connection_are_its_key_and_its_proxys_password_in_both_spellings() -> None:
    assert parse().secrets == (KEY,)
    assert parse(proxy="user:p%40ss@proxy").secrets == (KEY, "p@ss", "p%40ss")
    assert parse(proxy="user@proxy").secrets == (KEY,)


FIELDS = ["timeout", "max_retries", "max_concurrency", "requests_per_minute", "proxy", "prices"]
extras = st.dictionaries(
    st.sampled_from(
        ["timeout", "max_retries", "max_concurrency", "requests_per_minute", "proxy", "prices", "x"]
    ),
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["1e999999999", "0x10", "٣", "{}", "[" * 100_000, '{"m": 1e400}', "http://u:p@h:1"])
    | st.lists(st.integers(), max_size=2)
    | st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3), max_size=2),
    max_size=4,
)


@given(host=st.none() | st.text(max_size=30), key=st.none() | st.text(max_size=20), extras=extras)
def test_any_connection_is_read_or_refused(host: str | None, key: str | None, extras: dict[str, Any]) -> None:
    try:
        settings = ConnectionSettings.parse(conn_id="c", host=host, api_key=key, extras=extras)
    except InvalidConnection as e:
        assert len(str(e)) < 2_000  # noqa: PT017 - hypothesis looks for both
    else:
        assert 0 < settings.timeout <= 86_400
        assert settings.base_url.startswith(("https://", "http://"))


@pytest.mark.parametrize("prices", ["0.04", "{", "[]", "null", 0.04, ["a"], True])
def test_prices_that_are_no_json_object_are_refused_with_an_example(prices: object) -> None:
    assert refusal(prices=prices).startswith(
        "extra 'prices' is not a JSON object: use USD per image by model"
    )


@pytest.mark.parametrize("price", [-0.01, "free", None, True, "NaN", {}])
def test_a_price_that_is_no_amount_is_refused_with_its_model(price: object) -> None:
    assert refusal(prices={"good": 1, "bad-model": price}).startswith(
        "extra 'prices' has no valid price for 'bad-model'"
    )


def test_prices_cannot_be_changed_after_they_were_checked() -> None:
    with pytest.raises(TypeError):
        parse(prices={"a": 1}).prices["a"] = Decimal(0)  # type: ignore[index]  # refused is the point


@pytest.mark.parametrize("key", [None, "", "   "])
def test_a_connection_without_a_key_is_refused(key: str | None) -> None:
    assert refusal(api_key=key) == "API key (password) is empty: put the AIsa API key there"


@pytest.mark.parametrize(
    "key", ["sk-aisa one", "sk-aisa-ключ", "sk\naisa", "sk-\x00", "sk-\x7f", "sk-aisa\u200b"]
)
def test_a_key_that_no_header_can_carry_is_refused_without_showing_it(key: str) -> None:
    message = refusal(api_key=key)
    assert message == "API key (password) has characters that no API key has: copy the key again"


def test_blanks_that_were_copied_with_the_key_are_dropped() -> None:
    assert parse(api_key=f" {KEY}\n").api_key == KEY


@pytest.mark.parametrize(
    "wrong",
    [
        {"timeout": "x"},
        {"proxy": f"user:{PASSWORD}#@p"},
        {"prices": {"a": "x"}},
        {"host": "http://example.com"},
    ],
)
def test_no_message_holds_the_key_or_the_proxys_password(wrong: dict[str, Any]) -> None:
    message = refusal(**{"proxy": PROXY, **wrong})
    assert KEY not in message
    assert PASSWORD not in message


def test_neither_repr_nor_str_holds_the_key_or_the_proxy() -> None:
    settings = parse(proxy=PROXY)
    assert settings.proxy == PROXY
    for text in (repr(settings), str(settings), f"{settings}"):
        assert KEY not in text
        assert PASSWORD not in text


@pytest.mark.parametrize(
    ("host", "base_url"),
    [
        (None, "https://api.aisa.one/v1"),
        ("", "https://api.aisa.one/v1"),
        (" ", "https://api.aisa.one/v1"),
        ("api.aisa.one", "https://api.aisa.one/v1"),
        ("api.aisa.one/", "https://api.aisa.one/v1"),
        ("api.aisa.one:8443", "https://api.aisa.one:8443/v1"),
        (" https://api.aisa.one/v1/ ", "https://api.aisa.one/v1"),
        ("https://gateway.example/aisa/v1", "https://gateway.example/aisa/v1"),
        ("https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443/v1"),
        ("http://localhost:8080", "http://localhost:8080/v1"),
        ("HTTP://LOCALHOST:8080/v1", "http://LOCALHOST:8080/v1"),
        ("http://127.0.0.1:8080/v1", "http://127.0.0.1:8080/v1"),
        ("http://127.1.2.3", "http://127.1.2.3/v1"),
        ("http://[::1]:8080", "http://[::1]:8080/v1"),
    ],
)
def test_a_host_becomes_a_base_url(host: str | None, base_url: str) -> None:
    assert parse(host).base_url == base_url


@pytest.mark.parametrize(
    ("host", "what"),
    [
        ("http://api.aisa.one", "would send the key unencrypted: use https://"),
        ("http://192.168.0.7:8080", "would send the key unencrypted"),
        ("http://localhost.example.com", "would send the key unencrypted"),
        ("http://127.0.0.1.example.com", "would send the key unencrypted"),
        ("http://2130706433", "would send the key unencrypted"),
        ("http://0.0.0.0", "would send the key unencrypted"),
        ("http://[2001:db8::1]", "would send the key unencrypted"),
        ("https://user@api.aisa.one", "holds more than a base URL: leave out user, query and fragment"),
        ("https://user:pass@api.aisa.one", "holds more than a base URL"),
        ("http://localhost@example.com", "holds more than a base URL"),
        ("https://api.aisa.one/v1?key=1", "holds more than a base URL"),
        ("https://api.aisa.one/v1#top", "holds more than a base URL"),
        ("ftp://api.aisa.one", "is not a base URL: use one such as https://api.aisa.one/v1"),
        ("https://", "is not a base URL"),
        ("https:///v1", "is not a base URL"),
        ("https://api.aisa.one:0", "is not a base URL"),
        ("https://api.aisa.one:99999", "is not a base URL"),
        ("https://api.aisa.one:port", "is not a base URL"),
        ("https://[::1", "is not a base URL"),
        ("https://api aisa one", "is not a base URL"),
        ("::1", "is not a base URL"),
    ],
)
def test_a_host_that_is_no_safe_base_url_is_refused(host: str, what: str) -> None:
    assert refusal(host).startswith(f"Base URL (host) {what}")


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [
        ("http://localhost:1", True),
        ("https://localhost:1", True),
        ("http://127.0.0.1:1", True),
        ("http://[::1]:1", True),
        (None, False),
        ("https://192.168.0.7", False),
        ("https://localhost.example.com", False),
    ],
)
def test_only_this_machine_is_loopback(host: str | None, is_loopback: bool) -> None:
    assert parse(host).is_loopback is is_loopback


def test_unknown_extras_are_named_in_order_and_known_ones_are_not() -> None:
    assert unknown_extras({"timeout": 1, "time_out": 1, "Proxy": "", "prices": {}}) == ["Proxy", "time_out"]


def test_settings_can_be_compared_and_an_error_survives_pickling() -> None:
    """Airflow sends exceptions between processes."""
    with pytest.raises(InvalidConnection) as caught:
        parse(timeout=0)
    copy = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own bytes
    assert (type(copy), str(copy), copy.status) == (InvalidConnection, str(caught.value), None)
