"""The way out of this machine, against servers made of bare sockets."""

from __future__ import annotations

import logging
import select
import socket
import ssl
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import httpx
import pytest

from airflow_provider_aisa.core.net.deadline import Deadline
from airflow_provider_aisa.core.net.proxies import Proxy, ProxyRules
from airflow_provider_aisa.core.net.sockets import SocketAddress
from airflow_provider_aisa.core.net.transport import CannotConnect, Transport
from tests.core.net import wire
from tests.core.net.wire import Authority, Behaviour, Server, serve

NO_PROXY = ProxyRules()
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
SHORT = 0.3


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return wire.make_authority(tmp_path_factory.mktemp("authority"))


def transport(*, timeout: float = 30.0, proxies: ProxyRules = NO_PROXY, **options: Any) -> Transport:
    return Transport(timeout=timeout, proxies=proxies, **options)


def get(url: str, way: Transport, **extensions: Any) -> httpx.Response:
    """Send a GET and read its whole body."""
    with way, httpx.Client(transport=way) as client:
        return client.send(client.build_request("GET", url, extensions=extensions))


def failure(url: str, way: Transport, **extensions: Any) -> httpx.HTTPError:
    with pytest.raises(httpx.HTTPError) as caught:
        get(url, way, **extensions)
    return caught.value


def drip_head(server: Server, connection: socket.socket) -> None:
    wire.read_request(server, connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Long: ")
    server.drip(connection, b"x")
    connection.sendall(b"\r\nContent-Length: 0\r\n\r\n")


def drip_body(server: Server, connection: socket.socket) -> None:
    wire.read_request(server, connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % wire.DRIPS)
    server.drip(connection, b"x")


def drip_interim_answers(server: Server, connection: socket.socket) -> None:
    wire.read_request(server, connection)
    server.drip(connection, b"HTTP/1.1 102 Processing\r\n\r\n")
    connection.sendall(OK)


@pytest.mark.parametrize("behave", [drip_head, drip_body, drip_interim_answers, wire.stay_silent])
def test_an_exchange_ends_within_its_timeout_as_a_whole(behave: Behaviour) -> None:
    """Each read is answered in time: only a deadline for all of them ends this."""
    with serve(behave) as server:
        assert type(failure(server.url, transport(timeout=SHORT))) is httpx.ReadTimeout


def test_a_deadline_of_the_request_comes_before_that_of_the_transport() -> None:
    with serve(drip_body) as server:
        found = failure(server.url, transport(timeout=3600), deadline=Deadline(SHORT))
    assert type(found) is httpx.ReadTimeout


def test_several_requests_can_share_one_deadline() -> None:
    now = [0.0]
    deadline = Deadline(10, clock=lambda: now[0])
    with serve(wire.answering(OK)) as server:
        assert get(server.url, transport(), deadline=deadline).text == "hi"
        now[0] = 11.0
        assert type(failure(server.url, transport(), deadline=deadline)) is CannotConnect
        assert server.connections == 1


@pytest.mark.parametrize("behave", [wire.stay_silent, lambda server, sock: server.drip(sock, b"\x16")])
def test_a_handshake_that_does_not_end_is_no_connection(behave: Behaviour, authority: Authority) -> None:
    with serve(behave) as server:
        found = failure(server.url.replace("http:", "https:"), transport(timeout=SHORT))
    assert type(found) is CannotConnect
    assert not found.is_final


def test_a_server_that_does_not_take_the_body_ends_in_time() -> None:
    with (
        serve(wire.stay_silent) as server,
        httpx.Client(transport=transport(timeout=SHORT)) as client,
        pytest.raises(httpx.WriteTimeout),
    ):
        client.post(server.url, content=b"x" * 50_000_000)


def test_a_look_up_that_hangs_ends_in_time() -> None:
    never = threading.Event()

    def hang(host: str, port: int) -> list[SocketAddress]:
        never.wait(30)
        return []

    found = failure("http://gateway.test/", transport(timeout=SHORT, resolver=hang))
    never.set()
    assert type(found) is CannotConnect
    assert str(found) == "the look-up of its name took too long"


def test_without_a_thread_to_spare_a_name_is_looked_up_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with serve(wire.hang_up) as server:
        pass
    names = Names("127.0.0.1")
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    found = failure(f"http://gateway.test:{server.port}/", transport(resolver=names))
    assert names.asked == ["gateway.test"]
    assert str(found) == "Connection refused"


def test_cancelling_a_deadline_ends_the_exchange_at_once() -> None:
    deadline = Deadline(3600)

    def cancel(server: Server, connection: socket.socket) -> None:
        wire.read_request(server, connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        deadline.cancel()
        server.stopping.wait(30)

    with serve(cancel) as server:
        assert type(failure(server.url, transport(), deadline=deadline)) is httpx.ReadTimeout


def test_cancelling_ends_a_handshake_as_well() -> None:
    deadline = Deadline(3600)

    def cancel(server: Server, connection: socket.socket) -> None:
        connection.recv(1)  # of the client's hello
        deadline.cancel()
        server.stopping.wait(30)

    with serve(cancel) as server:
        url = server.url.replace("http:", "https:")
        assert type(failure(url, transport(), deadline=deadline)) is CannotConnect


class Judge:
    """Refuses the addresses that it was told to; keeps what it saw."""

    def __init__(self, *refused: str) -> None:
        self.refused = refused
        self.seen: list[tuple[str, str]] = []

    def __call__(self, host: str, address: IPv4Address | IPv6Address) -> None:
        self.seen.append((host, str(address)))
        if str(address) in self.refused:
            raise PermissionError(f"{address} is not for you")


class Names:
    """A name server that knows one name."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self.asked: list[str] = []

    def __call__(self, host: str, port: int) -> list[SocketAddress]:
        self.asked.append(host)
        return [
            (socket.AF_INET6, (each, port, 0, 0)) if ":" in each else (socket.AF_INET, (each, port))
            for each in self.addresses
        ]


def test_every_address_is_judged_before_the_first_is_connected_to() -> None:
    judge, names = Judge("10.0.0.1"), Names("127.0.0.1", "10.0.0.1")
    with serve(wire.answering(OK)) as server, pytest.raises(PermissionError, match=r"10\.0\.0\.1"):
        get(f"http://cdn.test:{server.port}/", transport(judge=judge, resolver=names))
    assert judge.seen == [("cdn.test", "127.0.0.1"), ("cdn.test", "10.0.0.1")]
    assert server.connections == 0


def test_what_was_judged_is_connected_to_without_a_second_look_up() -> None:
    judge, names = Judge(), Names("127.0.0.1")
    with serve(wire.answering(OK)) as server:
        assert get(f"http://cdn.test:{server.port}/", transport(judge=judge, resolver=names)).text == "hi"
    assert judge.seen == [("cdn.test", "127.0.0.1")]
    assert names.asked == ["cdn.test"]
    assert server.received[0].startswith(b"GET / HTTP/1.1\r\nHost: cdn.test:")


def test_a_literal_address_is_judged_and_not_looked_up_elsewhere() -> None:
    judge = Judge("127.0.0.1")
    with serve(wire.answering(OK)) as server, pytest.raises(PermissionError):
        get(server.url, transport(judge=judge))
    assert server.connections == 0


def test_the_next_address_is_tried_when_one_does_not_answer() -> None:
    with serve(wire.answering(OK)) as server:
        names = Names("::1", "127.0.0.1")
        assert get(f"http://cdn.test:{server.port}/", transport(resolver=names)).text == "hi"


def test_a_kept_connection_serves_the_next_request_with_a_deadline_of_its_own() -> None:
    def twice(server: Server, connection: socket.socket) -> None:
        for _ in range(2):
            wire.read_request(server, connection)
            connection.sendall(OK)

    with serve(twice) as server, transport(kept_alive=1) as way, httpx.Client(transport=way) as client:
        first = client.build_request("GET", server.url, extensions={"deadline": Deadline(30)})
        second = client.build_request("GET", server.url, extensions={"deadline": Deadline(30)})
        assert [client.send(each).text for each in (first, second)] == ["hi", "hi"]
        assert server.connections == 1


def test_without_kept_connections_each_request_has_its_own() -> None:
    with serve(wire.answering(OK)) as server, transport() as way, httpx.Client(transport=way) as client:
        assert [client.get(server.url).text for _ in range(2)] == ["hi", "hi"]
        assert server.connections == 2


@pytest.mark.parametrize(
    ("behave", "kind"),
    [
        (wire.hang_up, httpx.RemoteProtocolError),
        (wire.answering(b"SSH-2.0-server\r\n"), httpx.RemoteProtocolError),
        (wire.answering(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi"), httpx.RemoteProtocolError),
    ],
)
def test_an_error_after_the_request_has_left_says_so_by_its_class(
    behave: Behaviour, kind: type[httpx.HTTPError]
) -> None:
    with serve(behave) as server:
        found = failure(server.url, transport())
    assert isinstance(found, kind | httpx.ReadError)
    assert not isinstance(found, CannotConnect)


def test_an_error_before_the_request_has_left_is_cannot_connect() -> None:
    with serve(wire.hang_up) as server:
        pass
    found = failure(server.url, transport())
    assert type(found) is CannotConnect
    assert str(found) == "Connection refused"


def test_no_text_of_an_error_was_written_by_a_peer() -> None:
    with serve(wire.answering(b"HTTP/9.9 evil words\r\n\r\n")) as server:
        found = failure(server.url, transport())
    assert "evil" not in "".join(traceback.format_exception(found))


@contextmanager
def listening() -> Iterator[list[str]]:
    """Have httpx and httpcore log all they can, and keep it.

    Not by pytest's own handler: Airflow, where a test has imported it, disables loggers and sets levels.
    """
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]  # of this one
    names = ["httpx", *(f"httpcore.{each}" for each in ("connection", "http11", "proxy", "socks"))]
    loggers = [logging.getLogger(name) for name in names]
    before = [(each.level, each.disabled) for each in loggers]
    for each in loggers:
        each.disabled = False
        each.setLevel(logging.DEBUG)
        each.addHandler(handler)
    try:
        yield lines
    finally:
        for each, (level, disabled) in zip(loggers, before, strict=True):
            each.removeHandler(handler)
            each.setLevel(level)
            each.disabled = disabled


def test_a_peers_own_reason_phrase_is_dropped_because_httpx_logs_it() -> None:
    with (
        listening() as lines,
        serve(
            wire.answering(b"HTTP/1.1 401 evil words\r\nEvil: evil\r\nContent-Length: 0\r\n\r\n")
        ) as server,
    ):
        assert get(server.url, transport()).reason_phrase == "Unauthorized"
    assert len(lines) == 1
    assert "401 Unauthorized" in lines[0]


# --- certificates -------------------------------------------------------------------------------------


def test_https_works_when_the_authority_is_known(authority: Authority) -> None:
    context = authority.server_context("127.0.0.1")
    with serve(wire.answering(OK), tls=context) as server:
        url = server.url.replace("http:", "https:")
        assert get(url, transport(tls=authority.client_context())).text == "hi"


def test_an_unknown_authority_is_final_and_named_with_the_way_out(authority: Authority) -> None:
    context = authority.server_context("127.0.0.1")
    with serve(wire.answering(OK), tls=context) as server:
        found = failure(server.url.replace("http:", "https:"), transport())
    assert isinstance(found, CannotConnect)
    assert found.is_final
    assert str(found) == (
        "the certificate of 127.0.0.1 is not valid: unable to get local issuer certificate (it is for "
        "CN=127.0.0.1, issued by CN=Example Corp Proxy CA). If a proxy of your company issued it, name a PEM "
        "file with its authority's certificate in the environment variable SSL_CERT_FILE; if not, somebody "
        "is listening"
    )
    assert server.received == []


def test_a_certificate_for_another_name_is_final_and_is_no_matter_of_authorities(
    authority: Authority,
) -> None:
    context = authority.server_context("other.test")
    with serve(wire.answering(OK), tls=context) as server:
        found = failure(server.url.replace("http:", "https:"), transport(tls=authority.client_context()))
    assert isinstance(found, CannotConnect)
    assert found.is_final
    assert "certificate is not valid for '127.0.0.1'" in str(found)
    assert "it is for CN=other.test" in str(found)
    assert "SSL_CERT_FILE" not in str(found)
    assert server.received == []


def test_a_server_that_speaks_no_tls_is_no_connection() -> None:
    with serve(lambda _, connection: connection.sendall(OK)) as server:
        found = failure(server.url.replace("http:", "https:"), transport())
    assert type(found) is CannotConnect
    assert not found.is_final


# --- proxies ------------------------------------------------------------------------------------------

PASSWORD = "pr0xy-pa55"


def proxy_to(server: Server, scheme: str = "http") -> ProxyRules:
    return ProxyRules(Proxy(scheme, "127.0.0.1", server.port, "user", PASSWORD))


def tunnel(target: Server) -> Behaviour:
    """Return a proxy that opens tunnels to one server, whatever it is asked for."""

    def behave(server: Server, connection: socket.socket) -> None:
        wire.read_request(server, connection)
        connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with socket.create_connection(("127.0.0.1", target.port)) as onward:
            pump(connection, onward)

    return behave


def pump(one: socket.socket, other: socket.socket) -> None:
    """Pass bytes on in both directions until one side is done. One thread: an encrypted socket is for one."""
    onward = {one: other, other: one}
    while True:
        ready = [each for each in onward if isinstance(each, ssl.SSLSocket) and each.pending()]
        for source in ready or select.select(list(onward), [], [])[0]:
            data = source.recv(65_536)
            if not data:
                return
            onward[source].sendall(data)


@pytest.fixture
def gateway(authority: Authority) -> Iterator[Server]:
    with serve(wire.answering(OK), tls=authority.server_context("gateway.test")) as server:
        yield server


@pytest.mark.parametrize("is_encrypted", [False, True])
def test_https_goes_through_a_tunnel_that_an_http_or_https_proxy_opens(
    authority: Authority, gateway: Server, is_encrypted: bool
) -> None:
    tls = authority.server_context("127.0.0.1") if is_encrypted else None
    with serve(tunnel(gateway), tls=tls) as proxy:
        way = transport(
            proxies=proxy_to(proxy, "https" if is_encrypted else "http"), tls=authority.client_context()
        )
        assert get("https://gateway.test/v1", way).text == "hi"
    assert proxy.received[0].startswith(b"CONNECT gateway.test:443 HTTP/1.1\r\n")
    assert b"Proxy-Authorization: Basic dXNlcjpwcjB4eS1wYTU1\r\n" in proxy.received[0]
    assert b"Proxy-Authorization" not in gateway.received[0]


@pytest.mark.parametrize("is_encrypted", [False, True])
def test_a_certificate_that_a_proxy_made_is_named_and_nothing_is_sent(
    tmp_path: Path, authority: Authority, is_encrypted: bool
) -> None:
    """A company's proxy that reads along, and shows a certificate of its own authority."""
    other = wire.make_authority(tmp_path, "Corp Interception CA")
    tls = authority.server_context("127.0.0.1") if is_encrypted else None
    with (
        serve(wire.answering(OK), tls=other.server_context("gateway.test")) as reader,
        serve(tunnel(reader), tls=tls) as proxy,
    ):
        way = transport(
            proxies=proxy_to(proxy, "https" if is_encrypted else "http"), tls=authority.client_context()
        )
        found = failure("https://gateway.test/v1", way)
    assert isinstance(found, CannotConnect)
    assert found.is_final
    assert "issued by CN=Corp Interception CA" in str(found)
    assert reader.received == []


def test_a_proxy_whose_own_certificate_is_unknown_gets_no_password(authority: Authority) -> None:
    with serve(wire.answering(OK), tls=authority.server_context("127.0.0.1")) as proxy:
        found = failure("https://gateway.test/v1", transport(proxies=proxy_to(proxy, "https")))
    assert isinstance(found, CannotConnect)
    assert "certificate of 127.0.0.1" in str(found)
    assert "issued by CN=Example Corp Proxy CA" in str(found)
    assert proxy.received == []


@pytest.mark.parametrize(
    ("answer", "text", "is_final"),
    [
        (b"HTTP/1.1 407 evil\r\n\r\n", "the proxy {} refuses to connect (it answered 407)", True),
        (b"HTTP/1.1 403 evil\r\n\r\n", "the proxy {} refuses to connect (it answered 403)", True),
        (b"HTTP/1.1 503 evil\r\n\r\n", "the proxy {} refuses to connect (it answered 503)", False),
        (b"evil\r\n\r\n", "what answered does not speak HTTP as it should, through the proxy {}", False),
        (b"", "what answered does not speak HTTP as it should, through the proxy {}", False),
    ],
)
def test_a_proxy_that_does_not_connect_means_that_nothing_was_sent(
    answer: bytes, text: str, is_final: bool
) -> None:
    with serve(wire.answering(answer)) as proxy:
        found = failure("https://gateway.test/v1", transport(proxies=proxy_to(proxy)))
    assert type(found) is CannotConnect
    assert (str(found), found.is_final) == (text.format(f"127.0.0.1:{proxy.port}"), is_final)


@pytest.mark.parametrize("behave", [drip_head, wire.stay_silent])
def test_a_proxy_that_never_finishes_its_answer_means_that_nothing_was_sent(behave: Behaviour) -> None:
    with serve(behave) as proxy:
        found = failure("https://gateway.test/v1", transport(timeout=SHORT, proxies=proxy_to(proxy)))
    assert type(found) is CannotConnect


def test_a_proxys_password_is_in_no_error_repr_or_log() -> None:
    with listening() as lines, serve(wire.answering(b"HTTP/1.1 407 x\r\n\r\n")) as proxy:
        rules = proxy_to(proxy)
        found = failure("https://gateway.test/v1", transport(proxies=rules))
    shown = str(lines) + "".join(traceback.format_exception(found)) + repr(rules) + repr(found)
    assert PASSWORD not in shown
    assert "dXNlcjpwcjB4eS1wYTU1" not in shown


def socks(target: Server) -> Behaviour:
    """Return a SOCKS 5 proxy that asks for a password and connects to one server whatever it is asked."""

    def behave(server: Server, connection: socket.socket) -> None:
        connection.recv(3)
        connection.sendall(b"\x05\x02")
        server.received.append(connection.recv(1024))
        connection.sendall(b"\x01\x00")
        server.received.append(connection.recv(1024))
        connection.sendall(b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x00")
        with socket.create_connection(("127.0.0.1", target.port)) as onward:
            pump(connection, onward)

    return behave


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
def test_a_socks_proxy_resolves_the_name_and_its_password_is_in_no_log(
    authority: Authority, gateway: Server, scheme: str
) -> None:
    with listening() as lines, serve(socks(gateway)) as proxy:
        way = transport(
            proxies=proxy_to(proxy, scheme), judge=Judge("127.0.0.1"), tls=authority.client_context()
        )
        assert get("https://gateway.test/v1", way).text == "hi"
    assert proxy.received == [
        b"\x01\x04user\x0a" + PASSWORD.encode(),
        b"\x05\x01\x00\x03\x0cgateway.test\x01\xbb",
    ]
    assert PASSWORD not in str(lines)


@pytest.mark.parametrize(
    "reply", [b"", b"\x05\xff", b"\x05\x00", b"HTTP/1.1 400 evil", b"\x05\x02\x01\x01", b"\x04"]
)
def test_a_socks_proxy_that_answers_nonsense_means_that_nothing_was_sent(reply: bytes) -> None:
    def behave(server: Server, connection: socket.socket) -> None:
        connection.recv(3)
        connection.sendall(reply)

    with serve(behave) as proxy:
        found = failure("https://gateway.test/v1", transport(proxies=proxy_to(proxy, "socks5")))
    assert type(found) is CannotConnect
    assert "evil" not in str(found)


def test_a_socks_proxy_that_says_nothing_ends_in_time() -> None:
    with serve(wire.stay_silent) as proxy:
        way = transport(timeout=SHORT, proxies=proxy_to(proxy, "socks5"))
        assert type(failure("https://gateway.test/v1", way)) is CannotConnect


def test_behind_a_proxy_the_proxys_own_address_is_not_judged(authority: Authority, gateway: Server) -> None:
    with serve(tunnel(gateway)) as proxy:
        way = transport(proxies=proxy_to(proxy), judge=Judge("127.0.0.1"), tls=authority.client_context())
        assert get("https://gateway.test/v1", way).text == "hi"
