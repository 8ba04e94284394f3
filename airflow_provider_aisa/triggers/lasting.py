"""A trigger's event comes no earlier than the scheduler can bear it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

#: Seconds from the start of a trigger to its event, at least. The worker that deferred the task may exit up
#: to 5 s later ([workers] min_heartbeat_interval), and only then does the scheduler hear of it. If the event
#: has queued the task again by then, the scheduler takes it for killed: it fails, although all is stored.
EARLIEST_EVENT: Final = 8.0


@asynccontextmanager
async def lasting(
    seconds: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncIterator[None]:
    """Let a block take at least so many seconds, also one that raises; one that is cancelled ends at once."""
    end = clock() + seconds
    try:
        yield
    except Exception:
        # It fails the task, which is queued again for that.
        await sleep(max(0.0, end - clock()))
        raise
    await sleep(max(0.0, end - clock()))
