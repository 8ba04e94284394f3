"""Addresses in the gallery. They name who made an image, never where it is stored: see :mod:`.app`.

All are relative, as Airflow's own page resolves them: they work behind any ``[api] base_url``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode

#: Where Airflow mounts the gallery, without a slash at either end.
PREFIX: Final = "aisa"
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
) -> str:
    """Return the address of an image in a task's result, for whoever may read the DAG.

    :param map_index: of a mapped task's instance.
    :param item: the id of a batch's item.
    :param index: which of the images of the task or the item, as in its result.
    :param sha256: of the image, if it is known: browsers then keep it.
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
    return f"{PREFIX}/image?{urlencode(query, quote_via=quote, safe='')}"


def image_urls(
    result: Mapping[str, Any], *, dag_id: str, run_id: str, task_id: str, map_index: int = -1
) -> list[str]:
    """Return the addresses of all images in a task's result, in its order.

    ``![the first](address)`` shows an image in the body of Airflow's human-in-the-loop tasks.

    :param result: what the task returned: the XCom of an operator with one request.
    """
    return [
        image_url(dag_id, run_id, task_id, map_index=map_index, index=image["index"], sha256=image["sha256"])
        for image in result["images"]
    ]
