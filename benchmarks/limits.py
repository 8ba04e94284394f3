"""A gateway with a small rate limit: it should be used up, and hardly ever refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from benchmarks.report import Table, verdict
from benchmarks.servers import open_servers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.servers import Servers

PER_MINUTE: Final = 60
IN_FLIGHT: Final = 5
LATENCY: Final = 2.0  # seconds per generation
COUNT: Final = 150
REFUSED: Final = 0.01  # of the requests
USED: Final = 0.95  # of the allowed rate
CASES: Final[Mapping[str, Mapping[str, int]]] = {
    "the connection says `requests_per_minute` 60": {"requests_per_minute": PER_MINUTE},
    "the connection does not know the rate": {},
}


def main(runs: int) -> Table:
    """Run one batch for each case, once: each takes minutes."""
    del runs
    with open_servers() as servers:
        servers.batch("ours", 5, IN_FLIGHT)
        servers.sandbox.change(
            latency=LATENCY, requests_per_minute=PER_MINUTE, max_in_flight=IN_FLIGHT, rate_window=60.0
        )
        found = {name: _measure(servers, limits) for name, limits in CASES.items()}
    rows = [
        (name, f"{one['sent']:.0f}", f"{one['refused']:.0f}", f"{one['share']:.1%}", f"{one['rate']:.0%}")
        for name, one in found.items()
    ]
    return Table(
        f"A batch of {COUNT} at a gateway with {PER_MINUTE} requests/min and {IN_FLIGHT} in flight",
        ("case", "requests sent", "answered 429", "share", "of the allowed rate"),
        rows,
        (
            f"One run each, {LATENCY:.0f} s per generation.",
            "The rate is that of the admitted requests from the first to the last.",
            "The gateway counts in fixed windows of a minute, so it can exceed 100%.",
            verdict(
                f"at most {REFUSED:.0%} answered 429, at {USED:.0%} of the rate or more",
                met=all(one["share"] <= REFUSED and one["rate"] >= USED for one in found.values()),
            ),
        ),
    )


def _measure(servers: Servers, limits: Mapping[str, int]) -> dict[str, float]:
    servers.sandbox.reset()
    servers.batch("ours", COUNT, IN_FLIGHT, limits=limits)
    sent = [one for one in servers.sandbox.requests if one.path.endswith("/images/generations")]
    admitted = [one for one in sent if one.status != 429]
    seconds = (admitted[-1].time - admitted[0].time).total_seconds()
    return {
        "sent": len(sent),
        "refused": len(sent) - len(admitted),
        "share": 1 - len(admitted) / len(sent),
        "rate": (len(admitted) - 1) / seconds * 60 / PER_MINUTE,
    }
