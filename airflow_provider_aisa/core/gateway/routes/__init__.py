"""One module per route of the gateway: a request becomes a call, an answer becomes a typed response.

Nothing else knows what a route's JSON looks like.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from airflow_provider_aisa.core.gateway.models import Route
from airflow_provider_aisa.core.gateway.routes import chat, generate_content, images

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
