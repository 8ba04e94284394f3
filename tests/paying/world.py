"""Copies of one task against a store and a gateway that both do their worst, one step at a time.

The real path runs in threads that stop at each step that can be seen from outside: each request to S3 and
to the gateway, each download. A test decides who goes on, who dies, what the gateway answers, and what
somebody else does to the journal meanwhile.
"""

from __future__ import annotations

import asyncio
import queue
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import httpx

from airflow_provider_aisa.core.budget import Budget
from airflow_provider_aisa.core.gateway.client import AisaClient
from airflow_provider_aisa.core.gateway.models import DEFAULT_MODEL, family_of
from airflow_provider_aisa.core.gateway.request import ImageRequest
from airflow_provider_aisa.core.generate import generate
from airflow_provider_aisa.core.images.download import Fetcher
from airflow_provider_aisa.core.images.transfer import Lanes
from airflow_provider_aisa.core.job import Job
from airflow_provider_aisa.core.journal.entry import Buyer, Entry
from airflow_provider_aisa.core.journal.steps import Policy
from airflow_provider_aisa.core.layout import Owner, Target
from airflow_provider_aisa.core.workbench import TIMING, Timing, Workbench
from tests.fakes.clock import Clock
from tests.fakes.gateway import (
    BILLED_TIMED_OUT,
    BILLING_PROXIES,
    CDN,
    HTML,
    LOST,
    TIMED_OUT,
    UNAVAILABLE,
    UNREACHABLE,
    Answer,
    FakeCdn,
    FakeGateway,
    Post,
    images,
    refused,
)
from tests.fakes.meddler import Meddler
from tests.fakes.s3 import BUCKET, FakeS3
from tests.support import make_pacer, make_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from decimal import Decimal

    from airflow_provider_aisa.core.receipt import Receipt

IMAGES: Final = 2
TIMEOUT: Final = 10.0
STALE: Final = TIMEOUT + 61.0
PATIENCE: Final = 30  # seconds that a thread may compute before the test is called stuck
OWNER: Final = Owner("d", "r", "t")
BUYER: Final = Buyer(OWNER, 3)
CLEARED: Final = Buyer(OWNER, 7)
WAITING: Final = "waiting for another copy"

#: What the gateway, or a proxy before it, does with a request.
ANSWERS: Final[dict[str, Answer]] = {
    "images": images(),
    "lost": LOST,
    "502 by a proxy": BILLING_PROXIES[502],
    "520 by a proxy": BILLING_PROXIES[520],
    "524 by a proxy": BILLING_PROXIES[524],
    "504": BILLED_TIMED_OUT,
    "unreadable": HTML,
    "504 unbilled": TIMED_OUT,
    "unreachable": UNREACHABLE,
    "429": refused(429, "rate_limit_exceeded", retry_after="1"),
    "503": UNAVAILABLE,
    "422": refused(422, "unsupported_parameter"),
}


class Killed(BaseException):
    """Stands for SIGKILL: nothing that the actor does after it is seen by anybody."""


@dataclass
class World:
    """What all copies see: the store, the gateway's bill, and what the gateway will do next."""

    clock: Clock = field(default_factory=Clock)
    #: Chooses among :data:`ANSWERS`.
    answer: Callable[[], str] = lambda: "images"
    model: str = DEFAULT_MODEL
    #: Images come in the answer itself, whatever the route.
    answers_inline: bool = False

    def __post_init__(self) -> None:
        self.store = FakeS3(clock=self.clock)
        self.meddler = Meddler(self.store)
        self.gateway = FakeGateway()
        self.gateway.answers_inline = self.answers_inline
        self.gateway.otherwise = self._answer
        self.gateway.on_request = lambda post: _sender(post).checkpoint("sent, not billed")
        self.gateway.on_answer = lambda post: _sender(post).checkpoint("billed, no response")
        self.cdn = FakeCdn(self.gateway)

    def _answer(self, gateway: FakeGateway, post: Post) -> httpx.Response:
        return ANSWERS[self.answer()](gateway, post)

    @property
    def images(self) -> int:
        """How many a request is for."""
        return 1 if family_of(self.model).is_one_by_one else IMAGES

    @property
    def posts(self) -> int:
        """Requests that the gateway has seen."""
        return len(self.gateway.posts)

    @property
    def bill(self) -> list[Post]:
        """Requests that were billed, in that order."""
        return self.gateway.billed_posts

    @property
    def unreceived(self) -> int:
        """Requests that were billed and whose images no live copy has heard of."""
        return self.gateway.lost.total()

    @property
    def journals(self) -> list[str]:
        """The keys of journals."""
        return self.meddler.keys("_aisa/")

    def entry(self) -> Entry:
        """Return the one entry of the journal."""
        [key] = [key for key in self.journals if key.endswith(".json")]
        return Entry.from_json(self.store.objects[key].body, uri="s3://x")

    def content(self, key: str) -> bytes | None:
        """Return what is stored under a key."""
        found = self.store.objects.get(key)
        return found.body if found else None


class Actor:
    """One process that runs the task: it stops at each checkpoint until it is told to go on, or dies."""

    def __init__(
        self,
        world: World,
        policy: Policy = Policy(),  # noqa: B008 - frozen
        *,
        buyer: Buyer = BUYER,
        prompt: str = "p",
        max_cost_usd: Decimal | None = None,
        max_retries: int = 0,
        template: str = "i/{index}.{ext}",
        idempotency_key: str | None = None,
        s3_extra_args: Mapping[str, Any] = MappingProxyType({}),
        timing: Timing = TIMING,
    ) -> None:
        self.world = world
        self.receipt: Receipt | None = None
        self.crash: BaseException | None = None
        self.at = "start"
        self.is_sending = False
        self._max_retries = max_retries
        self._timing = timing
        request = ImageRequest.parse(prompt=prompt, n=world.images, model=world.model)
        self._job = Job(
            request,
            Target(BUCKET, template),
            buyer,
            price_usd=request.price_usd({}),
            max_cost_usd=max_cost_usd,
            policy=policy,
            idempotency_key=idempotency_key,
            s3_extra_args=dict(s3_extra_args),
        )
        self._own_clock = Clock()  # for what it waits for alone
        self._is_dead = False
        self._arrived: queue.Queue[str] = queue.Queue()
        self._orders: queue.Queue[bool] = queue.Queue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._await()

    @property
    def is_over(self) -> bool:
        return self.at == "over"

    @property
    def received(self) -> int:
        """Billed requests of this actor whose response has reached it."""
        return sum(post.is_received for post in self.world.bill if _sender(post) is self)

    @property
    def error(self) -> BaseException | None:
        return self.receipt.error if self.receipt else self.crash

    def step(self) -> None:
        """Let the actor go on to its next checkpoint."""
        self._orders.put(True)
        self._await()

    def finish(self) -> Receipt:
        """Let the actor go on to its end."""
        while not self.is_over:
            self.step()
        assert self.crash is None, self.crash
        assert self.receipt is not None
        return self.receipt

    def kill(self) -> None:
        """Kill the actor where it stands."""
        self.is_sending = False
        self._is_dead = True
        for _ in range(2 * IMAGES):  # One for each thread that may stand at a checkpoint.
            self._orders.put(False)
        while not self.is_over:
            self._await()

    def _await(self) -> None:
        self.at = self._arrived.get(timeout=PATIENCE)

    def checkpoint(self, label: str) -> None:
        if self._is_dead:
            raise Killed
        self._arrived.put(label)
        if not self._orders.get(timeout=PATIENCE):
            raise Killed

    def _run(self) -> None:
        try:
            with tempfile.TemporaryDirectory() as folder:
                self.receipt = asyncio.run(self._generate(Path(folder)))
        except BaseException as e:
            self.crash = e
        self._arrived.put("over")

    async def _generate(self, folder: Path) -> Receipt:
        client = AisaClient(
            make_settings(timeout=TIMEOUT, max_retries=self._max_retries),
            pacer=make_pacer(self._own_clock),
            transport=httpx.MockTransport(self._send),
        )
        s3 = self.world.store.client(
            on_request=lambda operation, _key: self.checkpoint(f"before {operation}"),
            on_answer=lambda operation, _key: self.checkpoint(f"after {operation}"),
        )
        bench = Workbench(
            client,
            Fetcher(lambda: httpx.MockTransport(self._download), allow_loopback=False, max_retries=0),
            s3.bucket(extra_args=self._job.s3_extra_args),
            folder,
            Lanes(),
            Budget(self._job.max_cost_usd),
            timing=self._timing,
            sleep=self._no_wait,
        )
        return await generate(self._job, bench, wait=self._wait_for_another)

    async def _no_wait(self, seconds: float) -> None:
        self._own_clock.sleep(seconds)
        await asyncio.sleep(0)

    async def _wait_for_another(self, _seconds: float) -> None:
        self.checkpoint(WAITING)

    def _send(self, request: httpx.Request) -> httpx.Response:
        request.extensions["sender"] = self
        self.is_sending = True
        try:
            return self.world.gateway(request)
        finally:
            self.is_sending = False

    def _download(self, request: httpx.Request) -> httpx.Response:
        self.checkpoint("fetch")
        return self.world.cdn(request)


def _sender(post: Post) -> Actor:
    sender: Actor = post.request.extensions["sender"]
    return sender


def content_of(url: str) -> bytes:
    """Return the image that a link leads to."""
    return FakeCdn.image(url)


def link(number: int, index: int) -> str:
    """Return the link of an image of a billed request, by its place in the bill."""
    return f"{CDN}/{number}/{index}"
