from __future__ import annotations

import asyncio

from tests.fakes.clock import Clock


def test_time_passes_only_when_somebody_sleeps_or_a_test_says_so() -> None:
    clock = Clock(100.0)

    clock.sleep(2.0)
    asyncio.run(clock.asleep(3.0))
    clock.skip(10.0)

    assert clock() == 115.0
    assert clock.slept == [2.0, 3.0]
