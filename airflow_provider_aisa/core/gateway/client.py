"""One gateway, sync and async. A request that may have been billed is never sent again by itself."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urljoin, urlsplit

import httpx

from airflow_provider_aisa.core.gateway.pacing import Pacer, pacer_for
from airflow_provider_aisa.core.gateway.request import ImageRequest
from airflow_provider_aisa.core.gateway.response import GenerationResponse, read_generation
from airflow_provider_aisa.core.gateway.retries import Call, Outcome, Retries
from airflow_provider_aisa.core.gateway.settings import ConnectionSettings
from airflow_provider_aisa.core.tls import ssl_context
from airflow_provider_aisa.exceptions import (
    GatewayFailed,
    InvalidRequest,
    RateLimited,
)
from airflow_provider_aisa.version import __version__

IMAGES_ENDPOINT: Final = "images/generations"
MODELS_ENDPOINT: Final = "models"
#: Seconds that one call may spend waiting between its attempts, as AIsa's documentation asks.
MAX_WAIT: Final = 60.0
_CONNECT_TIMEOUT: Final = 10.0


class AisaClient:
    """Authenticated calls to one gateway, paced, retried where that is safe, with typed errors.

    :param settings: from a connection.
    :param pacer: None to share one with every client of the same key in this process.
    :param transport: what sends the sync requests; for tests, an ``httpx.MockTransport``.
    :param async_transport: what sends the async ones.
    :param max_wait: seconds that one call may wait between attempts; infinite to wait out rate limits,
        however long they last.
    """

    def __init__(
        self,
        settings: ConnectionSettings,
        *,
        pacer: Pacer | None = None,
        transport: httpx.BaseTransport | None = None,
        async_transport: httpx.AsyncBaseTransport | None = None,
        max_wait: float = MAX_WAIT,
        sleep: Callable[[float], None] = time.sleep,
        asleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        randomness: Callable[[], float] = random.random,
    ) -> None:
        self.settings = settings
        self._pacer = pacer or pacer_for(settings)
        self._transport = transport
        self._async_transport = async_transport
        self._max_wait = max_wait
        self._sleep = sleep
        self._asleep = asleep
        self._randomness = randomness
        #: How often the gateway has asked to wait, and how often it has answered with success.
        self.rate_limits = 0
        self.successes = 0
        self._opening = threading.Lock()
        self._sync: httpx.Client | None = None
        self._async: httpx.AsyncClient | None = None

    def exchange(self, call: Call) -> Outcome:
        """Send a call once, with no slot and no second attempt, and return what came of it."""
        with self._opening:  # Threads share a client.
            client = self._sync = self._sync or httpx.Client(transport=self._transport, **self._options())
        try:
            return client.send(self._build(client, call))
        except httpx.HTTPError as e:
            return e

    async def aexchange(self, call: Call) -> Outcome:
        """Do what :meth:`exchange` does, without blocking the event loop."""
        if self._async is None:
            await asyncio.to_thread(ssl_context)
            self._async = self._async or httpx.AsyncClient(transport=self._async_transport, **self._options())
        try:
            return await self._async.send(self._build(self._async, call))
        except httpx.HTTPError as e:
            return e

    def generate(self, request: ImageRequest) -> GenerationResponse:
        """Send one billable request and read its response.

        :raises OutcomeUnknown: the connection died after the body was sent, or the answer is unreadable.
        :raises RateLimited: the gateway wants a longer wait than this call may take.
        :raises AisaError: the other children, as their names say; nothing was billed.
        """
        return read_generation(self.send(generation(request)), model=request.model)

    async def agenerate(self, request: ImageRequest) -> GenerationResponse:
        """Do what :meth:`generate` does, without blocking the event loop."""
        return read_generation(await self.asend(generation(request)), model=request.model)

    def list_models(self) -> list[str]:
        """Return the ids of the models that the key may use. Free."""
        return _model_ids(self.send(Call("GET", MODELS_ENDPOINT)))

    async def alist_models(self) -> list[str]:
        """Do what :meth:`list_models` does, without blocking the event loop."""
        return _model_ids(await self.asend(Call("GET", MODELS_ENDPOINT)))

    def send(self, call: Call) -> httpx.Response:
        """Send any call and return its 2xx response; raises as :meth:`generate` does."""
        attempts = self._attempts(call)
        while True:
            with self._pacer.slot(self._sleep, patience=attempts.patience):
                outcome = self.exchange(call)
            if (response := self._success(outcome)) is not None:
                return response
            self._sleep(self._delay(outcome, attempts))

    async def asend(
        self, call: Call, *, exchange: Callable[[Call], Awaitable[Outcome]] | None = None
    ) -> httpx.Response:
        """Do what :meth:`send` does, without blocking the event loop.

        :param exchange: sends the call once, while this method paces and decides; by default
            :meth:`aexchange`. What it raises ends the call.
        """
        attempts = self._attempts(call)
        while True:
            async with self._pacer.aslot(self._asleep, patience=attempts.patience):
                outcome = await (exchange or self.aexchange)(call)
            if (response := self._success(outcome)) is not None:
                return response
            await self._asleep(self._delay(outcome, attempts))

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

    def _attempts(self, call: Call) -> Retries:
        return Retries(call, self.settings, max_wait=self._max_wait, randomness=self._randomness)

    def _success(self, outcome: Outcome) -> httpx.Response | None:
        if isinstance(outcome, httpx.HTTPError):
            return None
        self._pacer.observe(outcome.headers)
        self.successes += outcome.is_success
        return outcome if outcome.is_success else None

    def _delay(self, outcome: Outcome, attempts: Retries) -> float:
        try:
            delay = attempts.next_delay(outcome)
        except RateLimited as e:
            self.rate_limits += 1
            self._pacer.pause(e.retry_after or 0.0)
            raise
        if isinstance(outcome, httpx.Response) and outcome.status_code == 429:
            self.rate_limits += 1
            self._pacer.pause(delay)
        return delay

    def _build(self, client: httpx.Client | httpx.AsyncClient, call: Call) -> httpx.Request:
        url = self._url(call.endpoint)
        headers = httpx.Headers(call.headers)  # It knows no case: nobody's own key goes along.
        headers["Authorization"] = f"Bearer {self.settings.api_key}"
        headers["User-Agent"] = f"airflow-provider-aisa/{__version__}"
        try:
            return client.build_request(call.method, url, json=call.json, params=call.params, headers=headers)
        except (httpx.InvalidURL, TypeError, ValueError) as e:
            raise InvalidRequest(f"{call.method} {call.endpoint!r} cannot be sent: {e}") from None

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
            "trust_env": not self.settings.is_loopback,  # No proxy reaches this machine's own sandbox.
            "verify": ssl_context(),
            "follow_redirects": False,  # The key stays with the gateway.
            # A kept-alive connection can be closed by the peer in the very moment in which a request is
            # sent on it, which then looks like a lost response. Next to a generation a handshake is cheap.
            "limits": httpx.Limits(max_connections=None, max_keepalive_connections=0),
        }


def generation(request: ImageRequest, *, at_most_once: bool = False) -> Call:
    """Return the call that generates a request's images."""
    return Call("POST", IMAGES_ENDPOINT, json=request.payload(), at_most_once=at_most_once)


def _model_ids(response: httpx.Response) -> list[str]:
    try:
        return [str(model["id"]) for model in response.json()["data"]]
    except (ValueError, KeyError, TypeError):
        msg = (
            "AIsa answered GET /models with something that is no list of models: check the connection's host"
        )
        raise GatewayFailed(msg, status=response.status_code) from None
