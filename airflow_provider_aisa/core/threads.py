"""Who may interrupt whom: a signal stops the waiting, and never a request that is being paid for."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Final, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds that whoever is cancelled waits for a request that is on its way, so that it can be recorded.
GRACE: Final = 30.0
_MOST_THREADS: Final = 1000


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


async def apart(work: Callable[[], T]) -> T:
    """Run a function in a thread of its own. Cancelling stops the waiting at once, and never the function."""
    future = asyncio.wrap_future(_in_thread(work))
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
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


async def or_undone(make: Callable[[], T], undo: Callable[[T], object]) -> T:
    """Run a function in a thread and return its result; undo that when whoever waits for it is cancelled."""
    making = asyncio.ensure_future(asyncio.to_thread(make))
    try:
        return await asyncio.shield(making)
    except asyncio.CancelledError:
        making.add_done_callback(lambda done: done.cancelled() or done.exception() or undo(done.result()))
        raise


def in_background(work: Callable[[], object]) -> None:
    """Start a function whose result somebody will need soon."""
    _in_thread(work)


def _in_thread(work: Callable[[], T]) -> Future[T]:
    """Run a function in a thread; Python waits for it at exit, Airflow's processes do not."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # Nobody can cancel it from now on.
    context = contextvars.copy_context()

    def run() -> None:
        try:
            future.set_result(context.run(work))
        except BaseException as e:  # whatever it is, it belongs to whoever waits
            future.set_exception(e)

    # Starting a thread waits until it runs: tenths of a second when others compete for the GIL, which an
    # event loop should not spend. One thread starts the others.
    _starter.submit(_threads.submit, run)
    return future


def _new_threads() -> None:
    """Begin with no threads: those of the parent do not exist in a forked process."""
    global _starter, _threads  # noqa: PLW0603 - a process has one pool
    _starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="aisa-starter")
    _threads = ThreadPoolExecutor(max_workers=_MOST_THREADS, thread_name_prefix="aisa")


_starter: ThreadPoolExecutor
_threads: ThreadPoolExecutor  # as many as are needed at once; the pacer's limits bound that
_new_threads()
os.register_at_fork(after_in_child=_new_threads)
