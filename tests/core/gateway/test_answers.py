"""What a gateway, or whoever answers in its place, can send: a result or a typed error, within bounds."""

from __future__ import annotations

import gzip
import json
import socket
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_aisa.core import typed_json
from airflow_provider_aisa.core.gateway.answers import (
    DEPTH_LIMIT,
    TEXT_LIMIT,
    VALUES_LIMIT,
    NotJson,
    clean,
    describe,
    read_json,
    read_object,
)
from airflow_provider_aisa.core.gateway.client import AisaClient
from airflow_provider_aisa.core.gateway.request import ImageRequest
from airflow_provider_aisa.core.gateway.response import GenerationResponse
from airflow_provider_aisa.exceptions import AisaError, GatewayFailed, OutcomeUnknown
from tests.core.net import wire
from tests.core.net.wire import Behaviour, Server, serve
from tests.support import make_pacer, make_settings

KEY = "sk-aisa-very-secret-1234"
LINK = "https://cdn.test/0?signature=1"
GOOD = json.dumps({"data": [{"url": LINK}], "usage": {"generated_images": 1}}).encode()
GZIPPED = gzip.compress(GOOD, mtime=0)
MB = 1_000_000


def http(body: bytes, *headers: str, status: int = 200) -> bytes:
    """Return an answer as it goes over the wire."""
    lines = [f"HTTP/1.1 {status} Fine", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def client_of(server: Server, **settings: Any) -> AisaClient:
    values = {"base_url": f"{server.url}/v1", "api_key": KEY, "max_retries": 0, "timeout": 30.0}
    return AisaClient(make_settings(**values | settings), pacer=make_pacer())


def generate(answer: bytes, n: int = 1) -> GenerationResponse:
    """Send one request to a server that answers with these bytes."""
    with serve(wire.answering(answer)) as server, client_of(server) as client:
        return client.generate(ImageRequest.parse(prompt="a red panda", n=n))


def unknown(answer: bytes) -> str:
    with pytest.raises(OutcomeUnknown) as caught:
        generate(answer)
    assert caught.value.status == 200
    assert "answered 200 with" in str(caught.value)
    assert "billed" in str(caught.value)
    return str(caught.value)


def test_no_encoding_is_asked_for() -> None:
    with serve(wire.answering(http(GOOD))) as server, client_of(server) as client:
        client.generate(ImageRequest.parse(prompt="a red panda"))
    assert b"accept-encoding: identity\r\n" in server.received[0].lower()


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", GZIPPED),
        ("GZIP", GZIPPED),
        ("x-gzip", GZIPPED),
        ("deflate", zlib.compress(GOOD)),
        ("identity", GOOD),
        ("", GOOD),
    ],
)
def test_a_paid_answer_that_a_proxy_compressed_is_read_all_the_same(encoding: str, body: bytes) -> None:
    response = generate(http(body, f"Content-Encoding: {encoding}"))
    assert [image.url for image in response.images] == [LINK]


@pytest.mark.parametrize(
    ("encoding", "body", "said"),
    [
        (
            "gzip, gzip",
            gzip.compress(GZIPPED, mtime=0),
            "encoded as 'gzip, gzip', although none was asked",
        ),
        ("br", b"\x0b\x02\x80hi\x03", "encoded as 'br'"),
        ("zstd", b"(\xb5/\xfd", "encoded as 'zstd'"),
        ("gzip", GZIPPED[:-9], "a compressed body that stops half-way"),
        ("gzip", GZIPPED[:-4] + b"xxxx", "a compressed body that is damaged"),
        ("gzip", b"not gzip at all", "a compressed body that is damaged"),
        ("gzip", b"", "a compressed body that stops half-way"),
    ],
)
def test_any_other_encoding_is_an_unknown_outcome_that_says_so(encoding: str, body: bytes, said: str) -> None:
    assert said in unknown(http(body, f"Content-Encoding: {encoding}"))


NESTED = "[" * 900 + "]" * 900
UNREADABLE: dict[str, tuple[bytes, str]] = {
    "deep": (f'{{"data": [{{"url": "x"}}], "usage": {NESTED}}}'.encode(), "are not the expected JSON"),
    "deeper": (b"[" * 200_000, "are not the expected JSON, beginning with '[[["),
    "many": (json.dumps({"data": [{"url": "u"}] * 100_000}).encode(), "are not the expected JSON"),
    "digits": (b'{"data": [], "created": ' + b"1" * 10_000 + b"}", "are not the expected JSON"),
    "latin": (b'{"data": ["\xe9"]}', "are not the expected JSON"),
    "utf-16": (GOOD.decode().encode("utf-16"), "are not the expected JSON"),
    "title": (b"<title" * 200_000, "are not the expected JSON, beginning with '<title<title"),
    "page": (b"<html><title>Please log in</title>", "an HTML page titled 'Please log in'"),
    "long text": (b'{"data": [], "x": "' + "ä".encode() * 2_000_000 + b'"}', "are not the expected JSON"),
    "quotes": (b'"' * 3_000_000, "are not the expected JSON"),
    "escapes": (b'{"a":"' + b"\\u0041" * 500_000, "are not the expected JSON"),
}


@pytest.mark.parametrize(("body", "said"), UNREADABLE.values(), ids=UNREADABLE)
def test_what_cannot_be_read_is_an_unknown_outcome_with_its_first_words(body: bytes, said: str) -> None:
    assert said in unknown(http(body, "Content-Type: application/json"))


@pytest.mark.parametrize(
    "charset", ["utf-16", "idna", "punycode", "zlib_codec", "unicode_escape", "undefined", "mbcs", "x" * 999]
)
def test_a_charset_that_the_answer_names_is_not_asked(charset: str) -> None:
    answer = http(GOOD, f"Content-Type: application/json; charset={charset}")
    assert [image.url for image in generate(answer).images] == [LINK]
    assert "beginning with 'hello'" in unknown(http(b"hello", f"Content-Type: text/html; charset={charset}"))


def test_the_first_words_hold_no_link_and_no_key() -> None:
    """A body that broke off in the middle begins with a signed link; a proxy repeats what it was sent."""
    cut = b'{"data": [{"url": "' + LINK.encode() + b'"}, {"key": "' + KEY.encode()
    said = unknown(http(cut))
    assert """beginning with '{"data": [{"url": "https://cdn.test/*** {"key": "***'""" in said


def test_numbers_and_characters_that_json_cannot_keep_are_replaced() -> None:
    usage = rb'{"a": 1e999, "b": NaN, "\ud800": "\ud83d"}'
    body = rb'{"data": [{"url": "https://cdn.test/\ud800"}], "usage": %b}' % usage
    response = generate(http(body))
    assert response.images[0].url == "https://cdn.test/?"
    assert response.usage == {"a": None, "b": None, "?": "?"}
    kept = json.dumps(typed_json.dump(response), allow_nan=False, ensure_ascii=False).encode()
    assert typed_json.load(GenerationResponse, json.loads(kept)) == response


@pytest.mark.parametrize("size", [10, TEXT_LIMIT, 10 * TEXT_LIMIT])
@pytest.mark.parametrize("slash", ["/", "\\/"])
@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
def test_images_in_base64_come_through_whole_whatever_their_size(size: int, slash: str, prefix: str) -> None:
    image = f"{prefix}AA{slash}A{'A' * size}=="
    body = f'{{"data": [{{"b64_json": "{image}"}}, {{"b64_json": "BBBB"}}], "usage": {{"x": "y"}}}}'
    response = generate(http(body.encode()), n=2)
    assert [each.b64_json for each in response.images] == [image.replace("\\/", "/"), "BBBB"]
    assert response.usage == {"x": "y"}


@pytest.mark.parametrize("status", [400, 500, 503])
def test_an_error_page_of_any_length_keeps_its_status(status: int) -> None:
    page = b"<title>Broken</title>" + b"x" * 5_000_000
    with pytest.raises(AisaError, match="an HTML page titled 'Broken'") as caught:
        generate(http(page, status=status))
    assert caught.value.status == status


@pytest.mark.parametrize("status", [429, 500])
def test_an_error_whose_body_breaks_off_keeps_its_status(status: int) -> None:
    with pytest.raises(AisaError, match=f"AIsa answered {status}") as caught:
        generate(http(b"x", status=status).replace(b"Length: 1", b"Length: 9"))
    assert not isinstance(caught.value, OutcomeUnknown)
    assert caught.value.status == status


def endless(head: bytes, block: bytes) -> Behaviour:
    """Return what answers the first request well, and every later one without an end."""

    def behave(server: Server, connection: socket.socket) -> None:
        wire.read_request(server, connection)
        if len(server.received) == 1:
            connection.sendall(http(GOOD))
            return
        connection.sendall(head)
        while not server.stopping.is_set():
            connection.sendall(block)

    return behave


def then(answer: bytes) -> Behaviour:
    def behave(server: Server, connection: socket.socket) -> None:
        wire.read_request(server, connection)
        connection.sendall(http(GOOD) if len(server.received) == 1 else answer)

    return behave


def chunk(block: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(block), block)


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
ONE_GB = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n"
ENDLESS = b"HTTP/1.1 200 OK\r\n\r\n"


def bomb() -> bytes:
    """Return a gigabyte of zeros, compressed to one megabyte."""
    return gzip.compress(b"\0" * 1_000_000_000, mtime=0)


HOSTILE: dict[str, tuple[Callable[[], Behaviour], str]] = {
    "1 GB": (lambda: endless(ONE_GB, b" " * 65_536), "OutcomeUnknown"),
    "endless": (lambda: endless(ENDLESS, b"A" * 65_536), "OutcomeUnknown"),
    "endless JSON": (lambda: endless(ENDLESS, b"[" * 65_536), "OutcomeUnknown"),
    "endless chunks": (lambda: endless(CHUNKED, chunk(b"x" * 65_536)), "OutcomeUnknown"),
    "endless error": (lambda: endless(ENDLESS.replace(b"200", b"500"), b"x" * 65_536), "GatewayFailed"),
    "endless header": (lambda: endless(b"HTTP/1.1 200 OK\r\nX: ", b"x" * 65_536), "OutcomeUnknown"),
    "bomb": (lambda: then(http(bomb(), "Content-Encoding: gzip")), "OutcomeUnknown"),
    "two bombs": (
        lambda: then(http(gzip.compress(bomb()), "Content-Encoding: gzip, gzip")),
        "OutcomeUnknown",
    ),
    "60 MB of lists": (lambda: then(http(b"[" + b"[]," * 20_000_000)), "OutcomeUnknown"),
    "60 MB of strings": (lambda: then(http(b"[" + b'"",' * 20_000_000)), "OutcomeUnknown"),
    "60 MB of text": (lambda: then(http(b'["' + "😀".encode() * 15_000_000 + b'"]')), "OutcomeUnknown"),
    "60 MB of escapes": (lambda: then(http(b'["' + rb"\u00e4" * 10_000_000 + b'"]')), "OutcomeUnknown"),
}


def measure(behave: Behaviour, n: int = 1) -> dict[str, Any]:
    with serve(behave) as server:
        command = [sys.executable, "-m", "tests.core.gateway.measure", f"{server.url}/v1", str(n)]
        done = subprocess.run(command, capture_output=True, check=True, timeout=300)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(("behave", "found"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_answer_costs_less_than_100_mb_of_memory(
    behave: Callable[[], Behaviour], found: str
) -> None:
    measured = measure(behave())
    assert measured["found"] == found, measured["text"]
    assert measured["peak_mb"] < 100


def test_an_answer_of_sixty_megabytes_of_images_is_read() -> None:
    """Fifteen images of 3 MiB in base64: what is paid for is not refused for its size."""
    data = [{"b64_json": "A" * 4 * MB} for _ in range(15)]
    measured = measure(then(http(json.dumps({"data": data}).encode())), n=15)
    assert measured["found"] == "15 billed", measured["text"]


# --- the parts --------------------------------------------------------------------------------------------


@contextmanager
def not_json(why: str) -> Iterator[None]:
    with pytest.raises(NotJson, match=why):
        yield


def test_json_is_bounded_in_values_and_depth() -> None:
    at_most = b"[" + b"0," * (VALUES_LIMIT - 1) + b"0]"
    assert read_json(at_most) == json.loads(at_most)
    with not_json("more than 50,000 values"):
        read_json(b"[0," + at_most[1:])
    nested = DEPTH_LIMIT - 1
    assert read_json(b"[" * nested + b"]" * nested) == json.loads("[" * nested + "]" * nested)
    with not_json("more than 32 levels"):
        read_json(b"[" * 33 + b"]" * 33)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(json_values)
def test_any_json_is_read_as_what_can_be_written_again(value: object) -> None:
    text = json.dumps(value)
    read = read_json(text.encode())
    assert read_json(json.dumps(read, allow_nan=False).encode()) == read


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode(errors="replace")))
def test_any_bytes_are_an_object_or_none(body: bytes) -> None:
    assert isinstance(read_object(body), dict)


@given(
    body=st.binary(max_size=300) | st.builds(lambda t: f"<title>{t}".encode(errors="replace"), st.text()),
    kind=st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=30),
    location=st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=50),
    status=st.integers(200, 599),
)
def test_any_answer_can_be_described_on_one_short_line(
    body: bytes, kind: str, location: str, status: int
) -> None:
    headers = {"content-type": kind, "location": location}
    said = describe(httpx.Response(status, content=body, headers=headers), api_key=KEY)
    assert said.isprintable()
    assert len(said) < 1500


@given(st.text(max_size=50), st.text(max_size=50))
def test_any_text_is_cleaned_of_the_key_and_of_links(before: str, after: str) -> None:
    cleaned = clean(f"{before} Bearer {KEY} {LINK} {after}", api_key=KEY)
    assert "secret" not in cleaned
    assert "signature" not in cleaned
    assert cleaned.isprintable()


@pytest.mark.parametrize("key", ["Zebra+42!", "a/b=c", "UPPER-case"])
def test_a_key_is_cleaned_in_every_spelling(key: str) -> None:
    spellings = [key, key.lower(), key.upper(), str(httpx.QueryParams({"": key}))[1:]]
    for spelling in spellings:
        assert clean(f"x{spelling}y", api_key=key) == "x***y"


def test_a_get_that_cannot_be_read_is_a_failure_of_the_gateway() -> None:
    answer = http(b"x", "Content-Encoding: br")
    with (
        serve(wire.answering(answer)) as server,
        client_of(server) as client,
        pytest.raises(GatewayFailed, match="answered 200 with a body that is encoded as 'br'") as caught,
    ):
        client.list_models()
    assert caught.value.status == 200
