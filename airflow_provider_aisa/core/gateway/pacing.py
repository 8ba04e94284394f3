"""One key's traffic in this process: no request leaves without a slot, and none before its turn.

Threads and event loops share a pacer: hundreds of deferred tasks in a triggerer use the same key.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final

from airflow_provider_aisa.exceptions import RateLimited

if TYPE_CHECKING:
    from airflow_provider_aisa.core.gateway.settings import ConnectionSettings

#: AIsa asks clients to slow down when less than this share of the limit remains.
LOW_WATER: Final = 0.10
#: Seconds that a Retry-After can stop a key in this process. What asks for more is an error with its figure.
LONGEST_PAUSE: Final = 3600.0
_ANY_NUMBER: Final = 1_000_000
_LONGEST_SPREAD: Final = 60.0  # seconds; a skewed clock must not stop us for longer


class Pacer:
    """Limits the requests in flight and spaces them in time.

    :param max_concurrency: requests in flight at once.
    :param requests_per_minute: None for no limit of our own.
    """

    def __init__(
        self,
        *,
        max_concurrency: int,
        requests_per_minute: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        calendar: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._calendar = calendar  # the gateway speaks of UNIX time
        self._lock = threading.Lock()
        self._waiting: deque[Future[None]] = deque()
        self._in_flight = 0
        self._last = float("-inf")  # when the latest request may leave
        self._paused_until = float("-inf")
        self._spread = 0.0
        self._spread_until = float("-inf")
        self._own: dict[str, Pacer] = {}  # of models that have a limit of their own
        self.configure(max_concurrency=max_concurrency, requests_per_minute=requests_per_minute)

    def configure(self, *, max_concurrency: int, requests_per_minute: int | None) -> None:
        """Take over new limits: a connection may be edited while a triggerer runs."""
        with self._lock:
            self._limit = max_concurrency
            self._interval = 60.0 / requests_per_minute if requests_per_minute else 0.0
            self._grant()

    def of_model(self, model: str, requests_per_minute: int) -> Pacer:
        """Return what spaces a model's requests that has a limit of its own, beside the key's.

        Wait for its turn first: whoever waits for a model must not keep a slot of the key from others.
        """
        with self._lock:
            own = self._own.get(model)
            if own is None:
                own = self._own[model] = Pacer(
                    max_concurrency=_ANY_NUMBER,
                    requests_per_minute=requests_per_minute,
                    clock=self._clock,
                    calendar=self._calendar,
                )
            return own

    def pause(self, seconds: float) -> None:
        """Let nothing leave for this long: the gateway said Retry-After to one of us, and meant all.

        :param seconds: what is more than :data:`LONGEST_PAUSE` is not waited out.
        """
        with self._lock:
            self._paused_until = max(self._paused_until, self._clock() + min(seconds, LONGEST_PAUSE))

    def observe(self, headers: Mapping[str, str]) -> None:
        """Slow down when the gateway says that less than 10 % of the limit remains."""
        limit = _first_number(headers, "x-ratelimit-limit-requests", "x-ratelimit-limit")
        remaining = _first_number(headers, "x-ratelimit-remaining-requests", "x-ratelimit-remaining")
        reset = _first_number(headers, "x-ratelimit-reset-requests", "x-ratelimit-reset")
        if limit is None or remaining is None or reset is None:
            return
        with self._lock:
            left = min(reset - self._calendar(), _LONGEST_SPREAD)
            is_low = left > 0 and remaining < LOW_WATER * limit
            self._spread = left / max(remaining, 1.0) if is_low else 0.0
            self._spread_until = self._clock() + left if is_low else 0.0

    @contextmanager
    def slot(self, sleep: Callable[[float], None] = time.sleep, *, patience: float) -> Iterator[None]:
        """Hold a slot while a request is in flight. For threads.

        :param patience: seconds; a pause that lasts longer raises RateLimited instead.
        """
        future = self._acquire()
        with self._given_back_on_interruption(future):
            future.result()
        try:
            for seconds in self._turn(patience):
                sleep(seconds)
            yield
        finally:
            self._release()

    @asynccontextmanager
    async def aslot(
        self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep, *, patience: float
    ) -> AsyncIterator[None]:
        """Hold a slot while a request is in flight. For event loops."""
        future = self._acquire()
        with self._given_back_on_interruption(future):
            await asyncio.wrap_future(future)
        try:
            for seconds in self._turn(patience):
                await sleep(seconds)
            yield
        finally:
            self._release()

    @contextmanager
    def _given_back_on_interruption(self, future: Future[None]) -> Iterator[None]:
        try:
            yield
        except BaseException:
            if not future.cancel():  # Granted while the wait was interrupted: somebody else may have it.
                self._release()
            raise

    def _turn(self, patience: float) -> Iterator[float]:
        """Yield the seconds to sleep until it is this request's turn, looking again after each sleep."""
        reserved = self._reserve()
        while (seconds := max(reserved, self._paused_until) - self._clock()) > 0:
            pause = self._paused_until - self._clock()
            if pause > patience:
                msg = (
                    f"the gateway asked everyone with this key to wait {pause:.0f} s more: "
                    "try again after that. Nothing was sent."
                )
                raise RateLimited(msg, retry_after=pause)
            yield seconds

    def _reserve(self) -> float:
        """Take the next free moment; later callers get later ones."""
        with self._lock:
            now = self._clock()
            interval = max(self._interval, self._spread if now < self._spread_until else 0.0)
            moment = max(now, self._paused_until, self._last + interval if interval else now)
            self._last = moment
            return moment

    def _acquire(self) -> Future[None]:
        with self._lock:
            future: Future[None] = Future()
            self._waiting.append(future)
            self._grant()
            return future

    def _release(self) -> None:
        with self._lock:
            self._in_flight -= 1
            self._grant()

    def _grant(self) -> None:
        while self._waiting and self._in_flight < self._limit:
            future = self._waiting.popleft()
            if future.set_running_or_notify_cancel():
                self._in_flight += 1
                future.set_result(None)


_pacers: dict[str, Pacer] = {}
_pacers_lock = threading.Lock()


def pacer_for(settings: ConnectionSettings) -> Pacer:
    """Return the pacer that this process shares between all users of a gateway and key."""
    identity = hashlib.sha256(f"{settings.base_url} {settings.api_key}".encode()).hexdigest()
    concurrency, rate = settings.max_concurrency, settings.requests_per_minute
    with _pacers_lock:
        pacer = _pacers.get(identity)
        if pacer is None:
            pacer = _pacers[identity] = Pacer(max_concurrency=concurrency, requests_per_minute=rate)
        else:
            pacer.configure(max_concurrency=concurrency, requests_per_minute=rate)
        return pacer


def _first_number(headers: Mapping[str, str], *names: str) -> float | None:
    for name in names:
        try:
            return float(headers[name])
        except (KeyError, ValueError):
            continue
    return None
