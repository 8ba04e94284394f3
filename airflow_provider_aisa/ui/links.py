"""Addresses in the gallery. They name who made an image, never where it is stored: see :mod:`.app`.

Those of images are relative, as Airflow's own page resolves them: they work behind any ``[api] base_url``.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote, urlencode

#: Where Airflow mounts the gallery, without a slash at either end.
PREFIX: Final = "aisa"
#: The route of the tab of a task instance.
TASK_TAB: Final = "images-task-instance"
#: Hex digits of an image's SHA-256 in its address: a new image at the same place has another address.
VERSION_DIGITS: Final = 16


def image_url(
    dag_id: str,
    run_id: str,
    task_id: str,
    *,
    map_index: int = -1,
    item: str | None = None,
    index: int = 0,
    sha256: str = "",
    is_small: bool = False,
) -> str:
    """Return the address of an image in a task's result, for whoever may read the DAG.

    ``![a red panda](address)`` shows it in the body of Airflow's human-in-the-loop tasks.

    :param map_index: of a mapped task's instance.
    :param item: the id of a batch's item.
    :param index: which of the images of the task or the item, as in its result.
    :param sha256: of the image, if it is known: browsers then keep it.
    :param is_small: the thumbnail: 400 pixels on the shorter side.
    """
    query: dict[str, Any] = {"dag_id": dag_id, "run_id": run_id, "task_id": task_id}
    if map_index >= 0:
        query["map_index"] = map_index
    if item is not None:
        query["item"] = item
    query["index"] = index
    if sha256:
        query["v"] = sha256[:VERSION_DIGITS]
    # Markdown ends an address at a parenthesis, which a dag_id may not hold but an item's id may.
    encoded = urlencode(query, quote_via=quote, safe="")
    return f"{PREFIX}/{'thumbnail' if is_small else 'image'}?{encoded}"


def task_path(dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> str:
    """Return the path of a task instance's tab in Airflow's pages, as Airflow's own router writes it."""
    dag, run, task = (quote(part, safe=":+@") for part in (dag_id, run_id, task_id))
    mapped = f"/mapped/{map_index}" if map_index >= 0 else ""
    return f"/dags/{dag}/runs/{run}/tasks/{task}{mapped}/plugin/{TASK_TAB}"
