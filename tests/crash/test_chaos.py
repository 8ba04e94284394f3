"""The short form of `python -m tests.crash`: random deaths, with everything around failing as well."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.crash.chaos import Chaos, Plan, Task

if TYPE_CHECKING:
    from tests.crash.workers import Workers
    from tools.seaweedfs import SeaweedFS

KILLS = 25


def test_no_death_loses_what_is_paid_for_or_pays_it_twice(
    workers: Workers, s3_store: SeaweedFS, warm_bucket: str
) -> None:
    """All that is recorded is stored, and only what nobody could know is paid for again, and reported."""
    with Chaos(workers=workers, store=s3_store, bucket=warm_bucket, seed=7) as chaos:
        report = chaos.run(kills=KILLS, parallel=4)

    assert report.is_good, str(report)
    assert report.kills >= KILLS
    assert report.stored > 0


def test_the_same_seed_makes_the_same_decisions() -> None:
    """A run that found something can be repeated: the plan hangs on nothing but seed, task and attempt."""
    decisions = [
        [(task.images, task.deferrable, task.delivery, task.plan(attempt)) for attempt in range(8)]
        for task in (Task(number, seed=7) for number in (3, 3))
    ]

    assert decisions[0] == decisions[1]
    assert decisions[0][-1][-1] == Plan(None, 0.0, (), is_store_faulty=False)
