"""A batch without Airflow and without waiting: a scripted gateway, a store in memory, clocks that only count.

The runner, the pipelines, the journal and the client are the real ones. A test says what the gateway, the
CDN and the store do, runs attempts of one batch, and looks at the bill.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import httpx

from airflow_provider_aisa.core.batch.items import Defaults
from airflow_provider_aisa.core.batch.order import BatchOrder
from airflow_provider_aisa.core.batch.runner import Batch
from airflow_provider_aisa.core.batch.source import RawItem
from airflow_provider_aisa.core.client import AisaClient
from airflow_provider_aisa.core.fetch import FetchedImage, Fetcher
from airflow_provider_aisa.core.image import ImageInfo
from airflow_provider_aisa.core.journal import Attempt, Policy
from airflow_provider_aisa.core.keys import Owner, Target
from airflow_provider_aisa.core.logs import quietly
from airflow_provider_aisa.core.models import DEFAULT_MODEL, DEFAULT_SIZE
from tests.paying.memory import Memory, MemoryBucket
from tests.support import Clock, make_pacer, make_settings

if TYPE_CHECKING:
    from airflow_provider_aisa.core.batch.plan import Plan
    from airflow_provider_aisa.core.batch.tally import Tally
    from airflow_provider_aisa.core.settings import Settings
    from airflow_provider_aisa.core.storage import StoredObject

OWNER: Final = Owner("dag", "run", "task")
#: Seconds after which a claim of these tests is stale, by the store's clock.
STALE: Final = 1_000.0
PRICE: Final = 0.04
#: Seconds until a test that hangs is given up.
PATIENCE: Final = 60.0

Line = dict[str, Any]


class Killed(BaseException):
    """Stands for SIGKILL: whatever the process does after it fails with this."""


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
TIMED_OUT: Final = refused(504, "upstream_timeout")
LOST: Final = billed(broken(httpx.ReadTimeout))
UNREACHABLE: Final = broken(httpx.ConnectError)
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
        #: Awaited with each prompt before its image arrives.
        self.before: Callable[[str], Awaitable[None]] = lambda _prompt: asyncio.sleep(0)

    async def fetch(self, url: str, path: Path) -> FetchedImage:
        prompt = self._gateway.prompt_of(url)
        await self.before(prompt)
        if errors := self.script.get(prompt):
            raise errors.pop(0)
        content = url.encode()
        await asyncio.to_thread(path.write_bytes, content)
        digest = hashlib.sha256(content).hexdigest()
        return FetchedImage(path, len(content), digest, ImageInfo("image/png", 2048, 2048))


class Store(MemoryBucket):
    """A process's view of the store: counts its requests, and fails as it is told."""

    def __init__(
        self,
        memory: Memory,
        on_request: Callable[[str, str], None] = lambda _op, _key: None,
        on_answer: Callable[[str, str], None] = lambda _op, _key: None,
    ) -> None:
        super().__init__(memory)
        object.__setattr__(self, "requests", [])
        object.__setattr__(self, "on_request", on_request)
        object.__setattr__(self, "on_answer", on_answer)
        object.__setattr__(self, "_lock", _lock_of(memory))

    #: What was asked for, and of which key or folder.
    requests: list[tuple[str, str]]
    #: Called before each request; what it raises is the answer.
    on_request: Callable[[str, str], None]
    #: Called when each is done; what it raises takes the answer's place.
    on_answer: Callable[[str, str], None]
    _lock: threading.RLock

    def count(self, operation: str, part_of_key: str = "") -> int:
        return sum(done == operation and part_of_key in key for done, key in self.requests)

    @contextmanager
    def _request(self, operation: str, key: str) -> Iterator[None]:
        self.on_request(operation, key)
        with self._lock:
            self.requests.append((operation, key))
            yield
        self.on_answer(operation, key)

    def read(self, key: str) -> StoredObject | None:
        with self._request("read", key):
            return super().read(key)

    def write(self, key: str, body: bytes, *, only_if: str | None, is_conditional: bool = True) -> str:
        with self._request("write", key):
            return super().write(key, body, only_if=only_if, is_conditional=is_conditional)

    def delete(self, key: str, *, only_if: str | None) -> None:
        with self._request("delete", key):
            super().delete(key, only_if=only_if)

    def put_image(self, path: Path, *, key: str, **arguments: Any) -> None:
        with self._request("upload", key):
            super().put_image(path, key=key, **arguments)

    def head_image(self, key: str) -> Any:
        with self._request("head", key):
            return super().head_image(key)

    def put_lines(self, path: Path, *, key: str) -> None:
        with self._request("manifest", key):
            self.memory.objects[key] = (path.read_bytes(), f"lines-{next(self.memory.etags)}", 0.0)

    def list_keys(self, prefix: str) -> Iterator[tuple[str, str]]:
        with self._lock:
            found = sorted((key, value[1]) for key, value in self.memory.objects.items())
        found = [(key, etag) for key, etag in found if key.startswith(prefix)]
        for position in range(0, max(len(found), 1), 1_000):
            with self._request("list", prefix):
                page = found[position : position + 1_000]
            yield from page


_locks: dict[str, threading.RLock] = {}


def _lock_of(memory: Memory) -> threading.RLock:
    """Return the lock that makes each request of a store one step."""
    return _locks.setdefault(memory.endpoint, threading.RLock())


@dataclass
class Scene:
    """One task instance's batch: its gateway, CDN and store outlive the attempts."""

    folder: Path
    gateway: Gateway = field(default_factory=Gateway)
    memory: Memory = field(default_factory=Memory)
    settings: Settings = field(
        default_factory=lambda: make_settings(timeout=10.0, max_concurrency=4, max_retries=2)
    )
    clock: Clock = field(default_factory=Clock)
    #: How the client waits; None: its clock goes on at once.
    asleep: Callable[[float], Awaitable[None]] | None = None
    #: Called before each request to the store.
    on_store: Callable[[str, str], None] = lambda _op, _key: None
    #: Called after each of them.
    after_store: Callable[[str, str], None] = lambda _op, _key: None
    #: Called with the figures.
    on_report: Callable[[Tally], object] = lambda _tally: None
    #: Of the latest attempt.
    store: Store = field(init=False)
    client: AisaClient = field(init=False)
    tally: Tally = field(init=False)
    reports: int = 0
    plans: list[Plan] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.cdn = Cdn(self.gateway)

    def run(self, requests: Sequence[object], **order: Any) -> dict[str, Any]:
        """Run one attempt to its end; `order` is as of :func:`make_order`."""
        try:
            return asyncio.run(asyncio.wait_for(self.arun(requests, **order), PATIENCE))
        finally:
            self.close()

    def close(self) -> None:
        """Close the plans of attempts whose event loop, and all threads of it, have ended."""
        while self.plans:
            self.plans.pop().close()

    async def arun(self, requests: Sequence[object], **changes: Any) -> dict[str, Any]:
        """Do what :meth:`run` does, beside others on this event loop."""
        order = make_order(prices=self.settings.prices, **changes)
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        self.client = client = self._client()
        self.store = store = Store(self.memory, self.on_store, self.after_store)
        raws = (RawItem(f"requests[{index}]", value) for index, value in enumerate(requests))
        plan = order.plan(raws, folder)
        self.plans.append(plan)  # A cancelled attempt's threads may still read it.
        with quietly():
            return await Batch(
                order,
                plan,
                client=client,
                fetcher=cast("Fetcher", self.cdn),
                bucket=store,
                folder=folder,
                report=self._report,
            ).run()

    def outdate_claims(self) -> None:
        """Let so much time pass that nobody can be waiting for a response any more."""
        self.memory.now += STALE

    @property
    def manifest(self) -> list[Line]:
        """The lines of the latest manifest."""
        [key] = [key for key in self.memory.objects if "/manifest-" in key]
        return [json.loads(line) for line in self.memory.objects[key][0].decode().splitlines()]

    def line(self, item_id: str) -> Line:
        """Return an item's line of the manifest."""
        [line] = [line for line in self.manifest if line["id"] == item_id]
        return line

    def statuses(self) -> dict[str, str]:
        """Return what the manifest says became of each item."""
        return {line["id"]: line["status"] for line in self.manifest}

    def entries(self) -> list[dict[str, Any]]:
        """Return the items' entries of the journal."""
        found = list(self.memory.objects.items())  # Others may be writing.
        return [json.loads(value[0]) for key, value in found if "/items/" in key]

    def _report(self, tally: Tally) -> None:
        self.tally = tally
        self.reports += 1
        self.on_report(tally)

    async def _sleep(self, seconds: float) -> None:
        self.clock.sleep(seconds)
        await asyncio.sleep(0)

    def _client(self) -> AisaClient:
        return AisaClient(
            self.settings,
            pacer=make_pacer(self.clock, concurrency=self.settings.max_concurrency),
            transport=httpx.MockTransport(self.gateway),
            max_wait=float("inf"),
            asleep=self.asleep or self._sleep,
            randomness=lambda: 0.5,
        )


def make_order(
    *,
    s3_key: str | None = "out/",
    size: object = DEFAULT_SIZE,
    n: object = 1,
    model: object = DEFAULT_MODEL,
    owner: Owner = OWNER,
    max_tries: int = 0,
    on_existing: Any = "reuse",
    delivery: Any = "at-least-once",
    **fields: Any,
) -> BatchOrder:
    """Return an order as the operator makes it. A person's Clear raises `max_tries`."""
    target = Target.parse(s3_key, None, default_folder=owner.path(), has_items=True)
    return BatchOrder(
        Defaults(size=size, n=n, model=model, target=target),
        Attempt(owner, max_tries),
        policy=Policy(on_existing, delivery),
        **fields,
    ).in_bucket("memory")


def items(count: int, **fields: Any) -> list[dict[str, Any]]:
    """Return requests whose ids and prompts are ``i0``, ``i1`` and so on."""
    return [{"id": f"i{number}", "prompt": f"i{number}", **fields} for number in range(count)]


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another task or thread does."""
    while not condition():  # noqa: ASYNC110 - threads change it, and set no event of a loop
        await asyncio.sleep(0.001)


def block_until(condition: Callable[[], bool]) -> None:
    """Do what :func:`until` does, in a thread."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "what this waits for never happened"
        time.sleep(0.001)
