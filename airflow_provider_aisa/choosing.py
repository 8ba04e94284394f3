"""A person chooses among images: what human-in-the-loop tasks show, and which image an answer means.

What is shown holds no link that opens by itself: it goes through XCom, which many may read.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from airflow_provider_aisa.exceptions import InvalidRequest

_MARKDOWN: Final = re.compile(r"([\\`*_{}\[\]()#+!|<>~-])")


def options(images: int) -> list[str]:
    """Return the ``options`` of a HITLOperator: ``Image 1`` and so on, in the order of the result.

    :param images: how many there are to choose from.
    """
    return [f"Image {number}" for number in range(1, images + 1)]


def choices(result: Mapping[str, Any], *, aws_conn_id: str | None = "aws_default") -> str:
    """Return Markdown for the ``body`` of a HITLOperator: each image by its name in :func:`options`.

    Call it in a task of its own: it asks Airflow for the AWS connection.

    :param result: what ``SeedreamGenerateOperator`` returned.
    :param aws_conn_id: the AWS connection, whose store's pages are linked.
    """
    from airflow_provider_aisa.core.s3.bucket import Bucket
    from airflow_provider_aisa.hooks.s3 import open_s3
    from airflow_provider_aisa.links import browser_url

    client, _ = open_s3(aws_conn_id)
    lines = []
    for name, image in zip(options(len(result["images"])), result["images"], strict=True):
        link = browser_url(Bucket(client, image["bucket"]), image["key"])
        file = _MARKDOWN.sub(r"\\\1", posixpath.basename(image["key"]))
        lines.append(f"**{name}**: [{file}]({link}), {image['size']}, {image['bytes'] / 1024:,.0f} KiB")
    return "\n\n".join(lines)


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
