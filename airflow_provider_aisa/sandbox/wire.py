"""The few things that both origins do to a connection. After `cut` nothing more reaches the client."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Iterable

HTML = "<!DOCTYPE html>\n<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>\n"


def lower_headers(request: web.BaseRequest) -> dict[str, str]:
    """Return the request's headers with lower-case names; repeated ones are joined."""
    headers: dict[str, str] = {}
    for name, value in request.headers.items():
        key = name.lower()
        headers[key] = f"{headers[key]}, {value}" if key in headers else value
    return headers


def html_page(status: int, title: str) -> web.Response:
    """Return what a proxy in between says."""
    return web.Response(status=status, text=HTML.format(title=title), content_type="text/html")


def cut(request: web.BaseRequest) -> None:
    """Abort the connection."""
    if request.transport is not None:
        request.transport.abort()


async def wait_for_client_to_leave(request: web.BaseRequest) -> None:
    """Return when the client has closed the connection, however long that takes."""
    # aiohttp has no event for this unless it may cancel handlers, which must not happen here.
    while request.transport is not None and not request.transport.is_closing():  # noqa: ASYNC110 - see above
        await asyncio.sleep(0.02)


async def send(
    request: web.BaseRequest,
    response: web.StreamResponse,
    pieces: Iterable[bytes | memoryview],
    *,
    pause: float = 0.0,
) -> web.StreamResponse:
    """Write a body piece by piece, `pause` seconds before each. Stops quietly when the client is gone."""
    try:
        await response.prepare(request)
        for piece in pieces:
            if pause:
                await asyncio.sleep(pause)
            await response.write(piece)
    except ConnectionError:
        cut(request)
    return response
