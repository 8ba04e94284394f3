"""Who may interrupt whom: a signal stops the waiting, and never a request that is being paid for."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Final, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds that whoever is cancelled waits for a request that is on its way, so that it can be recorded.
GRACE: Final = 30.0


async def to_the_end(work: Callable[[], T], what: str) -> T:
    """Run a function in a thread. Cancelling stops the waiting, after a grace, and never the function.

    :param what: where the outcome is recorded, for the log.
    """
    future = asyncio.wrap_future(_in_thread(work))
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        log.warning("Cancelled while a request is being paid for; its outcome will be recorded in %s.", what)
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.wait({future}, timeout=GRACE)
        raise


def run_apart(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on an event loop in a thread, and wait for it.

    Airflow enforces ``execution_timeout`` by an exception that a signal raises in the main thread, wherever
    that happens to be. Inside an event loop it can be swallowed; here it hits the waiting, cancels the
    coroutine, and leaves it the grace to record what is being paid for.
    """
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any] | None]] = Future()

    async def supervised() -> T:
        started.set_result((asyncio.get_running_loop(), asyncio.current_task()))
        return await main

    future = _in_thread(lambda: asyncio.run(supervised()))
    try:
        return future.result()
    finally:
        if not future.done():
            loop, task = started.result()
            if task is not None:
                loop.call_soon_threadsafe(task.cancel)
            wait([future], timeout=2 * GRACE)


def _in_thread(work: Callable[[], T]) -> Future[T]:
    """Start a thread of its own.

    Python waits for it at exit, Airflow's processes do not. A pool that all share would be broken in a
    process that is forked from one that has used it.
    """
    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="aisa")
    future = executor.submit(contextvars.copy_context().run, work)
    executor.shutdown(wait=False)
    return future
