"""What the journal costs: its requests to S3 in a task that pays at its first try, and their seconds."""

from __future__ import annotations

from typing import Final

from benchmarks.report import Table, medians, verdict
from benchmarks.servers import open_servers
from benchmarks.work import COUNT, MIB

MOST_REQUESTS: Final = 5  # a look, the probe of conditional writes, claim, paid, stored
MOST_SECONDS: Final = 0.1


def main(runs: int) -> Table:
    """Count and time the requests of whole tasks."""
    with open_servers() as servers:
        servers.sandbox.image_bytes = MIB
        servers.work("ours")
        found = medians([servers.work("ours") for _ in range(runs)])
    requests, seconds = found["journal_requests"], found["journal_seconds"]
    return Table(
        "The journal of one task",
        ("what", "figure"),
        (
            (f"S3 requests in all, {COUNT} images", f"{found['requests']:.0f}"),
            ("of them the journal's", f"{requests:.0f}"),
            ("their seconds, one after the other", f"{seconds:.3f}"),
            ("their share of the task's seconds, at a gateway that answers at once", _share(found)),
        ),
        (
            f"Medians of {runs} run(s), {COUNT} images of 1 MiB; the store is on the same machine.",
            "Each request is timed from its parameters to its parsed answer.",
            verdict(
                f"at most {MOST_REQUESTS} requests and {MOST_SECONDS} s",
                met=requests <= MOST_REQUESTS and seconds <= MOST_SECONDS,
            ),
        ),
    )


def _share(found: dict[str, float]) -> str:
    return f"{found['journal_seconds'] / found['seconds']:.0%}"
