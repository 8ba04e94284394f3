"""The gallery's own threads: what it waits for must not keep Airflow's other pages waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

T = TypeVar("T")


class Lane:
    """A few threads for one kind of work.

    :param width: how many are at work at once.
    """

    def __init__(self, name: str, width: int) -> None:
        self._pool = ThreadPoolExecutor(width, thread_name_prefix=f"aisa-gallery-{name}")

    def start(self, work: Callable[[], object]) -> None:
        """Begin some work that nobody waits for."""
        self._pool.submit(work)

    async def run(self, work: Callable[[], T]) -> T:
        """Do some work without blocking the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)


#: Questions to the database and to S3 whose answers are small.
DATA: Final = Lane("data", 8)
#: Bytes of images from S3 to browsers.
BYTES: Final = Lane("bytes", 16)
#: Thumbnails: each takes a core, and the memory of a decoded image.
DRAWING: Final = Lane("drawing", 2)
