"""The pages' data: a run or one of its tasks, tile by tile, and a DAG's last runs. Everything here blocks."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final

from airflow_provider_aisa.core.layout import Owner
from airflow_provider_aisa.ui.batches import Shelf
from airflow_provider_aisa.ui.database import (
    Instance,
    Run,
    read_fields,
    read_last_runs,
    read_run,
)
from airflow_provider_aisa.ui.notes import FAILURE_KEY
from airflow_provider_aisa.ui.prompts import Prompts
from airflow_provider_aisa.ui.results import BatchFigures, Failure, Place
from airflow_provider_aisa.ui.sections import AT_WORK, BatchSection, Figures, Section, SingleSection
from airflow_provider_aisa.ui.sources import Source
from airflow_provider_aisa.ui.stores import Unavailable

#: Tiles in one answer.
MOST_TILES: Final = 200
#: Runs that a DAG's page shows, and whose cost its chart shows.
LAST_RUNS: Final = 30
_READERS: Final = 8


@dataclass(frozen=True, slots=True)
class Part:
    """Which part of a run a page shows: all of it, a task, or one instance of a task."""

    dag_id: str
    run_id: str
    task_id: str | None = None
    map_index: int | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """Which tiles are wanted.

    :param offset: the number of the first tile.
    :param limit: how many; at most :data:`MOST_TILES`.
    :param task_id: only those of this task are counted and shown.
    """

    offset: int = 0
    limit: int = MOST_TILES
    task_id: str | None = None
    only_failures: bool = False

    def count(self, section: Section) -> int:
        """Return how many tiles of a section may be shown."""
        if self.task_id is not None and section.instance.task_id != self.task_id:
            return 0
        return section.failures if self.only_failures else section.count


def run_view(part: Part, shelf: Shelf, prompts: Prompts, window: Window) -> dict[str, Any]:
    """Return a run's figures, its tasks and some of its tiles.

    :raises Unavailable: there is no such run.
    """
    found = read_run(part.dag_id, part.run_id, task_id=part.task_id, map_index=part.map_index)
    if found is None:
        raise Unavailable("There is no such run of this DAG.")
    run, instances = found
    view = _RunView(run, _in_order(instances), shelf, prompts)
    return view.to_dict(window)


def dag_view(dag_id: str) -> dict[str, Any]:
    """Return a DAG's last runs, the newest first, with what they came to as far as the database tells."""
    return {
        "runs": [_run_in_short(run, instances) for run, instances in read_last_runs(dag_id, limit=LAST_RUNS)]
    }


def _run_in_short(run: Run, instances: list[Instance]) -> dict[str, Any]:
    figures = Figures()
    for instance in instances:
        section = _section(Source.of(_owner(run, instance), instance, {}), None)
        section.add_to(figures)
    return {**_run_document(run), "figures": figures.to_dict()}


class _RunView:
    def __init__(self, run: Run, instances: list[Instance], shelf: Shelf, prompts: Prompts) -> None:
        self._run = run
        self._shelf = shelf
        self._prompts = prompts
        self._sources = [
            Source.of(_owner(run, instance), instance, instance.batch_fields) for instance in instances
        ]
        self._sections = [_section(source, shelf) for source in self._sources]
        self._read_lines_of_unfinished()

    def _read_lines_of_unfinished(self) -> None:
        """Read what batches have come to that have no result: those that run, and those that failed."""
        unfinished = [
            section for section in self._sections if isinstance(section, BatchSection) and not section.figures
        ]
        if unfinished:
            with ThreadPoolExecutor(_READERS, thread_name_prefix="aisa-gallery-lines") as pool:
                list(pool.map(_read_lines, unfinished))

    def to_dict(self, window: Window) -> dict[str, Any]:
        tiles = self._tiles(window)
        figures = Figures()
        for section in self._sections:
            section.add_to(figures)
        return {
            "run": _run_document(self._run),
            "figures": figures.to_dict(),
            "tasks": self._tasks(),
            "progress": [document for document in map(self._progress, self._sections) if document],
            "problems": list(self._problems()),
            "total": sum(map(window.count, self._sections)),
            "failures": sum(section.failures for section in self._sections),
            "offset": window.offset,
            "tiles": tiles,
        }

    def _tiles(self, window: Window) -> list[dict[str, Any]]:
        wanted = list(self._wanted(window))
        singles = [section.instance for section, _ in wanted if isinstance(section, SingleSection)]
        keys = [(instance.task_id, instance.map_index) for instance in singles]
        fields = read_fields(self._run.dag_id, self._run.run_id, keys) if keys else {}
        tiles = []
        for section, number in wanted:
            instance = section.instance
            known = fields.get((instance.task_id, instance.map_index), {})
            try:
                tiles.append(section.tile(number, known, only_failures=window.only_failures))
            except Unavailable as e:
                tiles.append(_missing(section, str(e)))
            except IndexError:  # The manifest is shorter than the result says.
                tiles.append(_missing(section, "The manifest does not tell of this image."))
        self._add_prompts([section for section, _ in wanted], tiles)
        return tiles

    def _add_prompts(self, sections: list[Section], tiles: list[dict[str, Any]]) -> None:
        """Look up the prompts of the tiles whose manifest has none, for each batch at once."""
        by_batch: dict[int, tuple[BatchSection, list[tuple[Place, dict[str, Any]]]]] = {}
        for section, tile in zip(sections, tiles, strict=True):
            journal = Place.parse(tile.pop("journal_uri", None))
            if isinstance(section, BatchSection) and journal is not None and tile["prompt"] is None:
                by_batch.setdefault(id(section), (section, []))[1].append((journal, tile))
        for section, missing in by_batch.values():
            folder = section.folder
            if folder is not None:
                found = self._prompts.read([journal for journal, _ in missing], folder, section.source.store)
                for journal, tile in missing:
                    tile["prompt"] = found.get(journal)

    def _wanted(self, window: Window) -> Iterator[tuple[Section, int]]:
        """Yield the sections and numbers of the tiles in a window."""
        first, end = window.offset, window.offset + min(window.limit, MOST_TILES)
        before = 0  # tiles of the sections so far
        for section in self._sections:
            count = window.count(section)
            for number in range(max(0, first - before), min(count, end - before)):
                yield section, number
            before += count
            if before >= end:
                return

    def _tasks(self) -> list[dict[str, Any]]:
        """Return the tasks that have something to show, each with its tiles counted."""
        tasks: dict[str, dict[str, Any]] = {}
        for section in self._sections:
            instance = section.instance
            task = tasks.setdefault(
                instance.task_id,
                {
                    "task_id": instance.task_id,
                    "tiles": 0,
                    "failures": 0,
                    "is_ours": False,
                    "is_at_work": False,
                },
            )
            task["tiles"] += section.count
            task["failures"] += section.failures
            task["is_ours"] |= instance.is_ours or bool(instance.values)
            task["is_at_work"] |= instance.state in AT_WORK
        return list(tasks.values())

    def _progress(self, section: Section) -> dict[str, Any] | None:
        if not isinstance(section, BatchSection) or section.lines is None:
            return None
        batch = self._shelf.running(section.source) if section.problem is None else None
        note = section.source.note
        if batch is None or note is None:
            return None
        done = batch.lines.tally.items
        speed = batch.per_minute
        left = max(0, note.items - done)
        return {
            "task_id": section.instance.task_id,
            "map_index": section.instance.map_index,
            "label": section.instance.label,
            "items": note.items,
            "stored": done,
            "in_flight": batch.in_flight,
            "unread": batch.unread,
            "per_minute": round(speed, 1),
            "seconds_left": round(left / speed * 60) if speed else None,
        }

    def _problems(self) -> Iterator[dict[str, Any]]:
        """Yield what keeps a batch from being shown, and why a batch failed as a whole."""
        for section in self._sections:
            if not isinstance(section, BatchSection):
                continue
            of = {"task_id": section.instance.task_id, "map_index": section.instance.map_index}
            failure = Failure.parse(section.instance.values.get(FAILURE_KEY))
            if failure is not None:
                yield {**of, **asdict(failure)}
            if section.problem is not None:
                yield {**of, **asdict(Failure("", section.problem))}


def _section(source: Source, shelf: Shelf | None) -> Section:
    if not source.is_batch:
        return SingleSection.of(source)
    figures = source.result if isinstance(source.result, BatchFigures) else None
    return BatchSection(source.instance, source, figures, shelf.lines if shelf else None)


def _read_lines(section: BatchSection) -> None:
    try:
        section.lines = section.read_lines(section.source)
    except Unavailable as e:
        section.problem = str(e)


def _missing(section: Section, message: str) -> dict[str, Any]:
    instance = section.instance
    return {
        "kind": "missing",
        "task_id": instance.task_id,
        "map_index": instance.map_index,
        "label": instance.label,
        "item": None,
        "prompt": None,
        "message": message,
    }


def _owner(run: Run, instance: Instance) -> Owner:
    return Owner(run.dag_id, run.run_id, instance.task_id, instance.map_index)


def _in_order(instances: list[Instance]) -> list[Instance]:
    """Put the tasks in the order in which they began, with the instances of one task together."""
    first: dict[str, float] = {}
    for instance in instances:
        began = instance.began.timestamp() if instance.began else float("inf")
        first[instance.task_id] = min(began, first.get(instance.task_id, began))
    return sorted(instances, key=lambda one: (first[one.task_id], one.task_id, one.map_index))


def _run_document(run: Run) -> dict[str, Any]:
    return {
        "dag_id": run.dag_id,
        "run_id": run.run_id,
        "state": run.state,
        "is_over": run.is_over,
        "began": _iso(run.began),
        "ended": _iso(run.ended),
    }


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None
