"""A gateway that does what a test says, and the CDN behind it. It bills before it answers; the bill stays.

Both are handlers of `httpx.MockTransport`: the package's own client, and its own downloads, run on them.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from tests.fakes.png import png

PRICE: Final = 0.04  # USD of an image
CDN: Final = "https://cdn.test"


@dataclass(eq=False)
class Post:
    """One billable request, as the gateway reads it.

    `billed` counts its images on the bill; `is_received` says that the client was given the response that
    names them: only then does anybody but the gateway know of them.
    """

    number: int
    prompt: str
    n: int
    request: httpx.Request = field(repr=False)
    billed: int = 0
    is_received: bool = False
    delivered: httpx.Response | None = field(default=None, repr=False)


#: What the gateway does with a request: it answers, or raises what the client sees instead.
Answer = Callable[["FakeGateway", Post], httpx.Response]


def answer_json(status: int, document: object, **headers: str) -> httpx.Response:
    """Return JSON as many servers write it: what is not ASCII, halves of characters included, is escaped."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, content=json.dumps(document).encode(), headers=named)


def images(count: int | None = None, **usage: Any) -> Answer:
    """Bill and return so many images, more than asked or fewer; by default as many as asked."""
    return lambda gateway, post: gateway.deliver(post, post.n if count is None else count, **usage)


def entries(*data: object, billed: int | None = None) -> Answer:
    """Bill as many images as asked, or `billed`, and return these entries in their place."""

    def answer(gateway: FakeGateway, post: Post) -> httpx.Response:
        count = post.n if billed is None else billed
        gateway.charge(post, count)
        body = {"data": list(data), "usage": {"generated_images": count}}
        post.delivered = answer_json(200, body, x_request_id=post_id(post))
        return post.delivered

    return answer


def refused(status: int, code: str = "code", message: str = "words", **headers: str) -> Answer:
    """Answer with the gateway's own error; nothing is billed."""
    body = {"error": {"code": code, "message": message, "request_id": "req_1"}}
    return lambda _gateway, _post: answer_json(status, body, **headers)


def html(status: int, title: str = "A proxy") -> Answer:
    """Answer with a page that some proxy wrote; nothing is billed."""
    return lambda _gateway, _post: httpx.Response(status, html=f"<html><title>{title}</title></html>")


def broken(kind: type[httpx.RequestError]) -> Answer:
    """Let the client see a connection that fails in this way; nothing is billed."""

    def answer(_gateway: FakeGateway, _post: Post) -> httpx.Response:
        raise kind("broken")

    return answer


def billed(answer: Answer) -> Answer:
    """Generate the images first: the answer that follows hides them."""

    def answer_after_all(gateway: FakeGateway, post: Post) -> httpx.Response:
        gateway.deliver(post, post.n)
        return answer(gateway, post)

    return answer_after_all


CONTENT_REFUSED: Final = refused(422, "content_policy_violation", "the prompt was refused")
RATE_LIMITED: Final = refused(429, "rate_limit_exceeded")
QUOTA_EXCEEDED: Final = refused(429, "quota_exceeded")
UNAVAILABLE: Final = refused(503, "upstream_unavailable")
SERVER_ERROR: Final = refused(500, "internal_error")
TIMED_OUT: Final = refused(504, "upstream_timeout")
BILLED_TIMED_OUT: Final = billed(TIMED_OUT)
LOST: Final = billed(broken(httpx.ReadTimeout))
UNREACHABLE: Final = broken(httpx.ConnectError)
HTML: Final = billed(html(200, "Welcome"))
#: What proxies put in the place of an answer that they waited for too long.
BILLING_PROXIES: Final = {status: billed(html(status)) for status in (502, 503, 504, 520, 522, 524, 530)}
PROXY_ERROR: Final = BILLING_PROXIES[502]
#: Everything that a request can end in without anybody being able to tell whether it was billed.
UNKNOWN: Final = (
    *BILLING_PROXIES.values(),
    SERVER_ERROR,
    billed(SERVER_ERROR),
    TIMED_OUT,
    BILLED_TIMED_OUT,
    LOST,
    HTML,
)
#: Everything that says by itself that nothing was billed.
UNBILLED: Final = (CONTENT_REFUSED, RATE_LIMITED, QUOTA_EXCEEDED, UNAVAILABLE, UNREACHABLE, images(0))


class FakeGateway:
    """Answers each prompt as its script says, and then with images. Keeps the bill. Safe to use from threads.

    `on_request` is called while a request is in flight and nothing is decided, `on_answer` when it is billed,
    or not, and the client has heard nothing yet. Both are called in the thread that sends; what they raise is
    what the client sees.
    """

    def __init__(self) -> None:
        self.script: dict[str, list[Answer]] = {}
        #: What it does with prompts without a script, or whose script is used up.
        self.otherwise: Answer = images()
        #: The billable requests in the order in which they arrived, and those of them that were billed.
        self.posts: list[Post] = []
        self.billed_posts: list[Post] = []
        self.on_request: Callable[[Post], object] = lambda _post: None
        self.on_answer: Callable[[Post], object] = lambda _post: None
        #: Images are in the answer itself also where the route could have links, as some workspaces have it.
        self.answers_inline = False
        self.in_flight = 0
        self.most_in_flight = 0
        self._lock = threading.Lock()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method != "POST":
            return answer_json(200, {"object": "list", "data": []})
        post, answer = self._take(request)
        try:
            self.on_request(post)
            response = self._answer(answer, post)
            post.is_received = response is post.delivered
            return response
        finally:
            with self._lock:
                self.in_flight -= 1

    def _answer(self, answer: Answer, post: Post) -> httpx.Response:
        try:
            response = answer(self, post)
        except httpx.HTTPError:
            self.on_answer(post)
            raise
        self.on_answer(post)
        return response

    def _take(self, request: httpx.Request) -> tuple[Post, Answer]:
        prompt, n = _asked(request)
        with self._lock:
            post = Post(len(self.posts), prompt, n, request)
            self.posts.append(post)
            script = self.script.get(post.prompt)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            return post, script.pop(0) if script else self.otherwise

    def charge(self, post: Post, count: int) -> None:
        """Put images on the bill."""
        with self._lock:
            post.billed += count
            if count and post not in self.billed_posts:
                self.billed_posts.append(post)

    def deliver(self, post: Post, count: int, **usage: Any) -> httpx.Response:
        """Put images on the bill and return links to them, by the place of the request in the bill."""
        self.charge(post, count)
        number = self.billed_posts.index(post) if count else 0
        links = [f"{CDN}/{number}/{index}" for index in range(count)]
        body = self._shape(post, links, {"output_tokens": 100 * count, **usage})
        post.delivered = answer_json(200, body, x_request_id=post_id(post))
        return post.delivered

    def _shape(self, post: Post, links: list[str], usage: dict[str, Any]) -> dict[str, Any]:
        """Return an answer as the request's route has it: links, or what they hold."""
        inline = [base64.b64encode(FakeCdn.image(link)).decode() for link in links]
        path = post.request.url.path
        if path.endswith(":generateContent"):
            parts = [{"inlineData": {"mimeType": "image/png", "data": data}} for data in inline]
            return {"candidates": [{"content": {"parts": parts}}], "usageMetadata": usage}
        images = inline if self.answers_inline else links
        if path.endswith("/chat/completions"):
            contents = [[{"type": "image", "image": image}] for image in images]
            return {"choices": [{"message": {"content": one}} for one in contents], "usage": usage}
        name = "b64_json" if self.answers_inline else "url"
        return {
            "data": [{name: image} for image in images],
            "usage": {"generated_images": len(links), **usage},
        }

    @property
    def sent(self) -> list[str]:
        """The prompts in the order in which they arrived."""
        return [post.prompt for post in list(self.posts)]

    @property
    def billed(self) -> int:
        """All images on the bill."""
        return self.bill.total()

    @property
    def bill(self) -> Counter[str]:
        """Images on the bill, by prompt."""
        return self._per_prompt(lambda post: post.billed)

    @property
    def generated(self) -> Counter[str]:
        """Requests that were billed, by prompt."""
        return self._per_prompt(lambda post: post.billed > 0)

    @property
    def received(self) -> Counter[str]:
        """Requests that were billed and whose response reached the client, by prompt."""
        return self._per_prompt(lambda post: post.billed > 0 and post.is_received)

    @property
    def lost(self) -> Counter[str]:
        """Requests that were billed without the client being told, by prompt: what has to be admitted."""
        return self.generated - self.received

    def _per_prompt(self, number: Callable[[Post], int]) -> Counter[str]:
        counts: Counter[str] = Counter()
        for post in list(self.posts):
            counts[post.prompt] += number(post)
        return +counts


def _asked(request: httpx.Request) -> tuple[str, int]:
    """Return the prompt of a request to any route, and how many images it makes."""
    body = json.loads(request.content)
    if "contents" in body:
        return next(part["text"] for part in body["contents"][0]["parts"] if "text" in part), 1
    if "messages" in body:
        content = body["messages"][0]["content"]
        return next(part["text"] for part in content if part["type"] == "text"), body.get("n", 4)
    return body["prompt"], body.get("n", 1)


def post_id(post: Post) -> str:
    """Return the id under which support would look for a request."""
    return f"req_{post.number}"


#: What the CDN answers in an image's place: a status, a body, or an error that the client sees.
Instead = int | bytes | BaseException


class FakeCdn:
    """Serves the gateway's links: to each a PNG of its own. It needs no key, and counts the downloads."""

    def __init__(self, gateway: FakeGateway) -> None:
        self._gateway = gateway
        #: What the links of a prompt answer, one request after the other, before they work.
        self.script: dict[str, list[Instead]] = {}
        #: What is answered in place of an image of this prompt; None: the image.
        self.otherwise: Callable[[str], Instead | None] = lambda _prompt: None
        #: Asked again and again before an image of this prompt arrives, in the thread that downloads it.
        self.is_ready: Callable[[str], bool] = lambda _prompt: True
        self.requests: list[httpx.Request] = []
        self._lock = threading.Lock()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        prompt = self.prompt_of(str(request.url))
        with self._lock:
            self.requests.append(request)
        self._wait(prompt, request)
        with self._lock:
            script = self.script.get(prompt)
            instead = script.pop(0) if script else self.otherwise(prompt)
        if isinstance(instead, BaseException):
            raise instead
        status = instead if isinstance(instead, int) else 200
        body = self.image(str(request.url)) if instead is None else instead
        # A stream: what is given as content counts as read, and cannot be read raw any more.
        return httpx.Response(status, stream=httpx.ByteStream(body if isinstance(body, bytes) else b""))

    def _wait(self, prompt: str, request: httpx.Request) -> None:
        """Wait until the image is ready, or until whoever asks for it gives up."""
        deadline = request.extensions.get("deadline")
        while not self.is_ready(prompt):
            if deadline is not None and deadline.is_over:
                raise httpx.ReadTimeout("cancelled")
            time.sleep(0.001)

    def prompt_of(self, url: str) -> str:
        """Return the prompt of a link's image."""
        return self._gateway.billed_posts[int(httpx.URL(url).path.split("/")[1])].prompt

    @staticmethod
    def image(url: str) -> bytes:
        """Return what a link holds."""
        return png(url)
