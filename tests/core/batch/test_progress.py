"""Who watches the log sees how far the batch is, at most every ten seconds, and no single request."""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import replace

import pytest

from airflow_provider_aisa.core.batch import runner
from airflow_provider_aisa.core.logs import quietly
from airflow_provider_aisa.core.workbench import TIMING
from airflow_provider_aisa.exceptions import QuotaExceeded
from tests.core.batch.scene import PATIENCE, Scene, block_until, items
from tests.fakes.gateway import (
    CONTENT_REFUSED,
    QUOTA_EXCEEDED,
    RATE_LIMITED,
    Post,
)

PROGRESS = re.compile(r"[\d,]+ of [\d,]+ items done \(")
CHATTY = [f"airflow_provider_aisa.core.{name}" for name in ("generate", "purchase", "images.transfer")]


class Watcher(logging.Handler):
    """Keeps the lines of progress."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if PROGRESS.match(record.getMessage()):
            self.seen.append(record.getMessage())


@pytest.fixture
def watcher(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Watcher:
    """Watch a batch whose seconds are as short as can be."""
    watcher = Watcher()
    scene.timing = replace(scene.timing, report=0.01)
    logger = logging.getLogger(runner.__name__)
    monkeypatch.setattr(logger, "handlers", [watcher])
    monkeypatch.setattr(logger, "level", logging.INFO)
    logger.manager._clear_cache()  # type: ignore[attr-defined]  # what setLevel does, too
    return watcher


def test_progress_is_told_again_and_again_while_the_gateway_takes_its_time(
    scene: Scene, watcher: Watcher
) -> None:
    scene.gateway.on_request = lambda post: block_until(lambda: len(watcher.seen) >= int(post.prompt[1:]) / 4)
    assert scene.run(items(21))["stored"] == 21
    assert len(watcher.seen) > 5


def test_progress_is_told_every_ten_seconds_and_no_request_brings_a_line_of_its_own(
    scene: Scene, watcher: Watcher
) -> None:
    assert TIMING.report == 10.0
    scene.timing = replace(scene.timing, report=2 * PATIENCE)  # Longer than any test takes.
    scene.run(items(100))
    assert len(watcher.seen) == scene.reports == 1  # at the end


def test_progress_counts_what_is_done_failed_reused_and_spent(scene: Scene, watcher: Watcher) -> None:
    scene.run(items(2))
    scene.gateway.script["i2"] = [CONTENT_REFUSED]
    scene.gateway.script["i3"] = [RATE_LIMITED]

    def hold(post: Post) -> None:
        if post.prompt in {"i4", "i5"}:
            block_until(lambda: any("4 of 6 items" in text for text in watcher.seen))

    scene.gateway.on_request = hold
    scene.run(items(6), on_item_failure="keep")

    [text, *_] = [text for text in watcher.seen if text.startswith("4 of 6 items")]
    assert text.startswith("4 of 6 items done (1 failed, 2 reused, 1 rate limits), ")
    assert " images/min, $0.12 so far, " in text


def test_metrics_are_told_with_the_progress_and_once_at_the_end(scene: Scene, watcher: Watcher) -> None:
    scene.gateway.on_request = lambda _post: block_until(lambda: len(watcher.seen) >= 2)
    scene.run(items(3))
    assert scene.reports == len(watcher.seen)
    assert (scene.tally.paid_images, scene.tally.failed) == (3, 0)


@pytest.mark.parametrize("requests", [items(3), items(300)])
def test_a_batch_that_ends_at_once_tells_its_figures_once(scene: Scene, requests: list[object]) -> None:
    scene.run(requests)
    assert scene.reports == 1
    assert scene.tally.stored == len(requests)


def test_a_batch_that_stops_tells_its_figures_too(scene: Scene) -> None:
    scene.gateway.script["i1"] = [QUOTA_EXCEEDED]
    with pytest.raises(QuotaExceeded):
        scene.run(items(2))
    assert scene.reports == 1


def test_whoever_cannot_take_the_figures_does_not_fail_the_batch(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.on_report = lambda _tally: 1 / 0
    assert scene.run(items(3))["stored"] == 3
    assert "ZeroDivisionError" in caplog.text


def test_the_number_of_items_decides_nothing_about_the_length_of_the_log(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    lengths = []
    for count in (5, 50):
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="airflow_provider_aisa"):
            scene.run(items(count))
        ours = [record for record in caplog.records if record.name.startswith("airflow_provider_aisa")]
        lengths.append(len([record for record in ours if not PROGRESS.match(record.getMessage())]))
    assert lengths == [1, 1]


def test_the_log_says_at_the_start_what_is_there_and_where_the_journal_is(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.run(items(3))
    with caplog.at_level(logging.INFO):
        scene.run(items(5))
    assert "5 items, 3 of them stored by earlier attempts. Journal and manifest: s3://bucket/out/_aisa/" in (
        caplog.text
    )


def test_the_log_ends_with_what_became_of_the_batch(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        scene.run(items(3))
    assert caplog.records[-1].getMessage().startswith("3 of 3 items done (0 failed, 0 reused), ")
    assert caplog.records[-1].getMessage().endswith(" images/min, $0.12 so far, nothing left.")


# Being quiet.


@pytest.mark.parametrize("name", [*CHATTY, "httpx"])
def test_who_tells_of_each_request_is_silent_but_for_warnings(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger(name)
    with caplog.at_level(logging.DEBUG, logger=name):
        with quietly():
            logger.info("not told")
            logger.warning("told")
        logger.info("told again")
    assert [record.getMessage() for record in caplog.records] == ["told", "told again"]


def test_silence_ends_where_it_began_even_inside_another(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger(CHATTY[0])
    with caplog.at_level(logging.INFO):
        with quietly():
            with pytest.raises(ZeroDivisionError), quietly():
                raise ZeroDivisionError
            logger.info("not told")
        logger.info("told")
    assert [record.getMessage() for record in caplog.records] == ["told"]


def test_silence_follows_into_threads_and_tasks_and_not_to_neighbours(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logger = logging.getLogger(CHATTY[0])

    async def quiet() -> None:
        with quietly():
            await asyncio.to_thread(logger.info, "not told by a thread")
            await asyncio.create_task(asyncio.to_thread(logger.info, "not told by a task"))

    async def both() -> None:
        await asyncio.gather(quiet(), asyncio.to_thread(logger.info, "told by a neighbour"))

    with caplog.at_level(logging.INFO, logger=CHATTY[0]):
        asyncio.run(asyncio.wait_for(both(), PATIENCE))
    assert [record.getMessage() for record in caplog.records] == ["told by a neighbour"]
