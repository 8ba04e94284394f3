"""A person chooses among images: what human-in-the-loop tasks show, and which image an answer means.

What is shown holds no link that opens by itself: it goes through XCom, which many may read.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any, Final

from airflow.providers.common.compat.sdk import get_current_context
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_1_PLUS

from airflow_provider_aisa.exceptions import InvalidRequest
from airflow_provider_aisa.ui.links import image_url

_MARKDOWN: Final = re.compile(r"([\\`*_{}\[\]()#+!|<>~-])")
_MOST_IN_A_ROW: Final = 3  # Airflow shows images 300 pixels wide, and a tab is about 1,000


def options(images: int) -> list[str]:
    """Return the ``options`` of a HITLOperator: ``Image 1`` and so on, in the order of the result.

    The page of Airflow 3.1 has neither buttons nor a list for exactly four: ask about three there, or five.

    :param images: how many there are to choose from.
    """
    return [f"Image {number}" for number in range(1, images + 1)]


def choices(result: Mapping[str, Any], *, aws_conn_id: str | None = "aws_default") -> str:
    """Return Markdown for the ``body`` of a HITLOperator: each image by its name in :func:`options`.

    Call it in a task of its own, after the one that made the images: it asks Airflow for the AWS connection,
    and which task the result is from. From Airflow 3.1 on the images themselves are shown, through the
    gallery, to whoever may read the DAG. Otherwise, and for a result of another DAG or run, there are links.

    :param result: what ``SeedreamGenerateOperator`` returned.
    :param aws_conn_id: the AWS connection, whose store's pages are linked.
    """
    from airflow_provider_aisa.core.s3.bucket import Bucket
    from airflow_provider_aisa.hooks.s3 import open_s3
    from airflow_provider_aisa.links import browser_url

    client, _ = open_s3(aws_conn_id)
    names, links = options(len(result["images"])), []
    for image in result["images"]:
        link = browser_url(Bucket(client, image["bucket"]), image["key"])
        file = _MARKDOWN.sub(r"\\\1", posixpath.basename(image["key"]))
        links.append(f"[{file}]({link}), {image['size']}, {image['bytes'] / 1024:,.0f} KiB")
    maker = _maker_of(result)
    if maker is None:
        return "\n\n".join(f"**{name}**: {link}" for name, link in zip(names, links, strict=True))
    pictures = [
        f"![{name}]({image_url(**maker, index=image['index'], sha256=image['sha256'], is_small=True)})"
        for name, image in zip(names, result["images"], strict=True)
    ]
    in_a_row = ceil(len(names) / ceil(len(names) / _MOST_IN_A_ROW))
    return "\n\n".join(
        _table([row[first : first + in_a_row] for row in (names, pictures, links)])
        for first in range(0, len(names), in_a_row)
    )


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown, whose first row is its head."""
    head, *others = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, f"|{' --- |' * len(rows[0])}", *others])


def _maker_of(result: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the ids of the task instance that made a result, as the gallery names it; None: nobody knows.

    It is looked for before the task that runs now: in an unmapped task, or in that of the same map index.
    """
    if not AIRFLOW_V_3_1_PLUS:
        return None
    try:
        context = get_current_context()
    except RuntimeError:  # No task runs.
        return None
    ti: Any = context["ti"]
    for task_id in sorted(context["task"].upstream_task_ids):
        for map_index in sorted({-1, ti.map_index}):
            found = ti.xcom_pull(task_ids=task_id, map_indexes=map_index)
            if isinstance(found, Mapping) and found.get("journal_uri") == result["journal_uri"]:
                return {
                    "dag_id": ti.dag_id,
                    "run_id": ti.run_id,
                    "task_id": task_id,
                    "map_index": map_index,
                }
    return None


def chosen(result: Mapping[str, Any], answer: object) -> dict[str, Any]:
    """Return the image of a result that an answer means.

    :param result: what was shown.
    :param answer: what the HITLOperator returned.
    :raises InvalidRequest: the answer names no image, or several.
    """
    images: Sequence[dict[str, Any]] = result["images"]
    names = options(len(images))
    picked = _picked(answer)
    if len(picked) != 1 or picked[0] not in names:
        raise InvalidRequest(f"choose one of {', '.join(names)}: the answer is {', '.join(picked) or 'none'}")
    return images[names.index(picked[0])]


def others(result: Mapping[str, Any], answer: object) -> list[dict[str, Any]]:
    """Return the images of a result that were not chosen. Raises as :func:`chosen`."""
    kept = chosen(result, answer)
    return [image for image in result["images"] if image is not kept]


def _picked(answer: object) -> list[str]:
    """Return the options that were picked, out of a HITLOperator's XCom or out of what it holds."""
    if isinstance(answer, Mapping):
        answer = answer.get("chosen_options")
    if isinstance(answer, str):
        return [answer]
    return [str(option) for option in answer] if isinstance(answer, Sequence) else []
