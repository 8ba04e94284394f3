"""An end for everything: however a peer behaves, an exchange is over at its deadline."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Self


class Deadline(float):
    """The moment at which an exchange is over. As a float, it is the seconds that it was given.

    :meth:`cancel` ends it at once, from any thread.
    """

    _end: float
    _clock: Callable[[], float]
    _cancelled: bool
    _socket: socket.socket | None

    def __new__(cls, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> Self:
        """Begin now and end in ``seconds``; infinite for never."""
        self = super().__new__(cls, seconds)
        self._clock = clock
        self._end = clock() + seconds
        self._cancelled = False
        self._socket = None
        return self

    @property
    def left(self) -> float:
        """Seconds until the end, 0 after it."""
        return 0.0 if self._cancelled else max(0.0, self._end - self._clock())

    @property
    def is_over(self) -> bool:
        """Whether nothing may be read or written any more."""
        return self.left == 0.0

    def cancel(self) -> None:
        """End the exchange now. Whoever waits for its socket gets an error at once."""
        self._cancelled = True
        if (sock := self._socket) is not None:
            with suppress(OSError):
                # Not `SSLSocket.shutdown`, which would let the reader take what follows for plain text.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def hang_up(self) -> None:
        """Close the socket that was used last."""
        if self._socket is not None:
            self._socket.close()

    def arm(self, sock: socket.socket, *, at_most: float = math.inf) -> None:
        """Let the next operation of a socket end in time. Raises TimeoutError when it may not begin."""
        self._socket = sock  # Before the look at the clock: a cancel after that look finds it.
        seconds = min(self.left, at_most)
        if seconds == 0.0:
            raise TimeoutError
        sock.settimeout(None if seconds == math.inf else seconds)
