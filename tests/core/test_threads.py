from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from typing import Any, Final

import pytest

from airflow_provider_aisa.core.threads import Stop, Stopped, apart, run_apart, to_the_end, until_stopped
from airflow_provider_aisa.exceptions import AisaError

#: Begins a process in which no further thread can be started: there is no address space for its stack.
EXHAUSTED: Final = """
import asyncio, resource, threading
from airflow_provider_aisa.core.threads import apart, in_background, run_apart, to_the_end, until_stopped
from airflow_provider_aisa.exceptions import AisaError

calls = []

def exhaust():
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, -1))
    threading.stack_size(2**30)

def report(error):
    assert error.retryable, error
    print(error)
"""


def run_exhausted(code: str) -> str:
    """Run code in such a process and return what it printed; fail when it does not end."""
    done = subprocess.run(
        [sys.executable, "-c", EXHAUSTED + code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "waiting",
    [
        "to_the_end(lambda: calls.append(1), 'the journal')",
        "apart(lambda: calls.append(1))",
        "until_stopped(lambda stop: calls.append(1))",
    ],
)
def test_where_no_thread_can_start_there_is_an_error_and_nothing_is_done(waiting: str) -> None:
    """A container's pids limit is reached: waiting for ever would hide that, and a claim would stand."""
    said = run_exhausted(
        f"""
exhaust()
try:
    asyncio.run({waiting})
except AisaError as e:
    report(e)
assert not calls
"""
    )
    assert said.startswith(
        "this machine cannot start another thread (can't start new thread). Raise the limit"
    )
    assert "Nothing was sent." in said


def test_where_no_thread_can_start_a_task_fails_at_once() -> None:
    said = run_exhausted(
        """
async def main():
    calls.append(1)

exhaust()
try:
    run_apart(main())
except AisaError as e:
    report(e)
in_background(lambda: calls.append(1))  # Its result is not waited for.
assert not calls
"""
    )
    assert said.startswith("this machine cannot start another thread")


def test_work_that_found_no_thread_is_not_done_later_either() -> None:
    """The pool keeps it, and a thread that becomes free would send a request that was called unsent."""
    said = run_exhausted(
        """
async def main():
    is_begun, go_on = threading.Event(), threading.Event()

    def first():
        is_begun.set()
        go_on.wait(30)
        calls.append("first")

    running = asyncio.ensure_future(apart(first))
    while not is_begun.is_set():
        await asyncio.sleep(0.01)
    exhaust()
    try:
        await apart(lambda: calls.append("second"))
    except AisaError as e:
        report(e)
    go_on.set()
    await running
    while "third" not in calls:
        try:
            # In the same thread, behind what is still queued, as soon as it is idle again.
            await apart(lambda: calls.append("third"))
        except AisaError:
            await asyncio.sleep(0.01)

asyncio.run(main())
assert calls == ["first", "third"], calls
"""
    )
    assert said.startswith("this machine cannot start another thread")


def test_what_a_thread_returns_and_raises_reaches_who_waits() -> None:
    def fail(*_: object) -> int:
        raise LookupError("no")

    async def scenario() -> list[Any]:
        waits = [
            to_the_end(lambda: 1, "x"),
            apart(lambda: 2),
            until_stopped(lambda _stop: 3),
            to_the_end(fail, "x"),
            apart(fail),
            until_stopped(fail),
        ]
        return await asyncio.gather(*waits, return_exceptions=True)

    found = asyncio.run(scenario())
    assert found[:3] == [1, 2, 3]
    assert [type(error) for error in found[3:]] == [LookupError] * 3


def test_cancelling_stops_work_on_an_image_at_its_next_look() -> None:
    began, ended = threading.Event(), threading.Event()

    def work(stop: Stop) -> None:
        began.set()
        try:
            while True:
                stop.sleep(0.01)
        except Stopped:
            ended.set()
            raise

    async def scenario() -> None:
        working = asyncio.create_task(until_stopped(work))
        await asyncio.to_thread(began.wait, 30)
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working

    asyncio.run(scenario())
    assert ended.wait(30)


def test_cancelling_ends_what_the_thread_waits_for() -> None:
    """A socket, in earnest: its owner would look at the flag after the next block, which never comes."""
    waiting, closed, left = threading.Event(), threading.Event(), threading.Event()

    def work(stop: Stop) -> None:
        with stop.calling(closed.set):
            waiting.set()
            closed.wait(30)
        left.set()

    async def scenario() -> None:
        working = asyncio.create_task(until_stopped(work))
        await asyncio.to_thread(waiting.wait, 30)
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working

    asyncio.run(scenario())
    assert left.wait(30)
    assert closed.is_set()


def test_a_stop_that_came_before_is_seen_at_the_beginning() -> None:
    stop, ended = Stop(), threading.Event()
    stop.set()
    with pytest.raises(Stopped), stop.calling(ended.set):
        pytest.fail("it began")
    with pytest.raises(Stopped):
        stop.sleep(30)
    assert not ended.is_set()


def test_no_more_images_than_a_process_has_threads_for_are_on_their_way_at_once() -> None:
    """A triggerer's tasks have lanes of their own each; together they must not crowd its event loop out."""
    lock = threading.Lock()
    now = most = 0

    def work(stop: Stop) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        stop.sleep(0.05)
        with lock:
            now -= 1

    async def scenario() -> None:
        await asyncio.gather(*(until_stopped(work) for _ in range(100)))

    asyncio.run(scenario())
    assert most == 32


def test_a_forked_process_has_threads_of_its_own() -> None:
    """Airflow forks its workers: the parent's idle threads do not exist there."""
    code = """
import asyncio, os
from airflow_provider_aisa.core.threads import until_stopped

assert asyncio.run(until_stopped(lambda stop: 1)) == 1
if (child := os.fork()) == 0:
    os._exit(asyncio.run(until_stopped(lambda stop: 7)))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "7\n"


def test_an_error_of_run_apart_reaches_its_caller() -> None:
    async def fail() -> None:
        raise AisaError("no")

    with pytest.raises(AisaError, match="no"):
        run_apart(fail())
