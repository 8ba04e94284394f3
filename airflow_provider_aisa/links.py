"""The links on a task's page: where to look at its images and at its journal.

A link is no secret: it opens only for somebody who may log in there. Presigned links never leave a worker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final
from urllib.parse import quote, urlsplit, urlunsplit

from airflow.providers.common.compat.sdk import BaseOperatorLink, conf
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_1_PLUS

from airflow_provider_aisa.airflow_compat import stored_links
from airflow_provider_aisa.ui.links import task_path

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, TaskInstanceKey

    from airflow_provider_aisa.core.s3.bucket import Bucket

_CONSOLES: Final = {
    "aws": "console.aws.amazon.com",
    "aws-cn": "console.amazonaws.cn",
    "aws-us-gov": "console.amazonaws-us-gov.com",
}


class _Link(BaseOperatorLink):
    """Finds its link among those that the operator has noted as soon as it knew them."""

    #: Its name among them.
    place: ClassVar[str]

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the URL, or an empty text when there is none yet."""
        links: dict[str, str] = getattr(operator, "aisa_links", None) or stored_links(ti_key)
        return links.get(self.place, "")


class GalleryLink(BaseOperatorLink):
    """The images themselves, in the tab of the task instance; Airflow before 3.1 has none."""

    name = "Gallery"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the path behind the host of ``[api] base_url``."""
        del operator
        if not AIRFLOW_V_3_1_PLUS:
            return ""
        prefix = urlsplit(str(conf.get("api", "base_url", fallback=""))).path.rstrip("/")
        return prefix + task_path(ti_key.dag_id, ti_key.run_id, ti_key.task_id, ti_key.map_index)


class ImagesLink(_Link):
    """The folder of the images."""

    name = "Images"
    place = "images"


class JournalLink(_Link):
    """The object that says what was paid, or a batch's folder of such objects."""

    name = "Journal"
    place = "journal"


class ManifestLink(_Link):
    """What became of each item of a batch."""

    name = "Manifest"
    place = "manifest"


def browser_url(bucket: Bucket, key: str) -> str:
    """Return where a person can look at an object, or at a folder, whose key ends in ``/``.

    For AWS that is its console; other stores have no console in common, so it is the object's own address.
    """
    meta: Any = bucket.client.meta
    endpoint = urlsplit(meta.endpoint_url)
    if not (endpoint.hostname or "").endswith((".amazonaws.com", ".amazonaws.com.cn")):
        # Without what may be a user's name and password.
        host = endpoint.netloc.rpartition("@")[2]
        path = f"{endpoint.path.rstrip('/')}/{bucket.name}/{quote(key)}"
        return str(urlunsplit((endpoint.scheme, host, path, "", "")))
    console = _CONSOLES.get(meta.partition, _CONSOLES["aws"])
    kind = "buckets" if key.endswith("/") or not key else "object"
    return f"https://{console}/s3/{kind}/{bucket.name}?region={meta.region_name}&prefix={quote(key)}"
