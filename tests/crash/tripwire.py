"""A reverse proxy between a worker and the outside, where a worker's death is observable and repeatable.

The worker is killed by what it asks of the outside: the code under test knows nothing of it. The proxy keeps
the Host header, so that S3's signatures stay valid. A request that has arrived is forwarded even if its
sender is dead by then, like a packet that was under way.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Self

import aiohttp
from aiohttp import web
from yarl import URL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

Moment = Literal["before", "half-way", "after"]
Fault = Literal["500", "503", "cut", "slow"]

_HOP_BY_HOP = {"connection", "expect", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
#: A path may begin with this: it tells senders apart whose requests look alike, and is not forwarded.
_SENDER = re.compile(r"^/sender-\d+(?=/)")
_IMAGE = re.compile(r"(\d+)\.(png|jpe?g|webp)$")
_KEPT = re.compile(r"\.answer-[0-9a-f]{32}/\d+$")
#: What is in a batch's folder besides the journal's entries.
_OF_A_BATCH = re.compile(r"/_aisa/[0-9a-f]{40}/(batch|manifest)\b")


@dataclass(frozen=True)
class Seen:
    """A request that has arrived. `label` says what it is about: ``PUT paid``, ``HEAD image 0``.

    ``PUT answer`` puts an image beside the journal that was in the answer itself, and later empties it.
    """

    method: str
    path: str
    body: bytes = field(repr=False)

    @property
    def label(self) -> str:
        """The method and the journal's state, the image's number, the batch's object, or the path."""
        if _KEPT.search(self.path):
            return f"{self.method} answer"
        if image := _IMAGE.search(self.path):
            return f"{self.method} image {image[1]}"
        if of_a_batch := _OF_A_BATCH.search(self.path):
            return f"{self.method} {of_a_batch[1]}"
        if "/_aisa/" in self.path:
            state = json.loads(self.body)["state"] if self.body else "journal"
            return f"{self.method} {state}"
        return f"{self.method} {self.path}"


@dataclass(frozen=True)
class Act:
    """What happens to a request: the worker dies, or the network or the server fails.

    ``before``: it is not forwarded. ``half-way``: half of its body is. ``after``: the server has answered,
    and the answer is not returned. ``slow`` takes `seconds`, and then everything goes on. `aside` is called
    first, in a thread, and changes nothing about the request.
    """

    moment: Moment
    kill: Callable[[], object] | None = None
    fault: Fault | None = None
    seconds: float = 0.0
    aside: Callable[[], object] | None = None


@dataclass(frozen=True)
class Answered:
    """What the server answered to a request that was forwarded, and how many seconds that took."""

    seen: Seen
    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    seconds: float


class Tripwire:
    """A proxy in front of `upstream`, in a thread of its own; a context manager.

    `script` is asked about every request as it arrives, `listener` is told of every answer of the server,
    both in the proxy's thread; what they raise is raised again at the end.
    """

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self.script: Callable[[Seen], Act | None] = lambda _: None
        self.listener: Callable[[Answered], None] = lambda _: None
        self._answers: list[Answered] = []
        self._stop: Callable[[], object] = lambda: None
        self._thread: threading.Thread | None = None
        self._broken: BaseException | None = None
        self.url = ""

    @property
    def answers(self) -> list[Answered]:
        """What the server was asked and answered, oldest first."""
        return list(self._answers)

    def accepted(self, label: str) -> list[Seen]:
        """Return the requests with this label to which the server said yes."""
        return [a.seen for a in self.answers if a.seen.label == label and 200 <= a.status < 300]

    def __enter__(self) -> Self:
        ready: Future[str] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)), daemon=True)
        self._thread.start()
        self.url = ready.result(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        if self._thread:
            self._thread.join()
        if self._broken:
            raise self._broken

    async def _serve(self, ready: Future[str]) -> None:
        loop, stopped = asyncio.get_running_loop(), asyncio.Event()
        self._stop = lambda: loop.call_soon_threadsafe(stopped.set)
        app = web.Application(client_max_size=2**30)
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=False, shutdown_timeout=5.0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        async with aiohttp.ClientSession(
            connector=connector, auto_decompress=False, skip_auto_headers=["User-Agent", "Accept-Encoding"]
        ) as self._session:
            await site.start()
            host, port = runner.addresses[0][:2]
            ready.set_result(f"http://{host}:{port}")
            await stopped.wait()
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        try:
            body = await request.read()
        except (ConnectionError, web.HTTPException):
            return _cut(request)  # its sender died while sending
        seen = Seen(request.method, request.path, body)
        with self._observed():
            act = self.script(seen) or Act("after")
        if act.moment == "before" and (instead := await self._carry_out(act, request)):
            return instead
        if act.moment == "half-way":
            await self._forward(request, _half(body))
            await self._carry_out(act, request)
            return _cut(request)
        began = time.monotonic()
        answer = await self._forward(request, body)
        if answer is None:
            return _cut(request)
        content = answer.body if isinstance(answer.body, bytes) else b""
        answered = Answered(seen, answer.status, answer.headers, content, time.monotonic() - began)
        self._answers.append(answered)
        with self._observed():
            self.listener(answered)
        if act.moment == "after" and (instead := await self._carry_out(act, request)):
            return instead
        return answer

    @contextmanager
    def _observed(self) -> Iterator[None]:
        """Keep what goes wrong in the owner's own code, which would only look like another fault."""
        try:
            yield
        except BaseException as e:
            self._broken = self._broken or e
            raise

    async def _carry_out(self, act: Act, request: web.Request) -> web.StreamResponse | None:
        """Do what an act says; return what the worker gets instead of an answer, None if nothing changes."""
        if act.aside:
            with self._observed():
                await asyncio.to_thread(act.aside)
        if act.kill:
            await asyncio.to_thread(act.kill)
            return _cut(request)
        if act.fault == "slow":
            await asyncio.sleep(act.seconds)
        if act.fault == "cut":
            return _cut(request)
        if act.fault in {"500", "503"}:
            code = {"500": "InternalError", "503": "SlowDown"}[act.fault]
            text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>a fault</Message></Error>"
            return web.Response(status=int(act.fault), text=text, content_type="application/xml")
        return None

    async def _forward(self, request: web.Request, body: bytes | AsyncIterator[bytes]) -> web.Response | None:
        headers = [
            (name, value) for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP
        ]
        url = URL(self._upstream + _SENDER.sub("", request.raw_path), encoded=True)
        try:
            async with self._session.request(
                request.method, url, headers=headers, data=body, allow_redirects=False
            ) as response:
                content = await response.read()
        except (aiohttp.ClientError, ConnectionError):
            return None
        return web.Response(
            status=response.status, headers=_end_to_end(response.headers), body=content or None
        )


def _end_to_end(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in _HOP_BY_HOP}


async def _half(body: bytes) -> AsyncIterator[bytes]:
    yield body[: len(body) // 2]
    raise ConnectionResetError


def _cut(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()
