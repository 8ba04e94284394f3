from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import httpx
import pytest

from airflow_provider_aisa.sandbox import CdnRequest, GatewayRequest, Sandbox
from airflow_provider_aisa.sandbox.server import Sandbox as Implementation
from tests.sandbox.conftest import Api


@contextlib.contextmanager
def client_of(sandbox: Sandbox) -> Iterator[Api]:
    client = Api(sandbox)
    with contextlib.closing(client):
        yield client


def open_files() -> int:
    """Return how many file descriptors are open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def test_an_image_costs_four_cents(api: Api) -> None:
    api.generate(n=2)
    api.generate(n=1)
    assert api.sandbox.billed == 3
    assert api.sandbox.cost_usd == Decimal("0.12")
    assert [(entry.images, entry.cost_usd) for entry in api.sandbox.ledger] == [
        (2, Decimal("0.08")),
        (1, Decimal("0.04")),
    ]


def test_every_gateway_request_is_recorded_with_its_headers_and_body(api: Api) -> None:
    api.generate(n=2)
    api.http.get("/models", headers=[("X-Twice", "a"), ("X-Twice", "b")])
    first, second = api.sandbox.requests
    assert (first.method, first.path, first.status, first.billed) == (
        "POST",
        "/v1/images/generations",
        200,
        2,
    )
    assert first.headers["authorization"] == f"Bearer {api.sandbox.api_key}"
    assert json.loads(first.body) == api.valid(n=2)
    assert (second.path, second.body, second.headers["x-twice"]) == ("/v1/models", b"", "a, b")
    assert first.request_id == api.sandbox.ledger[0].request_id != second.request_id
    assert "authorization" not in repr(first)


def test_a_request_is_on_record_while_it_is_served(api: Api) -> None:
    api.sandbox.latency = 0.3
    thread = threading.Thread(target=api.generate)
    thread.start()
    time.sleep(0.1)
    assert [request.status for request in api.sandbox.requests] == [None]
    thread.join()
    assert [request.status for request in api.sandbox.requests] == [200]


def test_a_request_cut_off_by_its_client_is_on_record_and_costs_nothing(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    url = httpx.URL(api.sandbox.base_url)
    head = (
        f"POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.sandbox.api_key}\r\n"
    )
    with socket.create_connection((url.host, url.port or 0)) as connection:
        connection.sendall(f"{head}Content-Length: 1000\r\n\r\n{{".encode())
    deadline = time.monotonic() + 5
    while not api.sandbox.requests and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [request.status for request in api.sandbox.requests] == [400]
    assert api.sandbox.billed == 0
    assert caplog.records == []


def test_latency_is_per_generation_and_overlaps(api: Api) -> None:
    api.sandbox.latency = 0.2

    async def ten_at_once() -> None:
        headers = {"Authorization": f"Bearer {api.sandbox.api_key}"}
        async with httpx.AsyncClient(headers=headers, trust_env=False) as client:
            url = f"{api.sandbox.base_url}/images/generations"
            await asyncio.gather(*(client.post(url, json=api.valid()) for _ in range(10)))

    start = time.monotonic()
    asyncio.run(ten_at_once())
    assert 0.2 <= time.monotonic() - start < 1.5
    assert api.sandbox.max_in_flight_seen == api.sandbox.billed == 10


def test_a_reset_during_a_generation_keeps_its_bill(api: Api) -> None:
    api.sandbox.latency = 0.2
    thread = threading.Thread(target=api.generate)
    thread.start()
    time.sleep(0.1)
    api.sandbox.reset()
    thread.join()
    assert (api.sandbox.billed, api.sandbox.requests) == (1, [])


def test_a_setting_that_makes_no_sense_changes_nothing() -> None:
    sandbox = Sandbox()
    with pytest.raises(ValueError, match="latency must be a number of seconds, zero or more, got -1"):
        sandbox.latency = -1
    with pytest.raises(ValueError, match="image_bytes must be an integer of at least 1 or null, got 0"):
        Sandbox(image_bytes=0)
    assert sandbox.latency == 0


def test_a_new_key_makes_the_old_one_invalid(api: Api) -> None:
    api.sandbox.api_key = "sk-aisa-rotated"
    assert api.generate().json()["error"]["code"] == "invalid_api_key"


def test_both_origins_are_on_loopback_and_differ() -> None:
    with Sandbox(api_key="k") as sandbox:
        gateway, cdn = httpx.URL(sandbox.base_url), httpx.URL(sandbox.cdn_url)
        assert gateway.host == cdn.host == "127.0.0.1"
        assert gateway.port != cdn.port
        connection = json.loads(sandbox.connection)
    assert connection == {"conn_type": "aisa", "host": sandbox.base_url, "password": "k"}


def test_two_sandboxes_know_nothing_of_each_other() -> None:
    with Sandbox() as one, Sandbox() as other, client_of(one) as first, client_of(other) as second:
        link = first.links()[0]
        second.generate()
        elsewhere = link.replace(one.cdn_url, other.cdn_url)
        assert [second.cdn.get(url).status_code for url in (link, elsewhere)] == [200, 403]
        assert (one.billed, other.billed) == (1, 1)


def test_a_stopped_sandbox_keeps_its_records_and_can_start_again() -> None:
    sandbox = Sandbox()
    for images in (1, 2):
        with sandbox, client_of(sandbox) as client:
            client.generate()
        assert sandbox.billed == images
        with pytest.raises(httpx.ConnectError):
            httpx.get(sandbox.base_url, trust_env=False)
    sandbox.stop()


def test_stopping_cuts_what_is_still_served() -> None:
    with Sandbox(latency=60) as sandbox, client_of(sandbox) as client:
        failed: list[Exception] = []

        def generate() -> None:
            try:
                client.generate()
            except httpx.TransportError as error:
                failed.append(error)

        thread = threading.Thread(target=generate)
        thread.start()
        time.sleep(0.1)
        sandbox.stop()
        thread.join(5)
        assert len(failed) == 1
        assert sandbox.billed == 0


def test_starting_twice_or_on_a_port_in_use_is_an_error() -> None:
    with Sandbox() as sandbox:
        with pytest.raises(RuntimeError, match="runs already"):
            sandbox.start()
        with pytest.raises(OSError, match="in use"):
            Sandbox(cdn_port=httpx.URL(sandbox.base_url).port or 0).start()


def test_a_given_port_is_used() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with Sandbox(port=port) as sandbox:
        assert sandbox.base_url == f"http://127.0.0.1:{port}/v1"


def test_no_file_descriptor_or_thread_is_left_behind() -> None:
    with Sandbox():
        pass
    before = open_files(), threading.active_count()
    for _ in range(5):
        with Sandbox() as sandbox, client_of(sandbox) as client:
            client.cdn.get(client.links()[0])
    assert (open_files(), threading.active_count()) == before


def test_on_request_hears_of_each_finished_request() -> None:
    heard: list[GatewayRequest | CdnRequest] = []
    with Sandbox(on_request=heard.append) as sandbox, client_of(sandbox) as client:
        client.cdn.get(client.links()[0])
        assert heard == [sandbox.requests[0], sandbox.cdn_requests[0]]


def test_it_starts_fast_enough_for_a_fixture() -> None:
    times = []
    for _ in range(5):
        start = time.monotonic()
        with Sandbox():
            times.append(time.monotonic() - start)
    assert min(times) < 0.05


def test_a_setting_can_be_read_from_the_class_by_documentation_tools() -> None:
    assert type(Implementation.latency).__name__ == "_Setting"
