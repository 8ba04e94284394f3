"""Links come in a response, so they are input: no credentials go along, and nothing private is reached.

https and public addresses only; http on loopback when the gateway itself is there. Redirects are checked
like links. A body goes to a file as it comes, so memory does not grow with an image's size.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import Final
from urllib.request import getproxies, proxy_bypass

import httpx
from httpx_secure import SSRFProtectionError, httpx_ssrf_protection

from airflow_provider_aisa.core.gateway.retries import backoff
from airflow_provider_aisa.core.gateway.settings import ConnectionSettings
from airflow_provider_aisa.core.images.inspect import ImageInfo, inspect
from airflow_provider_aisa.core.threads import or_undone
from airflow_provider_aisa.core.tls import ssl_context
from airflow_provider_aisa.exceptions import ImageLinkExpired, ImageUnavailable, ImageUnusable
from airflow_provider_aisa.version import __version__

MAX_IMAGE_BYTES: Final = 64 * 1024 * 1024
_MAX_REDIRECTS: Final = 5
_READ_TIMEOUT: Final = 60.0  # seconds without a byte
_BLOCK: Final = 256 * 1024  # bytes handed to the file at once
_GONE: Final = frozenset({401, 403, 410})
_EXPIRED: Final = _GONE | {404}  # A 404 is asked for again: the image may not have reached this edge yet.

_TRANSLATED: Final = IPv6Network("64:ff9b::/96")  # NAT64: holds an IPv4 address
_LOCALLY_TRANSLATED: Final = IPv6Network("64:ff9b:1::/48")  # RFC 8215; Python 3.11.7 calls it global

_fetching: ContextVar[bool] = ContextVar("aisa_fetching", default=False)


class _NoLinks(logging.Filter):
    """httpx logs every URL that it requests; a signed link in a task log is an image for whoever reads it."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not _fetching.get()


for _name in ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.http2", "httpcore.proxy"):
    logging.getLogger(_name).addFilter(_NoLinks())


@dataclass(frozen=True, slots=True)
class FetchedImage:
    """A complete image on disk. ``sha256`` is 64 hex digits."""

    path: Path
    bytes: int
    sha256: str
    info: ImageInfo


class Fetcher:
    """Downloads images without credentials. :func:`open_fetcher` makes one whose connections are checked.

    :param client: what the links are requested with.
    :param proxied: what those are requested with that a proxy is meant for; None when there is none.
    :param allow_loopback: whether plain http to this machine is allowed: the gateway is here too.
    :param max_retries: how often a broken download is tried again; that is free.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        *,
        proxied: httpx.AsyncClient | None = None,
        always_proxied: bool = False,
        allow_loopback: bool,
        max_retries: int,
        asleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client = client
        self._proxied = proxied
        self._always_proxied = always_proxied
        self._allow_loopback = allow_loopback
        self._max_retries = max_retries
        self._asleep = asleep

    async def fetch(self, url: str, path: Path) -> FetchedImage:
        """Download a link to a file, trying again when the connection or the file breaks off.

        :raises ImageLinkExpired: the link does not work any more.
        :raises ImageUnusable: it may not be fetched, or what it holds is no complete image.
        :raises ImageUnavailable: the server could not be reached, or failed, as often as it was asked.
        """
        with _no_links_in_logs():
            for attempt in range(self._max_retries):
                try:
                    return await self._fetch_once(url, path)
                except ImageUnavailable as e:
                    if isinstance(e, _Refused) or e.status in _GONE:
                        raise
                    await self._asleep(backoff(attempt))
            return await self._fetch_once(url, path)

    async def _fetch_once(self, url: str, path: Path) -> FetchedImage:
        try:
            sha256, length = await self._download(httpx.URL(url), path)
        except SSRFProtectionError as e:
            raise _Refused(f"the link leads to {e.ip_addr}, which is not a public address") from None
        except httpx.InvalidURL:
            raise _Refused("the link is not a URL") from None
        except httpx.HTTPError as e:
            # Its text may hold the link.
            raise ImageUnavailable(f"the download broke off ({type(e).__name__})") from None
        except OSError as e:
            raise ImageUnavailable(f"the temporary folder cannot hold the image: {e.strerror}") from None
        return FetchedImage(path, length, sha256, await asyncio.to_thread(inspect, path))

    async def _download(self, url: httpx.URL, path: Path) -> tuple[str, int]:
        for _ in range(_MAX_REDIRECTS + 1):
            self._check(url)
            async with self._client_for(url).stream("GET", url) as response:
                if not response.has_redirect_location:
                    _check_status(response)
                    return await _save(response, path)
                url = url.join(response.headers["location"])
        raise _Refused(f"the link redirects more than {_MAX_REDIRECTS} times")

    def _client_for(self, url: httpx.URL) -> httpx.AsyncClient:
        if self._proxied is None or (not self._always_proxied and proxy_bypass(url.host)):
            return self._client
        return self._proxied

    def _check(self, url: httpx.URL) -> None:
        """Refuse what needs no connection to be refused; the address itself is checked when connecting."""
        address = _literal_address(url.host)
        is_local = url.host == "localhost" or (address is not None and address.is_loopback)
        if url.scheme != "https" and not (url.scheme == "http" and is_local and self._allow_loopback):
            raise _Refused(f"the link is {url.scheme or 'no'}://, not https://")
        if address is not None and not _is_allowed(address, allow_loopback=self._allow_loopback):
            raise _Refused(f"the link leads to {address}, which is not a public address")


@asynccontextmanager
async def open_fetcher(
    settings: ConnectionSettings, *, asleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> AsyncIterator[Fetcher]:
    """Yield a Fetcher for the images of one gateway; use it on the event loop that opened it."""
    await asyncio.to_thread(ssl_context)
    async with AsyncExitStack() as stack:
        direct = await stack.enter_async_context(_client(settings, None))
        _protect(direct, allow_loopback=settings.is_loopback)
        # A proxy resolves the names itself, so what it lets through is its operator's choice. Links that
        # hold an address are still checked before they are requested.
        proxy = settings.proxy or (None if settings.is_loopback else getproxies().get("https"))
        proxied = await stack.enter_async_context(_client(settings, proxy)) if proxy else None
        yield Fetcher(
            direct,
            proxied=proxied,
            always_proxied=settings.proxy is not None,
            allow_loopback=settings.is_loopback,
            max_retries=settings.max_retries,
            asleep=asleep,
        )


def _client(settings: ConnectionSettings, proxy: str | None) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        timeout=httpx.Timeout(min(settings.timeout, _READ_TIMEOUT), connect=10.0, pool=None),
        headers={"User-Agent": f"airflow-provider-aisa/{__version__}", "Accept-Encoding": "identity"},
        verify=ssl_context(),
        proxy=proxy,
        trust_env=False,
    )


def _protect(client: httpx.AsyncClient, *, allow_loopback: bool) -> None:
    """Have each connection's address checked when it is made, which no trick with names gets around."""

    def is_allowed(_host: str, address: IPv4Address | IPv6Address, _port: int) -> bool:
        return _is_allowed(address, allow_loopback=allow_loopback)

    httpx_ssrf_protection(client, check_globally_reachable=not allow_loopback, custom_validator=is_allowed)


class _Refused(ImageUnusable):
    """Asking again would be refused again."""


@contextmanager
def _no_links_in_logs() -> Iterator[None]:
    token = _fetching.set(True)
    try:
        yield
    finally:
        _fetching.reset(token)


def _is_allowed(address: IPv4Address | IPv6Address, *, allow_loopback: bool) -> bool:
    if isinstance(address, IPv6Address) and address in _TRANSLATED:
        address = IPv4Address(address.packed[-4:])
    if isinstance(address, IPv6Address) and address in _LOCALLY_TRANSLATED:
        return False
    return address.is_global or (allow_loopback and address.is_loopback)


def _literal_address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _check_status(response: httpx.Response) -> None:
    status = response.status_code
    if status in _EXPIRED:
        msg = f"the link does not work any more (HTTP {status})"
        raise ImageLinkExpired(msg, status=status)
    if status != 200:
        msg = f"the image server answered HTTP {status}"
        raise ImageUnavailable(msg, status=status)
    _check_length(int(response.headers.get("content-length") or 0))


def _check_length(length: int) -> None:
    if length > MAX_IMAGE_BYTES:
        raise _Refused(f"the image is larger than {MAX_IMAGE_BYTES // 1024**2} MiB")


async def _save(response: httpx.Response, path: Path) -> tuple[str, int]:
    """Write a body to a file, in a thread; return its SHA-256 and its length in bytes."""
    digest = hashlib.sha256()
    length = 0
    file = await or_undone(lambda: path.open("wb"), lambda file: file.close())

    def keep(block: bytes) -> None:
        digest.update(block)
        file.write(block)

    with file:
        async for block in response.aiter_bytes(_BLOCK):
            length += len(block)
            _check_length(length)
            await asyncio.to_thread(keep, block)
    return digest.hexdigest(), length
