"""What a DAG has left behind: runs, task instances and XComs in the database, images in S3."""

from __future__ import annotations

import hashlib
import io
import itertools
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.models.dagrun import DagRun
from airflow.models.renderedtifields import RenderedTaskInstanceFields
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from fastapi.testclient import TestClient
from PIL import Image
from sqlalchemy import insert, update

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mypy_boto3_s3 import S3Client

_RUNS = DagRun.__table__
_DAGS = itertools.count()
_SEEDS = itertools.count()
BEGAN = datetime(2026, 11, 25, 8, 0, tzinfo=UTC)
FIELDS = {"s3_key": None, "idempotency_key": None, "on_existing": "reuse", "aws_conn_id": "aws_default"}


@dataclass
class World:
    """One DAG of a test's own, `dag_id`, and a way to ask the gallery."""

    client: TestClient
    s3: S3Client
    bucket: str
    dag_id: str

    @classmethod
    @contextmanager
    def open(cls, app: Any, s3: S3Client, bucket: str) -> Iterator[World]:
        with TestClient(app, raise_server_exceptions=False) as client:
            yield cls(client, s3, bucket, f"dag-{next(_DAGS)}")

    def ask(
        self,
        path: str,
        user: str | None = "viewer",
        *,
        headers: Mapping[str, str] | None = None,
        **query: Any,
    ) -> Any:
        """Ask the gallery as a user of this role, or as nobody."""
        self.client.cookies.clear()
        if user is not None:
            token = get_auth_manager().generate_jwt(SimpleAuthManagerUser(username=user, role=user))
            self.client.cookies.set("_token", token)
        query.setdefault("dag_id", self.dag_id)
        return self.client.get(f"/aisa/{path}", params=query, headers=headers)

    def data(self, run_id: str = "run", **query: Any) -> dict[str, Any]:
        """Return what the page of a run is made of."""
        answer = self.ask("data/run", run_id=run_id, **query)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def add_run(
        self, run_id: str = "run", *, state: str = "success", dag_id: str | None = None, after: int = 0
    ) -> int:
        """Add a run, `after` minutes later than others, and return its number."""
        values = {
            "dag_id": dag_id or self.dag_id,
            "run_id": run_id,
            "run_type": "manual",
            "state": state,
            "run_after": BEGAN + timedelta(minutes=after),
            "start_date": BEGAN + timedelta(minutes=after),
        }
        with create_session(scoped=False) as session:
            number = session.scalar(insert(_RUNS).values(**values).returning(_RUNS.c.id))
        assert number is not None
        return int(number)

    def add_task(
        self,
        task_id: str = "generate",
        *,
        run: int,
        run_id: str = "run",
        dag_id: str | None = None,
        map_index: int = -1,
        state: str | None = "success",
        label: str | None = None,
        fields: Mapping[str, Any] | None = FIELDS,
        began: datetime | None = BEGAN,
        xcoms: Mapping[str, Any] | None = None,
    ) -> None:
        """Add a task instance with its rendered fields and its XComs."""
        where = {
            "dag_id": dag_id or self.dag_id,
            "run_id": run_id,
            "task_id": task_id,
            "map_index": map_index,
        }
        self._insert(
            TaskInstance,
            {
                **where,
                "id": uuid.uuid4(),
                "state": state,
                "rendered_map_index": label,
                "start_date": began,
                "try_number": 1,
                "max_tries": 0,
                "pool": "default_pool",
                "pool_slots": 1,
                "executor_config": {},
            },
        )
        if fields is not None:
            self._insert(RenderedTaskInstanceFields, {**where, "rendered_fields": dict(fields)})
        for key, value in (xcoms or {}).items():
            self._insert(
                XComModel, {**where, "dag_run_id": run, "key": key, "value": value, "timestamp": BEGAN}
            )

    def set_state(self, task_id: str, state: str) -> None:
        """Let all instances of a task come into a state."""
        table = TaskInstance.__table__
        with create_session(scoped=False) as session:
            session.execute(
                update(table)
                .where(table.c.dag_id == self.dag_id, table.c.task_id == task_id)
                .values(state=state)
            )

    def _insert(self, model: Any, values: Mapping[str, Any]) -> None:
        with create_session(scoped=False) as session:
            session.execute(insert(model.__table__).values(**values))

    def store(
        self,
        key: str,
        content: bytes | None = None,
        *,
        index: int = 0,
        content_type: str = "image/png",
        metadata: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Put an image into the bucket as an upload does, and return it as it stands in a result."""
        body = picture() if content is None else content
        sha256 = hashlib.sha256(body).hexdigest()
        own = {"ai-generated": "true", "sha256": sha256} if metadata is None else dict(metadata)
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=body, ContentType=content_type, Metadata=own)
        return {
            "index": index,
            "uri": f"s3://{self.bucket}/{key}",
            "bucket": self.bucket,
            "key": key,
            "width": 64,
            "height": 64,
            "size": "64x64",
            "content_type": content_type,
            "bytes": len(body),
            "sha256": sha256,
        }

    def result(self, *images: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
        """Return what a task with one request returns."""
        return {
            "model": "seedream-4-5-251128",
            "created": 1776495432,
            "request_id": "req_1",
            "reused": False,
            "cost_usd": 0.04 * len(images),
            "usage": {},
            "unknown_outcomes": 0,
            "images": list(images),
            "journal_uri": f"s3://{self.bucket}/folder/_aisa/1.json",
            **changes,
        }

    def finished_task(
        self, *keys: str, run_id: str = "run", prompt: str = "A red panda", **task: Any
    ) -> dict[str, Any]:
        """Add a run with a task that stored an image under each key; return the task's result."""
        images = [self.store(key, index=index) for index, key in enumerate(keys)]
        result = self.result(*images)
        run = self.add_run(run_id)
        fields = {**FIELDS, "prompt": prompt}
        self.add_task(run=run, run_id=run_id, fields=fields, xcoms={"return_value": result}, **task)
        return result


def picture(width: int = 64, height: int = 48, image_format: str = "PNG") -> bytes:
    """Return a small image of a colour of its own."""
    number = next(_SEEDS)
    file = io.BytesIO()
    colour = (number % 256, number // 256 % 256, 128)
    Image.new("RGB", (width, height), colour).save(file, image_format)
    return file.getvalue()
