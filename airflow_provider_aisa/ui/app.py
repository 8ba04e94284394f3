"""The routes of the gallery. Each needs a signed-in user, and all but its own files that user's DAG.

A query names a DAG, a run, a task, an item and the number of an image: never a bucket, a key or a
connection. There are no routes that describe the others.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Final

from airflow.api_fastapi.core_api.security import get_user
from fastapi import Depends, FastAPI, Query, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from airflow_provider_aisa.core.layout import Owner
from airflow_provider_aisa.ui import pages
from airflow_provider_aisa.ui.access import SafeHeaders, page_status, readable_dag
from airflow_provider_aisa.ui.batches import Shelf
from airflow_provider_aisa.ui.images import small_image, whole_image
from airflow_provider_aisa.ui.prompts import Prompts
from airflow_provider_aisa.ui.sources import Find, Sources
from airflow_provider_aisa.ui.stores import Unavailable
from airflow_provider_aisa.ui.threads import DATA, DRAWING
from airflow_provider_aisa.ui.thumbnails import Thumbnails, prepare
from airflow_provider_aisa.ui.views import MOST_TILES, Part, Window, dag_view, run_view

_LONGEST: Final = 250  # characters of an id of Airflow's
_LONGEST_ITEM: Final = 500

DagId = Annotated[str, Depends(readable_dag)]
PageStatus = Annotated[int, Depends(page_status)]
Id = Annotated[str, Query(min_length=1, max_length=_LONGEST)]
MapIndex = Annotated[str, Query(max_length=20)]


@dataclass(frozen=True, slots=True)
class Address:
    """An image as a query names it.

    :param version: how its SHA-256 begins, if the caller knows it.
    """

    owner: Owner
    item: str | None
    index: int
    version: str


def image_address(
    *,
    dag_id: DagId,
    run_id: Id,
    task_id: Id,
    map_index: MapIndex = "",
    item: Annotated[str | None, Query(max_length=_LONGEST_ITEM)] = None,
    index: Annotated[int, Query(ge=0)] = 0,
    v: Annotated[str, Query(max_length=64)] = "",
) -> Address:
    """Return what a query says, of a DAG that its user may read."""
    number = _parse_map_index(map_index)
    owner = Owner(dag_id, run_id, task_id, -1 if number is None else number)
    return Address(owner, item, index, v)


def _parse_map_index(value: str) -> int | None:
    """Return a mapped instance's index; Airflow leaves ``{MAP_INDEX}`` in the address of other tasks."""
    return int(value) if value.isascii() and value.isdigit() else None


ImageAddress = Annotated[Address, Depends(image_address)]


def create_app() -> ASGIApp:
    """Return the application that Airflow mounts."""
    app = FastAPI(
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        dependencies=[Depends(get_user)],
    )
    app.add_exception_handler(Unavailable, _say_unavailable)
    gallery = Gallery()
    app.get("/run")(gallery.run_page)
    app.get("/dag")(gallery.dag_page)
    app.get("/static/{version}/{name}")(gallery.static)
    app.get("/data/run")(gallery.run)
    app.get("/data/dag")(gallery.dag)
    app.get("/image")(gallery.image)
    app.get("/thumbnail")(gallery.thumbnail)
    return SafeHeaders(app)


async def _say_unavailable(_: Request, error: Exception) -> Response:
    status = error.status if isinstance(error, Unavailable) else 500
    return JSONResponse({"detail": str(error)}, status_code=status)


class Json(JSONResponse):
    """JSON in ASCII: a prompt may hold half a character, which UTF-8 cannot carry."""

    def render(self, content: object) -> bytes:
        """Return the body."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


class Gallery:
    """The routes, and what they share in one process."""

    def __init__(self) -> None:
        self._shelf = Shelf()
        self._sources = Sources(self._shelf)
        self._prompts = Prompts()
        self._thumbnails = Thumbnails()

    async def run_page(self, *, status: PageStatus) -> Response:
        """Send the page of a run, or of one of its tasks."""
        DRAWING.start(prepare)
        return pages.page("run.js", status=status)

    async def dag_page(self, *, status: PageStatus) -> Response:
        """Send the page of a DAG."""
        DRAWING.start(prepare)
        return pages.page("dag.js", status=status)

    async def static(self, *, version: str, name: str) -> Response:
        """Send a script or a style. Its version is there for the browser's cache only."""
        del version
        return await DATA.run(lambda: pages.static_file(name))

    async def run(
        self,
        *,
        dag_id: DagId,
        run_id: Id,
        task_id: Annotated[str | None, Query(max_length=_LONGEST)] = None,
        map_index: MapIndex = "",
        offset: Annotated[int, Query(ge=0, le=10**7)] = 0,
        limit: Annotated[int, Query(ge=0, le=MOST_TILES)] = 60,
        only_task: Annotated[str | None, Query(max_length=_LONGEST)] = None,
        only_failures: bool = False,
    ) -> Response:
        """Send a run's figures and some of its tiles, or those of one task."""
        part = Part(dag_id, run_id, task_id, _parse_map_index(map_index))
        window = Window(offset, limit, only_task, only_failures)
        return Json(await DATA.run(lambda: run_view(part, self._shelf, self._prompts, window)))

    async def dag(self, *, dag_id: DagId) -> Response:
        """Send a DAG's last runs and what they cost."""
        return Json(await DATA.run(lambda: dag_view(dag_id)))

    async def image(self, *, request: Request, address: ImageAddress, download: bool = False) -> Response:
        """Send an image as it is in S3."""
        find = await self._find(address)
        return await whole_image(find, request, version=address.version, is_download=download)

    async def thumbnail(self, *, request: Request, address: ImageAddress) -> Response:
        """Send an image in the size of a tile."""
        find = await self._find(address)
        return await small_image(find, request, self._thumbnails, version=address.version)

    async def _find(self, address: Address) -> Find:
        return await DATA.run(
            lambda: self._sources.find(
                address.owner, item=address.item, index=address.index, version=address.version
            )
        )
