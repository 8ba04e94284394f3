"""Who may see what, and what a browser may do with it. Every route of the gallery goes through here."""

from __future__ import annotations

from typing import Annotated, Final

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
from fastapi import HTTPException, Query, Request
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: A page shows results, prompts and states: it needs all that Airflow asks for these, each by itself.
_NEEDED: Final = (DagAccessEntity.XCOM, DagAccessEntity.TASK_INSTANCE, DagAccessEntity.RUN)
_LONGEST_ID: Final = 250  # characters: Airflow's own limit
#: Airflow's word for all DAGs, whose permission is another one.
_ALL_DAGS: Final = "~"

#: A page runs this package's own scripts and nothing else, and asks this server and no other.
PAGE_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
#: Data and images are no pages: opened by themselves they run and load nothing.
_DATA_POLICY: Final = "default-src 'none'; frame-ancestors 'self'; sandbox"


_DagId = Annotated[str, Query(min_length=1, max_length=_LONGEST_ID)]


def readable_dag(request: Request, user: GetUserDep, dag_id: _DagId) -> str:
    """Return the DAG that a request is about, which its user may read. 401, 403 or 404 otherwise."""
    if dag_id == _ALL_DAGS:
        raise HTTPException(404, "There is no such DAG.")
    for entity in _NEEDED:
        requires_access_dag("GET", entity, dag_id)(request, user)
    return dag_id


def page_status(request: Request, user: GetUserDep, dag_id: _DagId) -> int:
    """Return 200, or 403 of a DAG that the user may not read: an empty page whose script says so in words."""
    try:
        readable_dag(request, user, dag_id)
    except HTTPException as e:
        if e.status_code == 403:
            return 403
        raise
    return 200


class SafeHeaders:
    """ASGI middleware: every answer, errors included, forbids guessing its type and sharing it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and complete the headers of its answer."""

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("Content-Security-Policy", _DATA_POLICY)
                headers.setdefault("Cache-Control", "private, no-store")
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "same-origin"
                headers["Cross-Origin-Resource-Policy"] = "same-origin"
            await send(message)

        await self._app(scope, receive, send_safely)
