"""One module per route of the gateway: a request becomes a call, an answer becomes a typed response.

Nothing else knows what a route's JSON looks like.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from airflow_provider_aisa.core.gateway.extra import merged
from airflow_provider_aisa.core.gateway.models import Route
from airflow_provider_aisa.core.gateway.retries import Call, Unattached
from airflow_provider_aisa.core.gateway.routes import chat, generate_content, images
from airflow_provider_aisa.core.gateway.routes.reading import answer_limit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import httpx

    from airflow_provider_aisa.core.gateway.references import Attachment
    from airflow_provider_aisa.core.gateway.request import ImageRequest
    from airflow_provider_aisa.core.gateway.response import GenerationResponse


class RouteModule(Protocol):
    """What each module of a route has."""

    def endpoint(self, request: ImageRequest) -> str:
        """Return where a request goes, below the base URL."""

    def body(self, request: ImageRequest, attachments: Sequence[Attachment]) -> dict[str, Any]:
        """Return the fields of a request, but for those of ``extra_body``.

        :param attachments: what stands for the reference images, in their order.
        """

    def read(self, response: httpx.Response, request: ImageRequest, *, api_key: str) -> GenerationResponse:
        """Read a 2xx answer; raise OutcomeUnknown when it is not what a billed request returns."""


_MODULES: Final[Mapping[Route, RouteModule]] = {
    Route.IMAGES: images,
    Route.CHAT: chat,
    Route.GENERATE_CONTENT: generate_content,
}


def route_of(request: ImageRequest) -> RouteModule:
    """Return the module of the route that serves a request's model."""
    return _MODULES[request.family.route]


def generation(
    request: ImageRequest, *, at_most_once: bool = False, attachments: Sequence[Attachment] = ()
) -> Call:
    """Return the call that generates a request's images.

    :param attachments: what stands for the reference images. Without them, a call that needs some cannot be
        sent: it serves to ask what its limits are, and when its turn comes.
    """
    request.check_single()
    route = route_of(request)
    is_complete = len(attachments) == len(request.reference_images)
    rate = request.family.requests_per_minute
    return Call(
        "POST",
        route.endpoint(request),
        json=merged(route.body(request, attachments), request.extra_body)
        if is_complete
        else Unattached.UNATTACHED,
        at_most_once=at_most_once,
        answer_limit=answer_limit(request.n),
        own_rate=(request.model, rate) if rate else None,
    )
