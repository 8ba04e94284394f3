"""`Sandbox`: two origins on loopback, served by one daemon thread from `start` to `stop`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload

from aiohttp import web

from airflow_provider_aisa.sandbox.cdn import Cdn
from airflow_provider_aisa.sandbox.control import PREFIX, Control
from airflow_provider_aisa.sandbox.fields import require_int
from airflow_provider_aisa.sandbox.gateway import Gateway
from airflow_provider_aisa.sandbox.records import Records, total
from airflow_provider_aisa.sandbox.settings import DEFAULT_API_KEY, ImageFormat, SandboxSettings
from airflow_provider_aisa.sandbox.state import Links, SandboxState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from decimal import Decimal
    from types import TracebackType

    from airflow_provider_aisa.sandbox.faults import Fault
    from airflow_provider_aisa.sandbox.records import CdnRequest, GatewayRequest, LedgerEntry

    Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

_HOST = "127.0.0.1"
_BACKLOG = 1024
_LARGEST_BODY = 33 * 2**20
_START_TIMEOUT = 30.0  # seconds; it takes about a millisecond
T = TypeVar("T")


class _Setting(Generic[T]):
    """A setting as an attribute. Assigning one that makes no sense raises ValueError and changes nothing."""

    def __set_name__(self, owner: type[Sandbox], name: str) -> None:
        self._name = name

    @overload
    def __get__(self, sandbox: None, owner: type[Sandbox]) -> Self: ...
    @overload
    def __get__(self, sandbox: Sandbox, owner: type[Sandbox]) -> T: ...
    def __get__(self, sandbox: Sandbox | None, owner: type[Sandbox]) -> T | Self:
        if sandbox is None:
            return self
        value: T = getattr(sandbox.settings, self._name)
        return value

    def __set__(self, sandbox: Sandbox, value: T) -> None:
        sandbox.change(**{self._name: value})


class Sandbox:
    """A local AIsa gateway and CDN; a context manager. Costs nothing, keeps everything it was asked.

    `port` and `cdn_port` 0 pick free ports. `latency` is seconds per generation, `link_ttl` seconds until a
    link expires, `image_bytes` the size to which each file is padded. `requests_per_minute` and
    `max_in_flight` None are off; `rate_window` is the length of that minute in seconds. `on_request` gets
    each finished request, in the server's thread. Settings can be assigned while it runs. Raises ValueError
    for one that makes no sense.
    """

    api_key = _Setting[str]()
    latency = _Setting[float]()
    image_format = _Setting[ImageFormat]()
    image_bytes = _Setting["int | None"]()
    link_ttl = _Setting[float]()
    requests_per_minute = _Setting["int | None"]()
    max_in_flight = _Setting["int | None"]()
    rate_window = _Setting[float]()
    gemini_requests_per_minute = _Setting["int | None"]()

    def __init__(
        self,
        *,
        port: int = 0,
        cdn_port: int = 0,
        api_key: str = DEFAULT_API_KEY,
        latency: float = 0.0,
        image_format: ImageFormat = "png",
        image_bytes: int | None = None,
        link_ttl: float = 86_400,
        requests_per_minute: int | None = None,
        max_in_flight: int | None = None,
        rate_window: float = 60.0,
        gemini_requests_per_minute: int | None = 30,
        on_request: Callable[[GatewayRequest | CdnRequest], None] | None = None,
    ) -> None:
        settings = SandboxSettings(
            api_key=api_key,
            latency=latency,
            image_format=image_format,
            image_bytes=image_bytes,
            link_ttl=link_ttl,
            requests_per_minute=requests_per_minute,
            max_in_flight=max_in_flight,
            rate_window=rate_window,
            gemini_requests_per_minute=gemini_requests_per_minute,
        )
        require_int("port", port, minimum=0, maximum=65_535)
        require_int("cdn_port", cdn_port, minimum=0, maximum=65_535)
        self._ports = port, cdn_port
        self._state = SandboxState(settings=settings, links=Links(origin=""), records=Records(on_request))
        self._gateway_url = ""
        self._thread: threading.Thread | None = None
        self._stop: Callable[[], object] = lambda: None

    def start(self) -> Self:
        """Listen, and return once requests are answered. Raises OSError when a port is taken."""
        if self._thread:
            raise RuntimeError("this sandbox runs already")
        sockets = _listen(*self._ports)
        self._gateway_url, self._state.links.origin = (_url(listening) for listening in sockets)
        ready: Future[None] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(sockets, ready)), name="aisa-sandbox", daemon=True
        )
        self._thread.start()
        ready.result(timeout=_START_TIMEOUT)
        return self

    def stop(self) -> None:
        """Cut what is still being served and close both ports. What was recorded stays readable."""
        if self._thread:
            self._stop()
            self._thread.join()
            self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def _serve(self, sockets: list[socket.socket], ready: Future[None]) -> None:
        loop, stopped = asyncio.get_running_loop(), asyncio.Event()
        self._stop = lambda: loop.call_soon_threadsafe(stopped.set)
        with ThreadPoolExecutor(max_workers=2, thread_name_prefix="aisa-sandbox-draw") as drawing:
            self._state.drawing = drawing
            handlers = [_origin(Gateway(self._state), Control(self._state)), Cdn(self._state).handle]
            runners = [await _run(handler, sock) for handler, sock in zip(handlers, sockets, strict=True)]
            ready.set_result(None)
            await stopped.wait()
            for runner in runners:
                await runner.cleanup()

    @property
    def base_url(self) -> str:
        """What goes into a connection as host, or into an OpenAI client as base_url."""
        return f"{self._gateway_url}/v1"

    @property
    def cdn_url(self) -> str:
        """The origin of the images."""
        return self._state.links.origin

    @property
    def connection(self) -> str:
        """An Airflow connection to this sandbox, as the JSON of an `AIRFLOW_CONN_…` variable."""
        return json.dumps({"conn_type": "aisa", "host": self.base_url, "password": self.api_key})

    @property
    def settings(self) -> SandboxSettings:
        """The settings in force."""
        return self._state.settings

    def change(self, **settings: object) -> None:
        """Replace some settings at once. Raises ValueError, and changes none, when one makes no sense."""
        self._state.settings = self._state.settings.changed(settings)

    def inject(self, *faults: Fault) -> None:
        """Add faults to the end of the script."""
        for fault in faults:
            self._state.faults.add(fault)

    @property
    def pending_faults(self) -> list[Fault]:
        """The faults that have not struck yet."""
        return self._state.faults.pending()

    @property
    def ledger(self) -> list[LedgerEntry]:
        """What was billed, oldest first."""
        return self._state.records.ledger

    @property
    def billed(self) -> int:
        """The number of images billed."""
        return total(self.ledger)[0]

    @property
    def cost_usd(self) -> Decimal:
        """What they would have cost."""
        return total(self.ledger)[1]

    @property
    def requests(self) -> list[GatewayRequest]:
        """Every request to the gateway, refused ones included, oldest first."""
        return self._state.records.gateway

    @property
    def cdn_requests(self) -> list[CdnRequest]:
        """Every request to the CDN, oldest first."""
        return self._state.records.cdn

    @property
    def max_in_flight_seen(self) -> int:
        """The most requests that were at the gateway at one time, one refused for its number included."""
        return self._state.limiter.max_in_flight_seen

    def reset(self) -> None:
        """Forget faults, records, images and used-up limits. SandboxSettings stay."""
        self._state.reset()


def _listen(*ports: int) -> list[socket.socket]:
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_server((_HOST, port), backlog=_BACKLOG)) for port in ports
        ]
        stack.pop_all()  # the event loop closes them
    return sockets


def _url(listening: socket.socket) -> str:
    return f"http://{_HOST}:{listening.getsockname()[1]}"


def _origin(gateway: Gateway, control: Control) -> Handler:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if request.path.startswith(PREFIX):
            return await control.handle(request)
        return await gateway.handle(request)

    return handle


def _request(*parts: Any) -> web.BaseRequest:
    """Make a request whose body may hold reference images; each route has a limit of its own."""
    make: Any = web.BaseRequest
    request: web.BaseRequest = make(*parts, loop=asyncio.get_running_loop(), client_max_size=_LARGEST_BODY)
    return request


async def _run(handler: Handler, listening: socket.socket) -> web.ServerRunner:
    # A generation goes on, and is billed, when its client has left: aiohttp must not cancel it.
    server = web.Server(handler, access_log=None, handler_cancellation=False, request_factory=_request)
    runner = web.ServerRunner(server, shutdown_timeout=0.05)
    await runner.setup()
    await web.SockSite(runner, listening, backlog=_BACKLOG).start()
    return runner
