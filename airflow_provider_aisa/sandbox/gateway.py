"""The gateway. An image is billed at the moment its generation ends, before a byte of the answer is sent."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from aiohttp import web

from airflow_provider_aisa.sandbox.contract import GENERATE_CONTENT, MODEL_LIST, ImageOrder, Refusal
from airflow_provider_aisa.sandbox.faults import GENERATIONS, LISTING
from airflow_provider_aisa.sandbox.hostile import drip_body, drip_headers, endless_body, gzip_bomb
from airflow_provider_aisa.sandbox.images import render
from airflow_provider_aisa.sandbox.records import GatewayRequest, LedgerEntry
from airflow_provider_aisa.sandbox.routes import ROUTES, Entry, FoundRoute, find_route
from airflow_provider_aisa.sandbox.wire import cut, html_page, lower_headers, send, wait_for_client_to_leave

if TYPE_CHECKING:
    from airflow_provider_aisa.sandbox.drawing import Picture
    from airflow_provider_aisa.sandbox.faults import Fault
    from airflow_provider_aisa.sandbox.state import SandboxState

EXTRA_IMAGES = 100
HALF_A_CHARACTER = "\ud83d"
PRIVATE_LINK = "http://169.254.169.254/latest/meta-data/iam/security-credentials/image.png"
_TITLES = {
    "html_error": "Bad gateway",
    "html_504": "504 Gateway Time-out",
    "html_520": "Web server is returning an unknown error",
    "html_524": "A timeout occurred",
    "html_ok": "Welcome",
}
#: Faults without images that take as long as a generation: somebody has waited for one.
_SLOW = {"no_images", "gateway_timeout", "html_504", "html_524"}


@dataclass(frozen=True)
class GatewayCall:
    """One request to the gateway, its body read; None: it was too large or cut off."""

    request: web.BaseRequest
    number: int
    headers: dict[str, str]
    body: bytes | None
    started: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def id(self) -> str:
        """The request id that support asks for."""
        return f"req_sandbox_{self.number:08d}"


class Gateway:
    """Serves `/v1` of the gateway's origin."""

    def __init__(self, state: SandboxState) -> None:
        self._state = state

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request and record what became of it."""
        call = await self._open(request)
        try:
            response = await self._admit(call)
        except Refusal as refusal:
            response = web.json_response(
                refusal.body(call.id), status=refusal.status, headers=refusal.headers
            )
        self._state.records.close(call.id, None if response is None else response.status)
        if response is None:
            return web.Response()  # aiohttp wants one, but the connection is gone
        response.headers.update(self._headers(call))
        return response

    async def _open(self, request: web.BaseRequest) -> GatewayCall:
        self._state.requests += 1
        number = self._state.requests
        try:
            body: bytes | None = await request.read()
        except (web.HTTPRequestEntityTooLarge, ConnectionError):
            body = None
        call = GatewayCall(request, number, lower_headers(request), body)
        record = GatewayRequest(
            request_id=call.id,
            method=request.method,
            path=request.path,
            headers=call.headers,
            body=body or b"",
            time=call.started,
        )
        self._state.records.open(record)
        return call

    def _headers(self, call: GatewayCall) -> dict[str, str]:
        return {"X-Request-ID": call.id, **self._state.limiter.headers(self._state.settings)}

    async def _admit(self, call: GatewayCall) -> web.StreamResponse | None:
        route = find_route(call.request.path)
        try:
            self._check_method(call, None if route is None else "POST")
            self._check_key(call)
            wait = self._state.limiter.enter(self._state.settings)
            if wait is not None:
                raise self._limited("rate_limit_exceeded", "too many requests for this key", wait)
        except Refusal as refusal:
            raise (route.refusal(refusal) if route else refusal) from None
        try:
            return await (self._generate(call, route) if route else self._list_models(call))
        finally:
            self._state.limiter.leave()

    def _check_method(self, call: GatewayCall, allowed: str | None) -> None:
        """Raise Refusal when a path is not served, or not with this method; `allowed` is a route's."""
        method, path = call.request.method, call.request.path
        if allowed is None and path == LISTING:
            allowed = "GET"
        if allowed is None:
            served = ", ".join((*ROUTES, LISTING))
            raise Refusal(404, "unknown_endpoint", f"the sandbox has no {path}: it serves {served}")
        if method != allowed:
            raise Refusal(
                405, "method_not_allowed", f"{path} takes {allowed}, not {method}", {"Allow": allowed}
            )

    def _check_key(self, call: GatewayCall) -> None:
        header = call.headers.get("authorization", "")
        if not header.strip():
            raise Refusal(401, "missing_api_key", "no API key: send Authorization: Bearer <key>")
        scheme, _, key = header.partition(" ")
        if scheme.lower() != "bearer" or key.strip() != self._state.settings.api_key:
            raise Refusal(
                401, "invalid_api_key", "the API key is not the one that the sandbox was started with"
            )

    def _limited(self, code: str, message: str, wait: float | None) -> Refusal:
        limits = self._state.limiter.headers(self._state.settings)
        # A 429 may use the short names as well: https://aisa.one/docs, rate limits.
        short = {
            name.removesuffix("-Requests"): limits[name] for name in limits if name.endswith("-Requests")
        }
        retry = {} if wait is None else {"Retry-After": f"{wait:g}"}
        return Refusal(429, code, message, {**short, **retry})

    async def _list_models(self, call: GatewayCall) -> web.StreamResponse | None:
        return await self._reply(call, self._state.faults.take(LISTING), MODEL_LIST)

    async def _generate(self, call: GatewayCall, route: FoundRoute) -> web.StreamResponse | None:
        try:
            order = self._order(call, route)
        except Refusal as refusal:
            raise route.refusal(refusal) from None
        fault = self._state.faults.take(GENERATIONS, order.prompt, path=route.path)
        count = images_generated(order, fault)
        if count or (fault and fault.kind in _SLOW):
            await asyncio.sleep(self._state.settings.latency)
        if count:
            self._bill(call, order, count, fault.rule.status if fault else 200)
        entries = await self._entries(call, route, order, count, fault)
        return await self._reply(call, fault, route.module.answer(order, entries, count))

    def _order(self, call: GatewayCall, route: FoundRoute) -> ImageOrder:
        limit = route.module.MAX_BODY_MIB
        if call.body is None or len(call.body) > limit * 2**20:
            raise Refusal(400, "invalid_request", f"the body is larger than {limit} MiB, or incomplete")
        order = route.module.parse(route.model, call.request.content_type, call.body)
        if route.path == GENERATE_CONTENT:
            wait = self._state.gemini_limiter.use(self._state.settings)
            if wait is not None:
                message = "too many requests for this model"
                raise Refusal(429, "rate_limit_exceeded", message, {"Retry-After": f"{wait:g}"})
        return order

    def _bill(self, call: GatewayCall, order: ImageOrder, count: int, status: int | None) -> None:
        entry = LedgerEntry(
            request_id=call.id,
            model=order.model,
            prompt=order.prompt,
            n=order.n,
            size=order.size,
            images=count,
            cost_usd=count * order.price_usd,
            status=status,
            time=datetime.now(UTC),
        )
        self._state.records.bill(entry)

    async def _entries(
        self, call: GatewayCall, route: FoundRoute, order: ImageOrder, count: int, fault: Fault | None
    ) -> list[Entry]:
        kind = fault.kind if fault else None
        if kind is None and route.module.ALWAYS_BASE64:
            kind = "b64_json"
        if fault and not fault.rule.shapes_images:
            return []  # No answer holds them.
        number = count + EXTRA_IMAGES if kind == "more_images" else count
        pictures = self._state.pictures(order, number, call.number)
        entries = [await self._entry(picture, kind, route) for picture in pictures]
        if kind == "image_error":
            refused = {"code": "OutputImageSensitiveContentDetected", "message": "the image was refused"}
            entries.append({"error": refused})
        return entries

    async def _entry(self, picture: Picture, kind: str | None, route: FoundRoute) -> Entry:
        if kind == "bad_b64":
            return {"b64_json": "Zm9v\u00e9"}
        if kind == "b64_json" or route.module.ALWAYS_BASE64:
            loop = asyncio.get_running_loop()
            image = await loop.run_in_executor(self._state.drawing, render, picture)
            return {"b64_json": base64.b64encode(b"".join(image.chunks())).decode()}
        link = self._state.links.sign(picture, ttl=self._state.settings.link_ttl)
        if kind == "bad_link":
            link += HALF_A_CHARACTER
        return {"url": PRIVATE_LINK if kind == "private_link" else link}

    async def _reply(
        self, call: GatewayCall, fault: Fault | None, payload: dict[str, object]
    ) -> web.StreamResponse | None:
        """Answer as the fault has it. Returns None when no complete answer was sent."""
        if fault is None or fault.rule.shapes_images:
            return web.json_response(payload)
        if fault.rule.code and fault.rule.status:
            raise self._refusal(fault, fault.rule.status, fault.rule.code)
        if title := _TITLES.get(fault.kind):
            return html_page(fault.rule.status or 200, title)
        match fault.kind:
            case "redirect":
                elsewhere = f"{self._state.links.origin}/elsewhere{call.request.path}"
                return web.Response(status=307, headers={"Location": elsewhere})
            case "broken_json":
                text = json.dumps(payload)
                return web.Response(text=text[: len(text) // 2], content_type="application/json")
            case "gzip_bomb":
                loop = asyncio.get_running_loop()
                body = await loop.run_in_executor(
                    self._state.drawing, gzip_bomb, b" ", json.dumps(payload).encode()
                )
                packed = {"Content-Encoding": "gzip"}
                return web.Response(body=body, headers=packed, content_type="application/json")
            case "endless_body":
                await endless_body(call.request, self._headers(call))
            case "drip_headers":
                await drip_headers(call.request, fault.delay)
            case "drip_body":
                await drip_body(call.request, self._headers(call), fault.delay)
            case "hang":
                await wait_for_client_to_leave(call.request)
            case "cut_mid_body":
                await self._send_half(call, json.dumps(payload).encode())
        cut(call.request)
        return None

    def _refusal(self, fault: Fault, status: int, code: str) -> Refusal:
        wait = fault.retry_after
        if wait is None and fault.kind in {"rate_limited", "upstream_rate_limit"}:
            wait = 1.0
        if status == 429:
            return self._limited(code, fault.rule.words, wait)
        return Refusal(status, code, fault.rule.words, {} if wait is None else {"Retry-After": f"{wait:g}"})

    async def _send_half(self, call: GatewayCall, body: bytes) -> None:
        response = web.StreamResponse(headers=self._headers(call))
        response.content_type, response.content_length = "application/json", len(body)
        await send(call.request, response, [body[: len(body) // 2]])


def images_generated(order: ImageOrder, fault: Fault | None) -> int:
    """Return how many images an order produces, each of them billed."""
    if fault is None:
        return order.n
    if not fault.bills:
        return 0
    return order.n - 1 if fault.kind in {"fewer_images", "image_error"} else order.n
