"""What lineage tools are told: the gateway's model went in, a folder in S3 came out, and what that cost.

OpenLineage asks operators; others read what hooks have collected. Neither may fail a task.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from airflow.providers.openlineage.extractors import OperatorLineage
    from openlineage.client.generated.base import Dataset, RunFacet

log = logging.getLogger(__name__)

#: OpenLineage's name for where models come from: the host of AIsa's own gateway.
NAMESPACE: Final = "aisa://api.aisa.one"
FACET: Final = "aisa_usage"


def lineage_of(
    *,
    models: Iterable[str],
    references: Iterable[str],
    place: tuple[str, str] | None,
    facts: Mapping[str, Any] | None,
) -> OperatorLineage[Dataset, RunFacet]:
    """Return what OpenLineage is told of a task.

    :param models: their ids.
    :param references: the URIs of the images that they look at.
    :param place: bucket and folder; None while they are not known.
    :param facts: what :func:`usage_facts` returned; None before anything was paid.
    """
    from airflow.providers.common.compat.openlineage.facet import Dataset
    from airflow.providers.openlineage.extractors import OperatorLineage

    outputs = (
        [] if place is None else [Dataset(namespace=f"s3://{place[0]}", name=place[1].strip("/") or "/")]
    )
    return OperatorLineage(
        inputs=[
            *(Dataset(namespace=NAMESPACE, name=f"models/{model}") for model in models),
            *(Dataset(namespace=namespace, name=name) for namespace, name in map(_named, references)),
        ],
        outputs=outputs,
        run_facets={} if facts is None else {FACET: _facet_class()(**facts)},
    )


def _named(uri: str) -> tuple[str, str]:
    """Return what OpenLineage calls an object or a page: where it is, and its name there."""
    url = urlsplit(uri)
    return f"{url.scheme}://{url.netloc}", url.path.strip("/") or "/"


def usage_facts(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the run facet from a task's result, a single request's or a batch's."""
    images = result["images"]
    return {
        "costUsd": result["cost_usd"],
        "images": images if isinstance(images, int) else len(images),
        "unknownOutcomes": result["unknown_outcomes"],
        "usage": dict(result["usage"]),
        "isReused": bool(result["reused"]) if isinstance(result["reused"], bool) else None,
        "requestId": result.get("request_id"),
    }


def collect(operator: object, *, read: Iterable[str], written: Iterable[str]) -> None:
    """Tell Airflow's collector of hook-level lineage what was read and written, if anybody reads it."""
    from airflow.providers.common.compat.lineage.hook import get_hook_lineage_collector

    collector = get_hook_lineage_collector()  # type: ignore[no-untyped-call]  # Airflow's has no annotations
    told = [(collector.add_input_asset, uri) for uri in read]
    told += [(collector.add_output_asset, uri) for uri in written]
    for tell, uri in told:
        try:
            tell(context=operator, uri=uri)
        except Exception as e:
            log.debug("No lineage of %s: %r", uri, e)


@cache
def _facet_class() -> type[RunFacet]:
    import attrs
    from airflow.providers.common.compat.openlineage.facet import RunFacet

    @attrs.define
    class AisaUsageRunFacet(RunFacet):
        """What a task's images came to.

        :param costUsd: what they cost when they were bought; None when nobody knows the price.
        :param unknownOutcomes: requests that may have been billed without a response being received.
        :param usage: the gateway's own figures.
        :param isReused: nothing was paid this time; None for a batch.
        """

        costUsd: float | None  # noqa: N815 - OpenLineage's way of writing
        images: int
        unknownOutcomes: int  # noqa: N815 - OpenLineage's way of writing
        usage: dict[str, Any]
        isReused: bool | None = None  # noqa: N815 - OpenLineage's way of writing
        requestId: str | None = None  # noqa: N815 - OpenLineage's way of writing

    return AisaUsageRunFacet
