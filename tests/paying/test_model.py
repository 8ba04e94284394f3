"""Whatever the gateway, a proxy, the store, another copy or a person does: eight invariants hold.

They are those of docs/paying-once.md. A story is drawn at random; the gateway's bill decides about it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final, cast

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from airflow_provider_aisa.core.gateway.models import DEFAULT_MODEL
from airflow_provider_aisa.core.gateway.request import ImageRequest
from airflow_provider_aisa.core.journal.entry import EntryState
from airflow_provider_aisa.core.journal.steps import Policy
from airflow_provider_aisa.exceptions import AisaError, OutcomeUnknown
from tests.paying.world import ANSWERS, CLEARED, STALE, WAITING, Actor, World, content_of, link

PHASES: Final = (Phase.explicit, Phase.reuse, Phase.generate)  # Shrinking runs of threads takes minutes.
#: Every family of models, with links and with images that are in the answer itself.
KINDS: Final = {
    "Seedream": (DEFAULT_MODEL, False),
    "Seedream, inline": (DEFAULT_MODEL, True),
    "Wan": ("wan2.7-image", False),
    "Wan, inline": ("wan2.7-image", True),
    "Gemini": ("gemini-3-pro-image-preview", True),
}
MOST_STEPS: Final = 3_000
LARGEST_ENTRY: Final = 16 * 1024  # bytes: without an image in base64


def story(examples: int) -> Callable[[Callable[[int], None]], Callable[[], None]]:
    """Draw so many stories. A failure is printed as its seed, which tells the same story again."""

    def decorate(test: Callable[[int], None]) -> Callable[[], None]:
        drawn = given(seed=st.integers(0, 2**32))(test)
        checks = [HealthCheck.too_slow]
        told = settings(max_examples=examples, suppress_health_check=checks, phases=PHASES)(drawn)
        return cast("Callable[[], None]", told)

    return decorate


class Story:
    """Copies of one task, and what happens to them. A seed decides.

    Nobody can tell of a lost response whose only record somebody deletes. So somebody deletes either entries
    of requests that are under way, or copies die; and what is rewritten in place stays what it was.
    """

    def __init__(
        self, seed: int, *, answers: list[str], crashes: int, kind: str | None = None, **actor: Any
    ) -> None:
        self.decisions = random.Random(seed)  # noqa: S311 - not for secrets
        model, answers_inline = KINDS[kind or self.decisions.choice(sorted(KINDS))]
        self.world = World(
            answer=lambda: self.decisions.choice(answers), model=model, answers_inline=answers_inline
        )
        self.actor = actor
        self.crashes = self.decisions.randint(0, crashes)
        self.meddles = self.decisions.randint(0, 4)
        self.stills = self.decisions.randint(0, 2)
        self.all: list[Actor] = []

    def start(self, **changes: Any) -> Actor:
        """Start a copy of the task."""
        actor = Actor(self.world, **{**self.actor, **changes})
        self.all.append(actor)
        return actor

    def run(self, *actors: Actor) -> list[Actor]:
        """Let the copies run side by side to their ends. The dead are started again, as Airflow does."""
        running = list(actors)
        for _ in range(MOST_STEPS):
            alive = [actor for actor in running if not actor.is_over]
            if not alive:
                break
            self._happen()
            if all(actor.at == WAITING for actor in alive):
                self.world.clock.skip(STALE)
            busy = [actor for actor in alive if actor.at != WAITING]
            actor = self.decisions.choice(busy or alive)
            if self.crashes and self.decisions.random() < 0.08:
                self.crashes -= 1
                actor.kill()
                running[running.index(actor)] = self.start()
            else:
                actor.step()
                self.check_what_is_returned(actor)
        assert all(actor.is_over for actor in running), [actor.at for actor in running]
        for actor in running:
            assert actor.crash is None, repr(actor.crash)
        return running

    def _happen(self) -> None:
        """Let somebody else do something, now and then."""
        world, decisions = self.world, self.decisions
        journals = [key for key in world.journals if key.endswith(".json")]
        sending = any(actor.is_sending for actor in self.all if not actor.is_over)
        if self.meddles and journals and decisions.random() < 0.1:
            self.meddles -= 1
            key = decisions.choice(journals)
            if sending and not self.crashes and self.stills == 0 and decisions.random() < 0.5:
                world.meddler.delete(key)
            else:
                world.meddler.rewrite(key)
        elif self.stills and sending and decisions.random() < 0.05:
            self.stills -= 1
            world.clock.skip(STALE)  # A process that stands still, while its claim becomes stale.
        elif decisions.random() < 0.03:
            world.store.lost_answers = 1  # S3 writes what comes next, and its answer gets lost.

    def check_what_is_returned(self, actor: Actor) -> None:
        """Assert that what a copy returns as a success is at its URIs, and belongs to one response."""
        if not actor.is_over or actor.receipt is None or actor.receipt.error is not None:
            return
        result = actor.receipt.result
        count = self.world.images
        assert [image["index"] for image in result["images"]] == list(range(count))
        contents = [self.world.content(image["key"]) for image in result["images"]]
        assert contents in [
            [content_of(link(number, index)) for index in range(count)]
            for number in range(len(self.world.bill))
        ], "an image of another purchase is returned"

    def check_the_bill(self, last: Actor) -> None:
        """Assert that no attempt received two billed responses, and that nothing billed goes unsaid."""
        assert all(actor.received <= 1 for actor in self.all), "an attempt had a response and paid again"
        assert last.receipt is not None
        said = last.receipt.unknown_outcomes
        if isinstance(last.receipt.error, AisaError):
            assert last.receipt.error.unknown_outcomes == said
        assert self.world.unreceived <= said, (self.world.unreceived, said)


EVERYTHING: Final = [*ANSWERS, *["images"] * 8]
SURE: Final = ["images"]


@story(150)
def test_two_copies_any_answers_and_any_crashes_leave_nothing_unsaid(seed: int) -> None:
    told = Story(seed, answers=EVERYTHING, crashes=4, max_retries=3)

    told.run(told.start(), told.start())
    told.crashes = told.meddles = told.stills = 0
    told.world.answer = lambda: "images"
    told.world.clock.skip(STALE)
    [last] = told.run(told.start())

    told.check_the_bill(last)
    assert last.receipt is not None
    assert last.receipt.error is None
    entry = told.world.entry()
    assert entry.state is EntryState.STORED
    assert "https://" not in entry.to_json().decode()
    assert len(entry.to_json()) < LARGEST_ENTRY


@story(150)
def test_at_most_once_never_sends_after_a_request_that_may_have_been_billed(seed: int) -> None:
    """Somebody who deletes the journal takes away what at-most-once knows: here nobody does."""
    told = Story(seed, answers=EVERYTHING, crashes=4, max_retries=3, policy=Policy("reuse", "at-most-once"))
    told.meddles = 0

    ended = told.run(told.start(), told.start())

    assert len(told.world.bill) <= 1
    said = [actor.error.unknown_outcomes for actor in ended if isinstance(actor.error, AisaError)]
    assert told.world.unreceived <= max(said, default=0), "a lost response goes unsaid"


@story(100)
def test_a_budget_counts_all_that_was_or_may_have_been_paid(seed: int) -> None:
    """Three images' worth of prompts that change between the attempts, lost responses and crashes."""
    kind = sorted(KINDS)[seed % len(KINDS)]
    price = ImageRequest.parse(prompt="p", model=KINDS[kind][0]).price_usd({})
    assert price is not None
    told = Story(seed, answers=EVERYTHING, crashes=3, kind=kind, max_retries=3, max_cost_usd=4 * price)
    told.meddles = told.stills = 0

    for prompt in ("p1", "p2", "p1", "p3"):
        told.actor["prompt"] = prompt
        told.run(told.start())
        told.world.clock.skip(STALE)

    assert len(told.world.bill) * told.world.images * price <= 4 * price


@story(100)
def test_what_is_stored_stands_until_its_successor_is_stored(seed: int) -> None:
    told = Story(seed, answers=[*EVERYTHING, "lost", "lost"], crashes=0, max_retries=1)
    told.world.answer = lambda: "images"
    told.meddles = 0
    told.run(told.start())
    told.world.answer = lambda: told.decisions.choice([*EVERYTHING, "lost", "lost"])

    [anew] = told.run(told.start(policy=Policy("regenerate"), buyer=CLEARED))
    told.world.clock.skip(STALE)
    posts = told.world.posts
    [last] = told.run(told.start(policy=Policy("reuse"), buyer=CLEARED))

    assert last.receipt is not None
    assert last.receipt.error is None
    assert told.world.posts == posts, "reuse has paid although images were stored"
    number = 0 if anew.error is not None else len(told.world.bill) - 1
    contents = [told.world.content(image.key) for image in last.receipt.images]
    assert contents == [content_of(link(number, index)) for index in range(told.world.images)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_single_crash_point_ends_in_stored_images(kind: str) -> None:
    table: list[tuple[str, int, int]] = []
    for point, label in enumerate(_steps_of_a_run(kind)):
        world = _world_of(kind)
        actor = Actor(world)
        for _ in range(point):
            actor.step()
        actor.kill()
        world.clock.skip(STALE)

        again = Actor(world).finish()

        assert again.error is None, (label, again.error)
        table.append((label, len(world.bill), again.unknown_outcomes))
        assert len(world.bill) == 1 or again.unknown_outcomes == 1, label
        assert [world.content(image.key) for image in again.images] == [
            content_of(link(len(world.bill) - 1, index)) for index in range(world.images)
        ]
    twice = [label for label, billed, _ in table if billed > 1]
    # The write before which a run is billed twice is the one of the paid response; of images that are in the
    # answer itself, the one of the last of them, whatever becomes of the entry.
    before = ["after PutObject", "before PutObject"] * (world.images - 1) if KINDS[kind][1] else []
    assert twice == ["billed, no response", "before PutObject", *before], table


def _world_of(kind: str) -> World:
    model, answers_inline = KINDS[kind]
    return World(model=model, answers_inline=answers_inline)


def _steps_of_a_run(kind: str) -> list[str]:
    actor = Actor(_world_of(kind))
    seen = []
    while not actor.is_over:
        seen.append(actor.at)
        actor.step()
    return seen


def test_at_most_once_says_what_it_does_not_know() -> None:
    world = World(answer=lambda: "lost")

    receipt = Actor(world, Policy("reuse", "at-most-once"), max_retries=3).finish()

    assert world.posts == 1
    assert isinstance(receipt.error, OutcomeUnknown)
    assert not receipt.error.retryable
    assert receipt.error.unknown_outcomes == 1
