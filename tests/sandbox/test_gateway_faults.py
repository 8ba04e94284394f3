"""Each fault of the gateway, and what it costs."""

from __future__ import annotations

import base64
import itertools
import json
import socket
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import httpx
import pytest

from airflow_provider_aisa.sandbox import Fault, FaultKind
from airflow_provider_aisa.sandbox.hostile import gzip_bomb
from tests.sandbox.conftest import Api, error, opened


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        ("rate_limited", 429, "rate_limit_exceeded"),
        ("upstream_rate_limit", 429, "upstream_rate_limit"),
        ("quota_exceeded", 429, "quota_exceeded"),
        ("content_refused", 422, "content_policy_violation"),
        ("unauthorized", 401, "revoked_api_key"),
        ("forbidden", 403, "model_not_allowed"),
        ("server_error", 500, "internal_error"),
        ("bad_gateway", 502, "upstream_unavailable"),
        ("unavailable", 503, "gateway_error"),
        ("gateway_timeout", 504, "upstream_timeout"),
    ],
)
def test_a_refusal_is_a_documented_error_and_costs_nothing(
    api: Api, kind: FaultKind, status: int, code: str
) -> None:
    api.sandbox.inject(Fault(kind))
    assert error(api.generate(n=2))[:2] == (status, code)
    assert api.sandbox.billed == 0
    assert api.generate().status_code == 200


@pytest.mark.parametrize("kind", ["rate_limited", "upstream_rate_limit"])
def test_a_rate_limit_says_when_to_come_back(api: Api, kind: FaultKind) -> None:
    api.sandbox.inject(Fault(kind), Fault(kind, retry_after=7), Fault(kind, retry_after=0.25))
    responses = [api.generate() for _ in range(3)]
    assert [response.headers["Retry-After"] for response in responses] == ["1", "7", "0.25"]
    assert all("X-RateLimit-Reset" in response.headers for response in responses)


def test_the_other_refusals_name_a_time_only_if_told(api: Api) -> None:
    api.sandbox.inject(Fault("quota_exceeded"), Fault("unavailable"), Fault("unavailable", retry_after=3))
    responses = [api.generate() for _ in range(3)]
    assert [response.headers.get("Retry-After") for response in responses] == [None, None, "3"]


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("server_error", 500),
        ("bad_gateway", 502),
        ("unavailable", 503),
        ("gateway_timeout", 504),
        ("html_error", 502),
        ("html_504", 504),
        ("html_520", 520),
        ("html_524", 524),
    ],
)
def test_a_failure_bills_when_asked_to(api: Api, kind: FaultKind, status: int) -> None:
    api.sandbox.inject(Fault(kind, billed=True))
    assert api.generate(n=2).status_code == status
    assert api.sandbox.billed == 2
    assert api.sandbox.ledger[0].status == status


@pytest.mark.parametrize("kind", ["gateway_timeout", "html_504", "html_524"])
def test_a_timeout_takes_as_long_as_a_generation(api: Api, kind: FaultKind) -> None:
    api.sandbox.latency = 0.2
    api.sandbox.inject(Fault(kind))
    start = time.monotonic()
    api.generate()
    assert time.monotonic() - start >= 0.2


@pytest.mark.parametrize(
    ("kind", "status"), [("html_error", 502), ("html_504", 504), ("html_520", 520), ("html_524", 524)]
)
def test_a_proxys_error_is_a_page_and_bills_nothing_by_itself(api: Api, kind: FaultKind, status: int) -> None:
    api.sandbox.inject(Fault(kind))
    response = api.generate()
    assert response.status_code == status
    assert response.headers["Content-Type"].startswith("text/html")
    assert "X-Request-ID" in response.headers
    assert api.sandbox.billed == 0


def test_html_ok_is_billed(api: Api) -> None:
    api.sandbox.inject(Fault("html_ok"))
    response = api.generate()
    assert response.status_code == 200
    assert response.text.startswith("<!DOCTYPE html>")
    assert api.sandbox.billed == 1


def test_broken_json_is_billed(api: Api) -> None:
    api.sandbox.inject(Fault("broken_json"))
    response = api.generate()
    assert response.status_code == 200
    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        response.json()
    assert api.sandbox.billed == 1


@pytest.mark.parametrize(("billed", "images"), [(False, 0), (True, 1)])
def test_hang_never_answers_and_bills_when_asked_to(api: Api, billed: bool, images: int) -> None:
    api.sandbox.inject(Fault("hang", billed=billed))
    with pytest.raises(httpx.ReadTimeout):
        api.http.post("/images/generations", json=api.valid(), timeout=0.2)
    assert api.sandbox.billed == images
    assert [request.status for request in api.sandbox.requests] == [None]
    assert [entry.status for entry in api.sandbox.ledger] == [None] * images


def test_a_hanging_request_gives_its_place_back_when_the_client_leaves(api: Api) -> None:
    api.sandbox.max_in_flight = 1
    api.sandbox.inject(Fault("hang"))
    with pytest.raises(httpx.ReadTimeout):
        api.http.post("/images/generations", json=api.valid(), timeout=0.1)
    deadline = time.monotonic() + 5
    while api.generate().status_code == 429 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert api.generate().status_code == 200


@pytest.mark.parametrize(
    ("kind", "images"), [("cut_before_billing", 0), ("cut_after_billing", 2), ("cut_mid_body", 2)]
)
def test_a_cut_connection_is_billed_if_the_images_were_ready(api: Api, kind: FaultKind, images: int) -> None:
    api.sandbox.inject(Fault(kind))
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        api.generate(n=2)
    assert api.sandbox.billed == images
    assert [request.status for request in api.sandbox.requests] == [None]


def test_cut_mid_body_has_sent_a_status_and_half_of_the_json(api: Api) -> None:
    api.sandbox.inject(Fault("cut_mid_body"))
    received: list[bytes] = []
    with api.http.stream("POST", "/images/generations", json=api.valid()) as response:
        assert response.status_code == 200
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            received.extend(response.iter_raw())
    assert received[0].startswith(b'{"model": ')
    assert len(b"".join(received)) == int(response.headers["Content-Length"]) // 2


def test_fewer_images_bills_what_it_delivers(api: Api) -> None:
    api.sandbox.inject(Fault("fewer_images", times=2))
    body = api.generate(n=3).json()
    assert len(body["data"]) == body["usage"]["generated_images"] == api.sandbox.billed == 2
    assert api.generate(n=1).json()["data"] == []
    assert api.sandbox.billed == 2


def test_no_images_bills_nothing(api: Api) -> None:
    api.sandbox.inject(Fault("no_images"))
    body = api.generate(n=2).json()
    assert body["data"] == []
    assert body["usage"]["generated_images"] == api.sandbox.billed == 0


def test_image_error_takes_the_place_of_one_image(api: Api) -> None:
    api.sandbox.inject(Fault("image_error"))
    body = api.generate(n=3).json()
    assert ["url" in entry for entry in body["data"]] == [True, True, False]
    assert list(body["data"][2]["error"]) == ["code", "message"]
    assert body["usage"]["generated_images"] == api.sandbox.billed == 2


def test_b64_json_holds_the_image_itself(api: Api) -> None:
    api.sandbox.image_bytes = 300_000
    api.sandbox.inject(Fault("b64_json"))
    entry = api.generate(size="2304x1600").json()["data"][0]
    content = base64.b64decode(entry["b64_json"], validate=True)
    assert "url" not in entry
    assert opened(content).size == (2304, 1600)
    assert len(content) == 300_000
    assert api.sandbox.billed == 1


def test_more_images_has_more_entries_than_were_asked_for_and_bills_as_many_as_asked(api: Api) -> None:
    api.sandbox.inject(Fault("more_images"))
    body = api.generate(n=2).json()
    links = [entry["url"] for entry in body["data"]]
    assert len(set(links)) == 102
    assert api.cdn.get(links[-1]).status_code == 200
    assert body["usage"]["generated_images"] == api.sandbox.billed == 2


def test_bad_b64_is_not_even_ascii(api: Api) -> None:
    api.sandbox.inject(Fault("bad_b64"))
    [entry] = api.generate().json()["data"]
    assert not entry["b64_json"].isascii()
    assert api.sandbox.billed == 1


def test_bad_link_ends_in_half_a_character(api: Api) -> None:
    api.sandbox.inject(Fault("bad_link"))
    [entry] = api.generate().json()["data"]
    with pytest.raises(UnicodeEncodeError):
        entry["url"].encode()
    assert api.sandbox.billed == 1


def begin(api: Api) -> socket.socket:
    """Send a request for an image, and return the connection before anything of its answer is read."""
    url, body = httpx.URL(api.sandbox.base_url), json.dumps(api.valid()).encode()
    connection = socket.create_connection((url.host, url.port or 80), timeout=10)
    head = (
        f"POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        f"Content-Type: application/json\r\nAuthorization: Bearer {api.sandbox.api_key}\r\n\r\n"
    )
    connection.sendall(head.encode() + body)
    return connection


def read(connection: socket.socket, length: int) -> bytes:
    received = b""
    while len(received) < length:
        block = connection.recv(65_536)
        assert block, "the answer has ended"
        received += block
    return received


@pytest.mark.parametrize(
    ("kind", "length", "has_head"),
    [("drip_headers", 40, False), ("drip_body", 800, True), ("endless_body", 5_000_000, True)],
)
def test_an_answer_without_an_end_is_billed_and_gives_its_place_back_when_the_client_leaves(
    api: Api, kind: FaultKind, length: int, has_head: bool
) -> None:
    api.sandbox.max_in_flight = 1
    api.sandbox.inject(Fault(kind, delay=0.001))
    with begin(api) as connection:
        received = read(connection, length)
        assert api.sandbox.billed == 1
        assert api.generate().status_code == 429
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert (b"\r\n\r\n" in received) == has_head
    deadline = time.monotonic() + 5
    while api.generate().status_code == 429 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert api.generate().status_code == 200
    assert [request.status for request in api.sandbox.requests if request.billed][:1] == [None]
    assert api.sandbox.ledger[0].status is None


def test_a_drip_is_one_byte_at_a_time(api: Api) -> None:
    api.sandbox.inject(Fault("drip_body", delay=0.02))
    with api.http.stream("POST", "/images/generations", json=api.valid()) as response:
        pieces = list(itertools.islice(response.iter_raw(), 5))
    assert [len(piece) for piece in pieces] == [1] * 5


def test_gzip_bomb_is_a_megabyte_that_becomes_a_gigabyte_of_json(api: Api) -> None:
    api.sandbox.inject(Fault("gzip_bomb"))
    with api.http.stream("POST", "/images/generations", json=api.valid()) as response:
        packed = b"".join(response.iter_raw())
    assert response.headers["Content-Encoding"] == "gzip"
    assert len(packed) < 2**21
    assert int.from_bytes(packed[-4:], "little") >= 2**30  # the length that its trailer gives
    assert zlib.decompressobj(wbits=31).decompress(packed, 100) == b" " * 100
    assert api.sandbox.billed == 1


def test_the_gzip_bomb_is_whole_and_ends_in_the_answer() -> None:
    unpacker = zlib.decompressobj(wbits=31)
    rest, total, end = gzip_bomb(b" ", b'{"data": []}', length=2**24), 0, b""
    while rest:
        block = unpacker.decompress(rest, 2**22)
        rest, total, end = unpacker.unconsumed_tail, total + len(block), (end + block)[-12:]
    assert unpacker.eof  # zlib has compared the checksum
    assert (total, end) == (2**24 + 12, b'{"data": []}')


def test_private_link_points_at_a_private_address(api: Api) -> None:
    api.sandbox.inject(Fault("private_link"))
    assert api.links()[0].startswith("http://169.254.169.254/")
    assert api.sandbox.billed == 1


def test_a_client_that_follows_the_redirect_with_its_key_is_found_out(api: Api) -> None:
    api.sandbox.inject(Fault("redirect"))
    response = api.generate()
    assert response.status_code == 307
    assert response.headers["Location"].startswith(api.sandbox.cdn_url)
    assert api.http.post(response.headers["Location"], content=response.request.content).status_code == 405
    assert [request.credentials for request in api.sandbox.cdn_requests] == [("authorization",)]
    assert api.sandbox.billed == 0


def test_faults_strike_in_the_order_injected(api: Api) -> None:
    api.sandbox.inject(Fault("server_error", after=1, times=2), Fault("bad_gateway"))
    assert [api.generate().status_code for _ in range(5)] == [200, 500, 500, 502, 200]
    assert api.sandbox.billed == 2


def test_a_fault_can_be_for_one_prompt_only(api: Api) -> None:
    api.sandbox.inject(Fault("content_refused", prompt="gun"))
    assert [api.generate(prompt=prompt).status_code for prompt in ("a cat", "a gun", "a gun")] == [
        200,
        422,
        200,
    ]


def test_a_refused_request_does_not_use_up_a_fault(api: Api) -> None:
    api.sandbox.inject(Fault("server_error"))
    assert api.generate(size="1x1").status_code == 400
    assert api.sandbox.pending_faults == [Fault("server_error")]
    assert api.generate().status_code == 500
    assert api.sandbox.pending_faults == []


def test_the_model_list_has_faults_of_its_own(api: Api) -> None:
    api.sandbox.inject(Fault("unauthorized", path="/v1/models"))
    assert api.generate().status_code == 200
    assert error(api.http.get("/models"))[:2] == (401, "revoked_api_key")
    assert api.http.get("/models").status_code == 200


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kind": "no_such"}, "unknown fault 'no_such': expected one of rate_limited"),
        ({"kind": ["hang"]}, "unknown fault"),
        ({"kind": "hang", "times": 0}, "times must be an integer of at least 1"),
        ({"kind": "hang", "times": True}, "times must be"),
        ({"kind": "hang", "after": -1}, "after must be"),
        ({"kind": "hang", "billed": 1}, "billed must be true or false"),
        ({"kind": "hang", "delay": float("nan")}, "delay must be a number of seconds"),
        ({"kind": "hang", "prompt": ""}, "prompt must be a non-empty string"),
        (
            {"kind": "rate_limited", "retry_after": -1},
            "retry_after must be a number of seconds, zero or more or null",
        ),
        ({"kind": "rate_limited", "billed": True}, "rate_limited is never billed"),
        (
            {"kind": "b64_json", "path": "/v1/models"},
            "cannot hit path '/v1/models': expected /v1/images/generations",
        ),
        ({"kind": "cdn_cut", "path": "/v1/models"}, "expected none"),
        ({"kind": "hang", "path": ["/v1/models"]}, "cannot hit path"),
        ({"kind": "hang", "colour": 1}, "unknown field colour: expected some of kind, times"),
        ({"times": 1}, "kind is missing"),
        ([], "expected a JSON object"),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused_with_the_reason(fields: object, words: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        Fault.from_json(fields)
    assert words in str(caught.value)


def test_an_image_is_billed_when_the_client_has_given_up(api: Api) -> None:
    api.sandbox.latency = 0.3
    with pytest.raises(httpx.ReadTimeout):
        api.http.post("/images/generations", json=api.valid(n=2), timeout=0.1)
    assert api.sandbox.billed == 0
    time.sleep(0.4)
    assert api.sandbox.cost_usd == Decimal("0.080")


def test_many_faults_at_once_strike_as_often_as_told(api: Api) -> None:
    api.sandbox.inject(Fault("server_error", times=7))
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda _: api.generate().status_code, range(20)))
    assert sorted(statuses) == [200] * 13 + [500] * 7
    assert api.sandbox.billed == 13
