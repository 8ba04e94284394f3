"""The CDN: another origin, which needs no key and remembers every credential that arrives by mistake."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from aiohttp import web

from airflow_provider_aisa.sandbox.contract import Refusal
from airflow_provider_aisa.sandbox.faults import CDN
from airflow_provider_aisa.sandbox.hostile import twice_gzipped_bomb
from airflow_provider_aisa.sandbox.images import render
from airflow_provider_aisa.sandbox.records import CdnRequest
from airflow_provider_aisa.sandbox.state import MOVED
from airflow_provider_aisa.sandbox.wire import cut, html_page, lower_headers, send

if TYPE_CHECKING:
    from airflow_provider_aisa.sandbox.drawing import Picture
    from airflow_provider_aisa.sandbox.faults import Fault
    from airflow_provider_aisa.sandbox.state import SandboxState

PRIVATE_ADDRESS = "http://169.254.169.254/latest/meta-data/"
MAIL_ADDRESS = "mailto:images@example.com"
OVERSIZED = 65 * 1024 * 1024
_CREDENTIALS = {"authorization", "cookie", "proxy-authorization", "x-api-key"}
_XML = """<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>{code}</Code><Message>{message}</Message></Error>
"""


class Cdn:
    """Serves the images of one sandbox."""

    def __init__(self, state: SandboxState) -> None:
        self._state = state

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        try:
            picture = self._find(request)
            fault = None
            # The moved copy always works: a redirect and what it leads to count as one download.
            if request.method == "GET" and not request.path.startswith(MOVED):
                fault = self._state.faults.take(CDN, picture.prompt)
            instead = _instead(request, fault) if fault else None
        except Refusal as refusal:
            instead = _xml(refusal)
        # `is not None`: in aiohttp 3.10 a response is a mapping, and an empty one is false.
        if instead is not None:
            return self._finish(request, instead)
        return await self._stream(request, picture, fault)

    def _find(self, request: web.BaseRequest) -> Picture:
        if request.method not in {"GET", "HEAD"}:
            message = "The specified method is not allowed against this resource."
            raise Refusal(405, "MethodNotAllowed", message, {"Allow": "GET, HEAD"})
        picture = self._state.links.find(request.path)
        if picture is None:
            raise Refusal(404, "NoSuchKey", "The specified key does not exist.")
        expires, signature = request.query.get("X-Expires", ""), request.query.get("X-Signature", "")
        if not self._state.links.is_signed(request.path, expires, signature):
            raise Refusal(403, "SignatureDoesNotMatch", "The signature of the request does not match.")
        if time.time() >= float(expires):
            raise Refusal(403, "AccessDenied", "Request has expired")
        return picture

    async def _stream(
        self, request: web.BaseRequest, picture: Picture, fault: Fault | None
    ) -> web.StreamResponse:
        kind = fault.kind if fault else None
        if kind in {"oversized_image", "oversized_chunked"}:
            picture = replace(picture, image_bytes=OVERSIZED)
        loop = asyncio.get_running_loop()
        image = await loop.run_in_executor(self._state.drawing, render, picture)
        length = image.length // 2 if kind == "truncated_image" else image.length
        response = web.StreamResponse(headers={"Content-Type": f"image/{picture.image_format}"})
        if kind != "oversized_chunked":
            response.content_length = length
        if kind == "cdn_gzip_bomb":
            return await self._send_bomb(request, picture)
        self._finish(request, response)
        sent = 0 if request.method == "HEAD" else length // 2 if kind == "cdn_cut" else length
        if fault and kind == "cdn_slow":
            pieces = list(image.chunks(largest=-(-length // 10)))
            await send(request, response, pieces, pause=fault.delay / len(pieces))
        elif fault and kind == "cdn_drip":
            await send(request, response, image.chunks(largest=1), pause=fault.delay)
        else:
            await send(request, response, image.chunks(sent))
        if kind == "cdn_cut":
            cut(request)
        return response

    async def _send_bomb(self, request: web.BaseRequest, picture: Picture) -> web.StreamResponse:
        loop = asyncio.get_running_loop()
        body = await loop.run_in_executor(self._state.drawing, twice_gzipped_bomb)
        headers = {"Content-Type": f"image/{picture.image_format}", "Content-Encoding": "gzip, gzip"}
        return self._finish(request, web.Response(body=body, headers=headers))

    def _finish(self, request: web.BaseRequest, response: web.StreamResponse) -> web.StreamResponse:
        """Record the request before its answer is sent, so that whoever has the answer finds the record."""
        headers = lower_headers(request)
        record = CdnRequest(
            method=request.method,
            path=request.path,
            headers=headers,
            status=response.status,
            credentials=credentials(headers, request.path_qs, self._state.settings.api_key),
            time=datetime.now(UTC),
        )
        self._state.records.add_download(record)
        return response


def credentials(headers: dict[str, str], url: str, api_key: str) -> tuple[str, ...]:
    """Return the names of the headers, or "url", that hold what the CDN should never see."""
    found = [name for name, value in headers.items() if name in _CREDENTIALS or api_key in value]
    return tuple(found + ["url"] * (api_key in url))


def _instead(request: web.BaseRequest, fault: Fault) -> web.Response | None:
    """Return what a fault answers in place of an image; None: an image comes. Raises Refusal."""
    if fault.rule.code and fault.rule.status:
        raise Refusal(fault.rule.status, fault.rule.code, fault.rule.words)
    match fault.kind:
        case "html_image":
            return html_page(200, "Welcome")
        case "cdn_redirect":
            return web.Response(status=302, headers={"Location": f"{MOVED}{request.path_qs}"})
        case "cdn_redirect_mailto":
            return web.Response(status=302, headers={"Location": MAIL_ADDRESS})
        case "cdn_redirect_private":
            return web.Response(status=302, headers={"Location": PRIVATE_ADDRESS})
    return None


def _xml(refusal: Refusal) -> web.Response:
    text = _XML.format(code=refusal.code, message=refusal.message)
    return web.Response(
        status=refusal.status, text=text, headers=refusal.headers, content_type="application/xml"
    )
