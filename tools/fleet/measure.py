"""How many images a minute one, two and four workers generate: the figures of docs/scaling.md.

Each worker has one slot, and each of its batches five requests in flight at a gateway that takes three
seconds, so what is ideal is known: 100 images a minute for each worker.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tools.fleet.scene import IN_FLIGHT, open_scene

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

WORKERS = (1, 2, 4)
LATENCY = 3.0  # seconds
PER_TASK = 5  # requests in flight, and slots of the pool
CHUNK = 100  # images
TIMEOUT = 900.0
HEAD = "| workers | in flight | images per minute | of the ideal | USD per minute |"


def measure(say: Callable[[str], None]) -> str:
    """Start a fleet for each number of workers, and return the rows of the table in Markdown."""
    rows = [
        "| workers | in flight | images per minute | of the ideal | USD per minute |",
        "|---|---|---|---|---|",
    ]
    for workers in WORKERS:
        with tempfile.TemporaryDirectory(prefix="aisa-fleet-") as folder:
            rows.append(measure_one(Path(folder), workers))
        say(rows[-1])
    return "\n".join(rows)


def measure_one(folder: Path, workers: int) -> str:
    """Let so many workers draw a chunk each, and return their row."""
    folder.chmod(0o755)  # PostgreSQL runs as another user
    with open_scene(folder, workers=workers, slots=1, latency=LATENCY, config={}) as scene:
        fleet = scene.fleet
        fleet.unpause("chunks")
        fleet.pool("aisa", IN_FLIGHT)
        conf = {"file": scene.upload_requests(CHUNK * workers), "size": CHUNK}
        run = fleet.trigger("chunks", conf)
        if (state := fleet.wait_for_run("chunks", run, TIMEOUT)) != "success":
            raise RuntimeError(f"the run with {workers} workers ended as {state!r}")
        times: list[datetime] = sorted(entry.time for entry in scene.chunks.ledger)
    # From the first request, one latency before its answer, to the last answer: starting is no part of it.
    minutes = ((times[-1] - times[0]).total_seconds() + LATENCY) / 60
    rate = len(times) / minutes
    ideal = workers * PER_TASK * 60 / LATENCY
    price = float(scene.chunks.cost_usd) / len(times)
    in_flight = workers * PER_TASK
    return f"| {workers} | {in_flight} | {rate:.0f} | {rate / ideal:.0%} | {rate * price:.2f} |"
