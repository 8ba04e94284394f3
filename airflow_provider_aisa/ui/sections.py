"""What a task instance shows: one tile for each image, each failure, and each task that is still at work.

Tiles are numbered within a section, so that a page can be made without making those before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Protocol

from airflow_provider_aisa.ui.database import Instance
from airflow_provider_aisa.ui.lines import Lines, Tally
from airflow_provider_aisa.ui.notes import FAILURE_KEY
from airflow_provider_aisa.ui.results import BatchFigures, Failure, Picture, Place, Purchase
from airflow_provider_aisa.ui.sources import Source

#: States of a task instance in which it works, or will by itself.
AT_WORK: Final = frozenset(
    {"scheduled", "queued", "running", "deferred", "restarting", "up_for_retry", "up_for_reschedule"}
)
#: Characters of a prompt that a page needs.
_LONGEST_PROMPT: Final = 2_000
_CUT_REMARK: Final = "max_templated_field_length. "
_QUOTES: Final = "'\""


@dataclass(slots=True)
class Figures:
    """What a header says. ``unpriced`` are requests whose cost nobody knows."""

    images: int = 0
    cost_usd: float = 0.0
    unpriced: int = 0
    reused: int = 0
    failed: int = 0
    refused: int = 0
    not_sent: int = 0
    unknown_outcomes: int = 0

    def add_purchase(self, purchase: Purchase) -> None:
        """Add one request."""
        self.images += len(purchase.pictures)
        self.reused += purchase.reused
        self.unknown_outcomes += purchase.unknown_outcomes
        self._add_cost(purchase.cost_usd)

    def add_failure(self, failure: Failure | None) -> None:
        """Add a task that failed."""
        self.failed += 1
        if failure is not None:
            self.refused += failure.is_refusal
            self.unknown_outcomes += failure.unknown_outcomes

    def add_batch(self, batch: BatchFigures | Tally) -> None:
        """Add a batch."""
        self.images += batch.images
        self.reused += batch.reused
        self.failed += batch.failed
        self.refused += batch.refused
        self.not_sent += batch.not_sent
        self.unknown_outcomes += batch.unknown_outcomes
        self._add_cost(batch.cost_usd)
        if isinstance(batch, Tally):
            self.unpriced += batch.unpriced

    def _add_cost(self, cost: float | None) -> None:
        self.cost_usd += cost or 0.0
        self.unpriced += cost is None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON. Amounts that were added up in binary are rounded to what a bill can say."""
        return {**asdict(self), "cost_usd": round(self.cost_usd, 6)}


class Section(Protocol):
    """The tiles of one task instance."""

    instance: Instance

    @property
    def count(self) -> int:
        """How many tiles there are."""

    @property
    def failures(self) -> int:
        """How many of them are failures."""

    def tile(self, number: int, fields: Mapping[str, Any], *, only_failures: bool) -> dict[str, Any]:
        """Return a tile as JSON; `fields` are the task instance's rendered ones."""

    def add_to(self, figures: Figures) -> None:
        """Add what the task instance came to."""


@dataclass(slots=True)
class SingleSection:
    """A task with one request: its images, or its failure, or that it is at work."""

    instance: Instance
    purchase: Purchase
    failure: Failure | None
    has_failed: bool
    is_at_work: bool

    @classmethod
    def of(cls, source: Source) -> SingleSection:
        """Return what a task instance shows that is no batch."""
        instance = source.instance
        failure = Failure.parse(instance.values.get(FAILURE_KEY))
        has_failed = instance.state in {"failed", "up_for_retry"} and (
            failure is not None or instance.is_ours
        )
        return cls(
            instance,
            source.result if isinstance(source.result, Purchase) else Purchase(()),
            failure,
            has_failed,
            is_at_work=instance.is_ours
            and instance.state in AT_WORK
            and not has_failed
            and not source.result,
        )

    @property
    def count(self) -> int:
        """How many tiles there are."""
        return len(self.purchase.pictures) + self.has_failed + self.is_at_work

    @property
    def failures(self) -> int:
        """How many of them are failures."""
        return int(self.has_failed)

    def tile(self, number: int, fields: Mapping[str, Any], *, only_failures: bool) -> dict[str, Any]:
        """Return a tile as JSON."""
        prompt = _prompt(fields.get("prompt"))
        base = {**_of(self.instance), "item": None, "prompt": prompt}
        if number < len(self.purchase.pictures) and not only_failures:
            return base | image_tile(self.purchase, self.purchase.pictures[number])
        if self.has_failed:
            return base | failure_tile(self.failure, will_retry=self.instance.state == "up_for_retry")
        return base | {"kind": "waiting", "state": self.instance.state}

    def add_to(self, figures: Figures) -> None:
        """Add what the task came to."""
        if self.purchase.pictures or self.purchase.request_id:
            figures.add_purchase(self.purchase)
        if self.has_failed:
            figures.add_failure(self.failure)


@dataclass(slots=True)
class BatchSection:
    """A batch: the tiles of its lines. They are read when they are needed.

    :param problem: why its lines cannot be shown.
    """

    instance: Instance
    source: Source
    figures: BatchFigures | None
    read_lines: Any
    lines: Lines | None = None
    problem: str | None = None
    _failure: Failure | None = field(default=None)

    @property
    def count(self) -> int:
        """How many tiles there are; by what the result says as long as the lines are not read."""
        if self.lines is not None:
            return self.lines.tiles
        return self.figures.images + self.figures.failed if self.figures and self.problem is None else 0

    @property
    def failures(self) -> int:
        """How many of them are failures."""
        if self.lines is not None:
            return self.lines.failures
        return self.figures.failed if self.figures and self.problem is None else 0

    def tile(self, number: int, fields: Mapping[str, Any], *, only_failures: bool) -> dict[str, Any]:
        """Return a tile as JSON."""
        if self.lines is None:
            self.lines = self.read_lines(self.source)
        line, position = self.lines.tile(number, only_failures=only_failures)
        base = {**_of(self.instance), "item": line.id, "prompt": _prompt(line.prompt)}
        if line.purchase.records is not None:
            base["journal_uri"] = line.purchase.records.uri
        if position is not None:
            return base | image_tile(line.purchase, line.purchase.pictures[position])
        return base | failure_tile(line.failure, will_retry=False)

    @property
    def folder(self) -> Place | None:
        """The folder of its journal and its manifest."""
        if self.figures is not None:
            return self.figures.manifest.folder
        return self.source.note.folder if self.source.note is not None else None

    def add_to(self, figures: Figures) -> None:
        """Add what the batch came to, or has come to so far."""
        if self.figures is not None:
            figures.add_batch(self.figures)
        elif self.lines is not None:
            figures.add_batch(self.lines.tally)


def image_tile(purchase: Purchase, picture: Picture) -> dict[str, Any]:
    """Return what a page shows of an image."""
    return {
        "kind": "image",
        "index": picture.index,
        "width": picture.width,
        "height": picture.height,
        "bytes": picture.bytes,
        "sha256": picture.sha256,
        "uri": picture.place.uri,
        "model": purchase.model,
        "cost_usd": purchase.cost_usd,
        "images": len(purchase.pictures),
        "request_id": purchase.request_id,
        "reused": purchase.reused,
        "unknown_outcomes": purchase.unknown_outcomes,
    }


def failure_tile(failure: Failure | None, *, will_retry: bool) -> dict[str, Any]:
    """Return what a page shows of a failure."""
    told = failure or Failure(
        "Failed", "The task failed without an error of this package. Its log says why: open the task."
    )
    return {"kind": "failure", "will_retry": will_retry, **asdict(told)}


def _of(instance: Instance) -> dict[str, Any]:
    label = instance.label or (str(instance.map_index) if instance.map_index >= 0 else None)
    return {"task_id": instance.task_id, "map_index": instance.map_index, "label": label}


def _prompt(value: object) -> str | None:
    """Return a prompt; Airflow cuts a long one and puts a remark before it."""
    if not isinstance(value, str):
        return None
    remark, found, rest = value.partition(_CUT_REMARK)
    if found and remark.startswith("Truncated"):
        value = f"{rest.strip(' .').strip(_QUOTES)}…"
    return value[:_LONGEST_PROMPT]
