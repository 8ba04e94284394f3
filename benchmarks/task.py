"""One task that stores four images, next to the same work written plainly; and its memory by image size."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Final

from benchmarks.report import Table, medians, verdict
from benchmarks.servers import open_servers
from benchmarks.work import COUNT, MIB

if TYPE_CHECKING:
    from benchmarks.servers import Servers

WAYS: Final = {
    "ours": "`SeedreamGenerateOperator`",
    "plain": "plain: OpenAI SDK, httpx, boto3, one image after the other",
    "pool": f"plain, {COUNT} images at a time",
}
USUAL: Final = 16  # MiB
OTHERS: Final = (1, 48)
NOISE: Final = 1.1  # what two runs of the same way differ by on a machine that does nothing else
GROWTH: Final = 8.0  # MiB; what the same run differs by from one time to the next


def main(runs: int) -> list[Table]:
    """Measure each way in turn, and ours with other sizes, in a fresh process each time."""
    with open_servers() as servers:
        turns = _take_turns(servers, runs)
        peaks = {USUAL: medians(turns["ours"])["peak_mib"]}
        for size in OTHERS:
            servers.sandbox.image_bytes = size * MIB
            peaks[size] = medians([servers.work("ours") for _ in range(runs)])["peak_mib"]
    return [_comparison(turns, runs), _memory(peaks, runs)]


def _take_turns(servers: Servers, runs: int) -> dict[str, list[dict[str, float]]]:
    servers.sandbox.image_bytes = USUAL * MIB
    servers.work("plain")  # The first picture is drawn, the first volumes are opened.
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for turn in range(runs):
        # Everybody is first once: whoever shares the machine stays for a while.
        for way in _rotated(list(WAYS), turn):
            found[way].append(servers.work(way))
    return found


def _rotated(ways: list[str], turn: int) -> list[str]:
    first = turn % len(ways)
    return ways[first:] + ways[:first]


def _comparison(turns: dict[str, list[dict[str, float]]], runs: int) -> Table:
    found = {way: medians(one) for way, one in turns.items()}
    ratio = median(
        ours["seconds"] / plain["seconds"] for ours, plain in zip(turns["ours"], turns["plain"], strict=True)
    )
    rows = [
        (
            WAYS[way],
            f"{one['seconds']:.2f}",
            f"{one['cpu_seconds']:.2f}",
            f"{one['peak_mib']:.0f}",
            f"{one['whole_mib']:.0f}",
        )
        for way, one in found.items()
    ]
    return Table(
        f"One task, {COUNT} images of {USUAL} MiB",
        ("way", "seconds", "of them CPU", "peak MiB added by the work", "peak MiB of the process"),
        rows,
        (
            f"Medians of {runs} run(s), taken in turn, each in a fresh process after its imports.",
            "The gateway answers at once. It, the CDN and the S3 store share the cores, in other processes.",
            "Ours also keeps a journal, hashes each image and checks its bytes.",
            f"In one turn ours takes {ratio:.2f} times as long as the plain loop (median).",
            verdict(f"no slower than the plain loop, within {NOISE - 1:.0%}", met=ratio <= NOISE),
        ),
    )


def _memory(peaks: dict[int, float], runs: int) -> Table:
    growth = max(peaks.values()) - min(peaks.values())
    return Table(
        f"Memory of one task, {COUNT} images, by image size",
        ("MiB per image", "peak MiB added by the work"),
        [(str(size), f"{peak:.0f}") for size, peak in sorted(peaks.items())],
        (
            f"Medians of {runs} run(s) of `SeedreamGenerateOperator`.",
            "The high-water mark of resident memory, less what was resident after the imports.",
            verdict(f"does not grow with the images (within {GROWTH:.0f} MiB)", met=growth <= GROWTH),
        ),
    )
