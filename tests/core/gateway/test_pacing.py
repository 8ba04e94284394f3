from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager

import pytest

from airflow_provider_aisa.core.gateway.pacing import Pacer, pacer_for
from airflow_provider_aisa.exceptions import RateLimited
from tests.fakes.clock import Clock
from tests.support import make_pacer, make_settings

PATIENCE = 60.0
LONG = 30.0  # seconds after which a test that hangs fails; nothing waits for it


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["thread", "task"])
def take(request: pytest.FixtureRequest, clock: Clock) -> Callable[..., float]:
    """Take a slot and give it back, from a thread or from a task; return the seconds waited for it."""

    def from_thread(pacer: Pacer, patience: float = PATIENCE) -> float:
        before = clock.now
        with pacer.slot(clock.sleep, patience=patience):
            return clock.now - before

    async def from_task(pacer: Pacer, patience: float = PATIENCE) -> float:
        before = clock.now
        async with pacer.aslot(clock.asleep, patience=patience):
            return clock.now - before

    if request.param == "thread":
        return from_thread
    return lambda pacer, patience=PATIENCE: asyncio.run(from_task(pacer, patience))


async def free_slots(pacer: Pacer, expected: int) -> None:
    """Fail unless that many tasks, and no more, can hold a slot at the same time."""
    inside = 0
    all_inside, leave = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        nonlocal inside
        async with pacer.aslot(patience=PATIENCE):
            inside += 1
            if inside == expected:
                all_inside.set()
            await leave.wait()

    async with asyncio.timeout(LONG), asyncio.TaskGroup() as group:
        for _ in range(expected + 1):
            group.create_task(hold())
        await all_inside.wait()
        for _ in range(5):
            await asyncio.sleep(0)
        assert inside == expected
        leave.set()
    assert inside == expected + 1


def test_threads_and_tasks_together_never_hold_more_slots_than_there_are() -> None:
    pacer = make_pacer(concurrency=3)
    lock = threading.Lock()
    inside, most, done = 0, 0, 0
    full = threading.Event()

    def enter() -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
            if inside == 3:
                full.set()
        assert full.wait(LONG)

    def leave() -> None:
        nonlocal inside, done
        with lock:
            inside -= 1
            done += 1

    def in_thread() -> None:
        with pacer.slot(patience=PATIENCE):
            enter()
            leave()

    async def in_task() -> None:
        async with pacer.aslot(patience=PATIENCE):
            await asyncio.to_thread(enter)
            leave()

    async def tasks() -> None:
        await asyncio.gather(*(in_task() for _ in range(12)))

    with ThreadPoolExecutor(9) as pool:
        futures = [pool.submit(in_thread) for _ in range(8)]
        futures.append(pool.submit(lambda: asyncio.run(tasks())))
        for future in futures:
            future.result(LONG)
    assert (most, done, inside) == (3, 20, 0)


def test_the_first_request_never_waits(take: Callable[..., float], clock: Clock) -> None:
    assert take(make_pacer(clock, per_minute=1)) == 0


def test_at_120_requests_per_minute_one_leaves_every_half_second(
    take: Callable[..., float], clock: Clock
) -> None:
    pacer = make_pacer(clock, per_minute=120)
    assert [take(pacer) for _ in range(4)] == [0, 0.5, 0.5, 0.5]


def test_time_that_has_passed_anyway_is_not_waited_again(take: Callable[..., float], clock: Clock) -> None:
    pacer = make_pacer(clock, per_minute=60)
    take(pacer)
    clock.now += 0.25
    assert take(pacer) == 0.75
    clock.now += 3_600
    assert [take(pacer), take(pacer)] == [0, 1]


def test_without_a_rate_nothing_waits(take: Callable[..., float], clock: Clock) -> None:
    pacer = make_pacer(clock)
    assert [take(pacer) for _ in range(50)] == [0] * 50


def test_requests_that_wait_at_the_same_time_get_different_turns() -> None:
    clock = Clock()
    pacer = make_pacer(clock, concurrency=4, per_minute=60)
    turns: list[float] = []

    async def wait_apart(seconds: float) -> None:
        turns.append(clock.now + seconds)
        await asyncio.sleep(0)
        clock.now = max(clock.now, turns[-1])

    async def one() -> None:
        async with pacer.aslot(wait_apart, patience=PATIENCE):
            pass

    async def four() -> None:
        await asyncio.gather(*(one() for _ in range(4)))

    asyncio.run(four())
    assert sorted(set(turns)) == [1_000_001, 1_000_002, 1_000_003]


def test_a_pause_holds_everyone_until_it_is_over(take: Callable[..., float], clock: Clock) -> None:
    pacer = make_pacer(clock)
    pacer.pause(10)
    clock.now += 4
    assert [take(pacer), take(pacer)] == [6, 0]


def test_a_shorter_pause_does_not_end_a_longer_one(take: Callable[..., float], clock: Clock) -> None:
    pacer = make_pacer(clock)
    pacer.pause(10)
    pacer.pause(1)
    assert take(pacer) == 10


@pytest.mark.parametrize("seconds", [3_600, 3_601, 999_999_999, 251_824_463_999.0, float("inf")])
def test_no_pause_is_longer_than_an_hour(take: Callable[..., float], clock: Clock, seconds: float) -> None:
    pacer = make_pacer(clock)
    pacer.pause(seconds)
    assert take(pacer, float("inf")) == 3_600


def test_after_a_pause_requests_are_spaced_again(take: Callable[..., float], clock: Clock) -> None:
    pacer = make_pacer(clock, per_minute=60)
    pacer.pause(10)
    assert [take(pacer), take(pacer)] == [10, 1]


def test_a_pause_that_begins_while_a_request_waits_holds_it_too(clock: Clock) -> None:
    pacer = make_pacer(clock, per_minute=60)

    def sleep(seconds: float) -> None:
        if not clock.slept:
            pacer.pause(20)
        clock.sleep(seconds)

    with pacer.slot(sleep, patience=PATIENCE):
        pass
    with pacer.slot(sleep, patience=PATIENCE):
        assert clock.slept == [1, 19]


def test_a_pause_longer_than_the_patience_raises_at_once_and_nothing_leaves(
    take: Callable[..., float], clock: Clock
) -> None:
    pacer = make_pacer(clock, concurrency=1)
    pacer.pause(61)
    with pytest.raises(
        RateLimited, match=r"wait 61 s more: try again after that\. Nothing was sent"
    ) as caught:
        take(pacer)
    assert caught.value.retry_after == 61
    assert clock.slept == []
    clock.now += 1
    assert take(pacer) == 60  # The only slot was given back.


def test_a_long_queue_is_not_a_pause(take: Callable[..., float], clock: Clock) -> None:
    """AIsa asks clients to queue rather than to fail: only the gateway's own pause ends the patience."""
    pacer = make_pacer(clock, per_minute=1)
    assert [take(pacer, 0.0), take(pacer, 0.0)] == [0, 60]


def limits(
    clock: Clock, limit: object, remaining: object, reset: object = 30, suffix: str = "-requests"
) -> dict[str, str]:
    moment = clock.now + reset if isinstance(reset, int) else reset
    values = {"limit": limit, "remaining": remaining, "reset": moment}
    return {f"x-ratelimit-{name}{suffix}": str(value) for name, value in values.items()}


@pytest.mark.parametrize("suffix", ["-requests", ""])
def test_below_ten_percent_the_rest_is_spread_until_the_reset(
    take: Callable[..., float], clock: Clock, suffix: str
) -> None:
    pacer = make_pacer(clock)
    pacer.observe(limits(clock, 100, 5, suffix=suffix))
    waits = [take(pacer) for _ in range(8)]
    assert waits[:6] == [0, 6, 6, 6, 6, 6]
    assert waits[6:] == [0, 0]


@pytest.mark.parametrize("remaining", [10, 11, 100])
def test_at_ten_percent_and_above_nothing_slows_down(
    take: Callable[..., float], clock: Clock, remaining: int
) -> None:
    pacer = make_pacer(clock)
    pacer.observe(limits(clock, 100, remaining))
    assert [take(pacer) for _ in range(3)] == [0, 0, 0]


def test_with_nothing_remaining_the_second_request_waits_for_the_reset(
    take: Callable[..., float], clock: Clock
) -> None:
    pacer = make_pacer(clock)
    pacer.observe(limits(clock, 100, 0))
    assert [take(pacer) for _ in range(3)] == [0, 30, 0]


def test_the_spread_ends_as_soon_as_there_is_enough_again(take: Callable[..., float], clock: Clock) -> None:
    pacer = make_pacer(clock)
    pacer.observe(limits(clock, 100, 5))
    take(pacer)
    pacer.observe(limits(clock, 100, 100))
    assert take(pacer) == 0


def test_a_clock_that_is_wrong_by_hours_does_not_stop_anybody_for_longer_than_a_minute(
    take: Callable[..., float], clock: Clock
) -> None:
    pacer = make_pacer(clock)
    pacer.observe(limits(clock, 100, 1, 36_000))
    assert [take(pacer) for _ in range(3)] == [0, 60, 0]
    pacer.observe(limits(clock, 100, 1, -36_000))
    assert [take(pacer) for _ in range(3)] == [0, 0, 0]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-ratelimit-limit": "100"},
        {"x-ratelimit-limit": "100", "x-ratelimit-remaining": "1"},
        {"x-ratelimit-limit": "100", "x-ratelimit-remaining": "1", "x-ratelimit-reset": "soon"},
        {"x-ratelimit-limit": "nan", "x-ratelimit-remaining": "nan", "x-ratelimit-reset": "nan"},
        {"x-ratelimit-limit": "100", "x-ratelimit-remaining": "1", "x-ratelimit-reset": "-inf"},
    ],
)
def test_headers_that_say_nothing_change_nothing(
    take: Callable[..., float], clock: Clock, headers: dict[str, str]
) -> None:
    pacer = make_pacer(clock)
    pacer.observe(headers)
    assert [take(pacer) for _ in range(3)] == [0, 0, 0]


def test_a_failure_inside_gives_the_slot_back(take: Callable[..., float], clock: Clock) -> None:
    pacer = make_pacer(clock, concurrency=1)
    with pytest.raises(ZeroDivisionError), pacer.slot(patience=PATIENCE):
        _ = 1 / 0
    assert take(pacer) == 0


def test_an_interrupted_wait_for_its_turn_gives_the_slot_back(clock: Clock) -> None:
    pacer = make_pacer(clock, concurrency=1)
    pacer.pause(5)

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), pacer.slot(interrupt, patience=PATIENCE):
        pytest.fail("nothing may leave")
    clock.now += 5
    with pacer.slot(interrupt, patience=PATIENCE):
        pass


async def wait_in_line(slot: AbstractAsyncContextManager[None]) -> None:
    async with slot:
        pass


def test_a_waiter_that_is_cancelled_leaves_the_line() -> None:
    async def scenario() -> None:
        pacer = make_pacer(concurrency=1)
        async with pacer.aslot(patience=PATIENCE):
            waiter = asyncio.create_task(wait_in_line(pacer.aslot(patience=PATIENCE)))
            await asyncio.sleep(0)
            waiter.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiter
        await free_slots(pacer, 1)

    asyncio.run(scenario())


def test_a_waiter_that_is_cancelled_in_the_moment_in_which_it_is_served_gives_its_slot_back() -> None:
    async def scenario() -> None:
        pacer = make_pacer(concurrency=1)
        with pacer.slot(patience=PATIENCE):
            waiter = asyncio.create_task(wait_in_line(pacer.aslot(patience=PATIENCE)))
            await asyncio.sleep(0)
        # The slot is granted now, but the waiter has not run since.
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        await free_slots(pacer, 1)

    asyncio.run(scenario())


def test_after_thousands_of_cancels_at_random_moments_all_slots_are_there() -> None:
    """Threads take slots at the same time, so that grants come in the middle of cancels."""
    pacer = make_pacer(concurrency=3)
    stop = threading.Event()
    rng = random.Random(7)  # noqa: S311 - not a secret

    def keep_taking() -> None:
        while not stop.is_set():
            with pacer.slot(patience=PATIENCE):
                pass

    async def hold(turns: int) -> None:
        async with pacer.aslot(patience=PATIENCE):
            for _ in range(turns):
                await asyncio.sleep(0)

    async def one_round() -> int:
        tasks = [asyncio.create_task(hold(rng.randrange(3))) for _ in range(40)]
        for task in rng.sample(tasks, 30):
            for _ in range(rng.randrange(2)):
                await asyncio.sleep(0)
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        return sum(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)

    async def scenario() -> int:
        async with asyncio.timeout(LONG * 2):
            cancelled = sum([await one_round() for _ in range(60)])
        stop.set()
        return cancelled

    with ThreadPoolExecutor(2) as pool:
        threads = [pool.submit(keep_taking) for _ in range(2)]
        try:
            cancelled = asyncio.run(scenario())
        finally:
            stop.set()
        for thread in threads:
            thread.result(LONG)
    assert cancelled > 100
    asyncio.run(free_slots(pacer, 3))


def test_more_concurrency_lets_waiters_in_at_once() -> None:
    async def scenario() -> None:
        pacer = make_pacer(concurrency=1)
        async with pacer.aslot(patience=PATIENCE):
            waiter = asyncio.create_task(wait_in_line(pacer.aslot(patience=PATIENCE)))
            await asyncio.sleep(0)
            assert not waiter.done()
            pacer.configure(max_concurrency=2, requests_per_minute=None)
            async with asyncio.timeout(LONG):
                await waiter
        await free_slots(pacer, 2)

    asyncio.run(scenario())


def test_less_concurrency_lets_nobody_in_until_enough_have_left() -> None:
    async def scenario() -> None:
        pacer = make_pacer(concurrency=2)
        async with pacer.aslot(patience=PATIENCE):
            async with pacer.aslot(patience=PATIENCE):
                pacer.configure(max_concurrency=1, requests_per_minute=None)
                waiter = asyncio.create_task(wait_in_line(pacer.aslot(patience=PATIENCE)))
                await asyncio.sleep(0)
            for _ in range(5):
                await asyncio.sleep(0)
            assert not waiter.done()
        async with asyncio.timeout(LONG):
            await waiter
        await free_slots(pacer, 1)

    asyncio.run(scenario())


def test_clients_of_one_key_and_gateway_share_a_pacer_and_others_do_not() -> None:
    settings = make_settings()
    same = make_settings(api_key=settings.api_key, conn_id="another_name", timeout=1.0)
    other_key = make_settings()
    other_gateway = make_settings(api_key=settings.api_key, base_url="https://other.test/v1")
    assert pacer_for(settings) is pacer_for(same)
    assert len({id(pacer_for(each)) for each in (settings, other_key, other_gateway)}) == 3


def test_an_edited_connection_changes_the_limits_of_the_shared_pacer() -> None:
    settings = make_settings(max_concurrency=1)
    pacer = pacer_for(settings)
    asyncio.run(free_slots(pacer, 1))
    assert pacer_for(make_settings(api_key=settings.api_key, max_concurrency=4)) is pacer
    asyncio.run(free_slots(pacer, 4))
