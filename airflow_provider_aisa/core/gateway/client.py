"""One gateway and one way of sending. A request that may have been billed is never sent again by itself."""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urljoin, urlsplit

import httpx

from airflow_provider_aisa.core.gateway.answers import clean, read_object, receive
from airflow_provider_aisa.core.gateway.pacing import Pacer, pacer_for
from airflow_provider_aisa.core.gateway.references import Attachment
from airflow_provider_aisa.core.gateway.request import ImageRequest
from airflow_provider_aisa.core.gateway.response import GenerationResponse
from airflow_provider_aisa.core.gateway.retries import Call, Outcome, Retries
from airflow_provider_aisa.core.gateway.routes import generation, route_of
from airflow_provider_aisa.core.gateway.settings import ConnectionSettings
from airflow_provider_aisa.core.net.proxies import read_proxies
from airflow_provider_aisa.core.net.transport import CannotConnect, Transport
from airflow_provider_aisa.core.threads import apart
from airflow_provider_aisa.exceptions import (
    GatewayFailed,
    InvalidConnection,
    InvalidRequest,
    RateLimited,
)
from airflow_provider_aisa.version import __version__

log = logging.getLogger(__name__)

MODELS_ENDPOINT: Final = "models"
#: Seconds that one call may spend waiting between its attempts, as AIsa's documentation asks.
MAX_WAIT: Final = 60.0
#: Headers of a caller's that are dropped: the key's, the host's, and how the bytes travel.
_OURS: Final = frozenset(
    {
        "accept-encoding",
        "authorization",
        "connection",
        "content-length",
        "host",
        "proxy-authorization",
        "transfer-encoding",
        "user-agent",
    }
)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t -~]*")


class AisaClient:
    """Authenticated calls to one gateway, paced, retried where that is safe, with typed errors.

    The async methods wait for the sync ones in a thread. A client may be shared by threads and event loops.

    :param settings: from a connection.
    :param pacer: None to share one with every client of the same key in this process.
    :param transport: what sends the requests; for tests, an ``httpx.MockTransport``.
    :param max_wait: seconds that one call may wait between attempts; infinite to wait out rate limits,
        however often they come.
    :raises InvalidConnection: the proxy that the connection or the environment names cannot be used.
    """

    def __init__(
        self,
        settings: ConnectionSettings,
        *,
        pacer: Pacer | None = None,
        transport: httpx.BaseTransport | None = None,
        max_wait: float = MAX_WAIT,
        sleep: Callable[[float], None] = time.sleep,
        asleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        randomness: Callable[[], float] = random.random,
    ) -> None:
        self.settings = settings
        #: How to wait for what :meth:`next_delay` returns.
        self.sleep, self.asleep = sleep, asleep
        #: How often the gateway has asked to wait, and how often it has answered with success.
        self.rate_limits = 0
        self.successes = 0
        proxies = read_proxies(settings)  # Whatever is wrong with them is said before anything is claimed.
        # No connection is kept: it can be closed by the peer in the very moment in which a request is sent
        # on it, which then looks like a lost response. Next to a generation a handshake is cheap.
        self._transport = transport or Transport(timeout=settings.timeout, proxies=proxies)
        self._pacer = pacer or pacer_for(settings)
        self._max_wait = max_wait
        self._randomness = randomness

    # --- the parts that a purchase is made of

    def exchange(self, call: Call) -> Outcome:
        """Send a call once, with no slot and no second attempt, and return what came of it.

        It ends within the connection's ``timeout`` as a whole.

        :raises InvalidRequest: the call cannot be sent as it is; nothing was sent.
        """
        request = self._build(call)
        try:
            return receive(self._transport.handle_request(request), request, limit=call.answer_limit)
        except httpx.HTTPError as e:
            return e
        except InvalidConnection as e:  # The certificates to believe cannot be read: nothing was sent.
            return CannotConnect(str(e), is_final=True)

    def retries(self, call: Call) -> Retries:
        """Return what decides whether and when a call is sent again."""
        return Retries(call, self.settings, max_wait=self._max_wait, randomness=self._randomness)

    @contextmanager
    def slot(self, call: Call, *, patience: float) -> Iterator[None]:
        """Hold a slot of the key while a request is in flight, once its model's turn has come. For threads.

        :param patience: seconds; a pause that lasts longer raises RateLimited instead.
        """
        with ExitStack() as stack:
            if call.own_rate is not None:
                own = self._pacer.of_model(*call.own_rate)
                stack.enter_context(own.slot(self.sleep, patience=patience))
            stack.enter_context(self._pacer.slot(self.sleep, patience=patience))
            yield

    @asynccontextmanager
    async def aslot(
        self, call: Call, *, patience: float, sleep: Callable[[float], Awaitable[None]] | None = None
    ) -> AsyncIterator[None]:
        """Do what :meth:`slot` does, for event loops.

        :param sleep: how to wait for the turn; None for the client's own way.
        """
        wait = sleep or self.asleep
        async with AsyncExitStack() as stack:
            if call.own_rate is not None:
                own = self._pacer.of_model(*call.own_rate)
                await stack.enter_async_context(own.aslot(wait, patience=patience))
            await stack.enter_async_context(self._pacer.aslot(wait, patience=patience))
            yield

    def next_delay(self, outcome: Outcome, retries: Retries) -> float | None:
        """Return the seconds to wait before the call is sent again; None for a success.

        Every outcome has to be told here: it slows all users of the key down when the gateway asks for that.

        :raises AisaError: it must not, or need not, be sent again.
        """
        if isinstance(outcome, httpx.Response):
            self._pacer.observe(outcome.headers)
            if outcome.is_success:
                self.successes += 1
                return None
        try:
            delay = retries.next_delay(outcome)
        except RateLimited as e:
            self.rate_limits += 1
            self._pacer.pause(e.retry_after or 0.0)
            raise
        if isinstance(outcome, httpx.Response) and outcome.status_code == 429:
            self.rate_limits += 1
            self._pacer.pause(delay)
        return delay

    def read(self, response: httpx.Response, request: ImageRequest) -> GenerationResponse:
        """Read the success that a request was answered with.

        :raises OutcomeUnknown: it is not the answer to a billed request, or (ImageRefused) it holds no image.
        """
        return route_of(request).read(response, request, api_key=self.settings.api_key)

    # --- whole calls

    def generate(self, request: ImageRequest, attachments: Sequence[Attachment] = ()) -> GenerationResponse:
        """Send one billable request and read its response.

        :param attachments: what stands for its reference images.
        :raises OutcomeUnknown: the connection died after the body was sent, or the answer is unreadable.
        :raises RateLimited: the gateway wants a longer wait than this call may take.
        :raises AisaError: the other children, as their names say.
        """
        return self.read(self.send(generation(request, attachments=attachments)), request)

    async def agenerate(
        self, request: ImageRequest, attachments: Sequence[Attachment] = ()
    ) -> GenerationResponse:
        """Do what :meth:`generate` does, without blocking the event loop."""
        return self.read(await self.asend(generation(request, attachments=attachments)), request)

    def list_models(self) -> list[dict[str, Any]]:
        """Return the models that the key may use, as the gateway lists them. Free.

        Each has an ``id``; ``object``, ``created``, ``owned_by`` and ``supported_endpoint_types`` are there
        when the gateway says them.
        """
        return self._models(self.send(Call("GET", MODELS_ENDPOINT)))

    async def alist_models(self) -> list[dict[str, Any]]:
        """Do what :meth:`list_models` does, without blocking the event loop."""
        return self._models(await self.asend(Call("GET", MODELS_ENDPOINT)))

    def send(self, call: Call) -> httpx.Response:
        """Send any call and return its 2xx response; raises as :meth:`generate` does."""
        retries = self.retries(call)
        while True:
            with self.slot(call, patience=retries.patience):
                outcome = self.exchange(call)
            delay = self.next_delay(outcome, retries)
            if delay is None and isinstance(outcome, httpx.Response):
                return outcome
            self.sleep(delay or 0.0)

    async def asend(self, call: Call) -> httpx.Response:
        """Do what :meth:`send` does, without blocking the event loop.

        Whoever is cancelled stops waiting at once. A request that is on its way goes on all the same, and
        when it is billable, its response is lost.
        """
        retries = self.retries(call)
        while True:
            async with self.aslot(call, patience=retries.patience):
                outcome = await self._exchange_apart(call)
            delay = self.next_delay(outcome, retries)
            if delay is None and isinstance(outcome, httpx.Response):
                return outcome
            await self.asleep(delay or 0.0)

    async def _exchange_apart(self, call: Call) -> Outcome:
        try:
            return await apart(lambda: self.exchange(call))
        except asyncio.CancelledError:
            if not call.may_be_repeated:
                log.warning("Cancelled while a request was on its way: it may be billed without a response.")
            raise

    def close(self) -> None:
        """Close what is open. A client that is used again opens again."""
        self._transport.close()

    async def aclose(self) -> None:
        """Do what :meth:`close` does."""
        self.close()

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
        self.close()

    def _build(self, call: Call) -> httpx.Request:
        url = self._url(call.endpoint)
        headers = {name.lower(): value for name, value in call.headers.items() if name.lower() not in _OURS}
        self._check(call, headers)
        ours = {
            "accept-encoding": "identity",  # What is decoded can be a thousand times as long as what came.
            "authorization": f"Bearer {self.settings.api_key}",
            "user-agent": f"airflow-provider-aisa/{__version__}",
        }
        headers = {"accept": "*/*", **headers, **ours}
        try:
            return httpx.Request(call.method, url, json=call.json, params=call.params, headers=headers)
        except (httpx.InvalidURL, TypeError, ValueError, RecursionError) as e:
            raise InvalidRequest(f"{call.method} {call.endpoint!r} cannot be sent: {e}") from None

    def _check(self, call: Call, headers: dict[str, str]) -> None:
        """Refuse what HTTP cannot carry before it is sent. A value is not shown: it may be a secret."""
        if not _TOKEN.fullmatch(call.method):
            raise InvalidRequest(f"method {call.method!r} is none of HTTP: use one such as 'POST'")
        for name, value in headers.items():
            if not _TOKEN.fullmatch(name) or not isinstance(value, str) or not _HEADER_VALUE.fullmatch(value):
                msg = f"header {name!r} cannot be sent: use a name and a text of printable ASCII characters"
                raise InvalidRequest(msg)

    def _url(self, endpoint: str) -> str:
        """Return the URL of an endpoint below the base URL, or of a path from its root ('/v1beta/…')."""
        home = urlsplit(self.settings.base_url)
        try:
            url = urljoin(f"{self.settings.base_url}/", endpoint)
            target = urlsplit(url)
            is_at_home = (home.scheme, home.netloc) == (target.scheme, target.netloc)
        except ValueError:
            is_at_home = False
        if not is_at_home:
            msg = (
                f"endpoint {endpoint!r} is not on {home.netloc}: the key of connection "
                f"{self.settings.conn_id!r} goes nowhere else. Use a path such as 'chat/completions'"
            )
            raise InvalidRequest(msg)
        return url

    def _models(self, response: httpx.Response) -> list[dict[str, Any]]:
        try:
            return [self._model(model) for model in read_object(response.content)["data"]]
        except (KeyError, TypeError):
            msg = (
                "AIsa answered GET /models with something that is no list of models: check the connection's "
                "host"
            )
            raise GatewayFailed(msg, status=response.status_code) from None

    def _model(self, listed: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the list says of a model, of the types that are documented."""
        api_key = self.settings.api_key
        model: dict[str, Any] = {"id": clean(str(listed["id"]), api_key=api_key)}
        for name in ("object", "owned_by"):
            if isinstance(listed.get(name), str):
                model[name] = clean(listed[name], api_key=api_key)
        if isinstance(listed.get("created"), int):
            model["created"] = listed["created"]
        if isinstance(types := listed.get("supported_endpoint_types"), list):
            model["supported_endpoint_types"] = [clean(str(kind), api_key=api_key) for kind in types]
        return model
