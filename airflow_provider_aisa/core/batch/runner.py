"""The items of a batch side by side: each pays once for itself, and one's failure is its own.

What stops a batch early stops its sending only: what is paid for is stored first, and then told.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from airflow_provider_aisa.core.batch.failures import Failures
from airflow_provider_aisa.core.batch.manifest import ManifestLine, dump, line_of, write_manifest
from airflow_provider_aisa.core.batch.plan import Plan, PlannedItem
from airflow_provider_aisa.core.batch.progress import Speedometer, Tally
from airflow_provider_aisa.core.batch.resume import Earlier, look_back
from airflow_provider_aisa.core.batch.spec import BatchSpec
from airflow_provider_aisa.core.budget import Budget, SpendingStopped
from airflow_provider_aisa.core.gateway.settings import ConnectionSettings
from airflow_provider_aisa.core.generate import generate
from airflow_provider_aisa.core.images.transfer import Lanes
from airflow_provider_aisa.core.layout import proof_key
from airflow_provider_aisa.core.logs import quietly
from airflow_provider_aisa.core.receipt import Receipt
from airflow_provider_aisa.core.s3.bucket import Bucket
from airflow_provider_aisa.core.workbench import Workbench, open_workbench
from airflow_provider_aisa.exceptions import AisaError, OutcomeUnknown, OverBudget, StorageFailed

log = logging.getLogger(__name__)

#: Images of a batch on their way at once, and of them those that are being downloaded.
TRANSFERS: Final = 16
DOWNLOADS: Final = 8
#: Threads for what blocks besides the requests that are being paid for.
THREADS: Final = 24
Report = Callable[[Tally], None]


async def run_batch(
    spec: BatchSpec,
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
    async with open_workbench(
        settings,
        bucket,
        Budget(spec.max_cost_usd),
        lanes=Lanes(transfers=TRANSFERS, downloads=DOWNLOADS),
        max_wait=math.inf,
        folder=folder,
    ) as bench:
        with quietly():
            return await Batch(spec, plan, bench, report).run()


class _Place:
    """An item's place in the window of those that are under way."""

    def __init__(self, window: asyncio.Semaphore, bench: Workbench) -> None:
        self._window = window
        self._bench = bench
        self._is_taken = True

    async def step_aside(self, seconds: float) -> None:
        """Wait for somebody else's claim without keeping other items waiting."""
        self.leave()
        await self._bench.pause(seconds)
        await self._window.acquire()
        self._is_taken = True

    def leave(self) -> None:
        """Give the place to another item."""
        if self._is_taken:
            self._is_taken = False
            self._window.release()


class Batch:
    """All items of one batch, on one event loop."""

    def __init__(self, spec: BatchSpec, plan: Plan, bench: Workbench, report: Report) -> None:
        self._spec = spec
        self._plan = plan
        self._bench = bench
        self._report = report
        self._tally = Tally(plan.total)
        # As many as are answered at once may wait for their transfer while as many are sent. Only those in
        # the lanes take up disk.
        self._window = asyncio.Semaphore(2 * bench.client.settings.max_concurrency + TRANSFERS)
        self._running: set[asyncio.Task[None]] = set()
        self._is_stopped = False
        self._stopped_by: BaseException | None = None
        self._failures = Failures(spec, self._tally, in_flight=bench.client.settings.max_concurrency)

    async def run(self) -> dict[str, Any]:
        """Return the batch's figures and the manifest's URI.

        :raises ItemsFailed: an item failed and ``on_item_failure`` is ``fail``, or too many did.
        :raises AisaError: what stopped the batch; whatever is paid for is stored if it can be.
        """
        earlier = await asyncio.to_thread(self._look_back)
        speed = Speedometer(time.monotonic(), self._tally)
        ticker = asyncio.create_task(self._tick(speed))
        try:
            await self._run_items(earlier)
        finally:
            ticker.cancel()
            await self._end_items()
        uri = await asyncio.to_thread(self._write_manifest)
        self._tell()
        speed.sample(time.monotonic(), self._tally)
        log.info("%s", speed.text(self._tally))
        self._failures.check(uri, is_stopped=self._is_stopped, stopped_by=self._stopped_by)
        return {**self._tally.result(), "manifest_uri": uri}

    def _look_back(self) -> Earlier:
        """Find out what earlier attempts have done, and that the rest may be written and paid for."""
        spec, bench = self._spec, self._bench
        earlier = look_back(spec, self._plan, bench.bucket, tell=self._tally.count)
        for planned in self._plan.left():
            spec.job(planned.item).check_metadata()  # All items have the same, but for their size.
            break
        if unproven := bench.bucket.unproven_args:
            bench.bucket.prove_args(proof_key(spec.defaults.target, spec.idempotency_key, unproven))
        bench.budget.spent += earlier.spent
        log.info(
            "%d items, %d of them stored by earlier attempts. Journal and manifest: %s.",
            self._plan.total,
            self._tally.stored,
            bench.bucket.uri(spec.layout.folder),
        )
        return earlier

    async def _run_items(self, earlier: Earlier) -> None:
        try:
            self._bench.budget.check(earlier.to_buy, images=earlier.images)
        except OverBudget as e:
            self._stop(e)  # What is paid for is stored all the same.
        for planned in self._plan.left():
            await self._window.acquire()
            if self._is_stopped and (not planned.has_entry or isinstance(self._stopped_by, StorageFailed)):
                self._window.release()
                break
            task = asyncio.create_task(self._do(planned, is_known_new=self._is_new(planned, earlier)))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        while self._running:
            await asyncio.wait(self._running)

    @staticmethod
    def _is_new(planned: PlannedItem, earlier: Earlier) -> bool:
        # A store whose conditions are worthless could have a claim that the listing did not show.
        return earlier.conditions_hold and not planned.has_entry

    async def _do(self, planned: PlannedItem, *, is_known_new: bool) -> None:
        place = _Place(self._window, self._bench)
        try:
            receipt = await generate(
                self._spec.job(planned.item), self._bench, is_known_new=is_known_new, wait=place.step_aside
            )
            self._take(planned, receipt)
        except Exception as e:
            self._stop(e)
        finally:
            place.leave()

    def _take(self, planned: PlannedItem, receipt: Receipt) -> None:
        """Keep what an item came to."""
        error = receipt.error
        if error is None:
            self._settle(planned, receipt)
        elif isinstance(error, SpendingStopped):
            if receipt.unknown_outcomes:
                what = "an earlier request may have been billed; it was not sent again."
                self._settle(planned, replace(receipt, error=OutcomeUnknown(what)))
        elif isinstance(error, AisaError):
            self._fail(planned, receipt, error)
        else:
            if not receipt.is_empty:
                what = f"an unexpected {type(error).__name__}: see the log of the task."
                self._settle(planned, replace(receipt, error=AisaError(what)))
            self._stop(error)

    def _settle(self, planned: PlannedItem, receipt: Receipt) -> None:
        line: ManifestLine = line_of(planned.item.id, receipt)
        self._plan.settle(planned.position, dump(line))
        self._tally.count(line)

    def _fail(self, planned: PlannedItem, receipt: Receipt, error: AisaError) -> None:
        failures = self._failures
        if not failures.is_hopeless(error) or not receipt.is_empty:
            self._settle(planned, receipt)
            failures.add(planned.item.id, error)
        successes = self._bench.client.successes
        if failures.ends_batch(error, was_sent=receipt.was_sent, successes=successes):
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
            self._bench.stop()

    async def _end_items(self) -> None:
        """End whatever still runs when the batch itself is cancelled; what is being paid for is recorded."""
        self._bench.stop()
        for task in self._running:
            task.cancel()
        while self._running:
            await asyncio.wait(self._running)

    async def _tick(self, speed: Speedometer) -> None:
        while True:
            await asyncio.sleep(self._bench.timing.report)
            self._tell()
            speed.sample(time.monotonic(), self._tally)
            log.info("%s", speed.text(self._tally))

    def _tell(self) -> None:
        """Report the figures; whoever cannot take them does not hold up what is being paid for."""
        self._tally.rate_limits = self._bench.client.rate_limits
        try:
            self._report(self._tally)
        except Exception:
            log.warning("The figures could not be reported.", exc_info=True)

    def _write_manifest(self) -> str:
        bucket, key = self._bench.bucket, self._spec.layout.manifest
        path = self._bench.folder / "manifest.jsonl"
        write_manifest(path, self._plan.lines())
        try:
            bucket.put_lines(path, key=key)
        except StorageFailed as e:
            if self._stopped_by is None:
                raise
            log.warning("There is no manifest of this attempt: %s", e)
            return f"{bucket.uri(key)} (not written by this attempt)"
        return bucket.uri(key)
