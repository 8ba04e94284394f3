"""Copies of one task against a store and a gateway that both do their worst, one step at a time.

The real path runs in threads that stop at each step that can be seen from outside: each request to S3 and
to the gateway, each download. A test decides who goes on, who dies, what the gateway answers, and what
somebody else does to the journal meanwhile.
"""

from __future__ import annotations

import asyncio
import hashlib
import queue
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

import httpx

from airflow_provider_aisa.core.budget import Budget
from airflow_provider_aisa.core.gateway.client import AisaClient
from airflow_provider_aisa.core.gateway.request import ImageRequest
from airflow_provider_aisa.core.generate import generate
from airflow_provider_aisa.core.images.download import FetchedImage
from airflow_provider_aisa.core.images.inspect import ImageInfo
from airflow_provider_aisa.core.images.transfer import Lanes
from airflow_provider_aisa.core.job import Job
from airflow_provider_aisa.core.journal.entry import Buyer, Entry
from airflow_provider_aisa.core.journal.steps import Policy
from airflow_provider_aisa.core.layout import Owner, Target
from airflow_provider_aisa.core.workbench import TIMING, Timing, Workbench
from tests.fakes.clock import Clock
from tests.fakes.meddler import Meddler
from tests.fakes.s3 import BUCKET, FakeS3
from tests.support import make_pacer, make_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from decimal import Decimal

    from airflow_provider_aisa.core.images.download import Fetcher
    from airflow_provider_aisa.core.receipt import Receipt
    from airflow_provider_aisa.core.threads import Stop

IMAGES: Final = 2
TIMEOUT: Final = 10.0
STALE: Final = TIMEOUT + 61.0
PATIENCE: Final = 30  # seconds that a thread may compute before the test is called stuck
OWNER: Final = Owner("d", "r", "t")
BUYER: Final = Buyer(OWNER, 3)
CLEARED: Final = Buyer(OWNER, 7)
WAITING: Final = "waiting for another copy"

HTML: Final = {"content-type": "text/html"}
#: What the gateway, or a proxy before it, does with a request: whether it is billed, and what is answered.
ANSWERS: Final[dict[str, tuple[bool, httpx.Response | type[httpx.HTTPError] | None]]] = {
    "images": (True, None),
    "lost": (True, httpx.ReadTimeout),
    "502 by a proxy": (True, httpx.Response(502, headers=HTML, text="<title>Bad gateway</title>")),
    "520 by a proxy": (True, httpx.Response(520, headers=HTML, text="<title>520</title>")),
    "504": (True, httpx.Response(504, json={"error": {"code": "upstream_timeout", "message": "late"}})),
    "unreadable": (True, httpx.Response(200, headers=HTML, text="<title>Welcome</title>")),
    "504 unbilled": (False, httpx.Response(504, text="")),
    "unreachable": (False, httpx.ConnectError),
    "429": (
        False,
        httpx.Response(
            429, headers={"retry-after": "1"}, json={"error": {"code": "rate_limit_exceeded", "message": "m"}}
        ),
    ),
    "503": (False, httpx.Response(503, json={"error": {"code": "upstream_unavailable", "message": "m"}})),
    "422": (False, httpx.Response(422, json={"error": {"code": "unsupported_parameter", "message": "m"}})),
}


class Killed(BaseException):
    """Stands for SIGKILL: nothing that the actor does after it is seen by anybody."""


@dataclass
class Sent:
    """One request that the gateway has billed."""

    attempt: Actor
    number: int
    #: A live copy has read the images' links.
    is_received: bool = False


@dataclass
class World:
    """What all copies see: the store, the gateway's bill, and what the gateway will do next."""

    clock: Clock = field(default_factory=Clock)
    #: Chooses among :data:`ANSWERS`.
    answer: Callable[[], str] = lambda: "images"
    bill: list[Sent] = field(default_factory=list)
    posts: int = 0

    def __post_init__(self) -> None:
        self.store = FakeS3(clock=self.clock)
        self.meddler = Meddler(self.store)
        self.lock = threading.Lock()

    @property
    def unreceived(self) -> int:
        """Requests that were billed and whose images no live copy has heard of."""
        return sum(not sent.is_received for sent in self.bill)

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
        self.received = 0
        self._max_retries = max_retries
        self._timing = timing
        self._job = Job(
            ImageRequest.parse(prompt=prompt, n=IMAGES),
            Target(BUCKET, template),
            buyer,
            price_usd=ImageRequest.parse(prompt=prompt).price_usd({}),
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
            transport=httpx.MockTransport(self._gateway),
        )
        s3 = self.world.store.client(
            on_request=lambda operation, _key: self.checkpoint(f"before {operation}"),
            on_answer=lambda operation, _key: self.checkpoint(f"after {operation}"),
        )
        bench = Workbench(
            client,
            cast("Fetcher", self),
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

    def _gateway(self, _request: httpx.Request) -> httpx.Response:
        world = self.world
        world.posts += 1
        self.is_sending = True
        self.checkpoint("sent, not billed")
        is_billed, answer = ANSWERS[world.answer()]
        sent = Sent(self, len(world.bill))
        if is_billed:
            world.bill.append(sent)
        self.checkpoint("billed, no response")
        self.is_sending = False
        if answer is None:
            sent.is_received = True
            self.received += 1
            return _images(sent.number)
        if isinstance(answer, type):
            raise answer("broken")
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    def fetch(self, url: str, file: BinaryIO, _stop: Stop) -> FetchedImage:
        """Stand in for the Fetcher."""
        self.checkpoint("fetch")
        content = content_of(url)
        file.write(content)
        digest = hashlib.sha256(content).hexdigest()
        return FetchedImage(len(content), digest, ImageInfo("image/png", 2048, 2048))


def content_of(url: str) -> bytes:
    """Return the image that a link leads to."""
    return f"image {url}".encode()


def link(number: int, index: int) -> str:
    """Return the link of an image of a billed request."""
    return f"https://cdn.test/{number}/{index}"


def _images(number: int) -> httpx.Response:
    data: list[dict[str, Any]] = [{"url": link(number, index)} for index in range(IMAGES)]
    return httpx.Response(200, json={"data": data, "usage": {"generated_images": IMAGES}})
