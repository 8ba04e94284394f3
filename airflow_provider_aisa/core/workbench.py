"""What one job or a batch works with, opened once and handed down: nobody looks for its own client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from airflow_provider_aisa.core.budget import Budget, SpendingStopped
from airflow_provider_aisa.core.gateway.client import MAX_WAIT, AisaClient
from airflow_provider_aisa.core.gateway.settings import ConnectionSettings
from airflow_provider_aisa.core.images.download import Fetcher, open_fetcher
from airflow_provider_aisa.core.images.transfer import Lanes, temporary_folder
from airflow_provider_aisa.core.s3.bucket import Bucket


@dataclass(frozen=True, slots=True)
class Timing:
    """How long who waits for what. All in seconds.

    :param poll: between looks at an entry that somebody else has claimed.
    :param claim_margin: beyond the request's timeout, after which a claim is stale: connecting, and S3 on
        both sides.
    :param report: between two lines of a batch's progress.
    """

    poll: float = 5.0
    claim_margin: float = 60.0
    report: float = 10.0


#: What everybody uses who does not say otherwise.
TIMING = Timing()


@dataclass(frozen=True, slots=True)
class Workbench:
    """The tools of one job, or of all jobs of a batch. For one event loop.

    :param folder: for the files that the images pass through.
    :param lanes: how many images are on their way at once.
    :param budget: what each send has to fit into.
    :param sleep: waits, in seconds.
    """

    client: AisaClient
    fetcher: Fetcher
    bucket: Bucket
    folder: Path
    lanes: Lanes
    budget: Budget
    timing: Timing = TIMING
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    _stopped: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_stopped(self) -> bool:
        """Whether nothing more is to be sent."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """Let nothing more be sent, and end what only waits to be sent. What has been sent goes on."""
        self.budget.stop()
        self._stopped.set()

    async def pause(self, seconds: float) -> None:
        """Wait, as long as something may still be sent.

        :raises SpendingStopped: nothing may, any more.
        """
        if not self.is_stopped:
            sleeping = asyncio.ensure_future(self.sleep(seconds))
            stopping = asyncio.ensure_future(self._stopped.wait())
            try:
                await asyncio.wait({sleeping, stopping}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                stopping.cancel()
                sleeping.cancel()
        if self.is_stopped:
            raise SpendingStopped


@asynccontextmanager
async def open_workbench(
    settings: ConnectionSettings,
    bucket: Bucket,
    budget: Budget,
    *,
    lanes: Lanes | None = None,
    max_wait: float = MAX_WAIT,
    folder: Path | None = None,
) -> AsyncIterator[Workbench]:
    """Open what a job needs.

    :param folder: for files on their way; None for one that is made now and removed at the end.
    :param max_wait: as of :class:`AisaClient`.
    :raises InvalidRequest: the bucket's arguments are none of PutObject's.
    """
    bucket.check_args()
    # Not closed: when a job is cancelled, a request may still be under way, and closing would cut it off.
    # Nothing stays open for long, since each connection ends with its response.
    client = AisaClient(settings, max_wait=max_wait)
    with open_fetcher(settings) as fetcher:
        async with temporary_folder(folder) as place:
            yield Workbench(client, fetcher, bucket, place, lanes or Lanes(), budget, TIMING)
