"""Servers made of bare sockets, for what no real server can be made to send, and certificates for them."""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

#: Seconds between two pieces of a drip, and how often: far beyond the timeouts that tests give.
DRIP = 0.05
DRIPS = 100


@dataclass
class Server:
    """What has happened to a server so far."""

    port: int
    stopping: threading.Event = field(default_factory=threading.Event)
    connections: int = 0
    received: list[bytes] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def drip(self, connection: socket.socket, piece: bytes) -> None:
        """Send a piece again and again, slowly; give up when the client has gone."""
        for _ in range(DRIPS):
            if self.stopping.wait(DRIP):
                return
            connection.sendall(piece)


Behaviour = Callable[[Server, socket.socket], None]


@contextmanager
def serve(behave: Behaviour, *, tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    """Run a server on a free port of this machine that treats each connection as told, in a thread each."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = Server(listener.getsockname()[1])
    threads: list[threading.Thread] = []

    def treat(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            if tls is None:
                behave(server, connection)
                return
            with tls.wrap_socket(connection, server_side=True) as encrypted:
                behave(server, encrypted)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                server.connections += 1
                connection.settimeout(30)
                threads.append(threading.Thread(target=treat, args=(connection,)))
                threads[-1].start()

    threads.append(threading.Thread(target=accept))
    threads[0].start()
    try:
        yield server
    finally:
        server.stopping.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in threads:
            thread.join()


def read_request(server: Server, connection: socket.socket) -> bytes:
    """Read a request with its body, keep it, and return it. What is not read resets the connection."""
    data = b""
    while (missing := _missing(data)) and (block := connection.recv(missing)):
        data += block
    if data:
        server.received.append(data)
    return data


def _missing(data: bytes) -> int:
    head, end, body = data.partition(b"\r\n\r\n")
    if not end:
        return 65_536
    length = re.search(rb"^content-length: *([0-9]+)", head, re.IGNORECASE | re.MULTILINE)
    return max(0, int(length[1]) - len(body)) if length else 0


def answering(answer: bytes) -> Behaviour:
    """Return what answers every request with these bytes and hangs up."""

    def behave(server: Server, connection: socket.socket) -> None:
        read_request(server, connection)
        connection.sendall(answer)

    return behave


def hang_up(server: Server, connection: socket.socket) -> None:
    """Take a connection and close it."""


def stay_silent(server: Server, connection: socket.socket) -> None:
    """Take a connection and say nothing."""
    server.stopping.wait(30)


@dataclass(frozen=True)
class Authority:
    """An authority that signs certificates for this machine, and the file that holds its own."""

    file: Path
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def server_context(self, *names: str) -> ssl.SSLContext:
        """Return what a server needs to prove that it is called one of these names."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _sign(names[0], key, self.certificate.subject, self.key, names=names)
        file = self.file.with_name(f"{names[0]}.pem")
        file.write_bytes(_pem(certificate) + _pem_key(key))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context

    def client_context(self) -> ssl.SSLContext:
        """Return what a client needs to believe this authority."""
        return ssl.create_default_context(cafile=str(self.file))


def make_authority(folder: Path, name: str = "Example Corp Proxy CA") -> Authority:
    """Create an authority whose certificate is in a file of its own."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = _sign(name, key, subject, key, names=())
    file = folder / "authority.pem"
    file.write_bytes(_pem(certificate))
    return Authority(file, certificate, key)


def _sign(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    names: tuple[str, ...],
) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=not names, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_general_name(each) for each in names]), critical=False
        )
    return builder.sign(issuer_key, hashes.SHA256())


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _pem_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
