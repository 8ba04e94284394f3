"""Airflow's assets hear of the images: what is in S3 now, and what it cost.

An asset's URI becomes a row in Airflow's database that stays, so a URI never holds what differs in each run.
"""

from __future__ import annotations

import logging
import posixpath
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from airflow.providers.common.compat.sdk import Asset, AssetAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from airflow.providers.common.compat.sdk import Context

log = logging.getLogger(__name__)

#: What an event says of a single request, and of a batch; both as in the task's result.
_FACTS: Final = (
    "model",
    "cost_usd",
    "usage",
    "reused",
    "unknown_outcomes",
    "items",
    "stored",
    "failed",
    "manifest_uri",
)


def publish(
    context: Context, outlets: Iterable[object], result: Mapping[str, Any], *, bucket: str, folder: str
) -> None:
    """Tell each outlet of a task what is in S3: as ``extra`` of its event.

    An AssetAlias gets one asset: the folder. It never fails the task: the images are paid for and stored.

    :param result: what the task returns.
    :param folder: where the images are, without what differs in each run.
    """
    events: Any = context.get("outlet_events")
    extra = event_extra(result, bucket=bucket)
    for outlet in outlets:
        try:
            if isinstance(outlet, Asset):
                events[outlet].extra = extra
            elif isinstance(outlet, AssetAlias):
                events[outlet].add(Asset(asset_uri(bucket, folder)), extra=extra)
        except Exception as e:
            # Whatever Airflow or a listener has against it comes too late to matter.
            log.warning("The images are stored, but the outlet %r could not be told: %r", outlet, e)


def event_extra(result: Mapping[str, Any], *, bucket: str) -> dict[str, Any]:
    """Return what an event says: JSON, without a link.

    ``keys`` names each image of a single request; a batch's images are in its manifest.
    """
    facts = {name: result[name] for name in _FACTS if name in result}
    images = result["images"]
    if isinstance(images, int):
        return {"bucket": bucket, "images": images, **facts}
    return {"bucket": bucket, "images": len(images), "keys": [image["key"] for image in images], **facts}


def asset_uri(bucket: str, folder: str) -> str:
    """Return the URI of a folder's asset. Airflow takes ASCII only."""
    return f"s3://{bucket}/{quote(folder.strip('/'), safe='/-_.~=+@')}".rstrip("/")


def folder_of(result: Mapping[str, Any]) -> str:
    """Return the folder that holds all images of a single request's result."""
    folders = [posixpath.dirname(image["key"]) for image in result["images"]]
    return posixpath.commonpath(folders) if folders else ""
