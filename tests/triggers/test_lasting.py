"""What a trigger waits for before it fires."""

from __future__ import annotations

import asyncio

import pytest

from airflow_provider_aisa.triggers.lasting import lasting
from tests.fakes.clock import Clock


async def work(clock: Clock, seconds: float, error: BaseException | None = None) -> None:
    async with lasting(8.0, clock=clock, sleep=clock.asleep):
        clock.now += seconds
        if error is not None:
            raise error


@pytest.mark.parametrize(("took", "waits"), [(0.0, 8.0), (2.5, 5.5), (8.0, 0.0), (40.0, 0.0)])
def test_what_ends_early_waits_for_the_rest_of_its_time(took: float, waits: float) -> None:
    clock = Clock()

    asyncio.run(work(clock, took))

    assert clock.slept == [waits]


def test_what_fails_early_waits_as_well() -> None:
    """A trigger that raises queues its task too, for it to fail."""
    clock = Clock()

    with pytest.raises(ValueError, match="a bug"):
        asyncio.run(work(clock, 1.0, ValueError("a bug")))

    assert clock.slept == [7.0]


@pytest.mark.parametrize("end", [asyncio.CancelledError, KeyboardInterrupt, SystemExit])
def test_what_is_told_to_end_does_not_wait(end: type[BaseException]) -> None:
    clock = Clock()

    with pytest.raises(end):
        asyncio.run(work(clock, 1.0, end()))

    assert clock.slept == []
