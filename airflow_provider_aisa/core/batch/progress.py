"""How far a batch is: the figures of its result, and the line that a person who watches the log reads."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final

from airflow_provider_aisa.core.batch.manifest import STORED, UNMATCHED, ManifestLine

#: Of figures in `usage`, and characters of a name: the result has to stay small.
_MOST_KINDS: Final = 30
_LONGEST_NAME: Final = 50
_LARGEST: Final = 10**15
_SAMPLES: Final = 30


@dataclass(slots=True)
class Tally:
    """What has become of a batch's items so far.

    :param images: in S3, those of earlier attempts included.
    :param cost_usd: what all of them, and what failed after it was paid, cost; None when nobody knows.
    :param paid_images: of them those that this attempt has paid for.
    :param unmatched: purchases of earlier attempts that no request asks for any more. They are no items, but
        what may have been billed for them counts in ``unknown_outcomes``.
    :param usage: the gateway's own figures, added up.
    :param errors: how many items failed, by the error's class.
    """

    total: int
    stored: int = 0
    reused: int = 0
    failed: int = 0
    unmatched: int = 0
    images: int = 0
    paid_images: int = 0
    cost_usd: Decimal | None = Decimal(0)
    paid_usd: Decimal = Decimal(0)
    unknown_outcomes: int = 0
    rate_limits: int = 0
    usage: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)

    @property
    def done(self) -> int:
        """Items that are settled, one way or the other."""
        return self.stored + self.failed

    def count(self, line: ManifestLine) -> None:
        """Add a line of the manifest."""
        self.unknown_outcomes += line["unknown_outcomes"]
        if line["status"] == UNMATCHED:
            self.unmatched += 1
            return
        images = len(line["images"])
        if line["status"] == STORED:
            self.stored += 1
            self.reused += line["reused"]
        else:
            self.failed += 1
            self.errors[line["error"]] += 1
        self.images += images
        self._add_cost(line["cost_usd"], is_new=not line["reused"])
        if not line["reused"]:
            self.paid_images += images
        for name, figure in (line["usage"] or {}).items():
            if _is_figure(name, figure) and (name in self.usage or len(self.usage) < _MOST_KINDS):
                self.usage[name] += figure

    def _add_cost(self, cost: float | None, *, is_new: bool) -> None:
        if cost is None:
            self.cost_usd = None
            return
        amount = Decimal(str(cost))
        if self.cost_usd is not None:
            self.cost_usd += amount
        if is_new:
            self.paid_usd += amount

    def result(self) -> dict[str, Any]:
        """Return the figures for XCom."""
        return {
            "items": self.total,
            "stored": self.stored,
            "reused": self.reused,
            "failed": self.failed,
            "not_sent": self.total - self.done,
            "unmatched": self.unmatched,
            "images": self.images,
            "cost_usd": None if self.cost_usd is None else float(self.cost_usd),
            "usage": dict(self.usage),
            "unknown_outcomes": self.unknown_outcomes,
            "errors": dict(self.errors),
        }


class Speedometer:
    """Images per minute and the time that is left, by what the last samples say."""

    def __init__(self, now: float, tally: Tally) -> None:
        self._samples: deque[tuple[float, int, int]] = deque(maxlen=_SAMPLES)
        self.sample(now, tally)

    def sample(self, now: float, tally: Tally) -> None:
        """Take down how far the batch is at a moment (seconds of a monotonic clock)."""
        self._samples.append((now, tally.paid_images, tally.done))

    def text(self, tally: Tally) -> str:
        """Return the line of the log."""
        (began, images, done), (now, images_now, done_now) = self._samples[0], self._samples[-1]
        minutes = max(now - began, 1e-9) / 60
        speed = (done_now - done) / minutes
        cost = "cost unknown" if tally.cost_usd is None else f"${tally.cost_usd:.2f} so far"
        left = "nothing left" if tally.done == tally.total else "time left unknown"
        if speed and tally.done < tally.total:
            rest = timedelta(minutes=(tally.total - tally.done) / speed)
            left = f"about {str(rest).partition('.')[0]} left"
        limited = f", {tally.rate_limits} rate limits" if tally.rate_limits else ""
        return (
            f"{tally.done:,} of {tally.total:,} items done ({tally.failed:,} failed, {tally.reused:,} reused"
            f"{limited}), {(images_now - images) / minutes:.1f} images/min, {cost}, {left}."
        )


def _is_figure(name: str, value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float) or len(name) > _LONGEST_NAME:
        return False
    return -_LARGEST < value < _LARGEST
