"""The gallery in Airflow's pages, from 3.1 on; before, there is no place for it and nothing is registered.

Every component of Airflow imports this when it starts, also those that never show a page.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

from airflow.providers.common.compat.sdk import AirflowPlugin
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_1_PLUS

from airflow_provider_aisa.ui.links import PREFIX, TASK_TAB

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_RUN: Final = f"{PREFIX}/run?dag_id={{DAG_ID}}&run_id={{RUN_ID}}"


@cache
def _app() -> ASGIApp:
    from airflow_provider_aisa.ui.app import create_app

    return create_app()


class GalleryApp:
    """The application, made when somebody asks for a page first."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        await _app()(scope, receive, send)


def _view(destination: str, url_route: str, href: str) -> dict[str, Any]:
    return {"name": "Images", "destination": destination, "href": href, "url_route": url_route}


class AisaPlugin(AirflowPlugin):
    """Tabs with the images of a DAG, a run and a task instance."""

    name = "aisa"

    if AIRFLOW_V_3_1_PLUS:
        fastapi_apps: list[Any] = [{"app": GalleryApp(), "url_prefix": f"/{PREFIX}", "name": "AIsa gallery"}]
        external_views: list[Any] = [
            _view("dag", "images", f"{PREFIX}/dag?dag_id={{DAG_ID}}"),
            _view("dag_run", "images-dag-run", _RUN),
            _view("task_instance", TASK_TAB, f"{_RUN}&task_id={{TASK_ID}}&map_index={{MAP_INDEX}}"),
        ]
