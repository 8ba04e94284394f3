"""A gateway that does what a test says, and the CDN behind it. It keeps the bill."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import httpx

from airflow_provider_aisa.core.images.download import FetchedImage
from airflow_provider_aisa.core.images.inspect import ImageInfo

if TYPE_CHECKING:
    from airflow_provider_aisa.core.threads import Stop

PRICE: Final = 0.04  # USD of an image


@dataclass(frozen=True)
class Asked:
    """One request as the gateway reads it."""

    prompt: str
    n: int
    number: int


#: What the gateway does with a request: it answers, or raises what the client sees instead.
Answer = Callable[["Gateway", Asked], httpx.Response]


def answer_json(status: int, document: object, **headers: str) -> httpx.Response:
    """Return JSON as many servers write it: what is not ASCII, halves of characters included, is escaped."""
    return httpx.Response(status, content=json.dumps(document).encode(), headers=headers)


def images(count: int | None = None, **usage: Any) -> Answer:
    """Bill and return so many images; by default as many as asked."""

    def answer(gateway: Gateway, asked: Asked) -> httpx.Response:
        number = asked.n if count is None else count
        return gateway.deliver(asked, number, **usage)

    return answer


def refused(status: int, code: str = "code", message: str = "words", **headers: str) -> Answer:
    """Answer with an error; nothing is billed."""
    body = {"error": {"code": code, "message": message, "request_id": "req_1"}}
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _gateway, _asked: answer_json(status, body, **names)


def billed(answer: Answer) -> Answer:
    """Generate the images first: the answer that follows hides them."""

    def answer_after_all(gateway: Gateway, asked: Asked) -> httpx.Response:
        gateway.deliver(asked, asked.n)
        return answer(gateway, asked)

    return answer_after_all


def broken(kind: type[httpx.RequestError]) -> Answer:
    """Let the client see a connection that fails in this way."""

    def answer(_gateway: Gateway, _asked: Asked) -> httpx.Response:
        raise kind("broken")

    return answer


CONTENT_REFUSED: Final = refused(422, "content_policy_violation", "the prompt was refused")
RATE_LIMITED: Final = refused(429, "rate_limit_exceeded")
QUOTA_EXCEEDED: Final = refused(429, "quota_exceeded")
SERVER_ERROR: Final = refused(500, "internal_error")
UNAVAILABLE: Final = refused(503, "upstream_unavailable")
TIMED_OUT: Final = refused(504, "upstream_timeout")
LOST: Final = billed(broken(httpx.ReadTimeout))
UNREACHABLE: Final = broken(httpx.ConnectError)
PROXY_ERROR: Final = billed(lambda _gateway, _asked: httpx.Response(502, html="<title>Bad gateway</title>"))
HTML: Final = billed(lambda _gateway, _asked: httpx.Response(200, html="<title>Welcome</title>"))


class Gateway:
    """Answers each prompt as its script says, and then with images. Keeps the bill."""

    def __init__(self) -> None:
        self.script: dict[str, list[Answer]] = {}
        #: What it does with prompts without a script, or whose script is used up.
        self.otherwise: Answer = images()
        #: Prompts in the order in which they arrived.
        self.sent: list[str] = []
        #: Images by prompt, and how often each was generated.
        self.bill: Counter[str] = Counter()
        self.generated: Counter[str] = Counter()
        self.most_in_flight = 0
        #: Called with each prompt while its request is in flight, in the thread that sends it.
        self.on_request: Callable[[str], None] = lambda _prompt: None
        self._prompts: dict[int, str] = {}
        self._in_flight = 0
        self._lock = threading.Lock()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        with self._lock:
            asked = Asked(body["prompt"], body["n"], len(self.sent))
            self.sent.append(asked.prompt)
            script = self.script.get(asked.prompt)
            answer = script.pop(0) if script else self.otherwise
            self._in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self._in_flight)
        try:
            self.on_request(asked.prompt)
            return answer(self, asked)
        finally:
            with self._lock:
                self._in_flight -= 1

    def deliver(self, asked: Asked, count: int, **usage: Any) -> httpx.Response:
        """Put images on the bill and return links to them."""
        with self._lock:
            self.bill[asked.prompt] += count
            self.generated[asked.prompt] += 1
            self._prompts[asked.number] = asked.prompt
        links = [{"url": f"https://cdn.test/{asked.number}/{index}"} for index in range(count)]
        figures = {"generated_images": count, "output_tokens": 100 * count, **usage}
        headers = {"x-request-id": f"req_{asked.number}"}
        return answer_json(200, {"data": links, "usage": figures}, **headers)

    def prompt_of(self, url: str) -> str:
        """Return the prompt of a link's image."""
        return self._prompts[int(httpx.URL(url).path.split("/")[1])]


class Cdn:
    """Stands in for the Fetcher: an image is the text of its link."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        #: What is raised for the images of a prompt, one after the other.
        self.script: dict[str, list[BaseException]] = {}
        #: Awaited with each prompt before its image arrives, in the image's own thread.
        self.before: Callable[[str], Awaitable[None]] = lambda _prompt: asyncio.sleep(0)

    def fetch(self, url: str, file: BinaryIO, stop: Stop) -> FetchedImage:
        prompt = self._gateway.prompt_of(url)
        asyncio.run(self._before(prompt, stop))
        content = url.encode()
        file.write(content)
        if errors := self.script.get(prompt):
            raise errors.pop(0)
        digest = hashlib.sha256(content).hexdigest()
        return FetchedImage(len(content), digest, ImageInfo("image/png", 2048, 2048))

    async def _before(self, prompt: str, stop: Stop) -> None:
        waiting = asyncio.ensure_future(self.before(prompt))
        while not waiting.done():
            stop.check()
            await asyncio.wait({waiting}, timeout=0.05)
        waiting.result()
