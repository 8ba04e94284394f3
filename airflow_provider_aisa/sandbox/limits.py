"""The limits of a key. A refused request uses up nothing; an admitted one is in flight until it is answered.

`requests_per_minute` is a fixed window that the first request opens: `Remaining` falls to 0 and is the limit
again at `Reset`. Whoever waits for `Reset`, or as long as `Retry-After` says, finds a window open.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_aisa.sandbox.settings import SandboxSettings

UNLIMITED = 1_000_000
TOKENS = 10_000_000


@dataclass
class Limiter:
    """Counts the requests of one key. Used from the server's thread only."""

    clock: Callable[[], float] = time.time
    in_flight: int = 0
    max_in_flight_seen: int = 0
    _used: int = 0
    _reset: float = 0.0
    _limit: int | None = None

    def enter(self, settings: SandboxSettings) -> float | None:
        """Admit a request: None. Refused: the seconds to wait; a refused request must not `leave`."""
        self.max_in_flight_seen = max(self.max_in_flight_seen, self.in_flight + 1)
        now = self._roll(settings)
        if settings.max_in_flight is not None and self.in_flight >= settings.max_in_flight:
            return 1.0
        if settings.requests_per_minute is not None and self._used >= settings.requests_per_minute:
            return max(1.0, math.ceil(self._reset - now))
        self._used += 1
        self.in_flight += 1
        return None

    def leave(self) -> None:
        """Give back the place of an admitted request."""
        self.in_flight -= 1

    def _roll(self, settings: SandboxSettings) -> float:
        now = self.clock()
        if now >= self._reset or self._limit != settings.requests_per_minute:
            self._used, self._reset = 0, now + settings.rate_window
            self._limit = settings.requests_per_minute
        return now

    def headers(self, settings: SandboxSettings) -> dict[str, str]:
        """Return the rate-limit headers that AIsa puts on every response."""
        now = self.clock()
        used = self._used if now < self._reset else 0
        limit = settings.requests_per_minute or UNLIMITED
        # Rounded up: a client that comes back at this second must find the window open.
        reset = str(math.ceil(max(self._reset, now)))
        return {
            "X-RateLimit-Limit-Requests": str(limit),
            "X-RateLimit-Remaining-Requests": str(max(0, limit - used)),
            "X-RateLimit-Reset-Requests": reset,
            "X-RateLimit-Limit-Tokens": str(TOKENS),
            "X-RateLimit-Remaining-Tokens": str(TOKENS),
            "X-RateLimit-Reset-Tokens": reset,
        }

    def clear(self) -> None:
        """Open a new window; requests in flight stay in flight."""
        self._used, self._reset, self.max_in_flight_seen = 0, 0.0, self.in_flight


@dataclass
class ModelLimiter:
    """Counts the requests for one model's images, beside the key's limits. Used from the server's thread."""

    clock: Callable[[], float] = time.time
    _used: int = 0
    _reset: float = 0.0

    def use(self, settings: SandboxSettings) -> float | None:
        """Admit a request: None. Refused: the seconds to wait."""
        limit = settings.gemini_requests_per_minute
        now = self.clock()
        if now >= self._reset:
            self._used, self._reset = 0, now + settings.rate_window
        if limit is not None and self._used >= limit:
            return max(1.0, math.ceil(self._reset - now))
        self._used += 1
        return None

    def clear(self) -> None:
        """Open a new window."""
        self._used, self._reset = 0, 0.0
