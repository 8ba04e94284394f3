"""A batch survives what kills its worker: each item is paid for once, stored, and told in one manifest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.crash.siege import KILLS, Doom, Siege

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.crash.workers import Workers
    from tools.seaweedfs import SeaweedFS


def test_a_batch_whose_worker_is_killed_ten_times_pays_once_for_each_item_and_stores_all(
    workers: Workers, s3_store: SeaweedFS, warm_bucket: str, record_property: Callable[[str, object], None]
) -> None:
    """Only what nobody could know is paid for again, and reported."""
    with Siege(workers=workers, store=s3_store, bucket=warm_bucket, seed=11) as siege:
        report = siege.run()

    record_property("siege", report.rows())
    assert report.is_good, str(report)
    assert report.kills == KILLS


def test_the_same_seed_kills_at_the_same_progress() -> None:
    assert Doom.draw(11) == Doom.draw(11) != Doom.draw(12)
