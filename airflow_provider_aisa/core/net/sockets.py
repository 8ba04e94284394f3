"""Connections whose every step ends within one deadline, and that lead only to addresses that were judged.

These are httpcore's public building blocks, a NetworkBackend and its NetworkStreams. httpcore hands each
read and write the timeout of its request; here that timeout is a Deadline, so a peer that sends one byte per
second cannot make an exchange last longer than it was given.
"""

from __future__ import annotations

import math
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final, TypeVar

import httpcore

from airflow_provider_aisa.core.net.deadline import Deadline
from airflow_provider_aisa.core.net.tls import TlsRefused, unverified_context

T = TypeVar("T")

#: Seconds for one step of connecting; with several addresses, the next one is tried after that.
CONNECT_TIMEOUT: Final = 10.0
_BLOCK: Final = 64 * 1024
#: Bytes taken from a connection at once, where there are so many. httpcore asks for half of it, and spends as
#: much time on a small block as on a large one.
_AT_ONCE: Final = 128 * 1024
_TLS_RECORD: Final = 16 * 1024  # the largest; OpenSSL hands out one at a time
# A generation takes minutes in which not a byte flows, and routers forget connections that look idle.
_KEEPALIVE: Final = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 60), ("TCP_KEEPCNT", 5))

#: A family, and what a socket of that family connects to: (address, port) or (address, port, flow, scope).
SocketAddress = tuple[socket.AddressFamily, tuple[Any, ...]]
#: Returns the addresses of a host and port; OSError when there are none.
Resolver = Callable[[str, int], list[SocketAddress]]
#: Raises when a name (first) may not be connected to at an address (second).
Judge = Callable[[str, IPv4Address | IPv6Address], None]


def resolve(host: str, port: int) -> list[SocketAddress]:
    """Return the addresses that this machine's resolver knows."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, where) for family, _, _, _, where in found]


class Backend(httpcore.NetworkBackend):
    """Resolves, judges, connects: to the very addresses that were judged, with no second look-up.

    :param judge: sees every address of a name before the first connection; None allows all.
    :param inspects: the layer of TLS whose certificate is to be looked at instead of verified, from 0.
        :class:`CertificateSeen` is raised in place of a connection: nothing is ever sent on such a one.
    """

    def __init__(
        self, judge: Judge | None = None, *, resolver: Resolver = resolve, inspects: int | None = None
    ) -> None:
        self._judge = judge
        self._resolver = resolver
        self._inspects = inspects

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first address of a host that answers."""
        deadline = timeout if isinstance(timeout, Deadline) else Deadline(timeout or math.inf)
        addresses = _look_up(self._resolver, host, port, deadline)
        if self._judge is not None:
            for _, where in addresses:
                self._judge(host, ip_address(where[0]))
        return _Stream(_connect(addresses, deadline), deadline, inspects=self._inspects)


class CertificateSeen(Exception):
    """What an inspecting backend raises: a peer's certificate, unverified, in DER."""

    def __init__(self, certificate: bytes) -> None:
        super().__init__("a certificate")
        self.certificate = certificate


def _look_up(resolver: Resolver, host: str, port: int, deadline: Deadline) -> list[SocketAddress]:
    """Return the addresses of a host; in a thread, because nothing else ends a look-up that hangs."""
    answer: Future[list[SocketAddress]] = Future()

    def look_up() -> None:
        try:
            answer.set_result(resolver(host, port))
        except BaseException as e:
            answer.set_exception(e)

    if _is_address(host) or not _start_thread(look_up):
        look_up()
    try:
        return answer.result(None if deadline.left == math.inf else deadline.left)
    except TimeoutError:
        raise httpcore.ConnectTimeout("the look-up of its name took too long") from None
    except OSError as e:
        raise httpcore.ConnectError(f"the look-up of its name failed: {e.strerror}") from None
    except UnicodeError:
        raise httpcore.ConnectError("its name cannot exist") from None


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _start_thread(work: Callable[[], None]) -> bool:
    """Start a thread that the interpreter's exit need not wait for; return whether that was possible."""
    try:
        threading.Thread(target=work, name="aisa-resolver", daemon=True).start()
    except RuntimeError:  # A limit of processes is reached: a look-up without a deadline is better than none.
        return False
    return True


def _connect(addresses: list[SocketAddress], deadline: Deadline) -> socket.socket:
    problem: Exception = httpcore.ConnectError("its name has no address")
    for tried, (family, where) in enumerate(addresses):
        # The first of several addresses must not use up the time of the others.
        share = min(CONNECT_TIMEOUT, deadline.left / (len(addresses) - tried))
        try:
            return _connect_to(family, where, deadline, share)
        except TimeoutError:
            problem = httpcore.ConnectTimeout("it did not accept a connection in time")
        except OSError as e:
            problem = httpcore.ConnectError(e.strerror or "the connection failed")
    raise problem


def _connect_to(
    family: socket.AddressFamily, where: tuple[Any, ...], deadline: Deadline, seconds: float
) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        deadline.arm(sock, at_most=seconds)
        sock.connect(where)
        _configure(sock)
    except BaseException:
        sock.close()
        raise
    return sock


def _configure(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        if (option := getattr(socket, name, None)) is not None:  # Not every system has all of them.
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


class _Stream(httpcore.NetworkStream):
    """A connection, plain or encrypted. ``layers`` counts the encryption that is there already."""

    def __init__(
        self, sock: socket.socket, deadline: Deadline, *, inspects: int | None, layers: int = 0
    ) -> None:
        self._sock = sock
        self._deadline = deadline
        self._inspects = inspects
        self._layers = layers

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return the next bytes, more than ``max_bytes`` where they are there: httpcore takes them."""
        deadline = self._follow(timeout)
        try:
            deadline.arm(self._sock)
            data = _receive(self._sock)
        except TimeoutError:
            raise httpcore.ReadTimeout("it did not answer in time") from None
        except OSError as e:
            raise httpcore.ReadError(e.strerror or "the connection broke") from None
        if not data and deadline.is_over:  # A cancelled exchange must not look like a complete one.
            raise httpcore.ReadTimeout("cancelled")
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        deadline = self._follow(timeout)
        left = memoryview(buffer)
        try:
            while left:
                deadline.arm(self._sock)
                left = left[self._sock.send(left) :]
        except TimeoutError:
            raise httpcore.WriteTimeout("it did not take the request in time") from None
        except OSError as e:
            raise httpcore.WriteError(e.strerror or "the connection broke") from None

    def close(self) -> None:
        self._sock.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        is_inspected = self._inspects == self._layers
        context = unverified_context() if is_inspected else ssl_context
        try:
            stream = self._encrypt(context, server_hostname, self._follow(timeout))
        except ssl.SSLCertVerificationError as e:
            self.close()
            raise TlsRefused(server_hostname or "", e, layer=self._layers) from None
        except TimeoutError:
            self.close()
            raise httpcore.ConnectTimeout("it did not agree on encryption in time") from None
        except (OSError, ValueError) as e:  # ValueError: a name that no certificate can have.
            self.close()
            reason = getattr(e, "reason", None) or getattr(e, "strerror", None) or "no reason given"
            raise httpcore.ConnectError(f"encryption failed: {reason}") from None
        if is_inspected:
            certificate = stream.peer_certificate
            stream.close()
            raise CertificateSeen(certificate)
        return stream

    def _encrypt(
        self, context: ssl.SSLContext, server_hostname: str | None, deadline: Deadline
    ) -> _Stream | _TlsInTls:
        if isinstance(self._sock, ssl.SSLSocket):
            return _TlsInTls(self, context, server_hostname, deadline)
        sock = context.wrap_socket(self._sock, server_hostname=server_hostname, do_handshake_on_connect=False)
        self._sock = sock
        deadline.arm(sock, at_most=CONNECT_TIMEOUT)
        sock.do_handshake()
        return _Stream(sock, deadline, inspects=self._inspects, layers=self._layers + 1)

    @property
    def peer_certificate(self) -> bytes:
        sock = self._sock
        return (sock.getpeercert(binary_form=True) if isinstance(sock, ssl.SSLSocket) else None) or b""

    def get_extra_info(self, info: str) -> object:
        if info == "ssl_object":
            return self._sock if isinstance(self._sock, ssl.SSLSocket) else None
        if info == "is_readable":  # httpcore asks whether a kept connection has been closed meanwhile.
            return _is_readable(self._sock)
        return None

    def _follow(self, timeout: float | None) -> Deadline:
        if isinstance(timeout, Deadline):
            self._deadline = timeout
        return self._deadline  # httpcore's SOCKS handshake has no timeout: the latest one holds.


class _TlsInTls(httpcore.NetworkStream):
    """Encryption within an encrypted connection: the gateway behind a proxy that is itself reached by TLS."""

    def __init__(
        self, outer: _Stream, context: ssl.SSLContext, server_hostname: str | None, deadline: Deadline
    ) -> None:
        self._outer = outer
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_hostname)
        try:
            self._run(self._tls.do_handshake, deadline)
        except (httpcore.ReadTimeout, httpcore.WriteTimeout):
            raise TimeoutError from None
        except (httpcore.ReadError, httpcore.WriteError) as e:
            raise OSError(0, str(e)) from None
        self.peer_certificate = self._tls.getpeercert(binary_form=True) or b""

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            return self._run(partial(self._tls.read, max_bytes), timeout)
        except ssl.SSLEOFError:
            return b""
        except ssl.SSLError as e:
            raise httpcore.ReadError(e.reason or "the connection broke") from None

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        left = memoryview(buffer)
        try:
            while left:
                left = left[self._run(partial(self._tls.write, left[:_BLOCK]), timeout) :]
        except ssl.SSLError as e:
            raise httpcore.WriteError(e.reason or "the connection broke") from None

    def close(self) -> None:
        self._outer.close()

    def get_extra_info(self, info: str) -> object:
        return self._tls if info == "ssl_object" else self._outer.get_extra_info(info)

    def _run(self, step: Callable[[], T], timeout: float | None) -> T:
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                self._flush(timeout)
                if data := self._outer.read(_BLOCK, timeout):
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()
            else:
                self._flush(timeout)
                return result

    def _flush(self, timeout: float | None) -> None:
        if data := self._outgoing.read():
            self._outer.write(data, timeout)


def _receive(sock: socket.socket) -> bytes:
    """Wait for the next bytes of a connection, and return as many as have arrived; empty at its end."""
    if not isinstance(sock, ssl.SSLSocket):
        return sock.recv(_AT_ONCE)
    block = memoryview(bytearray(_AT_ONCE))
    filled = got = sock.recv_into(block)
    sock.setblocking(False)  # The next operation sets its time limit anew.
    with suppress(ssl.SSLWantReadError):
        while got and filled >= _TLS_RECORD and filled < len(block):
            got = sock.recv_into(block[filled:])
            filled += got
    return bytes(block[:filled])


def _is_readable(sock: socket.socket) -> bool:
    if sock.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))
