"""What the gallery asks of Airflow's database: one statement per request, found by index, never a scan.

Only XComs that can be results of this package leave the database: other tasks' values may be large.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from airflow.models.dagrun import DagRun
from airflow.models.renderedtifields import RenderedTaskInstanceFields
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from sqlalchemy import ColumnElement, Select, Text, and_, case, cast, or_, select

from airflow_provider_aisa.ui.notes import BATCH_KEY, FAILURE_KEY

RETURN_KEY: Final = "return_value"
#: Task instances of one run, and results of a DAG's last runs, that are read at most.
MOST_INSTANCES: Final = 20_000
_MOST_RESULTS: Final = 5_000
_ENDED: Final = frozenset({"success", "failed", "upstream_failed", "skipped", "removed"})

_ti = TaskInstance.__table__.c
_run = DagRun.__table__.c
_xcom = XComModel.__table__.c
_fields = RenderedTaskInstanceFields.__table__.c


@dataclass(frozen=True, slots=True)
class Run:
    """A run of a DAG. Its times are when it began and ended."""

    dag_id: str
    run_id: str
    state: str
    began: datetime | None
    ended: datetime | None

    @property
    def is_over(self) -> bool:
        """Whether nothing more happens in it unless a person asks."""
        return self.state in _ENDED


@dataclass(frozen=True, slots=True)
class Instance:
    """A task instance and the values that it left in XCom.

    :param label: of a mapped one, if its author gave it one.
    :param is_ours: its rendered fields are those of this package's operators.
    :param batch_fields: of a batch: its rendered fields.
    """

    task_id: str
    map_index: int
    label: str | None
    state: str | None
    began: datetime | None
    is_ours: bool
    values: Mapping[str, object]
    batch_fields: Mapping[str, Any]

    @property
    def is_over(self) -> bool:
        """Whether it is done with this try and no other follows by itself."""
        return self.state in _ENDED


def read_run(
    dag_id: str, run_id: str, *, task_id: str | None = None, map_index: int | None = None
) -> tuple[Run, list[Instance]] | None:
    """Return a run with its task instances, or with those of one task; None: there is no such run."""
    on_instance = and_(_ti.dag_id == _run.dag_id, _ti.run_id == _run.run_id)
    if task_id is not None:
        on_instance = and_(on_instance, _ti.task_id == task_id)
    if map_index is not None:
        on_instance = and_(on_instance, _ti.map_index == map_index)
    statement = (
        select(
            *_run_columns(),
            *_instance_columns(),
            _is_ours().label("is_ours"),
            _xcom.key,
            _xcom.value,
            # Of a batch only: what is left of others is read for the page that shows them.
            case((_xcom.key == BATCH_KEY, _fields.rendered_fields)).label("batch_fields"),
        )
        .select_from(DagRun.__table__)
        .outerjoin(TaskInstance.__table__, on_instance)
        .outerjoin(XComModel.__table__, _is_result_of_instance())
        .outerjoin(RenderedTaskInstanceFields.__table__, _fields_of_instance())
        .where(_run.dag_id == dag_id, _run.run_id == run_id)
        .order_by(_ti.task_id, _ti.map_index)
        .limit(MOST_INSTANCES)
    )
    rows = _rows(statement)
    if not rows:
        return None
    run = Run(dag_id, run_id, str(rows[0]["run_state"]), rows[0]["run_began"], rows[0]["run_ended"])
    return run, _instances(rows)


def read_instance(
    dag_id: str, run_id: str, task_id: str, map_index: int
) -> tuple[Instance, Mapping[str, Any]] | None:
    """Return one task instance and its rendered fields, which are empty when Airflow has dropped them."""
    statement = (
        select(
            *_instance_columns(), _is_ours().label("is_ours"), _xcom.key, _xcom.value, _fields.rendered_fields
        )
        .select_from(TaskInstance.__table__)
        .join(DagRun.__table__, and_(_run.dag_id == _ti.dag_id, _run.run_id == _ti.run_id))
        .outerjoin(XComModel.__table__, _is_result_of_instance())
        .outerjoin(RenderedTaskInstanceFields.__table__, _fields_of_instance())
        .where(_ti.dag_id == dag_id, _ti.run_id == run_id, _ti.task_id == task_id, _ti.map_index == map_index)
    )
    rows = _rows(statement)
    if not rows:
        return None
    fields = rows[0]["rendered_fields"]
    return _instances(rows)[0], fields if isinstance(fields, Mapping) else {}


def read_fields(
    dag_id: str, run_id: str, instances: list[tuple[str, int]]
) -> dict[tuple[str, int], Mapping[str, Any]]:
    """Return the rendered fields of some task instances. Airflow keeps only those of a DAG's last runs."""
    wanted = set(instances)
    statement = select(_fields.task_id, _fields.map_index, _fields.rendered_fields).where(
        _fields.dag_id == dag_id,
        _fields.run_id == run_id,
        _fields.task_id.in_({task_id for task_id, _ in wanted}),
        _fields.map_index.in_({map_index for _, map_index in wanted}),
    )
    found = {(row["task_id"], row["map_index"]): row["rendered_fields"] for row in _rows(statement)}
    return {key: fields for key, fields in found.items() if isinstance(fields, Mapping)}


def read_latest_fields(dag_id: str, task_id: str) -> Mapping[str, Any]:
    """Return the rendered fields of any kept run of a task: for a run so old that its own are gone."""
    statement = (
        select(_fields.rendered_fields).where(_fields.dag_id == dag_id, _fields.task_id == task_id).limit(1)
    )
    rows = _rows(statement)
    fields = rows[0]["rendered_fields"] if rows else None
    return fields if isinstance(fields, Mapping) else {}


def read_last_runs(dag_id: str, *, limit: int) -> list[tuple[Run, list[Instance]]]:
    """Return a DAG's last runs, the newest first, each with its task instances that left something."""
    last = (
        select(*_run_columns(), _run.id, _run.run_after)
        .where(_run.dag_id == dag_id)
        .order_by(_run.run_after.desc(), _run.id.desc())
        .limit(limit)
        .subquery()
    )
    statement = (
        select(last, *_instance_columns(), _xcom.key, _xcom.value)
        .select_from(last)
        .outerjoin(XComModel.__table__, and_(_xcom.dag_run_id == last.c.id, _is_result()))
        .outerjoin(
            TaskInstance.__table__,
            and_(
                _ti.dag_id == _xcom.dag_id,
                _ti.task_id == _xcom.task_id,
                _ti.run_id == _xcom.run_id,
                _ti.map_index == _xcom.map_index,
            ),
        )
        .order_by(last.c.run_after.desc(), last.c.id.desc(), _ti.task_id, _ti.map_index)
        .limit(_MOST_RESULTS)
    )
    by_run: dict[str, list[Mapping[str, Any]]] = {}
    for row in _rows(statement):
        by_run.setdefault(row["run_id"], []).append(row)
    return [
        (
            Run(dag_id, run_id, str(rows[0]["run_state"]), rows[0]["run_began"], rows[0]["run_ended"]),
            _instances(rows),
        )
        for run_id, rows in by_run.items()
    ]


def _run_columns() -> list[ColumnElement[Any]]:
    return [
        _run.run_id.label("run_id"),
        _run.state.label("run_state"),
        _run.start_date.label("run_began"),
        _run.end_date.label("run_ended"),
    ]


def _instance_columns() -> list[ColumnElement[Any]]:
    return [
        _ti.task_id.label("task_id"),
        _ti.map_index.label("map_index"),
        _ti.rendered_map_index.label("label"),
        _ti.state.label("state"),
        _ti.start_date.label("began"),
    ]


def _is_result() -> ColumnElement[bool]:
    """Return the condition that an XCom can be of this package."""
    as_text = cast(_xcom.value, Text)
    is_returned = or_(as_text.like('%"journal_uri":%'), as_text.like('%"manifest_uri":%'))
    return or_(and_(_xcom.key == RETURN_KEY, is_returned), _xcom.key.in_((BATCH_KEY, FAILURE_KEY)))


def _is_result_of_instance() -> ColumnElement[bool]:
    return and_(
        _xcom.dag_run_id == _run.id,
        _xcom.task_id == _ti.task_id,
        _xcom.map_index == _ti.map_index,
        _is_result(),
    )


def _fields_of_instance() -> ColumnElement[bool]:
    return and_(
        _fields.dag_id == _ti.dag_id,
        _fields.task_id == _ti.task_id,
        _fields.run_id == _ti.run_id,
        _fields.map_index == _ti.map_index,
    )


def _is_ours() -> ColumnElement[bool]:
    """Return whether rendered fields are those of this package's operators, subclasses included.

    A colon follows the names: in another task's text the quotes would be escaped.
    """
    as_text = cast(_fields.rendered_fields, Text)
    return and_(as_text.like('%"on_existing":%'), as_text.like('%"idempotency_key":%'))


def _instances(rows: list[Mapping[str, Any]]) -> list[Instance]:
    """Put the rows of each task instance together: there is one for each of its XComs."""
    by_instance: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["task_id"] is not None:
            by_instance.setdefault((row["task_id"], row["map_index"]), []).append(row)
    return [_instance(some) for some in by_instance.values()]


def _instance(rows: list[Mapping[str, Any]]) -> Instance:
    fields = [row["batch_fields"] for row in rows if isinstance(row.get("batch_fields"), Mapping)]
    return Instance(
        task_id=rows[0]["task_id"],
        map_index=rows[0]["map_index"],
        label=rows[0]["label"],
        state=rows[0]["state"],
        began=rows[0]["began"],
        is_ours=bool(rows[0].get("is_ours")),
        values={row["key"]: row["value"] for row in rows if row["key"] is not None},
        batch_fields=fields[0] if fields else {},
    )


def _rows(statement: Select[Any]) -> list[Mapping[str, Any]]:
    with create_session(scoped=False) as session:
        return [dict(row._mapping) for row in session.execute(statement)]
