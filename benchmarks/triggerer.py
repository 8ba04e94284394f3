"""What hundreds of deferred tasks do to a triggerer: its event loop must stay free, and each costs memory.

`python -m benchmarks.triggerer COUNT` is the measured process: triggers as a triggerer has them, from their
serialized form, all in one loop. Prints one JSON object.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from benchmarks.report import Table, medians, verdict
from benchmarks.servers import open_servers, run_python
from benchmarks.work import BUCKET, MODEL, PROMPT, SIZE, forget_peak, peak_mib

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from airflow_provider_aisa.triggers.generate import GenerateTrigger
    from benchmarks.servers import Servers

COUNT: Final = 500
LIMIT: Final = 20  # requests in flight that the connection allows
LATENCY: Final = 1.0  # seconds per generation; real ones take ten times as long
LONGEST_BLOCK: Final = 0.05  # seconds
_STEP: Final = 0.01  # seconds between two looks at the loop
_IDLE: Final = 3.0  # seconds


def main(runs: int) -> Table:
    """Run all triggers at once, in a fresh process each time."""
    with open_servers() as servers:
        servers.sandbox.latency = LATENCY
        found = medians([_measure(servers) for _ in range(runs)])
    return Table(
        f"A triggerer with {COUNT} deferred tasks at once",
        ("what", "figure"),
        (
            ("seconds until all images are stored", f"{found['seconds']:.1f}"),
            (f"least possible: {COUNT} generations, {LIMIT} at a time", f"{COUNT / LIMIT * LATENCY:.1f}"),
            ("longest block of the event loop, seconds", _block(found["block"], found["cpu"])),
            ("the first trigger of the process, alone", _block(found["first_block"], found["first_cpu"])),
            ("for comparison: the loop with nothing to do", f"{found['idle_block']:.3f}"),
            ("KiB of memory per task", f"{found['mib'] * 1024 / COUNT:.0f}"),
            ("most requests in flight at the gateway", f"{found['in_flight']:.0f}"),
        ),
        (
            f"Medians of {runs} run(s), one image of 2048x2048 per task, {LATENCY} s per generation.",
            "A block is how much later than asked for a sleep of 10 ms ends.",
            "Gateway, CDN and S3 store run on the same cores: part of a block is waiting for one.",
            verdict(
                f"no block of {LONGEST_BLOCK} s, {LIMIT} requests in flight",
                met=max(found["block"], found["first_block"]) < LONGEST_BLOCK and found["in_flight"] == LIMIT,
            ),
        ),
    )


def _block(seconds: float, cpu: float) -> str:
    return f"{seconds:.3f} (CPU of its thread: {cpu:.3f})"


def _measure(servers: Servers) -> dict[str, float]:
    servers.sandbox.reset()
    connection = {**json.loads(servers.sandbox.connection), "extra": {"max_concurrency": LIMIT}}
    env = {**servers.env, "AIRFLOW_CONN_AISA_DEFAULT": json.dumps(connection)}
    figures = json.loads(run_python("-m", "benchmarks.triggerer", str(COUNT), env=env).splitlines()[-1])
    if servers.sandbox.billed != COUNT + 1:
        raise RuntimeError(f"{servers.sandbox.billed} images were billed for {COUNT + 1} triggers")
    return {**figures, "in_flight": servers.sandbox.max_in_flight_seen}


def work(count: int) -> dict[str, float]:
    """Run one trigger, then all others at once, and return what it took."""
    return asyncio.run(_work(count))


async def _work(count: int) -> dict[str, float]:
    # In a triggerer, Airflow imports a trigger's class before it can run.
    from airflow_provider_aisa.triggers.generate import GenerateTrigger

    # Else Python stops for a full collection of Airflow's heap, 0.2 s, whenever anybody allocates enough.
    gc.collect()
    gc.freeze()
    async with _watched_loop() as idle:
        await asyncio.sleep(_IDLE)
    async with _watched_loop() as first:
        await _event(GenerateTrigger(**_arguments(count), earliest_event=0))
    # Airflow makes them one by one, and what makes their arguments here is no part of a triggerer at all.
    triggers = [GenerateTrigger(**_arguments(index), earliest_event=0) for index in range(count)]
    before = forget_peak()
    began = time.perf_counter()
    async with _watched_loop() as busy:
        await asyncio.gather(*map(_event, triggers))
    return {
        "seconds": time.perf_counter() - began,
        "block": busy.block,
        "cpu": busy.cpu,
        "first_block": first.block,
        "first_cpu": first.cpu,
        "idle_block": idle.block,
        "mib": peak_mib() - before,
    }


def _arguments(map_index: int) -> dict[str, Any]:
    from airflow_provider_aisa.core.gateway.request import ImageRequest
    from airflow_provider_aisa.core.job import Job
    from airflow_provider_aisa.core.journal.entry import Buyer
    from airflow_provider_aisa.core.layout import Owner, Target

    owner = Owner("benchmark", f"run-{time.time_ns()}", "task", map_index)
    job = Job(
        ImageRequest.parse(prompt=PROMPT, size=SIZE, n=1, model=MODEL),
        Target.parse(None, BUCKET, default_folder=owner.path()),
        Buyer(owner),
        price_usd=Decimal("0.040"),
    )
    return {"job": job.to_dict(), "aisa_conn_id": "aisa_default", "aws_conn_id": "aws_default"}


async def _event(trigger: GenerateTrigger) -> None:
    async for event in trigger.run():
        if "error" in event.payload:
            raise RuntimeError(f"a trigger failed: {event.payload}")


class Watch:
    """Looks at the loop again and again, and keeps the worst: in seconds, and in CPU of the loop's thread."""

    def __init__(self) -> None:
        self.block = 0.0
        self.cpu = 0.0

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            began, cpu = time.perf_counter(), time.thread_time()
            await asyncio.sleep(_STEP)
            self.block = max(self.block, time.perf_counter() - began - _STEP)
            self.cpu = max(self.cpu, time.thread_time() - cpu)


@asynccontextmanager
async def _watched_loop() -> AsyncIterator[Watch]:
    watch = Watch()
    watching = asyncio.create_task(watch.run())
    try:
        yield watch
        await asyncio.sleep(2 * _STEP)  # A block at the very end is seen as well.
    finally:
        watching.cancel()


if __name__ == "__main__":
    print(json.dumps(work(int(sys.argv[1]))))
