"""Batches next to the same work written plainly: as fast as the gateway, and in little memory at any size."""

from __future__ import annotations

import json
import os
from statistics import median
from typing import TYPE_CHECKING, Final

from benchmarks.batch_work import FILE_KEY
from benchmarks.report import Table, medians, verdict
from benchmarks.servers import open_servers
from benchmarks.work import BUCKET, MIB

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.servers import Servers

SIZE: Final = 4  # MiB
#: Items, requests in flight, seconds per generation: ten are what real ones take.
CASES: Final = ((100, 20, 1.0), (200, 50, 1.0), (100, 20, 10.0))
MORE: Final = 1.15  # times the plain version's CPU
LESS: Final = 0.6  # of the plain version's memory
#: ms of CPU for a tiny image. The largest public key allows 50 requests a second: two thirds of a core.
MOST_TINY: Final = 13.0
PLAIN_TINY: Final = 4.6  # ms that the plain version took where that target was set

FEW, MANY, IN_FLIGHT = 500, 5_000, 20
GROWTH: Final = 0.1

LINES: Final = 50_000


def main(runs: int) -> list[Table]:
    """Measure both ways in turn, and ours with many tiny images, in a fresh process each time."""
    with open_servers() as servers:
        servers.sandbox.change(latency=0.0, image_bytes=SIZE * MIB)
        servers.batch("plain", *CASES[0][:2])  # The first picture is drawn, the first volumes are opened.
        tables = [_case(servers, runs, *case) for case in CASES]
        servers.sandbox.change(latency=0.0, image_bytes=None)
        return [*tables, _many(servers, runs), _start(servers, runs)]


def _case(servers: Servers, runs: int, count: int, in_flight: int, latency: float) -> Table:
    servers.sandbox.change(latency=latency)
    turns: dict[str, list[dict[str, float]]] = {"ours": [], "plain": []}
    for turn in range(runs):
        for way in sorted(turns, reverse=bool(turn % 2)):
            turns[way].append(servers.batch(way, count, in_flight))
    ours, plain = medians(turns["ours"]), medians(turns["plain"])
    ideal = count / in_flight * latency
    cpu, slower = (_share(turns, figure) for figure in ("cpu_seconds", "seconds"))
    added, whole = ours["peak_mib"] / plain["peak_mib"], ours["whole_mib"] / plain["whole_mib"]
    rows = [
        (
            name,
            f"{found['seconds']:.2f}",
            f"{found['seconds'] / ideal:.2f}",
            f"{found['cpu_seconds'] / count * 1000:.1f}",
            f"{found['servers_cpu_seconds']:.2f}",
            f"{_tail(found, in_flight / count):.2f}",
            f"{found['peak_mib']:.0f}",
            f"{found['whole_mib']:.0f}",
        )
        for name, found in (
            ("`SeedreamBatchOperator`", ours),
            (f"plain: OpenAI SDK, httpx, boto3, {in_flight} threads", plain),
        )
    ]
    return Table(
        f"A batch of {count} images of {SIZE} MiB, {in_flight} in flight, {latency:.0f} s per generation",
        (
            "way",
            "seconds",
            "of the ideal",
            "CPU ms per image",
            "CPU seconds of the servers",
            "seconds for the last images",
            "peak MiB added by the work",
            "peak MiB of the process",
        ),
        rows,
        (
            f"Medians of {runs} run(s), taken in turn. Ideal: {ideal:.0f} s.",
            "Gateway, CDN and S3 store share the cores, in other processes.",
            f"The last {in_flight} images come as the ideal ends, and keep all cores busy for so long.",
            f"In one turn ours computes {cpu:.2f} times and takes {slower:.2f} times as long (medians).",
            f"Ours adds {added:.0%} of what the plain version adds; the whole process is {whole:.0%} of its.",
            verdict(f"at most {MORE} x the plain version's CPU", met=cpu <= MORE),
            verdict("no slower than the plain version", met=slower <= 1.0),
            verdict(f"at most {LESS:.0%} of the plain version's peak memory", met=max(added, whole) <= LESS),
        ),
    )


def _share(turns: Mapping[str, Sequence[Mapping[str, float]]], figure: str) -> float:
    """Return how much of a figure ours takes of the plain version's, turn by turn: load passes."""
    pairs = zip(turns["ours"], turns["plain"], strict=True)
    return median(ours[figure] / plain[figure] for ours, plain in pairs)


def _tail(found: Mapping[str, float], share: float) -> float:
    """Return for how many seconds a share of all work keeps all cores busy."""
    return (found["cpu_seconds"] + found["servers_cpu_seconds"]) * share / (os.cpu_count() or 1)


def _many(servers: Servers, runs: int) -> Table:
    found = {
        count: medians([servers.batch("ours", count, IN_FLIGHT) for _ in range(runs)])
        for count in (FEW, MANY)
    }
    plain = medians([servers.batch("plain", FEW, IN_FLIGHT) for _ in range(runs)])
    tiny = found[MANY]["cpu_seconds"] / MANY * 1000
    scaled = tiny * PLAIN_TINY / (plain["cpu_seconds"] / FEW * 1000)
    growth = found[MANY]["whole_mib"] / found[FEW]["whole_mib"] - 1
    rows = [
        (
            name,
            f"{count / figures['seconds']:.0f}",
            f"{figures['cpu_seconds'] / count * 1000:.1f}",
            f"{figures['requests'] / count:.1f}",
            f"{figures['peak_mib']:.0f}",
            f"{figures['whole_mib']:.0f}",
        )
        for name, count, figures in (
            (f"`SeedreamBatchOperator`, {FEW:,} items", FEW, found[FEW]),
            (f"`SeedreamBatchOperator`, {MANY:,} items", MANY, found[MANY]),
            (f"plain, {FEW:,} items", FEW, plain),
        )
    ]
    return Table(
        "Many tiny images from a gateway that answers at once",
        (
            "way",
            "items per second",
            "CPU ms per item",
            "S3 requests per item",
            "peak MiB added by the work",
            "peak MiB of the process",
        ),
        rows,
        (
            f"Medians of {runs} run(s), {IN_FLIGHT} in flight. Images of about 50 KB.",
            "Ours claims, records and closes a journal entry for each item: three more S3 requests.",
            f"From {FEW:,} to {MANY:,} items, the process's peak grows by {growth:.0%}.",
            verdict(f"memory does not grow with the items (within {GROWTH:.0%})", met=growth <= GROWTH),
            verdict(f"at most {MOST_TINY:.0f} ms of CPU per item", met=tiny <= MOST_TINY),
            f"Scaled to cores on which plain takes {PLAIN_TINY} ms, as when that was set: {scaled:.1f} ms.",
        ),
    )


def _start(servers: Servers, runs: int) -> Table:
    prompt = "a lighthouse in fog " * 10
    lines = (json.dumps({"id": f"sku-{index}", "prompt": f"{prompt}{index}"}) for index in range(LINES))
    servers.store.client().put_object(Bucket=BUCKET, Key=FILE_KEY, Body="\n".join(lines).encode())
    found = medians([servers.batch("start", LINES, IN_FLIGHT) for _ in range(runs)])
    return Table(
        f"A file of {LINES:,} requests until the first may be sent",
        ("seconds", "CPU seconds", "peak MiB added by the work"),
        [(f"{found['seconds']:.1f}", f"{found['cpu_seconds']:.1f}", f"{found['peak_mib']:.0f}")],
        (
            f"Medians of {runs} run(s).",
            "The file is read, every line is checked and priced, and earlier attempts are looked for.",
        ),
    )
