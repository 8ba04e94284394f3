"""One gateway, sync and async. A request that may have been billed is never sent again by itself.

What may be sent again: a request that never left (no connection), 429 after its Retry-After, and 5xx, which
is an answer without images. A connection that dies after the body was sent, or a read timeout, is
OutcomeUnknown. Any other 4xx, and a spend cap that is reached, are final.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urljoin, urlsplit

import httpx

from airflow_provider_aisa import __version__
from airflow_provider_aisa.core.pacing import Pacer, pacer_for
from airflow_provider_aisa.core.request import ImageRequest
from airflow_provider_aisa.core.response import GenerationResponse, read_error, read_generation
from airflow_provider_aisa.core.settings import Settings
from airflow_provider_aisa.exceptions import (
    AisaError,
    GatewayFailed,
    InvalidRequest,
    OutcomeUnknown,
    RateLimited,
)

IMAGES_ENDPOINT: Final = "images/generations"
MODELS_ENDPOINT: Final = "models"
#: Seconds that one call may spend waiting between its attempts, as AIsa's documentation asks.
MAX_WAIT: Final = 60.0
_CONNECT_TIMEOUT: Final = 10.0
_IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS"})
#: The request did not leave. A write error is none of them: what the network was handed may still arrive.
_NOT_SENT: Final = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.LocalProtocolError,
    httpx.UnsupportedProtocol,
)

Outcome = httpx.Response | httpx.HTTPError


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request to the gateway, before it is sent."""

    method: str
    endpoint: str
    json: Any = None
    params: Any = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def may_be_repeated(self) -> bool:
        """Whether sending it twice does no more than sending it once."""
        return self.method.upper() in _IDEMPOTENT


@cache
def ssl_context() -> ssl.SSLContext:
    """Return the process's one TLS context: reading the certificate store takes tens of milliseconds."""
    return httpx.create_ssl_context()


def backoff(attempt: int, randomness: Callable[[], float] = random.random) -> float:
    """Return the seconds to wait after failed attempt number ``attempt`` (from 0): 1 s, doubling, ±25 %."""
    return min(30.0, 2.0**attempt * (0.75 + 0.5 * randomness()))


class Attempts:
    """Decides what follows an outcome. The only thing that sync and async do not share is the waiting."""

    def __init__(
        self, call: Call, settings: Settings, *, max_wait: float, randomness: Callable[[], float]
    ) -> None:
        self._call = call
        self._settings = settings
        self._left = max_wait
        self._randomness = randomness
        self._sent = 0

    @property
    def patience(self) -> float:
        """Seconds that this call may still wait."""
        return self._left

    def next_delay(self, outcome: Outcome) -> float:
        """Return the seconds to wait before sending again after an outcome that is no success.

        :raises AisaError: sending again is useless, could pay twice, or would take too long.
        """
        error = self._read(outcome)
        self._sent += 1
        if not isinstance(error, RateLimited | GatewayFailed):
            raise error
        delay = backoff(self._sent - 1, self._randomness)
        if error.retry_after is not None:
            delay = max(error.retry_after, 0.0)
        if self._sent > self._settings.max_retries or delay > self._left:
            raise error
        self._left -= delay
        return delay

    def _read(self, outcome: Outcome) -> AisaError:
        if isinstance(outcome, httpx.Response):
            return read_error(outcome, api_key=self._settings.api_key)
        where = urlsplit(self._settings.base_url).netloc
        what = type(outcome).__name__  # Not its text, which a proxy or a peer may have written.
        if isinstance(outcome, _NOT_SENT):
            return GatewayFailed(
                f"AIsa at {where} could not be reached ({what}); nothing was sent. Check the host of "
                f"connection {self._settings.conn_id!r}, the network and the proxy, then try again."
            )
        if self._call.may_be_repeated:
            return GatewayFailed(f"AIsa at {where} did not answer ({what}). Try again.")
        return OutcomeUnknown(
            f"the request was sent to {where} and no response came back ({what}): what it asked for may have "
            "been done and billed. Look at the usage page of the AIsa console before paying again."
        )


class AisaClient:
    """Authenticated calls to one gateway, paced, retried where that is safe, with typed errors.

    :param settings: from a connection.
    :param pacer: None to share one with every client of the same key in this process.
    :param transport: what sends the sync requests; for tests, an ``httpx.MockTransport``.
    :param async_transport: what sends the async ones.
    :param max_wait: seconds that one call may wait between attempts.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        pacer: Pacer | None = None,
        transport: httpx.BaseTransport | None = None,
        async_transport: httpx.AsyncBaseTransport | None = None,
        max_wait: float = MAX_WAIT,
        sleep: Callable[[float], None] = time.sleep,
        randomness: Callable[[], float] = random.random,
    ) -> None:
        self.settings = settings
        self._pacer = pacer or pacer_for(settings)
        self._transport = transport
        self._async_transport = async_transport
        self._max_wait = max_wait
        self._sleep = sleep
        self._randomness = randomness
        self._sync: httpx.Client | None = None
        self._async: httpx.AsyncClient | None = None

    def generate(self, request: ImageRequest) -> GenerationResponse:
        """Send one billable request and read its response.

        :raises OutcomeUnknown: the connection died after the body was sent, or the answer is unreadable.
        :raises RateLimited: the gateway wants a longer wait than this call may take.
        :raises AisaError: the other children, as their names say; nothing was billed.
        """
        return read_generation(self.send(_generation(request)), model=request.model)

    async def agenerate(self, request: ImageRequest) -> GenerationResponse:
        """Do what :meth:`generate` does, without blocking the event loop."""
        return read_generation(await self.asend(_generation(request)), model=request.model)

    def list_models(self) -> list[str]:
        """Return the ids of the models that the key may use. Free."""
        return _model_ids(self.send(Call("GET", MODELS_ENDPOINT)))

    async def alist_models(self) -> list[str]:
        """Do what :meth:`list_models` does, without blocking the event loop."""
        return _model_ids(await self.asend(Call("GET", MODELS_ENDPOINT)))

    def send(self, call: Call) -> httpx.Response:
        """Send any call and return its 2xx response; raises as :meth:`generate` does."""
        attempts = self._attempts(call)
        client = self._sync = self._sync or httpx.Client(transport=self._transport, **self._options())
        request = self._build(client, call)
        while True:
            with self._pacer.slot(self._sleep, patience=attempts.patience):
                try:
                    outcome: Outcome = client.send(request)
                except httpx.HTTPError as e:
                    outcome = e
            if (response := self._success(outcome)) is not None:
                return response
            self._sleep(self._delay(outcome, attempts))

    async def asend(self, call: Call) -> httpx.Response:
        """Do what :meth:`send` does, without blocking the event loop."""
        attempts = self._attempts(call)
        if self._async is None:
            await asyncio.to_thread(ssl_context)
            self._async = self._async or httpx.AsyncClient(transport=self._async_transport, **self._options())
        client = self._async
        request = self._build(client, call)
        while True:
            async with self._pacer.aslot(patience=attempts.patience):
                try:
                    outcome: Outcome = await client.send(request)
                except httpx.HTTPError as e:
                    outcome = e
            if (response := self._success(outcome)) is not None:
                return response
            await asyncio.sleep(self._delay(outcome, attempts))

    def close(self) -> None:
        """Close the connections of the sync calls."""
        if self._sync is not None:
            self._sync.close()
            self._sync = None

    async def aclose(self) -> None:
        """Close the connections of the async calls."""
        if self._async is not None:
            await self._async.aclose()
            self._async = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _attempts(self, call: Call) -> Attempts:
        return Attempts(call, self.settings, max_wait=self._max_wait, randomness=self._randomness)

    def _success(self, outcome: Outcome) -> httpx.Response | None:
        if isinstance(outcome, httpx.HTTPError):
            return None
        self._pacer.observe(outcome.headers)
        return outcome if outcome.is_success else None

    def _delay(self, outcome: Outcome, attempts: Attempts) -> float:
        try:
            delay = attempts.next_delay(outcome)
        except RateLimited as e:
            self._pacer.pause(e.retry_after or 0.0)
            raise
        if isinstance(outcome, httpx.Response) and outcome.status_code == 429:
            self._pacer.pause(delay)
        return delay

    def _build(self, client: httpx.Client | httpx.AsyncClient, call: Call) -> httpx.Request:
        url = self._url(call.endpoint)
        headers = {
            **call.headers,
            "Authorization": f"Bearer {self.settings.api_key}",
            "User-Agent": f"airflow-provider-aisa/{__version__}",
        }
        return client.build_request(call.method, url, json=call.json, params=call.params, headers=headers)

    def _url(self, endpoint: str) -> str:
        """Return the URL of an endpoint below the base URL, or of a path from its root ('/v1beta/…')."""
        url = urljoin(f"{self.settings.base_url}/", endpoint)
        home, target = urlsplit(self.settings.base_url), urlsplit(url)
        if (home.scheme, home.netloc) != (target.scheme, target.netloc):
            msg = (
                f"endpoint {endpoint!r} is not on {home.netloc}: the key of connection "
                f"{self.settings.conn_id!r} goes nowhere else. Use a path such as 'chat/completions'"
            )
            raise InvalidRequest(msg)
        return url

    def _options(self) -> dict[str, Any]:
        timeout = self.settings.timeout
        return {
            "timeout": httpx.Timeout(timeout, connect=min(_CONNECT_TIMEOUT, timeout), pool=None),
            "proxy": self.settings.proxy,
            "verify": ssl_context(),
            "follow_redirects": False,  # The key stays with the gateway.
            # A kept-alive connection can be closed by the peer in the very moment in which a request is
            # sent on it, which then looks like a lost response. Next to a generation a handshake is cheap.
            "limits": httpx.Limits(max_connections=None, max_keepalive_connections=0),
        }


def _generation(request: ImageRequest) -> Call:
    return Call("POST", IMAGES_ENDPOINT, json=request.payload())


def _model_ids(response: httpx.Response) -> list[str]:
    try:
        return [str(model["id"]) for model in response.json()["data"]]
    except (ValueError, KeyError, TypeError):
        msg = (
            "AIsa answered GET /models with something that is no list of models: check the connection's host"
        )
        raise GatewayFailed(msg, status=response.status_code) from None
