"""One module per route: a request's body becomes an order, and images become an answer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from airflow_provider_aisa.sandbox.contract import CHAT, GENERATE_CONTENT, IMAGES
from airflow_provider_aisa.sandbox.routes import chat, generate_content, images

if TYPE_CHECKING:
    from airflow_provider_aisa.sandbox.contract import ImageOrder, Refusal

#: What stands for one image in an answer: ``{"url": …}``, ``{"b64_json": …}`` or ``{"error": …}``.
Entry = Mapping[str, object]

# AIsa's own client and newer pages write /v1 where the older ones have /v1beta: both are served.
_GENERATE_CONTENT = re.compile(r"/v1(?:beta)?/models/(?P<model>[^/]+):generateContent")


class RouteModule(Protocol):
    """What each module of a route has."""

    ALWAYS_BASE64: bool
    MAX_BODY_MIB: int

    def parse(self, model: str, content_type: str, body: bytes) -> ImageOrder:
        """Read a request's body; `model` is the one in the path, if there is one. Raises Refusal."""

    def answer(self, order: ImageOrder, entries: Sequence[Entry], count: int) -> dict[str, object]:
        """Return the body of a success that billed `count` images."""

    def refusal(self, refusal: Refusal) -> Refusal:
        """Return a refusal in the shape that this route has for it."""


@dataclass(frozen=True)
class FoundRoute:
    """The route of a request. `path` is its own; `model` is the one in the request's path, or empty."""

    path: str
    module: RouteModule
    model: str = ""

    def refusal(self, refusal: Refusal) -> Refusal:
        """Return a refusal in the shape that the route has for it."""
        return self.module.refusal(refusal)


ROUTES: Mapping[str, RouteModule] = {
    IMAGES: images,
    CHAT: chat,
    GENERATE_CONTENT: generate_content,
}


def find_route(path: str) -> FoundRoute | None:
    """Return the route that a path belongs to."""
    if match := _GENERATE_CONTENT.fullmatch(path):
        return FoundRoute(GENERATE_CONTENT, ROUTES[GENERATE_CONTENT], match["model"])
    return FoundRoute(path, ROUTES[path]) if path in ROUTES else None
