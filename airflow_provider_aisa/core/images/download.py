"""Links come in a response, so they are input: no credentials go along, and nothing private is reached.

https and public addresses only; http on loopback when the gateway itself is there. Redirects are checked
like links. A body goes to a file as it comes, as many bytes as were sent: it is never decoded, so a small
answer cannot become a large one, and memory does not grow with an image's size.
"""

from __future__ import annotations

import hashlib
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from itertools import count
from typing import BinaryIO, Final

import httpx

from airflow_provider_aisa.core.gateway.retries import backoff
from airflow_provider_aisa.core.gateway.settings import ConnectionSettings
from airflow_provider_aisa.core.images.addresses import is_allowed, is_loopback, literal_address, why_refused
from airflow_provider_aisa.core.images.inspect import ImageInfo, inspect
from airflow_provider_aisa.core.net.deadline import Deadline
from airflow_provider_aisa.core.net.proxies import read_proxies
from airflow_provider_aisa.core.net.sockets import Resolver, resolve
from airflow_provider_aisa.core.net.transport import CannotConnect, Transport
from airflow_provider_aisa.core.threads import Stop
from airflow_provider_aisa.exceptions import ImageLinkExpired, ImageUnavailable, ImageUnusable
from airflow_provider_aisa.version import __version__

MAX_IMAGE_BYTES: Final = 64 * 1024 * 1024
#: Seconds for one link in all, its retries and redirects included.
DOWNLOAD_TIMEOUT: Final = 300.0
_MAX_REDIRECTS: Final = 5
_BLOCK: Final = 256 * 1024  # bytes that are hashed and written at once
_KEPT_ALIVE: Final = 32  # idle connections; a new one costs a handshake
_GONE: Final = frozenset({401, 403, 410})
_EXPIRED: Final = _GONE | {404}  # A 404 is asked for again: the image may not have reached this edge yet.

_HEADERS: Final = {
    "User-Agent": f"airflow-provider-aisa/{__version__}",
    "Accept": "*/*",
    "Accept-Encoding": "identity",
}


@dataclass(frozen=True, slots=True)
class FetchedImage:
    """A complete image in a file. ``bytes`` is its length, ``sha256`` 64 hex digits."""

    bytes: int
    sha256: str
    info: ImageInfo


class Fetcher:
    """Downloads images without credentials, from any thread. Each call blocks; see :func:`open_fetcher`.

    :param make_transport: makes what sends the requests; called once, in the thread of the first download.
    :param allow_loopback: whether plain http to this machine is allowed: the gateway is here too.
    :param max_retries: how often a broken download is tried again; that is free.
    :param timeout: seconds for one image in all.
    """

    def __init__(
        self,
        make_transport: Callable[[], httpx.BaseTransport],
        *,
        allow_loopback: bool,
        max_retries: int,
        timeout: float = DOWNLOAD_TIMEOUT,
        sleep: Callable[[Stop, float], None] = Stop.sleep,
    ) -> None:
        self._make_transport = make_transport
        self._allow_loopback = allow_loopback
        self._max_retries = max_retries
        self._timeout = timeout
        self._sleep = sleep
        self._opening = threading.Lock()
        self._transport: httpx.BaseTransport | None = None

    def fetch(self, url: str, file: BinaryIO, stop: Stop) -> FetchedImage:
        """Download a link to an empty file, trying again when the connection or the image breaks off.

        :param file: open for reading and writing, without a buffer.
        :param stop: when it is set, the download ends at once.
        :raises ImageLinkExpired: the link does not work any more.
        :raises ImageUnusable: it may not be fetched (then it is not retryable), or what it holds is no
            complete image.
        :raises ImageUnavailable: the server could not be reached, or failed, as often as it was asked, or
            this machine's temporary folder cannot hold the image.
        :raises Stopped: ``stop`` was set.
        """
        deadline = Deadline(self._timeout)
        with stop.calling(deadline.cancel):
            for attempt in count():
                try:
                    return self._fetch_once(url, file, deadline)
                except ImageUnavailable as e:
                    stop.check()
                    pause = backoff(attempt)
                    if attempt == self._max_retries or _is_final(e) or pause >= deadline.left:
                        raise
                    self._sleep(stop, pause)
        raise AssertionError  # count() has no end

    def close(self) -> None:
        """Close the connections that are kept for further images."""
        if self._transport is not None:
            self._transport.close()

    def _fetch_once(self, url: str, file: BinaryIO, deadline: Deadline) -> FetchedImage:
        try:
            sha256, length = self._download(_parse(url), file, deadline)
        except CannotConnect as e:
            raise ImageUnavailable(
                f"the image server could not be reached: {e}", retryable=not e.is_final
            ) from None
        except httpx.HTTPError as e:
            if deadline.is_over:
                raise ImageUnavailable(f"the download was not complete after {float(deadline):g} s") from None
            # Not its text, which may hold the link.
            raise ImageUnavailable(f"the download broke off ({type(e).__name__})") from None
        return FetchedImage(length, sha256, inspect(file))

    def _download(self, url: httpx.URL, file: BinaryIO, deadline: Deadline) -> tuple[str, int]:
        for _ in range(_MAX_REDIRECTS + 1):
            self._check(url)
            with closing(self._ask(url, deadline)) as response:
                if not response.has_redirect_location:
                    _check_answer(response)
                    return _save(response, file)
                url = _join(url, response.headers["location"])
        raise refused(f"the link redirects more than {_MAX_REDIRECTS} times")

    def _ask(self, url: httpx.URL, deadline: Deadline) -> httpx.Response:
        """Send one request. No httpx client takes part: it would keep cookies and log links."""
        with self._opening:
            transport = self._transport = self._transport or self._make_transport()
        request = httpx.Request("GET", url, headers=_HEADERS, extensions={"deadline": deadline})
        return transport.handle_request(request)

    def _check(self, url: httpx.URL) -> None:
        """Refuse what needs no connection to be refused; each address is judged when connecting."""
        host = url.raw_host.decode("ascii")
        is_local = host == "localhost" or is_loopback(literal_address(host))
        if url.scheme != "https" and not (url.scheme == "http" and is_local and self._allow_loopback):
            raise refused(f"the link is {url.scheme[:20] or 'no'}://, not https://")
        if url.userinfo:
            raise refused("the link holds a user name, and no credentials are sent to where links lead")
        if problem := why_refused(host, allow_loopback=self._allow_loopback):
            raise refused(f"the link {problem}")


@contextmanager
def open_fetcher(
    settings: ConnectionSettings,
    *,
    timeout: float = DOWNLOAD_TIMEOUT,
    sleep: Callable[[Stop, float], None] = Stop.sleep,
    resolver: Resolver = resolve,
    tls: ssl.SSLContext | None = None,
) -> Iterator[Fetcher]:
    """Yield a Fetcher for the images of one gateway.

    :param timeout: seconds for one image in all.
    :param resolver: for tests, as of :class:`Transport`.
    :param tls: for tests, as of :class:`Transport`.
    :raises InvalidConnection: a proxy is named that cannot be used.
    """
    proxies = read_proxies(settings)

    def judge(_host: str, address: IPv4Address | IPv6Address) -> None:
        if not is_allowed(address, allow_loopback=settings.is_loopback):
            raise refused(f"the link leads to {address}, which is not a public address")

    def make_transport() -> Transport:
        return Transport(
            timeout=timeout,
            proxies=proxies,
            judge=judge,
            kept_alive=_KEPT_ALIVE,
            resolver=resolver,
            tls=tls,
        )

    fetcher = Fetcher(
        make_transport,
        allow_loopback=settings.is_loopback,
        max_retries=settings.max_retries,
        timeout=timeout,
        sleep=sleep,
    )
    try:
        yield fetcher
    finally:
        fetcher.close()


def refused(what: str) -> ImageUnusable:
    """Return the error of a link that would be refused whenever it is asked for."""
    return ImageUnusable(what, retryable=False)


def check_length(length: int) -> None:
    """Raise ImageUnusable, for good, when an image is larger than is stored."""
    if length > MAX_IMAGE_BYTES:
        raise refused(f"the image is larger than {MAX_IMAGE_BYTES // 1024**2} MiB")


class HashedFile:
    """Writes a file from its beginning and hashes what it writes. Memory stays at one block."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._block = memoryview(bytearray(_BLOCK))
        self._filled = 0
        self.length = 0
        with reported_folder():
            file.seek(0)
            file.truncate()

    def write(self, data: bytes) -> None:
        """Take some bytes; an image that becomes too large is refused before more of it is taken."""
        self.length += len(data)
        check_length(self.length)
        if self._filled + len(data) > _BLOCK:
            self._flush()
        if len(data) >= _BLOCK:
            self._put(memoryview(data))
            return
        # Each hash and each write gives up the GIL and waits to get it back: a few large blocks beat many.
        self._block[self._filled : self._filled + len(data)] = data
        self._filled += len(data)

    def close(self) -> str:
        """Write the rest and return the SHA-256 of all."""
        self._flush()
        return self._digest.hexdigest()

    def _flush(self) -> None:
        self._put(self._block[: self._filled])
        self._filled = 0

    def _put(self, block: memoryview) -> None:
        self._digest.update(block)
        with reported_folder():
            while block:
                block = block[self._file.write(block) :]


@contextmanager
def reported_folder() -> Iterator[None]:
    """Turn what the operating system says about a temporary file into a typed error."""
    try:
        yield
    except OSError as e:
        raise ImageUnavailable(f"the temporary folder cannot hold the image: {e.strerror}") from None


def _is_final(error: ImageUnavailable) -> bool:
    if isinstance(error, ImageLinkExpired):
        return error.status in _GONE
    return not error.retryable


def _parse(url: str) -> httpx.URL:
    try:
        return httpx.URL(url)
    except (httpx.InvalidURL, ValueError):  # ValueError: half a character, which no URL can hold
        raise refused("the link is not a URL") from None


def _join(url: httpx.URL, location: str) -> httpx.URL:
    try:
        return url.join(location)
    except (httpx.InvalidURL, ValueError):
        raise refused("the link redirects to something that is not a URL") from None


def _check_answer(response: httpx.Response) -> None:
    status = response.status_code
    if status in _EXPIRED:
        raise ImageLinkExpired(f"the link does not work any more (HTTP {status})", status=status)
    if status != 200:
        raise ImageUnavailable(f"the image server answered HTTP {status}", status=status)
    encoding = response.headers.get("content-encoding", "").strip().lower()
    if encoding not in {"", "identity"}:
        # Not its name, which a peer wrote.
        raise refused("the image server compresses what it sends, although it was asked not to")
    length = response.headers.get("content-length", "")
    if length.isdecimal():
        check_length(int(length))


def _save(response: httpx.Response, file: BinaryIO) -> tuple[str, int]:
    """Write a body to a file as it was sent; return its SHA-256 and its length in bytes."""
    written = HashedFile(file)
    for block in response.iter_raw():
        written.write(block)
    return written.close(), written.length
