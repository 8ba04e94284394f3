"""Loopback ports for servers that are started a moment later."""

from __future__ import annotations

import contextlib
import secrets
import socket

# Below 32768, where Linux begins to give ports to outgoing connections: some servers bind seconds later.
CANDIDATES = range(20_000, 32_000)


def find_free_ports(count: int) -> list[int]:
    """Return `count` different loopback ports that were free a moment ago."""
    with contextlib.ExitStack() as stack:
        return [_bind_any(stack.enter_context(socket.socket())) for _ in range(count)]


def _bind_any(unbound: socket.socket) -> int:
    while True:
        port = secrets.choice(CANDIDATES)
        with contextlib.suppress(OSError):
            unbound.bind(("127.0.0.1", port))
            return port
