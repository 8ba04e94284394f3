"""The items of a batch side by side: each pays once for itself, and one's failure is its own.

What stops a batch early stops its sending only: what is paid for is stored first, and then told.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, Final, cast

from airflow_provider_aisa.core.batch.failures import Failures
from airflow_provider_aisa.core.batch.manifest import (
    Line,
    dump,
    failed_line,
    stored_line,
    write_manifest,
)
from airflow_provider_aisa.core.batch.plan import Plan, PlannedItem
from airflow_provider_aisa.core.batch.resume import Checkpoint, Settled
from airflow_provider_aisa.core.batch.spec import BatchOrder
from airflow_provider_aisa.core.batch.spent import spent_on
from airflow_provider_aisa.core.batch.tally import Speedometer, Tally
from airflow_provider_aisa.core.budget import Budget, SpendingStopped
from airflow_provider_aisa.core.gateway.client import AisaClient
from airflow_provider_aisa.core.gateway.settings import ConnectionSettings
from airflow_provider_aisa.core.generate import GenerationResult, Pipeline
from airflow_provider_aisa.core.images.download import Fetcher, open_fetcher
from airflow_provider_aisa.core.images.transfer import Lanes
from airflow_provider_aisa.core.journal.store import Journal
from airflow_provider_aisa.core.logs import quietly
from airflow_provider_aisa.core.s3 import Bucket
from airflow_provider_aisa.exceptions import AisaError, OutcomeUnknown, OverBudget, StorageFailed

log = logging.getLogger(__name__)

#: Images of a batch on their way at once, and of them those that are being downloaded.
TRANSFERS: Final = 16
DOWNLOADS: Final = 8
#: Threads for what blocks besides the requests that are being paid for.
THREADS: Final = 24
#: Seconds between two lines of progress.
REPORT_EVERY: Final = 10.0
_TICK: Final = 0.5  # seconds
Report = Callable[[Tally], None]


async def run_batch(
    order: BatchOrder,
    plan: Plan,
    *,
    settings: ConnectionSettings,
    bucket: Bucket,
    folder: Path,
    report: Report,
) -> dict[str, Any]:
    """Do what is left to be done of all items, with clients of its own. Raises as :meth:`Batch.run`.

    :param folder: for temporary files.
    :param report: gets the figures every few seconds, and at the end.
    """
    # The event loop ends with the batch: it may have the threads that the batch needs.
    asyncio.get_running_loop().set_default_executor(
        ThreadPoolExecutor(THREADS, thread_name_prefix="aisa-batch")
    )
    # Not closed: see `generate`.
    client = AisaClient(settings, max_wait=math.inf)
    with open_fetcher(settings) as fetcher:
        batch = Batch(
            order, plan, client=client, fetcher=fetcher, bucket=bucket, folder=folder, report=report
        )
        with quietly():
            return await batch.run()


class Batch:
    """All items of one batch, on one event loop."""

    def __init__(
        self,
        order: BatchOrder,
        plan: Plan,
        *,
        client: AisaClient,
        fetcher: Fetcher,
        bucket: Bucket,
        folder: Path,
        report: Report,
    ) -> None:
        self._order = order
        self._plan = plan
        self._client = client
        self._fetcher = fetcher
        self._bucket = bucket
        self._folder = folder
        self._report = report
        self._checkpoint = Checkpoint(bucket, order)
        self._tally = Tally(plan.total)
        self._lanes = Lanes(transfers=TRANSFERS, downloads=DOWNLOADS)
        self._budget = Budget(order.max_cost_usd)
        # As many as are answered at once may wait for their transfer while as many are sent. Only those in
        # the lanes take up disk.
        self._window = asyncio.Semaphore(2 * client.settings.max_concurrency + TRANSFERS)
        self._running: dict[asyncio.Task[None], Pipeline] = {}
        self._aside: set[asyncio.Task[None]] = set()  # of them those without a place in the window
        self._trusts_listing = False
        self._is_stopped = False
        self._stopped_by: BaseException | None = None
        self._failures = Failures(order, self._tally, in_flight=client.settings.max_concurrency)

    async def run(self) -> dict[str, Any]:
        """Return the batch's figures and the manifest's URI.

        :raises ItemsFailed: an item failed and ``on_item_failure`` is ``fail``, or too many did.
        :raises AisaError: what stopped the batch; whatever is paid for is stored if it can be.
        """
        try:
            await asyncio.to_thread(self._begin)
        except OverBudget as e:
            self._stop(e)  # What is paid for is stored all the same.
        speed = Speedometer(time.monotonic(), self._tally)
        ticker = asyncio.create_task(self._tick(speed))
        try:
            await self._run_items()
        finally:
            ticker.cancel()
            await self._end_items()
            await asyncio.to_thread(self._checkpoint.keep)
        uri = await asyncio.to_thread(self._write_manifest)
        self._tell()
        speed.sample(time.monotonic(), self._tally)
        log.info("%s", speed.text(self._tally))
        self._failures.check(uri, is_stopped=self._is_stopped, stopped_by=self._stopped_by)
        return {**self._tally.result(), "manifest_uri": uri}

    def _begin(self) -> None:
        """Find out what earlier attempts have done, and that the rest may be written and paid for."""
        self._checkpoint.restore(self._plan, settle=self._restore)
        described = {"batch": asdict(self._order.attempt.owner), "items": self._plan.total}
        ledger = Journal(self._bucket, f"{self._order.folder}batch.json")
        # A store whose conditions are worthless could have claims that the listing did not show.
        self._trusts_listing = ledger.prove(json.dumps(described, indent=1).encode())
        if self._order.max_cost_usd is not None:
            self._check_budget()
        log.info(
            "%d items, %d of them stored by earlier attempts. Journal and manifest: %s.",
            self._plan.total,
            self._tally.stored,
            self._bucket.uri(self._order.folder),
        )

    def _restore(self, settled: Settled) -> None:
        self._tally.count(settled.line)
        if settled.attempt.owner == self._order.attempt.owner:
            self._budget.spent += Decimal(str(settled.line["cost_usd"] or 0))
            if unknown := settled.line["unknown_outcomes"]:
                self._budget.spent += self._plan.cost_usd(settled.journal) * unknown

    def _check_budget(self) -> None:
        """Raise OverBudget when what is left costs more than what is left of the budget."""
        cost, images = Decimal(0), 0
        items = self._plan.left()
        with ThreadPoolExecutor(THREADS, thread_name_prefix="aisa-budget") as pool:
            while some := list(islice(items, THREADS)):
                for item, (spent, is_to_buy) in zip(some, pool.map(self._spent, some), strict=True):
                    self._budget.spent += spent
                    if is_to_buy:
                        cost, images = cost + item.cost_usd, images + item.request.n
        self._budget.check(cost, images=images)

    def _spent(self, item: PlannedItem) -> tuple[Decimal, bool]:
        return spent_on(item, self._order, self._bucket)

    async def _run_items(self) -> None:
        for item in self._plan.left():
            await self._window.acquire()
            if self._is_stopped and (not item.has_entry or isinstance(self._stopped_by, StorageFailed)):
                self._window.release()
                break
            self._start(item)
        while self._running:
            await asyncio.wait(self._running)

    def _start(self, item: PlannedItem) -> None:
        pipeline = Pipeline(
            self._order.job(item),
            client=self._client,
            fetcher=self._fetcher,
            bucket=self._bucket,
            folder=self._folder,
            lanes=self._lanes,
            budget=self._budget,
            sleep=self._step_aside,
        )
        task = asyncio.create_task(self._do(item, pipeline))
        self._running[task] = pipeline
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        if task in self._aside:
            self._aside.remove(task)
        else:
            self._window.release()
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, SpendingStopped):
            self._stop(error)

    async def _step_aside(self, seconds: float) -> None:
        """Wait for somebody else's claim without keeping other items waiting."""
        task = cast("asyncio.Task[None]", asyncio.current_task())
        self._aside.add(task)
        self._window.release()
        await asyncio.sleep(seconds)
        await self._window.acquire()
        self._aside.remove(task)

    async def _do(self, item: PlannedItem, pipeline: Pipeline) -> None:
        try:
            result = await pipeline.run(is_new=self._trusts_listing and not item.has_entry)
        except (SpendingStopped, asyncio.CancelledError):
            if pipeline.unknown_outcomes:
                what = "an earlier request may have been billed; it was not sent again."
                self._settle(item, failed_line(item.id, OutcomeUnknown(what), pipeline))
            raise
        except AisaError as e:
            self._fail(item, pipeline, e)
        except Exception as e:
            if pipeline.entry is not None or pipeline.unknown_outcomes:
                what = f"an unexpected {type(e).__name__}: see the log of the task."
                self._settle(item, failed_line(item.id, AisaError(what), pipeline))
            raise
        else:
            self._succeed(item, pipeline, result)

    def _succeed(self, item: PlannedItem, pipeline: Pipeline, result: GenerationResult) -> None:
        line = stored_line(item.id, result)
        self._settle(item, line)
        if pipeline.entry is not None and pipeline.stored_etag is not None:
            self._checkpoint.add(
                Settled(item.journal, pipeline.stored_etag, item.fingerprint, pipeline.entry.attempt, line)
            )

    def _settle(self, item: PlannedItem, line: Line) -> None:
        self._plan.settle(item.position, dump(line))
        self._tally.count(line)

    def _fail(self, item: PlannedItem, pipeline: Pipeline, error: AisaError) -> None:
        failures = self._failures
        if not failures.is_hopeless(error) or pipeline.entry is not None or pipeline.unknown_outcomes:
            self._settle(item, failed_line(item.id, error, pipeline))
            failures.add(item.id, error)
        if failures.ends_batch(error, was_sent=pipeline.was_sent, successes=self._client.successes):
            self._stop(error)
        elif failures.are_too_many:
            self._stop(None)

    def _stop(self, error: BaseException | None) -> None:
        """Send nothing more. What has been sent ends by itself, and its images are stored.

        :param error: None when too many items have failed.
        """
        if not self._is_stopped:
            self._is_stopped, self._stopped_by = True, error
            log.warning("Nothing more is sent; what is paid for is being stored.")
            self._budget.stop()
        self._cancel_waiting()

    def _cancel_waiting(self) -> None:
        for task, pipeline in self._running.items():
            if pipeline.is_waiting:
                task.cancel()

    async def _end_items(self) -> None:
        """End whatever still runs when the batch itself is cancelled; what is being paid for is recorded."""
        self._budget.stop()
        for task in self._running:
            task.cancel()
        while self._running:
            await asyncio.wait(self._running)

    async def _tick(self, speed: Speedometer) -> None:
        reported = time.monotonic()
        while True:
            await asyncio.sleep(_TICK)
            if self._is_stopped:
                self._cancel_waiting()  # Some have come back from a rate limit since.
            if self._checkpoint.is_due:
                await asyncio.to_thread(self._checkpoint.keep)
            now = time.monotonic()
            if now - reported >= REPORT_EVERY:
                reported = now
                self._tell()
                speed.sample(now, self._tally)
                log.info("%s", speed.text(self._tally))

    def _tell(self) -> None:
        """Report the figures; whoever cannot take them does not hold up what is being paid for."""
        self._tally.rate_limits = self._client.rate_limits
        try:
            self._report(self._tally)
        except Exception:
            log.warning("The figures could not be reported.", exc_info=True)

    def _write_manifest(self) -> str:
        path = self._folder / "manifest.jsonl"
        write_manifest(path, self._plan.lines())
        uri = self._bucket.uri(self._order.manifest_key)
        try:
            self._bucket.put_lines(path, key=self._order.manifest_key)
        except StorageFailed as e:
            if self._stopped_by is None:
                raise
            log.warning("There is no manifest of this attempt: %s", e)
            return f"{uri} (not written by this attempt)"
        return uri
