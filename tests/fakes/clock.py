"""A clock that nobody waits for: its time passes only when somebody sleeps, or a test says so."""

from __future__ import annotations

import threading


class Clock:
    """Seconds since 1970, as a function; `slept` keeps who slept for how long. Safe to use from threads."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now
        self.slept: list[float] = []
        self._lock = threading.Lock()

    def __call__(self) -> float:
        return self.now

    def skip(self, seconds: float) -> None:
        """Let time pass, without anybody sleeping."""
        with self._lock:
            self.now += seconds

    def sleep(self, seconds: float) -> None:
        """Return at once, that many seconds later."""
        self.slept.append(seconds)
        self.skip(seconds)

    async def asleep(self, seconds: float) -> None:
        """Do what :meth:`sleep` does, for an event loop."""
        self.sleep(seconds)
