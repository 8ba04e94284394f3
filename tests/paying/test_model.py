"""Two copies of a task, any interleaving, any crash: nothing recorded is lost or paid for again.

The real pipeline runs in threads that stop at each step that can be seen from outside; hypothesis decides
who goes on, who dies, and when time passes. Time passes only while nobody waits for a response: a claim
outlives its request, which the request's timeout ensures.
"""

from __future__ import annotations

import asyncio
import hashlib
import queue
import random
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import httpx
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from airflow_provider_aisa.core.gateway.client import AisaClient
from airflow_provider_aisa.core.gateway.request import ImageRequest
from airflow_provider_aisa.core.generate import GenerationResult, Pipeline
from airflow_provider_aisa.core.images.download import FetchedImage, Fetcher
from airflow_provider_aisa.core.images.inspect import ImageInfo
from airflow_provider_aisa.core.job import Job
from airflow_provider_aisa.core.journal.entry import Buyer, Entry, EntryState, Policy
from airflow_provider_aisa.core.layout import Owner, Target
from airflow_provider_aisa.core.threads import Stop
from airflow_provider_aisa.exceptions import OutcomeUnknown
from tests.paying.memory import Memory, MemoryBucket
from tests.support import make_pacer, make_settings

IMAGES = 2
TIMEOUT = 10.0
#: A failure is printed as it was found: shrinking runs of threads takes minutes.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
PATIENCE = 30  # seconds that a thread may compute before the test is called stuck


class Killed(BaseException):
    """Stands for SIGKILL: nothing that the actor does after it is seen by anybody."""


@dataclass
class World:
    """What both copies see: the store, and the gateway's bill."""

    memory: Memory = field(default_factory=Memory)
    #: Per POST that was billed: whether its response was read by a live actor.
    bill: list[bool] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0


class Actor:
    """One process that runs the task: it stops at each checkpoint until it is told to go on, or dies."""

    def __init__(self, world: World, policy: Policy) -> None:
        self.world = world
        self.result: GenerationResult | None = None
        self.error: BaseException | None = None
        self.at = "start"
        self.is_sending = False
        self._policy = policy
        self._is_dead = False
        self._arrived: queue.Queue[str] = queue.Queue()
        self._orders: queue.Queue[bool] = queue.Queue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._wait()

    @property
    def is_over(self) -> bool:
        return self.at == "over"

    def step(self) -> None:
        """Let the actor go on to its next checkpoint."""
        self._orders.put(True)
        self._wait()

    def kill(self) -> None:
        """Kill the actor where it stands."""
        if self.is_sending:
            self.is_sending = False
            self.world.in_flight -= 1
        self._is_dead = True
        for _ in range(2 * IMAGES):  # One for each thread that may stand at a checkpoint.
            self._orders.put(False)
        while not self.is_over:
            self._wait()

    def _wait(self) -> None:
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
                self.result = asyncio.run(self._pipeline(Path(folder)).run())
        except BaseException as e:
            self.error = e
        self._arrived.put("over")

    def _pipeline(self, folder: Path) -> Pipeline:
        job = Job(
            ImageRequest.parse(prompt="p", n=IMAGES),
            Target("memory", "i/{index}.{ext}"),
            Buyer(Owner("d", "r", "t"), 3),
            policy=self._policy,
        )
        gateway_settings = make_settings(timeout=TIMEOUT, max_retries=0)
        client = AisaClient(
            gateway_settings, pacer=make_pacer(), transport=httpx.MockTransport(self._gateway)
        )
        return Pipeline(
            job,
            client=client,
            fetcher=cast("Fetcher", self),
            bucket=MemoryBucket(self.world.memory, self.checkpoint),
            folder=folder,
            sleep=self._sleep,
        )

    async def _sleep(self, _seconds: float) -> None:
        self.checkpoint("waiting for another copy")

    def _gateway(self, _request: httpx.Request) -> httpx.Response:
        world = self.world
        world.in_flight += 1
        world.most_in_flight = max(world.most_in_flight, world.in_flight)
        self.is_sending = True
        self.checkpoint("sent, not billed")
        number = len(world.bill)
        world.bill.append(False)
        self.checkpoint("billed, no response")
        self.is_sending = False
        world.in_flight -= 1
        world.bill[number] = True
        data = [{"url": f"https://cdn.test/{number}/{index}"} for index in range(IMAGES)]
        return httpx.Response(200, json={"data": data, "usage": {"generated_images": IMAGES}})

    def fetch(self, url: str, file: BinaryIO, _stop: Stop) -> FetchedImage:
        """Stand in for the Fetcher."""
        self.checkpoint("fetch")
        content = url.encode()
        file.write(content)
        digest = hashlib.sha256(content).hexdigest()
        return FetchedImage(len(content), digest, ImageInfo("image/png", 2048, 2048))


def journal_of(world: World) -> Entry:
    (body, _, _) = next(value for key, value in world.memory.objects.items() if "surplus" not in key)
    return Entry.from_json(body, uri="s3://memory")


def drive(world: World, policy: Policy, seed: int) -> list[Actor]:
    """Run two copies with up to four crashes; the dead are started again, as Airflow does.

    A seed decides, rather than draws: the images of one copy overtake each other, so that the number of
    decisions is not the same every time.
    """
    decisions = random.Random(seed)  # noqa: S311 - not for secrets
    actors = [Actor(world, policy), Actor(world, policy)]
    crashes = decisions.randint(0, 4)
    looks = decisions.randint(0, 8)
    for _ in range(400):
        alive = [actor for actor in actors if not actor.is_over]
        if not alive:
            break
        if all(actor.at == "waiting for another copy" for actor in alive):
            world.memory.now += TIMEOUT + 61.0
        busy = [actor for actor in alive if actor.at != "waiting for another copy"]
        # Somebody who waits may look a few times too early, but not for ever.
        ready = busy if busy and not looks else alive
        actor = decisions.choice(ready)
        looks -= actor not in busy and looks > 0
        if crashes and decisions.random() < 0.15:
            crashes -= 1
            actor.kill()
            actors[actors.index(actor)] = Actor(world, policy)
        else:
            actor.step()
    assert all(actor.is_over for actor in actors), [actor.at for actor in actors]
    return actors


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow], phases=PHASES)
@given(st.integers(0, 2**32))
def test_two_copies_and_any_crashes_lose_nothing_and_admit_every_second_payment(seed: int) -> None:
    world = World()

    actors = drive(world, Policy(), seed)

    results = [actor.result for actor in actors]
    assert [actor.error for actor in actors] == [None, None]
    assert results[0] is not None
    assert results[1] is not None
    assert results[0].images == results[1].images
    assert len(results[0].images) == IMAGES
    entry = journal_of(world)
    assert entry.state is EntryState.STORED
    assert "https://" not in entry.to_json().decode()
    assert set(world.memory.images) == {"i/0.png", "i/1.png"}
    assert world.most_in_flight <= 1
    # Each payment beyond the first is one that some copy died over, and all of them are admitted.
    assert len(world.bill) - 1 <= entry.unknown_outcomes
    if len(world.bill) == 1:
        assert sum(not result.reused for result in results if result) <= 1


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow], phases=PHASES)
@given(st.integers(0, 2**32))
def test_at_most_once_never_bills_twice(seed: int) -> None:
    world = World()

    actors = drive(world, Policy(delivery="at-most-once"), seed)

    assert len(world.bill) <= 1
    for actor in actors:
        assert actor.error is None or isinstance(actor.error, OutcomeUnknown)


def run_alone(world: World, policy: Policy = Policy()) -> Actor:  # noqa: B008 - frozen
    actor = Actor(world, policy)
    while not actor.is_over:
        actor.step()
    return actor


def steps_of_a_run() -> list[str]:
    actor = Actor(World(), Policy())
    seen = []
    while not actor.is_over:
        seen.append(actor.at)
        actor.step()
    return seen


def test_every_single_crash_point_ends_in_stored_images() -> None:
    table: list[tuple[str, int, int]] = []
    for point, label in enumerate(steps_of_a_run()):
        world = World()
        actor = Actor(world, Policy())
        for _ in range(point):
            actor.step()
        actor.kill()
        world.memory.now += TIMEOUT + 61.0

        again = run_alone(world)

        assert again.error is None, (label, again.error)
        assert again.result is not None
        table.append((label, len(world.bill), again.result.unknown_outcomes))
        assert len(world.bill) == 1 or again.result.unknown_outcomes == 1, label
        assert len(world.memory.images) == IMAGES
    twice = {label for label, billed, _ in table if billed > 1}
    # A run's second write is the paid response; dying after the first, the claim, is not billed twice.
    assert twice == {"billed, no response", "before write"}, table


def test_a_paused_copy_that_lost_its_claim_keeps_what_it_paid_for() -> None:
    world = World()
    paused = Actor(world, Policy())
    while paused.at != "billed, no response":
        paused.step()
    world.memory.now += TIMEOUT + 61.0

    taker = run_alone(world)
    while not paused.is_over:
        paused.step()

    assert len(world.bill) == 2
    assert taker.result is not None
    assert taker.result.unknown_outcomes == 1
    assert paused.result is not None
    assert paused.result.images == taker.result.images
    assert paused.result.reused
    surplus = [key for key in world.memory.objects if "surplus" in key]
    assert len(surplus) == 1
    kept = Entry.from_json(world.memory.objects[surplus[0]][0], uri="s3://memory")
    links = [cast("dict[str, Any]", image)["url"] for image in (kept.response or {})["images"]]
    assert links == ["https://cdn.test/0/0", "https://cdn.test/0/1"]
