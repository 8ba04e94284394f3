"""Who may interrupt whom: a signal stops the waiting, and never a request that is being paid for."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from airflow_provider_aisa.exceptions import AisaError

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds that whoever is cancelled waits for a request that is on its way, so that it can be recorded.
GRACE: Final = 30.0
_MOST_THREADS: Final = 1000
#: Images on their way at once in one process, whatever the number of its tasks. A triggerer has hundreds, and
#: each thread that computes keeps the event loop waiting for its turn.
_MOST_IMAGES: Final = 32


class Stopped(BaseException):
    """Whoever waited for this work is gone. Raised in the work's own thread only.

    No Exception, for the same reason as ``CancelledError`` is none: botocore would take it for a broken
    connection and begin the upload anew.
    """


class Stop:
    """Tells a thread that nobody waits for it any more. It is asked between two blocks of an image."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._end: Callable[[], object] | None = None

    def set(self) -> None:
        """Have the next :meth:`check` raise, and end what the thread waits for now."""
        self._event.set()
        if (end := self._end) is not None:
            end()

    @contextmanager
    def calling(self, end: Callable[[], object]) -> Iterator[None]:
        """Have :meth:`set` call a function as well, which ends what the thread waits for inside."""
        self._end = end  # Before the look at the event: a `set` after that look finds it.
        try:
            self.check()
            yield
        finally:
            self._end = None

    def check(self) -> None:
        """Raise Stopped when whoever waited is gone."""
        if self._event.is_set():
            raise Stopped

    def sleep(self, seconds: float) -> None:
        """Wait, unless whoever waited is gone."""
        self._event.wait(seconds)
        self.check()


async def to_the_end(work: Callable[[], T], what: str) -> T:
    """Run a function in a thread. Cancelling stops the waiting, after a grace, and never the function.

    :param what: where the outcome is recorded, for the log.
    :raises AisaError: no thread can be started; the function was not called.
    """
    future = asyncio.wrap_future(_in_thread(work, _threads))
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        log.warning("Cancelled while a request is being paid for; its outcome will be recorded in %s.", what)
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.wait({future}, timeout=GRACE)
        raise


async def apart(work: Callable[[], T]) -> T:
    """Run a function in a thread of its own. Cancelling stops the waiting at once, and never the function.

    :raises AisaError: no thread can be started; the function was not called.
    """
    future = asyncio.wrap_future(_in_thread(work, _threads))
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        raise


async def until_stopped(work: Callable[[Stop], T]) -> T:
    """Run a function in one of a few threads. Cancelling tells it to stop, and does not wait for it.

    :raises AisaError: no thread can be started; the function was not called.
    """
    stop = Stop()

    def begin() -> T:
        stop.check()  # It may have waited for its thread.
        return work(stop)

    try:
        return await asyncio.wrap_future(_in_thread(begin, _image_threads))
    except asyncio.CancelledError:
        stop.set()
        raise


def run_apart(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on an event loop in a thread, and wait for it.

    Airflow enforces ``execution_timeout`` by an exception that a signal raises in the main thread, wherever
    that happens to be. Inside an event loop it can be swallowed; here it hits the waiting, cancels the
    coroutine, and leaves it the grace to record what is being paid for.

    :raises AisaError: no thread can be started; the coroutine was not begun.
    """
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any] | None]] = Future()

    async def supervised() -> T:
        started.set_result((asyncio.get_running_loop(), asyncio.current_task()))
        return await main

    future = _in_thread(lambda: asyncio.run(supervised()), _threads)
    try:
        return future.result()
    finally:
        if not future.done():
            loop, task = started.result()
            if task is not None:
                loop.call_soon_threadsafe(task.cancel)
            wait([future], timeout=2 * GRACE)
        elif not started.done():  # There was no thread for it.
            main.close()


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
    _in_thread(work, _threads)


def _in_thread(work: Callable[[], T], threads: ThreadPoolExecutor) -> Future[T]:
    """Run a function in a thread; Python waits for it at exit, Airflow's processes do not.

    The future fails when there is no thread for the function, which then is never called.
    """
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # Nobody can cancel it from now on.
    context = contextvars.copy_context()
    taken = threading.Lock()

    def run() -> None:
        if not taken.acquire(blocking=False):
            return
        try:
            future.set_result(context.run(work))
        except BaseException as e:  # whatever it is, it belongs to whoever waits
            future.set_exception(e)

    try:
        threads.submit(run)
    except RuntimeError as e:
        # The pool keeps what it was given all the same, and another of its threads may take it up later: a
        # request that was called unsent must not be sent then.
        if taken.acquire(blocking=False):
            future.set_exception(_no_thread(e))
    return future


def _no_thread(error: RuntimeError) -> AisaError:
    return AisaError(
        f"this machine cannot start another thread ({error}). Raise the limit of processes of its container "
        "or user (pids limit, ulimit -u), or lower max_concurrency in the connection. Nothing was sent.",
        retryable=True,
    )


def _new_threads() -> None:
    """Begin with no threads: those of the parent do not exist in a forked process."""
    global _threads, _image_threads  # noqa: PLW0603 - a process has one pool of each kind
    _threads = ThreadPoolExecutor(max_workers=_MOST_THREADS, thread_name_prefix="aisa")
    _image_threads = ThreadPoolExecutor(max_workers=_MOST_IMAGES, thread_name_prefix="aisa-image")


_threads: ThreadPoolExecutor  # as many as are needed at once; the pacer's limits bound that
_image_threads: ThreadPoolExecutor
_new_threads()
os.register_at_fork(after_in_child=_new_threads)
