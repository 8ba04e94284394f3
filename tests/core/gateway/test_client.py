from __future__ import annotations

import asyncio
import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_aisa import __version__
from airflow_provider_aisa.core.gateway.answers import UnreadableAnswer
from airflow_provider_aisa.core.gateway.client import AisaClient
from airflow_provider_aisa.core.gateway.request import ImageRequest
from airflow_provider_aisa.core.gateway.retries import Call, backoff, may_be_billed
from airflow_provider_aisa.core.net.transport import CannotConnect
from airflow_provider_aisa.exceptions import (
    AisaError,
    GatewayFailed,
    InvalidConnection,
    InvalidRequest,
    KeyRefused,
    OutcomeUnknown,
    QuotaExceeded,
    RateLimited,
)
from tests.core.faces import Face, Gateway
from tests.fakes.clock import Clock
from tests.support import make_pacer, make_settings

OK = httpx.Response(200, json={"data": [{"url": "https://cdn.test/0"}], "usage": {"generated_images": 1}})
MODELS = httpx.Response(
    200, json={"object": "list", "data": [{"id": "seedream-4-5-251128"}, {"id": "wan2.7-image"}]}
)
GET = Call("GET", "models")

#: The request did not leave: it may be sent again.
NOT_SENT = [
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
    httpx.LocalProtocolError,
]
#: It left, and nobody knows what became of it.
LOST = [
    httpx.ReadTimeout,
    httpx.WriteTimeout,
    httpx.ReadError,
    httpx.WriteError,
    httpx.CloseError,
    httpx.RemoteProtocolError,
    httpx.DecodingError,
]


def failure(kind: type[httpx.RequestError], text: str = "broken") -> Callable[[httpx.Request], Exception]:
    return lambda request: kind(text, request=request)


def refused(status: int, code: str = "code", **headers: str) -> httpx.Response:
    body = {"error": {"code": code, "message": "words", "request_id": "req_1"}}
    return httpx.Response(
        status, json=body, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )


def outcome(face: Face, gateway: Gateway, **settings: Any) -> AisaError:
    with pytest.raises(AisaError) as caught:
        face.generate(gateway.client(make_settings(**settings)))
    return caught.value


def test_one_generation_is_one_authenticated_request_with_the_documented_body(face: Face) -> None:
    gateway = Gateway([OK])
    settings = make_settings()
    response = face.generate(gateway.client(settings), n=2, size="2304x1600")
    assert [image.url for image in response.images] == ["https://cdn.test/0"]
    (request,) = gateway.requests
    assert (request.method, str(request.url)) == ("POST", "https://gateway.test/v1/images/generations")
    assert request.headers["authorization"] == f"Bearer {settings.api_key}"
    assert request.headers["user-agent"] == f"airflow-provider-aisa/{__version__}"
    assert json.loads(request.content) == {
        "model": "seedream-4-5-251128",
        "prompt": "a red panda",
        "n": 2,
        "size": "2304x1600",
    }


def test_the_key_is_in_the_authorization_header_and_nowhere_else(face: Face) -> None:
    gateway = Gateway([OK])
    settings = make_settings()
    face.generate(gateway.client(settings))
    (request,) = gateway.requests
    elsewhere = [value for name, value in request.headers.items() if name != "authorization"]
    assert not any(
        settings.api_key in text for text in [*elsewhere, str(request.url), request.content.decode()]
    )


@pytest.mark.parametrize("status", [500, 502, 503, 504])
@pytest.mark.parametrize("content", [b"<html><title>Bad gateway</title>", b"", b"{}"])
def test_a_failing_gateway_is_asked_again_with_doubling_waits(
    face: Face, status: int, content: bytes
) -> None:
    failing = httpx.Response(status, content=content)
    gateway = Gateway([failing, failing, failing, OK])
    face.generate(gateway.client())
    assert len(gateway.requests) == 4
    assert gateway.clock.slept == [1, 2, 4]


def test_a_gateway_that_keeps_failing_is_asked_max_retries_times_more(face: Face) -> None:
    for retries in (0, 1, 4):
        gateway = Gateway([refused(503, "gateway_error")])
        error = outcome(face, gateway, max_retries=retries)
        assert type(error) is GatewayFailed
        assert (error.status, error.request_id) == (503, "req_1")
        assert len(gateway.requests) == 1 + retries
        assert gateway.clock.slept == [1, 2, 4, 8][:retries]


def test_a_call_waits_a_minute_in_all_at_most_however_many_retries_are_allowed(face: Face) -> None:
    gateway = Gateway([refused(500)])
    outcome(face, gateway, max_retries=100)
    assert gateway.clock.slept == [1, 2, 4, 8, 16]
    gateway = Gateway([refused(500)])
    with pytest.raises(GatewayFailed):
        face.generate(gateway.client(make_settings(max_retries=100), randomness=lambda: 0.0))
    assert gateway.clock.slept == [0.75, 1.5, 3, 6, 12, 24]


@given(attempt=st.integers(0, 60), randomness=st.floats(0, 1, exclude_max=True))
def test_a_wait_is_a_power_of_two_with_a_quarter_of_jitter_and_thirty_seconds_at_most(
    attempt: int, randomness: float
) -> None:
    seconds = backoff(attempt, lambda: randomness)
    assert min(30, 0.75 * 2**attempt) <= seconds <= min(30, 1.25 * 2**attempt)


def test_jitter_is_random_unless_it_is_injected() -> None:
    assert len({backoff(0) for _ in range(20)}) > 1


@pytest.mark.parametrize("kind", NOT_SENT)
def test_a_request_that_did_not_leave_is_sent_again(face: Face, kind: type[httpx.RequestError]) -> None:
    gateway = Gateway([failure(kind), failure(kind), OK])
    face.generate(gateway.client())
    assert len(gateway.requests) == 3
    assert gateway.clock.slept == [1, 2]


@pytest.mark.parametrize("kind", NOT_SENT)
def test_a_gateway_that_cannot_be_reached_says_that_nothing_was_sent(
    face: Face, kind: type[httpx.RequestError]
) -> None:
    gateway = Gateway([failure(kind)])
    error = outcome(face, gateway, conn_id="aisa_eu", max_retries=1)
    assert type(error) is GatewayFailed
    assert str(error) == (
        "Check the host of connection 'aisa_eu', the network and the proxy, then try again: AIsa at "
        f"gateway.test could not be reached ({kind.__name__}). Nothing was sent."
    )
    assert len(gateway.requests) == 2


@pytest.mark.parametrize("kind", LOST)
def test_a_post_whose_response_is_lost_is_never_sent_again(
    face: Face, kind: type[httpx.RequestError]
) -> None:
    gateway = Gateway([failure(kind), OK])
    error = outcome(face, gateway)
    assert type(error) is OutcomeUnknown
    assert f"({kind.__name__})" in str(error)
    assert str(error).startswith("Look at the usage page of the AIsa console before paying again.")
    assert "The request was sent and may have been billed" in str(error)
    assert len(gateway.requests) == 1
    assert gateway.clock.slept == []


@pytest.mark.parametrize("method", ["GET", "get", "HEAD", "OPTIONS"])
@pytest.mark.parametrize("kind", LOST)
def test_a_get_whose_response_is_lost_is_sent_again(
    face: Face, kind: type[httpx.RequestError], method: str
) -> None:
    gateway = Gateway([failure(kind), failure(kind), MODELS])
    face.send(gateway.client(), Call(method, "models"))
    assert len(gateway.requests) == 3


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_any_other_method_is_sent_once(face: Face, method: str) -> None:
    gateway = Gateway([failure(httpx.ReadTimeout)])
    with pytest.raises(OutcomeUnknown):
        face.send(gateway.client(), Call(method, "videos"))
    assert len(gateway.requests) == 1


def test_a_get_that_is_lost_every_time_is_a_failure_and_not_an_unknown_outcome(face: Face) -> None:
    gateway = Gateway([failure(httpx.ReadTimeout)])
    with pytest.raises(GatewayFailed, match="did not answer"):
        face.send(gateway.client(make_settings(max_retries=2)), GET)
    assert len(gateway.requests) == 3


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, html="<title>Welcome</title>"),
        httpx.Response(200),
        httpx.Response(200, json={"data": None}),
    ],
)
def test_an_unreadable_success_is_never_sent_again(face: Face, answer: httpx.Response) -> None:
    gateway = Gateway([answer, OK])
    assert type(outcome(face, gateway)) is OutcomeUnknown
    assert len(gateway.requests) == 1


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "invalid_request"),
        (400, "json_parse_error"),
        (401, "revoked_api_key"),
        (403, "model_not_allowed"),
        (404, "unknown_model"),
        (404, "openai_error"),
        (408, "timeout"),
        (409, "conflict"),
        (422, "content_policy_violation"),
        (422, "unsupported_parameter"),
    ],
)
def test_no_other_4xx_is_ever_sent_again(face: Face, status: int, code: str) -> None:
    gateway = Gateway([refused(status, code, Retry_After="1"), OK])
    error = outcome(face, gateway)
    assert (error.status, error.code) == (status, code)
    assert isinstance(error, InvalidRequest | KeyRefused)
    assert len(gateway.requests) == 1


def test_a_spend_cap_is_never_asked_again(face: Face) -> None:
    gateway = Gateway([refused(429, "quota_exceeded", Retry_After="1"), OK])
    assert type(outcome(face, gateway)) is QuotaExceeded
    assert len(gateway.requests) == 1
    assert gateway.clock.slept == []


@pytest.mark.parametrize("code", ["rate_limit_exceeded", "upstream_rate_limit"])
def test_retry_after_is_waited_exactly(face: Face, code: str) -> None:
    gateway = Gateway([refused(429, code, Retry_After="7"), refused(429, code, Retry_After="0"), OK])
    face.generate(gateway.client())
    assert len(gateway.requests) == 3
    assert sum(gateway.clock.slept) == 7


def test_without_retry_after_a_rate_limit_waits_as_a_failure_does(face: Face) -> None:
    gateway = Gateway([refused(429), refused(429), OK])
    face.generate(gateway.client())
    assert gateway.clock.slept == [1, 2]


def test_a_failing_gateways_retry_after_is_waited_too(face: Face) -> None:
    gateway = Gateway([refused(503, Retry_After="20"), OK])
    face.generate(gateway.client())
    assert gateway.clock.slept == [20]


def test_a_retry_after_that_takes_too_long_is_raised_with_its_seconds(face: Face) -> None:
    gateway = Gateway([refused(429, "rate_limit_exceeded", Retry_After="61"), OK])
    error = outcome(face, gateway)
    assert type(error) is RateLimited
    assert error.retry_after == 61
    assert len(gateway.requests) == 1
    assert gateway.clock.slept == []


@pytest.mark.parametrize("value", ["999999999", "3601", "Fri, 31 Dec 9999 23:59:59 GMT"])
@pytest.mark.parametrize("max_wait", [60.0, math.inf])
def test_more_than_an_hour_is_never_waited_out_in_process(face: Face, value: str, max_wait: float) -> None:
    """A batch waits out rate limits however often they come; one of 31 years it does not."""
    gateway = Gateway([refused(429, "rate_limit_exceeded", Retry_After=value), OK])
    with pytest.raises(RateLimited) as caught:
        face.generate(gateway.client(max_wait=max_wait))
    assert caught.value.retry_after is not None
    assert caught.value.retry_after >= 3601
    assert f"It asks to wait {caught.value.retry_after:,.0f} s." in str(caught.value)
    assert len(gateway.requests) == 1
    assert gateway.clock.slept == []


def test_without_a_limit_of_its_own_a_call_waits_out_an_hour(face: Face) -> None:
    gateway = Gateway([refused(429, Retry_After="3600"), OK])
    face.generate(gateway.client(max_wait=math.inf))
    assert sum(gateway.clock.slept) == 3600


def test_the_key_is_free_again_after_an_hour_whatever_the_gateway_said(face: Face) -> None:
    clock = Clock()
    pacer = make_pacer(clock)
    with pytest.raises(RateLimited):
        face.generate(Gateway([refused(429, Retry_After="999999999")], clock).client(pacer=pacer))
    with pytest.raises(RateLimited, match="wait 3600 s more"):
        face.generate(Gateway([OK], clock).client(pacer=pacer))
    clock.now += 3600
    face.generate(Gateway([OK], clock).client(pacer=pacer))
    assert clock.slept == []


def test_a_failing_gateway_that_asks_for_more_than_an_hour_is_not_waited_for(face: Face) -> None:
    gateway = Gateway([refused(503, "gateway_error", Retry_After="999999999"), OK])
    with pytest.raises(GatewayFailed, match="It asks to wait 999,999,999 s"):
        face.generate(gateway.client(max_wait=math.inf))
    assert len(gateway.requests) == 1


def test_retry_after_is_obeyed_only_as_long_as_a_minute_is_not_used_up(face: Face) -> None:
    gateway = Gateway([refused(429, Retry_After="40"), refused(429, Retry_After="21"), OK])
    error = outcome(face, gateway)
    assert error.retry_after == 21
    assert len(gateway.requests) == 2
    assert gateway.clock.slept == [40]


def test_one_clients_retry_after_holds_every_client_of_the_key(face: Face) -> None:
    clock = Clock()
    pacer = make_pacer(clock)
    limited, other = Gateway([refused(429, Retry_After="61")], clock), Gateway([OK], clock)
    with pytest.raises(RateLimited):
        face.generate(limited.client(pacer=pacer))
    with pytest.raises(RateLimited, match="Nothing was sent") as caught:
        face.generate(other.client(pacer=pacer))
    assert caught.value.retry_after == 61
    assert other.requests == []
    clock.now += 2
    face.generate(other.client(pacer=pacer))
    assert clock.slept == [59]


def test_when_little_of_the_limit_remains_the_next_requests_are_spread(face: Face) -> None:
    clock = Clock()
    pacer = make_pacer(clock)
    limits = {"limit": "100", "remaining": "5", "reset": str(clock.now + 30)}
    headers = {f"X-RateLimit-{name}-Requests": value for name, value in limits.items()}
    gateway = Gateway([httpx.Response(200, headers=headers, content=OK.content)], clock)
    for _ in range(3):
        face.generate(gateway.client(pacer=pacer))
    assert clock.slept == [6, pytest.approx(24 / 5)]


def test_a_failed_request_gives_its_slot_back_before_it_waits(face: Face) -> None:
    clock = Clock()
    pacer = make_pacer(clock, concurrency=1)
    inside: list[float] = []

    def sleep(seconds: float) -> None:
        with pacer.slot(clock.sleep, patience=0):
            inside.append(seconds)

    async def asleep(seconds: float) -> None:
        sleep(seconds)

    gateway = Gateway([refused(500), OK], clock)
    face.generate(gateway.client(pacer=pacer, sleep=sleep, asleep=asleep))
    assert inside == [1]


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://elsewhere.test/v1/images/generations",
        "//elsewhere.test/v1",
        "http://gateway.test/v1/models",
        "https://gateway.test:8443/v1/models",
        "https://gateway.test@elsewhere.test/",
        "https://user@gateway.test/v1",
        "https://gateway.test.elsewhere.test/",
        "\t//elsewhere.test/",
        "https:\n//elsewhere.test/",
        "file:///etc/passwd",
        "https://gateway.test\\@elsewhere.test/",
    ],
)
def test_the_key_is_never_sent_to_another_origin(face: Face, endpoint: str) -> None:
    gateway = Gateway([OK])
    with pytest.raises(InvalidRequest, match="is not on gateway") as caught:
        face.send(gateway.client(make_settings(conn_id="aisa_eu")), Call("GET", endpoint))
    assert "the key of connection 'aisa_eu' goes nowhere else" in str(caught.value)
    assert gateway.requests == []


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("chat/completions", "https://gateway.test/v1/chat/completions"),
        ("/v1beta/models/m:generateContent", "https://gateway.test/v1beta/models/m:generateContent"),
        ("https://gateway.test/v1/models", "https://gateway.test/v1/models"),
        ("models?limit=1", "https://gateway.test/v1/models?limit=1"),
        ("", "https://gateway.test/v1/"),
    ],
)
def test_an_endpoint_is_below_the_base_url_or_from_the_gateways_root(
    face: Face, endpoint: str, url: str
) -> None:
    gateway = Gateway([MODELS])
    face.send(gateway.client(), Call("GET", endpoint))
    assert [str(request.url) for request in gateway.requests] == [url]


def test_params_headers_and_json_are_sent_but_cannot_replace_the_key(face: Face) -> None:
    gateway = Gateway([MODELS])
    settings = make_settings()
    call = Call(
        "POST", "x", json=[1], params={"a": "b c"}, headers={"X-Own": "1", "Authorization": "Bearer other"}
    )
    face.send(gateway.client(settings), call)
    (request,) = gateway.requests
    assert request.url.query == b"a=b+c"
    assert request.headers["x-own"] == "1"
    assert request.headers.get_list("authorization") == [f"Bearer {settings.api_key}"]
    assert json.loads(request.content) == [1]


def test_a_callers_own_headers_cannot_say_whom_it_is_for_or_how_it_travels(face: Face) -> None:
    gateway = Gateway([MODELS])
    settings = make_settings()
    own = ["Host", "HOST", "Authorization", "Proxy-Authorization", "Content-Length", "Transfer-Encoding"]
    own += ["Connection", "Accept-Encoding", "User-Agent"]
    face.send(gateway.client(settings), Call("POST", "x", json=[1], headers=dict.fromkeys(own, "evil")))
    (request,) = gateway.requests
    assert "evil" not in str(request.headers.raw)
    assert request.headers.get_list("host") == ["gateway.test"]
    assert request.headers.get_list("content-length") == ["3"]
    assert request.headers.get_list("accept-encoding") == ["identity"]
    assert "transfer-encoding" not in request.headers


def test_a_callers_own_accept_replaces_ours(face: Face) -> None:
    gateway = Gateway([MODELS])
    face.send(gateway.client(), Call("GET", "x", headers={"ACCEPT": "text/event-stream"}))
    assert gateway.requests[0].headers.get_list("accept") == ["text/event-stream"]


@pytest.mark.parametrize(
    "call",
    [
        Call("GET", "x", headers={"X-Own": "secret\r\nHost: evil"}),
        Call("GET", "x", headers={"X-Own": "secret\x00"}),
        Call("GET", "x", headers={"X-Own": "secret\ud800"}),
        Call("GET", "x", headers={"X-Own": "secretä"}),
        Call("GET", "x", headers={"X Own": "secret"}),
        Call("GET", "x", headers={"": "secret"}),
        Call("GET", "x", headers=cast("dict[str, str]", {"X-Own": 7})),
        Call("GE T", "x"),
        Call("", "x"),
        Call("GET", "//["),
        Call("POST", "x", json=object()),
        Call("POST", "x", json=float("nan")),
        Call("POST", "x", json="\ud800"),
    ],
    ids=lambda call: f"{call.method!r} {call.endpoint} {len(call.headers)}",
)
def test_what_http_cannot_carry_is_refused_before_anything_is_sent(face: Face, call: Call) -> None:
    gateway = Gateway([MODELS])
    with pytest.raises(InvalidRequest) as caught:
        face.send(gateway.client(), call)
    assert "secret" not in str(caught.value)
    assert gateway.requests == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_so_the_key_stays(face: Face, status: int) -> None:
    gateway = Gateway([httpx.Response(status, headers={"location": "https://elsewhere.test/"}), OK])
    error = outcome(face, gateway)
    assert type(error) is InvalidConnection
    assert "a redirect to elsewhere.test" in str(error)
    assert len(gateway.requests) == 1


@pytest.mark.parametrize("kind", [*NOT_SENT, *LOST])
def test_an_error_holds_neither_the_key_nor_what_a_stranger_wrote(
    face: Face, kind: type[httpx.RequestError]
) -> None:
    settings = make_settings(max_retries=0)
    gateway = Gateway([failure(kind, f"sent Bearer {settings.api_key} to evil")])
    with pytest.raises(AisaError) as caught:
        face.generate(gateway.client(settings))
    chain = [caught.value, caught.value.__cause__, caught.value.__context__]
    assert not any("evil" in str(each) or settings.api_key in str(each) for each in chain)


def test_an_answer_that_echoes_the_key_does_not_bring_it_into_the_error(face: Face) -> None:
    settings = make_settings()
    gateway = Gateway([httpx.Response(401, json={"error": {"message": f"bad key {settings.api_key}"}})])
    with pytest.raises(KeyRefused) as caught:
        face.generate(gateway.client(settings))
    assert settings.api_key not in str(caught.value)
    assert "bad key ***" in str(caught.value)


@pytest.mark.parametrize("where", ["body", "header"])
def test_a_key_that_a_success_echoes_as_request_id_is_not_kept(face: Face, where: str) -> None:
    settings = make_settings()
    body = {"data": [{"url": "https://cdn.test/0"}], "model": f"m {settings.api_key}"}
    if where == "body":
        body["request_id"] = settings.api_key
    answer = httpx.Response(200, json=body, headers={"x-request-id": settings.api_key})
    response = face.generate(Gateway([answer]).client(settings))
    assert (response.request_id, response.model) == ("***", "m ***")


def test_what_cannot_be_connected_to_for_good_is_a_wrong_connection_at_once(face: Face) -> None:
    gateway = Gateway([lambda _: CannotConnect("the certificate is not valid", is_final=True), OK])
    error = outcome(face, gateway)
    assert type(error) is InvalidConnection
    assert str(error) == (
        "AIsa at gateway.test cannot be reached: the certificate is not valid. Nothing was sent."
    )
    assert len(gateway.requests) == 1


def test_our_own_reason_for_a_failed_connection_is_shown(face: Face) -> None:
    gateway = Gateway([lambda _: CannotConnect("Connection refused")])
    error = outcome(face, gateway, max_retries=1)
    assert "could not be reached (Connection refused). Nothing was sent" in str(error)
    assert len(gateway.requests) == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [("HTTPS_PROXY", "http://"), ("ALL_PROXY", "socks9://proxy"), ("https_proxy", "user:pa55#@proxy:1")],
)
def test_a_proxy_that_cannot_be_used_is_said_when_the_client_is_made(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """Before anything is claimed: after that it would look like a request that may have been billed."""
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidConnection) as caught:
        AisaClient(make_settings())
    assert "pa55" not in str(caught.value)
    AisaClient(make_settings(base_url="http://127.0.0.1:1/v1")).close()


def test_certificates_that_cannot_be_read_are_a_wrong_connection_and_nothing_was_sent(
    tmp_path: Path,
) -> None:
    """In a process of its own: the certificates are read once."""
    for name, content in {"missing.pem": None, "empty.pem": "", "text.pem": "no certificate"}.items():
        file = tmp_path / name
        if content is not None:
            file.write_text(content)
        code = (
            "from tests.support import make_settings\n"
            "from airflow_provider_aisa.core.gateway.client import AisaClient, generation\n"
            "from airflow_provider_aisa.core.gateway.request import ImageRequest\n"
            "from airflow_provider_aisa.core.gateway.retries import may_be_billed\n"
            "call = generation(ImageRequest.parse(prompt='a'))\n"
            "client = AisaClient(make_settings(base_url='https://127.0.0.1:1/v1'))\n"
            "outcome = client.exchange(call)\n"
            "print(may_be_billed(outcome))\n"
            "client.next_delay(outcome, client.retries(call))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "SSL_CERT_FILE": str(file)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout == "False\n", done.stderr
        assert "InvalidConnection: AIsa at 127.0.0.1:1 cannot be reached" in done.stderr
        assert "SSL_CERT_FILE" in done.stderr


def test_the_models_are_listed_by_their_ids(face: Face) -> None:
    gateway = Gateway([MODELS])
    models = face.list_models(gateway.client())
    assert [model["id"] for model in models] == ["seedream-4-5-251128", "wan2.7-image"]
    assert str(gateway.requests[0].url) == "https://gateway.test/v1/models"


@pytest.mark.parametrize(
    "body", ["{}", "[]", '{"data": null}', '{"data": [{}]}', '{"data": [1]}', "<html>", ""]
)
def test_something_else_than_a_list_of_models_is_a_failure_of_the_gateway(face: Face, body: str) -> None:
    gateway = Gateway([httpx.Response(200, text=body)])
    with pytest.raises(GatewayFailed, match="no list of models: check the connection's host") as caught:
        face.list_models(gateway.client())
    assert caught.value.status == 200


def test_a_closed_client_opens_again_when_it_is_used(face: Face) -> None:
    gateway = Gateway([MODELS])
    client = gateway.client()
    assert face.list_models(client) == face.list_models(client)
    client.close()
    asyncio.run(client.aclose())
    assert len(gateway.requests) == 2


def test_a_cancelled_request_gives_its_slot_back() -> None:
    over = threading.Event()

    def never(_: httpx.Request) -> httpx.Response:
        over.wait(30)
        return OK

    async def scenario() -> None:
        pacer = make_pacer(concurrency=1)
        async with AisaClient(make_settings(), pacer=pacer, transport=httpx.MockTransport(never)) as client:
            task = asyncio.create_task(client.agenerate(ImageRequest.parse(prompt="a")))
            for _ in range(50):
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        async with asyncio.timeout(30), pacer.aslot(patience=0):
            pass

    asyncio.run(scenario())
    over.set()


def answer(status: int, content: str = "", kind: str = "text/html") -> httpx.Response:
    return httpx.Response(status, text=content, headers={"content-type": kind})


@pytest.mark.parametrize(
    "result",
    [
        *(refused(status) for status in (400, 401, 403, 404, 422, 429)),
        refused(422, "content_policy_violation"),
        refused(429, "quota_exceeded"),
        *(
            refused(status, code)
            for status in (502, 503)
            for code in ("upstream_unavailable", "gateway_error")
        ),
        *(kind("x") for kind in NOT_SENT),
        CannotConnect("x"),
    ],
    ids=repr,
)
def test_the_gateways_own_refusal_and_a_request_that_never_left_are_not_billed(
    result: httpx.Response | httpx.HTTPError,
) -> None:
    assert may_be_billed(result) is False


@pytest.mark.parametrize(
    "result",
    [
        OK,
        refused(500),
        refused(500, "internal_error"),
        *(refused(status, "upstream_timeout") for status in (400, 429, 502, 503, 504)),
        *(refused(504, code) for code in ("upstream_unavailable", "gateway_error")),
        *(refused(status, "some_code") for status in (502, 503)),
        *(refused(status, "gateway_error") for status in (405, 408, 409, 425, 451, 499, 501, 520, 524, 530)),
        *(
            answer(status, "<title>x</title>")
            for status in (400, 401, 403, 404, 413, 422, 429, 502, 503, 520)
        ),
        *(answer(status) for status in (400, 403, 429, 502, 503, 504)),
        *(answer(status, "404 page not found", "text/plain") for status in (400, 404)),
        *(
            answer(400, body, "application/json")
            for body in ("{", "[]", "{}", '{"error": "x"}', '{"error": {}}')
        ),
        *(
            answer(400, body, "application/json")
            for body in ('{"error": {"code": ""}}', '{"error": {"code": 7}}')
        ),
        *(httpx.Response(status, headers={"location": "/x"}) for status in (301, 302, 303, 307, 308)),
        httpx.Response(304),
        *(kind("x") for kind in LOST),
        UnreadableAnswer("x", status=200),
    ],
    ids=repr,
)
def test_everything_else_may_be_billed(result: httpx.Response | httpx.HTTPError) -> None:
    assert may_be_billed(result) is True


MAY_HIDE_A_JOB = [
    refused(504, "upstream_timeout"),
    refused(500, "internal_error"),
    httpx.Response(502, html="<title>Bad gateway</title>"),
    httpx.Response(520, html="<title>Web server is returning an unknown error</title>"),
    httpx.Response(524),
    httpx.Response(429, html="<title>Slow down</title>"),
    httpx.Response(403, html="<title>Blocked</title>"),
    httpx.Response(302, headers={"location": "https://blocked.test/"}),
]


@pytest.mark.parametrize("result", MAY_HIDE_A_JOB, ids=repr)
def test_at_most_once_nothing_is_sent_again_after_what_may_hide_a_finished_job(
    face: Face, result: httpx.Response
) -> None:
    gateway = Gateway([result, OK])
    with pytest.raises(OutcomeUnknown) as caught:
        face.send(gateway.client(), Call("POST", "images/generations", at_most_once=True))
    assert caught.value.status == result.status_code
    assert "may have been done and billed all the same" in str(caught.value)
    assert f" AIsa answered {result.status_code}" in str(caught.value)
    assert len(gateway.requests) == 1


def test_an_unknown_outcome_keeps_what_the_gateway_said(face: Face) -> None:
    gateway = Gateway([refused(504, "upstream_timeout")])
    with pytest.raises(OutcomeUnknown, match=r"504 upstream_timeout: words \(request req_1\)") as caught:
        face.send(gateway.client(), Call("POST", "images/generations", at_most_once=True))
    assert (caught.value.code, caught.value.request_id) == ("upstream_timeout", "req_1")


@pytest.mark.parametrize("code", ["upstream_unavailable", "gateway_error"])
def test_at_most_once_a_refusal_stays_a_refusal(face: Face, code: str) -> None:
    gateway = Gateway([refused(503, code), OK])
    face.send(gateway.client(), Call("POST", "images/generations", at_most_once=True))
    assert len(gateway.requests) == 2


@pytest.mark.parametrize("result", MAY_HIDE_A_JOB, ids=repr)
def test_an_error_that_may_hide_a_bill_says_where_to_look(face: Face, result: httpx.Response) -> None:
    gateway = Gateway([result])
    error = outcome(face, gateway, max_retries=1)
    assert not isinstance(error, OutcomeUnknown)
    assert str(error).endswith(
        "It may have been done and billed all the same. Look at the usage page of the AIsa console before "
        "paying again."
    )


@pytest.mark.parametrize("result", [refused(503, "gateway_error"), refused(422), refused(429)], ids=repr)
def test_an_error_that_hides_no_bill_says_that_nothing_was_billed(face: Face, result: httpx.Response) -> None:
    assert str(outcome(face, Gateway([result]), max_retries=0)).endswith(" Nothing was billed.")


@pytest.mark.parametrize("result", MAY_HIDE_A_JOB, ids=repr)
def test_a_get_is_never_billed_whatever_is_answered(face: Face, result: httpx.Response) -> None:
    with pytest.raises(AisaError) as caught:
        face.send(Gateway([result]).client(make_settings(max_retries=0)), GET)
    assert "billed" not in str(caught.value)
