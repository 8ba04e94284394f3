"""Retries of one batch, each with faults at random, until one finishes: bill and manifest agree.

The gateway refuses, limits, fails and loses responses; images do not arrive; the store refuses, or does what
it is asked and says that it failed; processes die or are cancelled at any request; two copies run at once.
What a request meets is decided by the seed, the attempt, the prompt and how often it was asked; how far a
process has come when it dies is up to the machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import threading
from collections import Counter
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from airflow_provider_aisa.core.gateway.models import MODELS, family_of
from airflow_provider_aisa.exceptions import AisaError, OverBudget
from tests.core.batch.scene import PATIENCE, Scene, until
from tests.fakes.gateway import (
    CONTENT_REFUSED,
    HTML,
    LOST,
    PRICE,
    PROXY_ERROR,
    QUOTA_EXCEEDED,
    RATE_LIMITED,
    SERVER_ERROR,
    TIMED_OUT,
    UNAVAILABLE,
    UNREACHABLE,
    Answer,
    FakeGateway,
    Post,
    billed,
    images,
)
from tests.fakes.s3_rules import s3_error
from tests.support import make_settings

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

#: A failure is printed as it was found: shrinking what depends on threads takes long and finds little.
PHASES: Final = (Phase.explicit, Phase.reuse, Phase.generate)
WILD: Final = 4  # attempts with faults; those that follow have none
ANSWERS: Final[list[tuple[int, Answer]]] = [
    (55, images()),
    (8, RATE_LIMITED),
    (5, UNAVAILABLE),
    (3, SERVER_ERROR),
    (3, PROXY_ERROR),
    (4, TIMED_OUT),
    (4, billed(TIMED_OUT)),
    (4, LOST),
    (3, HTML),
    (4, UNREACHABLE),
    (4, CONTENT_REFUSED),
    (4, images(1)),
    (2, QUOTA_EXCEEDED),
]


def _item(dice: random.Random, number: int) -> dict[str, Any]:
    model = dice.choice(sorted(MODELS))
    n = 1 if family_of(model).is_one_by_one else dice.randint(1, 2)
    return {"id": f"i{number}", "prompt": f"i{number}", "n": n, "model": model}


class Killed(BaseException):
    """Stands for SIGKILL: whatever the process does after it fails with this."""


@dataclass
class Chaos:
    """One batch and everything that happens to it."""

    folder: Path
    seed: int
    #: Images that the budget allows beyond those that are asked for; None for no budget.
    slack: int | None = None
    attempt: int = 0
    is_wild: bool = True
    dead: set[int] = field(default_factory=set)
    asked: Counter[tuple[str, str]] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        dice = random.Random(self.seed)  # noqa: S311 - not for secrets
        self.requests = [_item(dice, number) for number in range(dice.randint(3, 14))]
        self.limit: Decimal | None = None
        if self.slack is not None:
            self.limit = Decimal(str(PRICE)) * (sum(int(str(r["n"])) for r in self.requests) + self.slack)
        self.gateway = FakeGateway()
        self.gateway.otherwise = self._answer
        # All families at one price: what is billed is counted in images.
        prices = dict.fromkeys(MODELS, Decimal(str(PRICE)))
        self.scene = Scene(
            self.folder,
            gateway=self.gateway,
            settings=make_settings(timeout=10.0, max_concurrency=4, max_retries=2, prices=prices),
        )

    def run(self) -> dict[str, Any]:
        """Run attempts until one finishes; return the result of one more, which is left in peace."""
        for self.attempt in itertools.count():
            assert self.attempt < WILD + 4, "attempts without faults do not finish"
            self.is_wild = self.attempt < WILD
            dice = self._dice("plan")
            copies = [self._process() for _ in range(2 if self.limit is None and dice.random() < 0.25 else 1)]
            outcomes = asyncio.run(asyncio.wait_for(self._together(copies), PATIENCE))
            self.scene.close()
            self.scene.outdate_claims()
            for outcome in outcomes:
                if not isinstance(outcome, BaseException):
                    return self._once_more(outcome)
                assert isinstance(outcome, AisaError | Killed | asyncio.CancelledError), repr(outcome)
                if isinstance(outcome, OverBudget):
                    raise outcome
        raise AssertionError

    def _once_more(self, finished: dict[str, Any]) -> dict[str, Any]:
        sent = len(self.gateway.sent)
        result = self.scene.run(self.requests, on_partial="keep", max_cost_usd=self.limit)
        assert result == {**finished, "reused": len(self.requests)}
        assert len(self.gateway.sent) == sent
        return result

    async def _together(self, copies: list[Scene]) -> list[Any]:
        arguments = {"on_partial": "keep", "max_cost_usd": self.limit}
        tasks = [asyncio.create_task(copy.arun(self.requests, **arguments)) for copy in copies]
        cancelled = self._dice("cancel")
        if self.is_wild and cancelled.random() < 0.3:
            after = cancelled.randint(0, 2 * len(self.requests))
            before = len(self.gateway.sent)
            await until(lambda: tasks[0].done() or len(self.gateway.sent) - before >= after)
            tasks[0].cancel()
        outcomes = []
        for task in tasks:
            with contextlib.suppress(BaseException):
                await asyncio.wait({task})
            outcomes.append(_outcome_of(task))
        return outcomes

    def _process(self) -> Scene:
        """Return a process that may die at any of its requests, and be dead from then on."""
        dice, state = self._dice("process", str(len(self.dead))), {"left": -1}
        if self.is_wild and dice.random() < 0.4:
            state["left"] = dice.randint(1, 8 * len(self.requests))

        def step() -> None:
            with self._lock:
                if state["left"] > 0:
                    state["left"] -= 1
                is_dead = state["left"] == 0
            if is_dead:
                raise Killed

        def before(operation: str, key: str) -> None:
            step()
            if self._fails(operation, key, "before"):
                raise s3_error("ServiceUnavailable", operation)

        def after(operation: str, key: str) -> None:
            step()
            if self._fails(operation, key, "after"):
                raise s3_error("ServiceUnavailable", operation)

        scene = replace(self.scene, on_store=before, after_store=after)
        scene.cdn.otherwise = self._arrive
        return scene

    def _arrive(self, prompt: str) -> int | None:
        return 500 if self.is_wild and self._dice("cdn", prompt).random() < 0.1 else None

    def _fails(self, operation: str, key: str, when: str) -> bool:
        return self.is_wild and self._dice(operation, key, when).random() < 0.01

    def _answer(self, gateway: FakeGateway, post: Post) -> httpx.Response:
        weights, answers = zip(*ANSWERS, strict=True)
        answer = images()
        if self.is_wild:
            [answer] = self._dice("gateway", post.prompt).choices(answers, weights)
        return answer(gateway, post)

    def _dice(self, *names: str) -> random.Random:
        with self._lock:
            self.asked["/".join(names), ""] += 1
            count = self.asked["/".join(names), ""]
        return random.Random(f"{self.seed} {self.attempt} {names} {count}")  # noqa: S311 - not for secrets


def _outcome_of(task: asyncio.Task[dict[str, Any]]) -> Any:
    if task.cancelled():
        return asyncio.CancelledError()
    return task.exception() or task.result()


def check_bill(chaos: Chaos) -> None:
    """Compare what was billed with what the manifest of a finished batch says."""
    scene, gateway = chaos.scene, chaos.gateway
    assert [line["id"] for line in scene.manifest] == [item["id"] for item in chaos.requests]
    for line, item in zip(scene.manifest, chaos.requests, strict=True):
        assert line["status"] == "stored", line
        assert line["error"] is None
        # Each payment beyond the first was one whose response nobody received, and it is admitted.
        assert 1 <= gateway.generated[line["id"]] <= 1 + line["unknown_outcomes"], line
        assert line["cost_usd"] == pytest.approx(PRICE * len(line["images"]))
        lost = gateway.bill[line["id"]] - len(line["images"])
        assert 0 <= lost <= line["unknown_outcomes"] * item["n"]
        for image in line["images"]:
            assert image["key"] in scene.images
        entry = next(entry for entry in scene.entries() if entry["request"]["prompt"] == line["id"])
        assert (entry["state"], len(entry["unknown"])) == ("stored", line["unknown_outcomes"])
        claims = {scene.images[image["key"]].metadata["claim"] for image in line["images"]}
        assert claims == {entry["claim"]["id"]}
    written = b"".join(
        found.body for key, found in scene.s3.objects.items() if key.endswith((".json", ".jsonl"))
    )
    assert b"https://" not in written


def check_figures(chaos: Chaos, result: dict[str, Any]) -> None:
    """Compare the result with the manifest."""
    lines = chaos.scene.manifest
    assert (result["items"], result["stored"], result["failed"]) == (len(lines), len(lines), 0)
    assert result["images"] == sum(len(line["images"]) for line in lines)
    assert result["cost_usd"] == pytest.approx(PRICE * result["images"])
    assert result["usage"]["output_tokens"] == 100 * result["images"]
    # Only Seedream's route has this figure.
    figures = [line["usage"].get("generated_images", 0) for line in lines]
    assert result["usage"].get("generated_images", 0) == sum(figures)
    assert result["unknown_outcomes"] == sum(line["unknown_outcomes"] for line in lines)
    assert result["reused"] == sum(line["reused"] for line in lines)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], phases=PHASES)
@given(st.integers(0, 2**32))
def test_whatever_happens_each_item_is_stored_once_and_every_second_payment_is_admitted(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    chaos = Chaos(tmp_path_factory.mktemp("chaos"), seed)
    result = chaos.run()
    check_bill(chaos)
    check_figures(chaos, result)


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow], phases=PHASES)
@given(st.integers(0, 2**32), st.integers(0, 6))
def test_whatever_happens_the_bill_stays_within_the_budget(
    tmp_path_factory: pytest.TempPathFactory, seed: int, slack: int
) -> None:
    chaos = Chaos(tmp_path_factory.mktemp("chaos"), seed, slack)
    with contextlib.suppress(OverBudget):
        result = chaos.run()
        check_bill(chaos)
        check_figures(chaos, result)
    assert chaos.limit is not None
    assert chaos.gateway.bill.total() * Decimal(str(PRICE)) <= chaos.limit
