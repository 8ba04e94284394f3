"""One table of cases for both faces of a client: each test that asks for `face` runs sync and async."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx

from airflow_provider_aisa.core.gateway.client import AisaClient
from airflow_provider_aisa.core.gateway.request import ImageRequest
from airflow_provider_aisa.core.gateway.response import GenerationResponse
from airflow_provider_aisa.core.gateway.retries import Call
from airflow_provider_aisa.core.gateway.settings import ConnectionSettings
from tests.fakes.clock import Clock
from tests.support import make_pacer, make_settings

T = TypeVar("T")


@dataclass(frozen=True)
class Face:
    """Calls a client's sync methods, or its async ones on an event loop of their own."""

    is_async: bool

    def generate(self, client: AisaClient, **request: Any) -> GenerationResponse:
        image = ImageRequest.parse(**{"prompt": "a red panda", **request})
        return self._run(client, lambda: client.generate(image), lambda: client.agenerate(image))

    def send(self, client: AisaClient, call: Call) -> httpx.Response:
        return self._run(client, lambda: client.send(call), lambda: client.asend(call))

    def list_models(self, client: AisaClient) -> list[dict[str, Any]]:
        return self._run(client, client.list_models, client.alist_models)

    def _run(self, client: AisaClient, sync: Callable[[], T], asynchronous: Callable[[], Awaitable[T]]) -> T:
        async def run() -> T:
            async with client:
                return await asynchronous()

        if self.is_async:
            return asyncio.run(run())
        with client:
            return sync()


@dataclass
class Gateway:
    """Answers with a script, its last line for ever; keeps every request."""

    script: list[httpx.Response | Callable[[httpx.Request], Exception]]
    clock: Clock = field(default_factory=Clock)
    requests: list[httpx.Request] = field(default_factory=list)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(answer, httpx.Response):
            return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)
        raise answer(request)

    def client(self, settings: ConnectionSettings | None = None, **options: Any) -> AisaClient:
        """Return a client of this gateway that waits on its clock, without jitter."""
        values: dict[str, Any] = {
            "pacer": make_pacer(self.clock),
            "transport": httpx.MockTransport(self),
            "sleep": self.clock.sleep,
            "asleep": self.clock.asleep,
            "randomness": lambda: 0.5,
        }
        return AisaClient(settings or make_settings(), **values | options)
