"""What an answer that is no success stands for: a class, the gateway's words, the next step."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_aisa.core.gateway.errors import read_error, read_retry_after
from airflow_provider_aisa.exceptions import (
    AisaError,
    ContentRefused,
    GatewayFailed,
    InvalidConnection,
    InvalidRequest,
    KeyRefused,
    ModelNotRouted,
    QuotaExceeded,
    RateLimited,
)

KEY = "sk-aisa-very-secret-1234"
HTML = "<!DOCTYPE html><html><head><title>\n 502 Bad\tgateway </title></head><body>nginx</body></html>"


def error(status: int, code: str | None = None, message: str = "words", **headers: str) -> AisaError:
    body = {"error": {"type": "t", "code": code, "message": message, "request_id": "req_1"}}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return read_error(httpx.Response(status, json=body, headers=named), api_key=KEY)


def raw_error(status: int, content: str = "", **headers: str) -> AisaError:
    return read_error(httpx.Response(status, text=content, headers=headers), api_key=KEY)


@pytest.mark.parametrize(
    ("status", "codes", "kind", "step"),
    [
        (
            400,
            ["invalid_request", "missing_parameter", "invalid_parameter_type", "json_parse_error"],
            InvalidRequest,
            "Fix the request",
        ),
        (400, ["InvalidParameter", None], InvalidRequest, "Fix the request"),
        (401, ["missing_api_key", "invalid_api_key", "revoked_api_key", None], KeyRefused, "Check the key"),
        (
            403,
            ["insufficient_permissions", "model_not_allowed", "region_blocked"],
            KeyRefused,
            "Check the key",
        ),
        (
            404,
            ["unknown_model", "resource_not_found", "unknown_endpoint"],
            InvalidRequest,
            "Fix the request",
        ),
        (404, ["openai_error"], ModelNotRouted, "another route"),
        (400, ["openai_error"], InvalidRequest, "Fix the request"),
        (405, ["method_not_allowed"], InvalidRequest, "Fix the request"),
        (413, [None], InvalidRequest, "Fix the request"),
        (422, ["unsupported_parameter"], InvalidRequest, "Fix the request"),
        (422, ["content_policy_violation"], ContentRefused, "Change the prompt"),
        (429, ["rate_limit_exceeded", "upstream_rate_limit", None], RateLimited, "Lower max_concurrency"),
        (429, ["quota_exceeded"], QuotaExceeded, "Raise the key's spend cap"),
        (500, ["internal_error", None], GatewayFailed, "Try again later"),
        (502, ["upstream_unavailable", "gateway_error"], GatewayFailed, "Try again later"),
        (503, ["upstream_unavailable"], GatewayFailed, "Try again later"),
        (504, ["upstream_timeout"], GatewayFailed, "Try again later"),
        (599, [None], GatewayFailed, "Try again later"),
    ],
)
def test_each_documented_error_becomes_its_class_with_the_next_step(
    status: int, codes: list[str | None], kind: type[AisaError], step: str
) -> None:
    for code in codes:
        found = error(status, code, "the gateway's words")
        assert type(found) is kind
        assert (found.status, found.code, found.request_id) == (status, code, "req_1")
        end = f" AIsa answered {status}{f' {code}' if code else ''}: the gateway's words (request req_1)."
        first, told, _ = str(found).partition(end)
        assert told
        assert step in first


@pytest.mark.parametrize(
    ("status", "code", "retryable"),
    [
        (429, "rate_limit_exceeded", True),
        (429, "upstream_rate_limit", True),
        (429, "quota_exceeded", False),
        (500, None, True),
        (503, "gateway_error", True),
        (400, "invalid_request", False),
        (401, "invalid_api_key", False),
        (403, "model_not_allowed", False),
        (404, "openai_error", False),
        (422, "content_policy_violation", False),
    ],
)
def test_only_what_waiting_can_fix_is_retryable(status: int, code: str | None, retryable: bool) -> None:
    assert error(status, code).retryable is retryable


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("7", 7.0), ("0", 0.0), ("1.5", 1.5), (" 7 ", 7.0), ("999999999", 999_999_999.0)],
)
def test_retry_after_in_seconds_is_read(value: str, seconds: float) -> None:
    assert error(429, "rate_limit_exceeded", Retry_After=value).retry_after == seconds


@pytest.mark.parametrize(
    "value", ["", "soon", "-1", "1e3", "٣", "inf", "nan", "Wed, 99 Foo 2026 00:00:00 GMT", "1" * 99]
)
def test_a_retry_after_that_makes_no_sense_is_ignored(value: str) -> None:
    headers = [(b"retry-after", value.encode())]
    assert read_retry_after(httpx.Response(429, headers=headers)) is None


def seconds(value: str, *, date: str | None = None) -> float | None:
    """Read a Retry-After, in an answer with its own date or without one."""
    headers = {"Retry-After": value} | ({} if date is None else {"Date": date})
    return read_retry_after(httpx.Response(429, headers=headers))


@pytest.mark.parametrize(
    ("value", "figure"),
    [
        ("Wed, 01 Jan 2020 00:01:00 GMT", 60),
        ("Wed, 01 Jan 2020 00:00:00 GMT", 0),
        ("Tue, 31 Dec 2019 23:00:00 GMT", 0),
        ("Wed, 01 Jan 2020 01:01:00 +0100", 60),
        ("Wednesday, 01-Jan-20 00:01:00 GMT", 60),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 251_824_463_999),
        ("Fri, 31 Dec 9999 23:59:59 -1200", None),
    ],
)
def test_a_date_is_counted_from_the_answers_own_date_because_clocks_differ(
    value: str, figure: float | None
) -> None:
    assert seconds(value, date="Wed, 01 Jan 2020 00:00:00 GMT") == figure


@pytest.mark.parametrize("date", [None, "", "soon", "Fri, 99 Foo 2026 00:00:00 GMT"])
def test_without_a_usable_date_of_its_own_an_answers_retry_after_is_counted_from_now(
    date: str | None,
) -> None:
    found = seconds(format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True), date=date)
    assert found is not None
    assert 3_000 < found <= 3_600


def test_the_figure_stands_in_the_message() -> None:
    found = error(429, "rate_limit_exceeded", Retry_After="999999999")
    assert found.retry_after == 999_999_999
    assert "It asks to wait 999,999,999 s." in str(found)
    assert "asks to wait" not in str(error(429, "rate_limit_exceeded"))


dates = st.builds(
    "{}, {:02} {} {} {:02}:{:02}:{:02} {}".format,
    st.sampled_from(["Mon", "Fri", "x"]),
    st.integers(0, 99),
    st.sampled_from(["Jan", "Dec", "Foo"]),
    st.integers(0, 99_999),
    st.integers(0, 30),
    st.integers(0, 99),
    st.integers(0, 99),
    st.sampled_from(["GMT", "-0000", "+2400", "-9999", "+99999999999999999999", "Z", ""]),
)


@given(value=dates, date=dates)
def test_any_pair_of_dates_is_a_wait_or_ignored(value: str, date: str) -> None:
    assert (seconds(value, date=date) or 0.0) >= 0.0


@pytest.mark.parametrize("date", ["Wed, 01 Jan 2020 00:00:00 GMT", "Wed, 01 Jan 2020 00:00:00 -0000"])
def test_a_retry_after_in_the_past_means_now(date: str) -> None:
    assert read_retry_after(httpx.Response(429, headers={"Retry-After": date})) == 0.0


@given(st.text(alphabet=st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=40))
def test_no_retry_after_is_more_than_a_value_that_is_ignored(value: str) -> None:
    response = httpx.Response(429, headers=[(b"retry-after", value.encode("latin-1"))])
    assert (read_retry_after(response) or 0.0) >= 0.0


@pytest.mark.parametrize("zone", ["+9999", "+999999999999", "-99999999", "+00000000000000000000000000000001"])
def test_a_date_with_an_absurd_zone_is_ignored_or_now(zone: str) -> None:
    response = httpx.Response(429, headers={"Retry-After": f"Wed, 01 Jan 2020 00:00:00 {zone}"})
    assert not read_retry_after(response)


@pytest.mark.parametrize(
    ("content", "headers", "said"),
    [
        (HTML, {"content-type": "text/html"}, "an HTML page titled '502 Bad gateway'"),
        ("", {"content-type": "text/html"}, "an empty body"),
        (
            "oops",
            {"content-type": "text/plain; charset=x"},
            "4 bytes of text/plain that are not the expected JSON",
        ),
        (
            "{",
            {"content-type": "application/json"},
            "1 bytes of application/json that are not the expected JSON",
        ),
        ("[1]", {"content-type": "application/json"}, "3 bytes of application/json"),
        ('{"error": "x"}', {"content-type": "application/json"}, "14 bytes of application/json"),
        ('{"error": {}}', {"content-type": ""}, "13 bytes of no content type"),
        ("[" * 100_000, {"content-type": "application/json"}, "100000 bytes of application/json"),
    ],
)
def test_an_answer_that_is_no_documented_error_is_described(
    content: str, headers: dict[str, str], said: str
) -> None:
    found = raw_error(502, content, **headers)
    assert type(found) is GatewayFailed
    assert f" AIsa answered 502: {said}" in str(found)
    assert (found.code, found.request_id) == (None, None)


@pytest.mark.parametrize(
    ("location", "where"),
    [
        ("https://elsewhere.example/v1?token=1", "elsewhere.example"),
        ("https://user:pass@elsewhere.example/", "elsewhere.example"),
        ("/login", "nowhere"),
        ("", "nowhere"),
        ("http://[", "something that is no URL"),
    ],
)
def test_a_redirect_is_a_wrong_connection_and_says_where_it_points(location: str, where: str) -> None:
    found = raw_error(307, location=location)
    assert type(found) is InvalidConnection
    assert str(found).startswith("Check the host of the connection.")
    assert str(found).endswith(f"a redirect to {where}.")
    assert "token" not in str(found)
    assert "pass" not in str(found)


def test_a_redirect_without_location_points_nowhere() -> None:
    assert "a redirect to nowhere" in str(raw_error(301))


def test_the_request_id_of_the_header_is_used_when_the_body_has_none() -> None:
    found = read_error(httpx.Response(500, headers={"x-request-id": "req_9"}), api_key=KEY)
    assert found.request_id == "req_9"
    assert "(request req_9)" in str(found)


@pytest.mark.parametrize("where", ["message", "code", "request_id", "header", "title", "location", "type"])
def test_an_error_never_holds_the_key_wherever_the_gateway_echoes_it(where: str) -> None:
    detail = {name: f"got {KEY}." if name == where else "x" for name in ("message", "code", "request_id")}
    response = httpx.Response(401, json={"error": detail})
    if where == "header":
        response = httpx.Response(401, headers={"x-request-id": KEY})
    if where == "title":
        response = httpx.Response(401, html=f"<title>{KEY}</title>")
    if where == "location":
        response = httpx.Response(302, headers={"location": f"https://{KEY}.example"})
    if where == "type":
        response = httpx.Response(401, text="x", headers={"content-type": KEY})
    found = read_error(response, api_key=KEY)
    shown = f"{found} {found.code} {found.request_id} {found.args}"
    assert "secret" not in shown
    assert "***" in shown


@pytest.mark.parametrize("where", ["message", "header", "title", "location", "type"])
def test_a_link_that_the_gateway_echoes_is_cut_to_its_host(where: str) -> None:
    """Signed links are as good as the images: https://cdn.example/a?signature=1 is worth what it cost."""
    link = "https://cdn.example/a?signature=1"
    response = {
        "message": httpx.Response(400, json={"error": {"message": f"cannot read {link}"}}),
        "header": httpx.Response(400, headers={"x-request-id": link}),
        "title": httpx.Response(400, html=f"<title>{link}</title>"),
        "location": httpx.Response(302, headers={"location": link}),
        "type": httpx.Response(400, text="x", headers={"content-type": link}),
    }[where]
    found = read_error(response, api_key=KEY)
    assert "cdn.example" in str(found)
    assert "signature" not in f"{found} {found.request_id}"


def test_control_characters_do_not_reach_a_terminal() -> None:
    assert "\x1b" not in str(error(500, message="\x1b[31mred\x1b[0m\x07"))


def test_whatever_looks_like_a_key_is_hidden_also_when_it_is_another_one() -> None:
    found = str(error(401, message="key sk-aisa-0123_x and sk-proj-abcdef, not risk-free or sk-1"))
    assert "key sk-*** and sk-***, not risk-free or sk-1" in found


def test_a_key_of_any_form_is_hidden() -> None:
    response = httpx.Response(401, json={"error": {"message": "bad key Zebra+42!"}})
    assert "Zebra" not in str(read_error(response, api_key="Zebra+42!"))


def test_a_strangers_text_becomes_one_short_line() -> None:
    found = str(error(500, message="a\n\r\tb  c " + "x" * 10_000))
    assert "\n" not in found
    assert "a b c xxx" in found
    assert len(found) < 700


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=3,
)
known = st.sampled_from(
    ["model", "created", "data", "usage", "error", "code", "message", "request_id", "url"]
)


@settings(max_examples=50)
@given(body=json_values | st.dictionaries(known, json_values, max_size=4), status=st.integers(300, 599))
def test_any_json_is_an_error_with_its_status(body: object, status: int) -> None:
    found = read_error(httpx.Response(status, content=json.dumps(body).encode()), api_key=KEY)
    assert found.status == status
    assert f"AIsa answered {status}" in str(found)
