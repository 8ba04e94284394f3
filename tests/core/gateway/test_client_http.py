"""The client over real connections, against the sandbox: what was billed is counted there."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_aisa.core.gateway.client import AisaClient
from airflow_provider_aisa.core.gateway.request import ImageRequest
from airflow_provider_aisa.core.gateway.settings import ConnectionSettings
from airflow_provider_aisa.exceptions import (
    AisaError,
    GatewayFailed,
    InvalidConnection,
    KeyRefused,
    OutcomeUnknown,
    RateLimited,
)
from airflow_provider_aisa.sandbox import Fault, FaultKind, Sandbox
from tests.core.faces import Face
from tests.core.net import wire
from tests.fakes.clock import Clock
from tests.support import make_pacer, make_settings, sandbox_settings
from tools.ports import find_free_ports


def client(settings: ConnectionSettings, **options: Any) -> AisaClient:
    clock = Clock()
    values: dict[str, Any] = {"pacer": make_pacer(clock), "sleep": clock.sleep, "asleep": clock.asleep}
    return AisaClient(settings, **values | options)


def failure(face: Face, sandbox: Sandbox, *faults: Fault, n: int = 2, **settings: Any) -> AisaError:
    sandbox.inject(*faults)
    with pytest.raises(AisaError) as caught:
        face.generate(client(sandbox_settings(sandbox, **settings)), n=n)
    return caught.value


def test_a_generation_is_one_request_billed_once(face: Face, aisa_sandbox: Sandbox) -> None:
    response = face.generate(client(sandbox_settings(aisa_sandbox)), n=2)
    assert len(response.available) == response.billed == aisa_sandbox.billed == 2
    (request,) = aisa_sandbox.requests
    assert response.request_id == request.request_id
    assert aisa_sandbox.cdn_requests == []


@pytest.mark.parametrize(
    ("fault", "billed"),
    [
        (Fault("hang"), 0),
        (Fault("hang", billed=True), 2),
        (Fault("cut_before_billing"), 0),
        (Fault("cut_after_billing"), 2),
        (Fault("cut_mid_body"), 2),
        (Fault("broken_json"), 2),
        (Fault("html_ok"), 2),
    ],
    ids=lambda value: f"{value.kind}-{value.billed}" if isinstance(value, Fault) else str(value),
)
def test_after_a_lost_response_no_second_request_is_sent(
    face: Face, aisa_sandbox: Sandbox, fault: Fault, billed: int
) -> None:
    error = failure(face, aisa_sandbox, fault, timeout=0.3 if fault.kind == "hang" else 30)
    assert type(error) is OutcomeUnknown
    assert "billed" in str(error)
    assert aisa_sandbox.billed == billed
    assert len(aisa_sandbox.requests) == 1


@pytest.mark.parametrize("kind", ["server_error", "bad_gateway", "unavailable", "html_error", "rate_limited"])
def test_what_fails_twice_and_then_works_is_billed_once(
    face: Face, aisa_sandbox: Sandbox, kind: FaultKind
) -> None:
    aisa_sandbox.inject(Fault(kind, times=2))
    response = face.generate(client(sandbox_settings(aisa_sandbox)), n=1)
    assert response.billed == aisa_sandbox.billed == 1
    assert len(aisa_sandbox.requests) == 3


def test_an_html_page_of_a_proxy_is_described_when_it_does_not_go_away(
    face: Face, aisa_sandbox: Sandbox
) -> None:
    error = failure(face, aisa_sandbox, Fault("html_error", times=9), max_retries=1)
    assert type(error) is GatewayFailed
    assert "502: an HTML page titled 'Bad gateway'" in str(error)
    assert (aisa_sandbox.billed, len(aisa_sandbox.requests)) == (0, 2)


def test_a_redirect_is_not_followed_and_the_other_origin_never_sees_the_key(
    face: Face, aisa_sandbox: Sandbox
) -> None:
    error = failure(face, aisa_sandbox, Fault("redirect"))
    assert type(error) is InvalidConnection
    assert "a redirect to 127.0.0.1" in str(error)
    assert (aisa_sandbox.billed, len(aisa_sandbox.requests)) == (0, 1)
    assert aisa_sandbox.cdn_requests == []


def test_a_long_retry_after_is_raised_and_holds_the_next_call_without_a_request(
    face: Face, aisa_sandbox: Sandbox
) -> None:
    aisa_sandbox.inject(Fault("rate_limited", retry_after=120))
    clock = Clock()
    settings, pacer = sandbox_settings(aisa_sandbox), make_pacer(clock)
    for _ in range(2):
        with pytest.raises(RateLimited) as caught:
            face.generate(client(settings, pacer=pacer))
        assert caught.value.retry_after == 120
    assert len(aisa_sandbox.requests) == 1


def test_a_wrong_key_is_refused_once_and_costs_nothing(face: Face, aisa_sandbox: Sandbox) -> None:
    error = failure(face, aisa_sandbox, api_key="sk-aisa-wrong")
    assert type(error) is KeyRefused
    assert (error.status, error.code) == (401, "invalid_api_key")
    assert error.request_id == aisa_sandbox.requests[0].request_id
    assert (aisa_sandbox.billed, len(aisa_sandbox.requests)) == (0, 1)


def test_a_gateway_that_is_not_there_was_sent_nothing(face: Face) -> None:
    (port,) = find_free_ports(1)
    clock = Clock()
    nobody = client(
        make_settings(base_url=f"http://127.0.0.1:{port}/v1", max_retries=2),
        sleep=clock.sleep,
        asleep=clock.asleep,
    )
    with pytest.raises(GatewayFailed, match="Nothing was sent"):
        face.generate(nobody)
    assert len(clock.slept) == 2


def test_the_models_are_listed_for_free(face: Face, aisa_sandbox: Sandbox) -> None:
    models = face.list_models(client(sandbox_settings(aisa_sandbox)))
    assert {model["id"]: model["supported_endpoint_types"] for model in models} == {
        "seedream-4-5-251128": ["image-generation"],
        "wan2.7-image": ["openai"],
        "wan2.7-image-pro": ["openai"],
        "gemini-2.5-flash-image": ["gemini"],
        "gemini-3-pro-image-preview": ["gemini"],
    }
    assert aisa_sandbox.billed == 0


def test_a_model_list_that_hangs_is_asked_for_again(face: Face, aisa_sandbox: Sandbox) -> None:
    """A GET may be repeated: nothing is billed by it."""
    aisa_sandbox.inject(Fault("hang", path="/v1/models"))
    face.list_models(client(sandbox_settings(aisa_sandbox, timeout=0.3)))
    assert len(aisa_sandbox.requests) == 2


def test_no_more_requests_are_in_flight_than_the_connection_allows(aisa_sandbox: Sandbox) -> None:
    aisa_sandbox.change(latency=0.02, max_in_flight=2)
    settings = sandbox_settings(aisa_sandbox, max_concurrency=2)
    pacer = make_pacer(concurrency=2)
    request = ImageRequest.parse(prompt="a red panda")

    async def generate_all() -> None:
        async with client(settings, pacer=pacer) as shared:
            await asyncio.gather(*(shared.agenerate(request) for _ in range(8)))

    asyncio.run(generate_all())
    assert aisa_sandbox.max_in_flight_seen == 2
    assert [request.status for request in aisa_sandbox.requests] == [200] * 8


@given(
    st.binary(max_size=200)
    | st.builds(
        "HTTP/1.1 {} {}\r\n{}: {}\r\n\r\n{}".format,
        st.integers(0, 9999),
        st.text(max_size=5),
        st.sampled_from(["Content-Length", "Transfer-Encoding", "Content-Encoding", "Retry-After", "X"]),
        st.sampled_from(["0", "5", "-1", "999999999999", "chunked", "gzip", "identity", "\ud800", "x"]),
        st.text(max_size=20) | st.just('{"data": [{"url": "https://cdn.test/"}]}'),
    ).map(lambda text: text.encode(errors="replace"))
)
@settings(max_examples=60)
def test_whatever_bytes_a_server_sends_are_a_result_or_a_typed_error(answer: bytes) -> None:
    with wire.serve(wire.answering(answer)) as server:
        gateway = client(make_settings(base_url=f"{server.url}/v1", max_retries=0))
        with suppress(AisaError):
            assert gateway.generate(ImageRequest.parse(prompt="a")).model == "seedream-4-5-251128"
        assert server.connections == 1


@pytest.mark.parametrize("is_async", [False, True])
def test_an_answer_that_drips_ends_within_the_timeout_and_may_be_billed(is_async: bool) -> None:
    def drip(server: wire.Server, connection: socket.socket) -> None:
        wire.read_request(server, connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % wire.DRIPS)
        server.drip(connection, b" ")

    with wire.serve(drip) as server:
        gateway = client(make_settings(base_url=f"{server.url}/v1", timeout=0.3))
        with pytest.raises(OutcomeUnknown, match="did not answer"):
            Face(is_async).generate(gateway)
        assert len(server.received) == 1


def test_a_certificate_of_an_unknown_authority_is_asked_for_once_and_nothing_was_sent(
    tmp_path: Path,
) -> None:
    """A company's proxy that reads along: five tries would not make it known."""
    authority = wire.make_authority(tmp_path)
    context = authority.server_context("127.0.0.1")
    with wire.serve(wire.hang_up, tls=context) as server:
        base_url = f"https://127.0.0.1:{server.port}/v1"
        clock = Clock()
        gateway = client(make_settings(base_url=base_url), sleep=clock.sleep)
        with pytest.raises(InvalidConnection) as caught:
            gateway.generate(ImageRequest.parse(prompt="a"))
        assert server.connections == 2  # the second only looks at the certificate
    assert clock.slept == []
    for part in ("issued by CN=Example Corp Proxy CA", "SSL_CERT_FILE", "Nothing was sent"):
        assert part in str(caught.value)
