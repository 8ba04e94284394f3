"""How a request leaves this machine: in time as a whole, by one rule for proxies, to judged addresses.

An error's text is ours: nothing that a peer or a proxy wrote, no password, no URL. ``CannotConnect`` means
that the request has not begun to leave, whatever went wrong; every other error means that it may have.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

import httpcore
import httpx

from airflow_provider_aisa.core.net.deadline import Deadline
from airflow_provider_aisa.core.net.proxies import Proxy, ProxyRules
from airflow_provider_aisa.core.net.sockets import Backend, CertificateSeen, Judge, Resolver, resolve
from airflow_provider_aisa.core.net.tls import TlsRefused, ssl_context

_ERRORS: Final = (
    httpcore.TimeoutException,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.UnsupportedProtocol,
)
#: Which of a peer's words are kept: none. What these errors say was written by a peer, not by us.
_FOREIGN: Final = (httpcore.ProtocolError, httpcore.ProxyError, httpcore.UnsupportedProtocol)

_KEPT: Final = 5.0  # seconds; servers close connections that idle for longer

_sending: ContextVar[bool] = ContextVar("aisa_sending", default=False)


class CannotConnect(httpx.ConnectError):
    """The request has not begun to leave. The text is ours and may be shown.

    :param is_final: sending again changes nothing: a person has to fix something first.
    """

    def __init__(self, message: str, *, is_final: bool = False) -> None:
        super().__init__(message)
        self.is_final = is_final


class Transport(httpx.BaseTransport):
    """Sends the requests of an ``httpx.Client``, from any thread.

    Each exchange ends within a deadline as a whole, from the look-up of the name to the last byte of the
    body: ``request.extensions["deadline"]`` where it has one, else ``timeout`` seconds from its start.

    :param timeout: seconds.
    :param proxies: from :func:`~airflow_provider_aisa.core.net.proxies.read_proxies`.
    :param judge: called with a host and each of its addresses before anything is connected to; what it
        raises ends the request. A proxy resolves names itself, so behind one nothing is judged.
    :param kept_alive: idle connections that are kept for further requests.
    :param resolver: for tests, names that no name server knows.
    :param tls: for tests, authorities that are believed; None for :func:`~.tls.ssl_context`.
    """

    def __init__(
        self,
        *,
        timeout: float,
        proxies: ProxyRules,
        judge: Judge | None = None,
        kept_alive: int = 0,
        resolver: Resolver = resolve,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._timeout = timeout
        self._proxies = proxies
        self._judge = judge
        self._kept_alive = kept_alive
        self._resolver = resolver
        self._tls = tls
        self._pools: dict[Proxy | None, httpcore.ConnectionPool] = {}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and return its response, whose body is still to be read and closed."""
        deadline = request.extensions.get("deadline")
        url = request.url
        port = url.port or (443 if url.scheme == "https" else 80)
        proxy = self._proxies.choose(url.host, port)
        limit = deadline if isinstance(deadline, Deadline) else Deadline(self._timeout)
        exchange = _Exchange(limit, proxy)
        outgoing = httpcore.Request(
            request.method,
            httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=request.headers.raw,
            content=request.stream,
            extensions=exchange.extensions(),
        )
        with exchange.errors_translated(), _socks_errors_translated(proxy, exchange.deadline):
            try:
                response = self._pool(proxy).handle_request(outgoing)
            except TlsRefused as e:
                certificate = self._inspect(proxy, outgoing, e.layer)
                raise CannotConnect(e.explain(certificate), is_final=True) from None
        # Without the peer's own reason phrase, which httpx would log and which may repeat anything.
        return httpx.Response(response.status, headers=response.headers, stream=_Body(response, exchange))

    def close(self) -> None:
        """Close the connections that are kept alive."""
        while self._pools:
            self._pools.popitem()[1].close()

    def _pool(self, proxy: Proxy | None) -> httpcore.ConnectionPool:
        if (pool := self._pools.get(proxy)) is None:
            # Threads share a transport: all use the pool of whoever is first.
            pool = self._pools.setdefault(proxy, self._make_pool(proxy, kept_alive=self._kept_alive))
        return pool

    def _make_pool(
        self, proxy: Proxy | None, *, kept_alive: int = 0, inspects: int | None = None
    ) -> httpcore.ConnectionPool:
        tls = self._tls or ssl_context()
        judge = self._judge if proxy is None else None
        return httpcore.ConnectionPool(
            ssl_context=tls,
            proxy=None if proxy is None else _as_httpcore(proxy, tls),
            max_connections=None,
            max_keepalive_connections=kept_alive,
            keepalive_expiry=_KEPT,
            network_backend=Backend(judge, resolver=self._resolver, inspects=inspects),
        )

    def _inspect(self, proxy: Proxy | None, outgoing: httpcore.Request, layer: int) -> bytes | None:
        """Connect once more to see the certificate that was refused. Nothing is sent to who showed it."""
        try:
            with self._make_pool(proxy, inspects=layer) as pool:
                pool.handle_request(outgoing)
        except CertificateSeen as seen:
            return seen.certificate
        except (*_ERRORS, TlsRefused):
            pass
        return None


def _as_httpcore(proxy: Proxy, tls: ssl.SSLContext) -> httpcore.Proxy:
    try:
        url = httpx.URL(scheme=proxy.scheme, host=proxy.host, port=proxy.port)
    except httpx.InvalidURL:
        raise CannotConnect(f"no proxy can be called {proxy.host!r}", is_final=True) from None
    has_login = proxy.user is not None or proxy.password is not None
    return httpcore.Proxy(
        httpcore.URL(scheme=proxy.scheme, host=url.raw_host, port=proxy.port, target=b"/"),
        auth=((proxy.user or "").encode(), (proxy.password or "").encode()) if has_login else None,
        ssl_context=tls if proxy.scheme == "https" else None,
    )


@contextmanager
def _socks_errors_translated(proxy: Proxy | None, deadline: Deadline) -> Iterator[None]:
    """Do what httpcore leaves undone when a SOCKS proxy fails: hang up, and say what is wrong."""
    try:
        yield
    except Exception as e:
        if proxy is None or not proxy.is_socks:
            raise
        deadline.hang_up()
        if isinstance(e, (*_ERRORS, httpx.HTTPError)):
            raise
        # Nothing was sent: only the proxy's nonsense is no error of httpcore's, and it comes before.
        raise CannotConnect("the proxy does not speak SOCKS 5 as it should") from None


class _Exchange:
    """One request on its way: its deadline, its proxy, and whether it has begun to leave."""

    def __init__(self, deadline: Deadline, proxy: Proxy | None) -> None:
        self.deadline = deadline
        self._proxy = "" if proxy is None else f" {proxy.host}:{proxy.port}"
        self._has_left = False

    def extensions(self) -> dict[str, Any]:
        steps = ("connect", "read", "write", "pool")
        return {"timeout": dict.fromkeys(steps, self.deadline), "trace": self._note}

    def _note(self, event: str, info: dict[str, Any]) -> None:
        # A proxy's CONNECT is a request as well, but not ours.
        if event == "http11.send_request_headers.started" and info["request"].method != b"CONNECT":
            self._has_left = True

    @contextmanager
    def errors_translated(self) -> Iterator[None]:
        """Raise httpx's errors for httpcore's, with texts of our own, and keep httpcore from logging."""
        token = _sending.set(True)
        try:
            yield
        except _ERRORS as e:
            raise self._translate(e) from None
        finally:
            _sending.reset(token)

    def _translate(self, error: Exception) -> httpx.HTTPError:
        if self._has_left:
            kind: type[httpx.HTTPError] = getattr(httpx, type(error).__name__)
            text = "the answer is not HTTP as it should be" if isinstance(error, _FOREIGN) else str(error)
            return kind(text)
        if isinstance(error, httpcore.ProxyError):
            # Begins with the status that a proxy answered its CONNECT with.
            status = str(error)[:3] if str(error)[:3].isdecimal() else "in its own way"
            text = f"the proxy{self._proxy} refuses to connect (it answered {status})"
            return CannotConnect(text, is_final=status in {"401", "403", "405", "407"})
        foreign = "what answered does not speak HTTP as it should"
        through = f", through the proxy{self._proxy}" if self._proxy else ""
        return CannotConnect(f"{foreign if isinstance(error, _FOREIGN) else error}{through}")


class _Body(httpx.SyncByteStream):
    def __init__(self, response: httpcore.Response, exchange: _Exchange) -> None:
        self._response = response
        self._exchange = exchange

    def __iter__(self) -> Iterator[bytes]:
        blocks = self._response.iter_stream()
        while True:
            with self._exchange.errors_translated():
                block = next(blocks, None)
            if block is None:
                return
            yield block

    def close(self) -> None:
        with self._exchange.errors_translated():
            self._response.close()


class _Silent(logging.Filter):
    """httpcore's debug lines hold headers, links in redirects and, for SOCKS, the proxy's password."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not _sending.get()


for _name in ("connection", "http11", "proxy", "socks"):
    logging.getLogger(f"httpcore.{_name}").addFilter(_Silent())
