"""A process's view of a store in memory, which counts its requests."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

from tests.paying.memory import Memory, MemoryBucket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from airflow_provider_aisa.core.s3 import StoredObject


class Store(MemoryBucket):
    """A process's view of the store: counts its requests, and fails as it is told."""

    def __init__(
        self,
        memory: Memory,
        on_request: Callable[[str, str], None] = lambda _op, _key: None,
        on_answer: Callable[[str, str], None] = lambda _op, _key: None,
    ) -> None:
        super().__init__(memory)
        object.__setattr__(self, "requests", [])
        object.__setattr__(self, "on_request", on_request)
        object.__setattr__(self, "on_answer", on_answer)
        object.__setattr__(self, "_lock", _lock_of(memory))

    #: What was asked for, and of which key or folder.
    requests: list[tuple[str, str]]
    #: Called before each request; what it raises is the answer.
    on_request: Callable[[str, str], None]
    #: Called when each is done; what it raises takes the answer's place.
    on_answer: Callable[[str, str], None]
    _lock: threading.RLock

    def count(self, operation: str, part_of_key: str = "") -> int:
        return sum(done == operation and part_of_key in key for done, key in self.requests)

    @contextmanager
    def _request(self, operation: str, key: str) -> Iterator[None]:
        self.on_request(operation, key)
        with self._lock:
            self.requests.append((operation, key))
            yield
        self.on_answer(operation, key)

    def read(self, key: str) -> StoredObject | None:
        with self._request("read", key):
            return super().read(key)

    def write(self, key: str, body: bytes, *, only_if: str | None, is_conditional: bool = True) -> str:
        with self._request("write", key):
            return super().write(key, body, only_if=only_if, is_conditional=is_conditional)

    def delete(self, key: str, *, only_if: str | None) -> None:
        with self._request("delete", key):
            super().delete(key, only_if=only_if)

    def put_image(self, file: BinaryIO, *, key: str, **arguments: Any) -> str:
        with self._request("upload", key):
            return super().put_image(file, key=key, **arguments)

    def head_image(self, key: str) -> Any:
        with self._request("head", key):
            return super().head_image(key)

    def put_lines(self, path: Path, *, key: str) -> None:
        with self._request("manifest", key):
            self.memory.objects[key] = (path.read_bytes(), f"lines-{next(self.memory.etags)}", 0.0)

    def list_keys(self, prefix: str) -> Iterator[tuple[str, str]]:
        with self._lock:
            found = sorted((key, value[1]) for key, value in self.memory.objects.items())
        found = [(key, etag) for key, etag in found if key.startswith(prefix)]
        for position in range(0, max(len(found), 1), 1_000):
            with self._request("list", prefix):
                page = found[position : position + 1_000]
            yield from page


_locks: dict[str, threading.RLock] = {}


def _lock_of(memory: Memory) -> threading.RLock:
    """Return the lock that makes each request of a store one step."""
    return _locks.setdefault(memory.endpoint, threading.RLock())
