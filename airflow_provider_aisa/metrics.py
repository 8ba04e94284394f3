"""What a batch tells Airflow's metrics, while it runs: counters grow by what is new since the last time."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self, cast

from airflow.providers.common.compat.sdk import Stats

if TYPE_CHECKING:
    from airflow_provider_aisa.core.batch.progress import Tally


class BatchMetrics:
    """Counters ``aisa.images``, ``aisa.cost_usd``, ``aisa.failures`` and ``aisa.rate_limits``, and a timer.

    Images and cost are what this attempt has paid for, in images and USD; failures are items. The timer
    ``aisa.batch`` takes the whole batch. All carry the tags ``dag_id`` and ``task_id``.
    """

    def __init__(self, *, dag_id: str, task_id: str) -> None:
        self._tags = {"dag_id": dag_id, "task_id": task_id}
        self._told: dict[str, float] = {}
        self._began = 0.0

    def __call__(self, tally: Tally) -> None:
        """Count what is new."""
        figures = {
            "aisa.images": tally.paid_images,
            "aisa.cost_usd": float(tally.paid_usd),
            "aisa.failures": tally.failed,
            "aisa.rate_limits": tally.rate_limits,
        }
        for name, figure in figures.items():
            if (new := figure - self._told.get(name, 0)) > 0:
                Stats.incr(name, cast("int", new), tags=self._tags)  # Counters take floats, too.
        self._told = dict(figures)

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        return self

    def __exit__(self, *_: Any) -> None:
        Stats.timing("aisa.batch", timedelta(seconds=time.monotonic() - self._began), tags=self._tags)
