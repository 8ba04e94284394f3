"""What an image server can do that no real one can be made to do. Each server is made of bare sockets."""

from __future__ import annotations

import gzip
import io
import json
import socket
import subprocess
import sys
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from airflow_provider_aisa.core.images.download import MAX_IMAGE_BYTES, FetchedImage, open_fetcher
from airflow_provider_aisa.core.net.sockets import SocketAddress
from airflow_provider_aisa.core.threads import Stop
from airflow_provider_aisa.exceptions import (
    ImageLinkExpired,
    ImageUnavailable,
    ImageUnusable,
    error_from_dict,
)
from tests.core.net import wire
from tests.core.net.wire import Behaviour, Server, serve
from tests.support import make_settings

MB: Final = 1_000_000
_buffer = io.BytesIO()
Image.new("RGB", (64, 48)).save(_buffer, "PNG")
PNG: Final = _buffer.getvalue()
#: 80 KB that become 80 MB, and 1 KB that becomes 80 MB when it is decoded twice.
ONCE: Final = gzip.compress(bytes(80 * MB))
TWICE: Final = gzip.compress(ONCE)
#: A gateway on this machine, so that links may lead here over plain http.
HERE: Final = "http://127.0.0.1:1/v1"


def answer(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    """Return an answer as it goes over the wire."""
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body) if length is None else length}"]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


GOOD: Final = answer(PNG)


def fetch(url: str, path: Path, *, timeout: float = 30.0, retries: int = 0, **options: Any) -> FetchedImage:
    found = make_settings(base_url=HERE, max_retries=retries)
    with (
        open_fetcher(found, timeout=timeout, sleep=lambda _stop, _seconds: None, **options) as fetcher,
        path.open("w+b", buffering=0) as file,
    ):
        return fetcher.fetch(url, file, Stop())


def refusal(url: str, path: Path, **options: Any) -> ImageUnavailable:
    with pytest.raises(ImageUnavailable) as caught:
        fetch(url, path, **options)
    return caught.value


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "image"


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(PNG)),
        ("gzip", ONCE),
        ("gzip, gzip", TWICE),
        ("GZIP", gzip.compress(PNG)),
        ("deflate", zlib.compress(PNG)),
        ("br", PNG),
        ("zstd", PNG),
        ("identity, gzip", gzip.compress(PNG)),
        ("aws-chunked", PNG),
        ("x" * 5_000, PNG),
    ],
    ids=range(10),
)
def test_an_image_that_is_encoded_is_refused_unread_and_for_good(
    path: Path, encoding: str, body: bytes
) -> None:
    """It is never decoded, so a kilobyte cannot become gigabytes, and what is stored is what was sent."""
    with serve(wire.answering(answer(body, f"Content-Encoding: {encoding}"))) as server:
        error = refusal(server.url, path, retries=3)
    assert type(error) is ImageUnusable
    assert str(error) == "the image server compresses what it sends, although it was asked not to"
    assert not error.retryable
    assert not error_from_dict(error.to_dict()).retryable
    assert server.connections == 1
    assert path.stat().st_size == 0


@pytest.mark.parametrize("header", [[], ["Content-Encoding: identity"], ["Content-Encoding: "]])
def test_an_image_that_is_not_encoded_is_fetched(path: Path, header: list[str]) -> None:
    with serve(wire.answering(answer(PNG, *header))) as server:
        assert fetch(server.url, path).bytes == len(PNG)
    assert b"\r\nAccept-Encoding: identity\r\n" in server.received[0]


def drip_body(server: Server, connection: socket.socket) -> None:
    wire.read_request(server, connection)
    connection.sendall(answer(b"", length=wire.DRIPS))
    server.drip(connection, b"x")


def drip_redirects(server: Server, connection: socket.socket) -> None:
    wire.read_request(server, connection)
    server.stopping.wait(0.2)
    connection.sendall(answer(b"", "Location: /again", status="302 Found"))


def drip_failures(server: Server, connection: socket.socket) -> None:
    wire.read_request(server, connection)
    server.stopping.wait(0.2)
    connection.sendall(answer(b"", status="500 Oops"))


@pytest.mark.parametrize("behave", [drip_body, wire.stay_silent])
def test_a_download_ends_at_its_deadline_although_bytes_go_on_coming(path: Path, behave: Behaviour) -> None:
    with serve(behave) as server:
        error = refusal(server.url, path, timeout=0.5)
    assert type(error) is ImageUnavailable
    assert str(error) == "the download was not complete after 0.5 s"
    assert error.retryable


@pytest.mark.parametrize("behave", [drip_redirects, drip_failures])
def test_redirects_and_repetitions_have_one_deadline_together(path: Path, behave: Behaviour) -> None:
    with serve(behave) as server:
        refusal(server.url, path, timeout=0.5, retries=100)
    assert server.connections <= 4


def test_an_image_of_64_mib_is_fetched_and_one_byte_more_is_refused(path: Path) -> None:
    filling = bytes(MAX_IMAGE_BYTES - len(PNG))
    with serve(wire.answering(answer(PNG[:-12] + filling + PNG[-12:]))) as server:
        assert fetch(server.url, path).bytes == MAX_IMAGE_BYTES
    with serve(wire.answering(answer(PNG[:-12] + filling + b"x" + PNG[-12:]))) as server:
        assert str(refusal(server.url, path)) == "the image is larger than 64 MiB"


def chunked(*chunks: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))


def test_an_image_in_chunks_of_any_size_is_put_together(path: Path) -> None:
    pieces = [PNG[index : index + 3] for index in range(0, len(PNG), 3)]
    with serve(wire.answering(chunked(*pieces, bytes(300_000), PNG[-12:]))) as server:
        found = fetch(server.url, path)
    assert path.read_bytes() == PNG + bytes(300_000) + PNG[-12:]
    assert (found.info.width, found.info.height) == (64, 48)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\x00\xff\x00",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 -1 Odd\r\n\r\n",
        answer(PNG, length=len(PNG) + 1),
        answer(PNG[:-1]),
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n" + PNG,
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n" + PNG,
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n" + PNG,
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5_000 + b"\r\n\r\n" + PNG,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n" + PNG,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        chunked(PNG)[:-5],
        b"HTTP/1.1 200 OK\r\n" + b"X-Long: " + b"x" * 300_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 50_000 + b"\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 50,
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n" + PNG,
        answer(b"", "Location: \xff\xfe", status="302 Found"),
        answer(b"", "Location: mailto:x", status="302 Found"),
        answer(b"", "Location: https://[::1", status="302 Found"),
        answer(b"", "Location: http://127.1/", status="302 Found"),
        answer(b"", "Location: http://a:b@127.0.0.1/", status="302 Found"),
        answer(b"", "Location: https://\xb2130706433/", status="302 Found"),
        answer(b"", "Location: " + "/x" * 40_000, status="302 Found"),
        answer(b"", "Location: //", status="302 Found"),
        answer(b"", "Location: ?", status="304 Not Modified"),
    ],
    ids=range(29),
)
def test_an_answer_that_makes_no_sense_is_an_unavailable_image(path: Path, sent: bytes) -> None:
    with serve(wire.answering(sent)) as server:
        error = refusal(server.url, path)
    assert len(str(error)) < 200
    assert server.connections <= 6


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sent=st.one_of(
        st.binary(max_size=200),
        st.builds(
            lambda status, headers, body: b"HTTP/1.1 " + status + b"\r\n" + headers + b"\r\n\r\n" + body,
            st.sampled_from([b"200 OK", b"302 Found", b"206 Part", b"404 No", b"100 Go"]),
            st.sampled_from(
                [
                    b"Content-Length: 5",
                    b"Transfer-Encoding: chunked",
                    b"Content-Encoding: gzip",
                    b"Location: /",
                    b"Location: https://",
                    b"X: y",
                ]
            ),
            st.one_of(st.binary(max_size=100), st.just(PNG)),
        ),
        st.builds(
            lambda place, byte: GOOD[:place] + byte + GOOD[place + 1 :],
            st.integers(0, 60),
            st.binary(min_size=1, max_size=1),
        ),
    )
)
def test_whatever_is_sent_is_an_image_or_an_unavailable_one(path: Path, sent: bytes) -> None:
    with serve(wire.answering(sent)) as server, suppress(ImageUnavailable):
        assert fetch(server.url, path).info.width >= 1


def test_no_cookie_and_no_credential_of_one_answer_goes_to_the_next_server(path: Path) -> None:
    with serve(wire.answering(GOOD)) as other:
        headers = ("Set-Cookie: a=b", f"Location: http://127.0.0.1:{other.port}/next")
        with serve(wire.answering(answer(b"", *headers, status="302 Found"))) as server:
            fetch(server.url, path)
    assert b"cookie" not in other.received[0].lower()
    assert b"authorization" not in other.received[0].lower()
    assert b"referer" not in other.received[0].lower()


def test_a_link_with_a_password_is_refused_and_shows_none_of_it(path: Path) -> None:
    with serve(wire.answering(GOOD)) as server:
        error = refusal(f"http://user:secret@127.0.0.1:{server.port}/", path)
    assert type(error) is ImageUnusable
    assert "secret" not in repr(error.to_dict())
    assert server.connections == 0


@pytest.mark.parametrize("status", ["401 No", "403 No", "404 No", "410 Gone"])
def test_a_link_that_does_not_work_any_more_keeps_its_class(path: Path, status: str) -> None:
    with serve(wire.answering(answer(b"", status=status))) as server:
        error = refusal(server.url, path)
    assert type(error) is ImageLinkExpired
    assert type(error_from_dict(error.to_dict())) is ImageLinkExpired


@pytest.mark.parametrize(
    "addresses", [["10.0.0.1"], ["8.8.8.8", "10.0.0.1"], ["::ffff:127.0.0.1"], ["fe80::1%1"], ["127.0.0.1"]]
)
def test_a_name_of_a_private_place_is_judged_before_anything_connects(
    path: Path, addresses: list[str]
) -> None:
    """It is found out by looking the name up once, and what was judged is what would be connected to."""
    asked: list[str] = []

    def resolver(host: str, port: int) -> list[SocketAddress]:
        asked.append(host)
        families = [socket.AF_INET6 if ":" in one else socket.AF_INET for one in addresses]
        return [(family, (one, port)) for family, one in zip(families, addresses, strict=True)]

    found = make_settings(base_url="https://api.aisa.one/v1", max_retries=3)
    with (
        serve(wire.answering(GOOD)) as server,
        open_fetcher(found, resolver=resolver) as fetcher,
        path.open("w+b", buffering=0) as file,
        pytest.raises(ImageUnusable, match="which is not a public address") as caught,
    ):
        fetcher.fetch(f"https://images.example:{server.port}/", file, Stop())
    assert not caught.value.retryable
    assert asked == ["images.example"]
    assert server.connections == 0


def test_an_image_over_https_is_fetched_whole(path: Path, tmp_path: Path) -> None:
    authority = wire.make_authority(tmp_path)
    content = PNG + bytes(range(256)) * 4_000 + PNG[-12:]
    with serve(wire.answering(answer(content)), tls=authority.server_context("127.0.0.1")) as server:
        url = f"https://127.0.0.1:{server.port}/image"
        found = fetch(url, path, tls=authority.client_context())
        assert path.read_bytes() == content
        error = refusal(url, path, retries=3)
    assert found.bytes == len(content)
    assert "SSL_CERT_FILE" in str(error)
    assert not error.retryable


def endless(server: Server, connection: socket.socket) -> None:
    wire.read_request(server, connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    block = b"%x\r\n%s\r\n" % (MB, bytes(MB))
    for _ in range(300):
        connection.sendall(block)


def without_length(server: Server, connection: socket.socket) -> None:
    wire.read_request(server, connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    for _ in range(300):
        connection.sendall(bytes(MB))


def tiny_chunks(server: Server, connection: socket.socket) -> None:
    wire.read_request(server, connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(5):
        connection.sendall(b"1\r\nx\r\n" * 10_000)
    connection.sendall(b"0\r\n\r\n")


def endless_head(server: Server, connection: socket.socket) -> None:
    wire.read_request(server, connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    for _ in range(300):
        connection.sendall(b"X: %s\r\n" % bytes(b"y" * 1_000) * 1_000)


def endless_trailers(server: Server, connection: socket.socket) -> None:
    wire.read_request(server, connection)
    connection.sendall(chunked(PNG)[:-2])
    for _ in range(300):
        connection.sendall(b"X: %s\r\n" % (b"y" * 1_000) * 1_000)


def jpeg_of_empty_segments(server: Server, connection: socket.socket) -> None:
    wire.read_request(server, connection)
    body = b"\xff\xd8\xff\xe0\x00\x02" + b"\xff\xfe\x00\x02" * (10 * MB) + b"\xff\xd9"
    connection.sendall(answer(body))


@pytest.mark.parametrize(
    ("behave", "found"),
    [
        (wire.answering(answer(ONCE, "Content-Encoding: gzip")), "ImageUnusable"),
        (wire.answering(answer(TWICE, "Content-Encoding: gzip, gzip")), "ImageUnusable"),
        (wire.answering(answer(b"", length=10**15)), "ImageUnusable"),
        (endless, "ImageUnusable"),
        (without_length, "ImageUnusable"),
        (tiny_chunks, "ImageUnusable"),
        (endless_head, "ImageUnavailable"),
        (endless_trailers, "ImageUnavailable"),
        (jpeg_of_empty_segments, "ImageUnusable"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_hostile_image_costs_little_memory(behave: Callable[..., None], found: str) -> None:
    """Measured in a process of its own. Before this was bounded, some of these took 3 GB."""
    with serve(wire.answering(GOOD)) as good, serve(behave) as server:
        done = subprocess.run(
            [sys.executable, "-m", "tests.core.images.measure", good.url, server.url],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    figures = json.loads(done.stdout)
    assert figures["found"] == found, figures
    assert figures["peak_mb"] < 100, figures
    assert len(figures["text"]) < 200
