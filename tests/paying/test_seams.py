"""Each seam at which a purchase was once paid for twice, lost, or left unsaid, by itself.

`test_model.py` draws such stories at random; here each is told by name.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_aisa.core.journal.entry import EntryState
from airflow_provider_aisa.core.journal.steps import Policy
from airflow_provider_aisa.exceptions import (
    GatewayFailed,
    ImagesLost,
    InvalidRequest,
    OutcomeUnknown,
    OverBudget,
)
from tests.paying.world import BUYER, CLEARED, IMAGES, STALE, Actor, World, content_of, link

if TYPE_CHECKING:
    from collections.abc import Callable

ONCE = Policy("reuse", "at-most-once")
PRICE = Decimal("0.04")


def until(actor: Actor, label: str) -> Actor:
    """Let an actor go on until it is at a checkpoint."""
    while actor.at != label:
        assert not actor.is_over, f"it ended before {label!r}"
        actor.step()
    return actor


def images_of(number: int) -> list[bytes]:
    return [content_of(link(number, index)) for index in range(IMAGES)]


def stored(world: World, folder: str = "i/") -> list[bytes | None]:
    depth = folder.count("/")
    found = [key for key in world.meddler.keys(".png") if key.startswith(folder) and key.count("/") == depth]
    return [world.content(key) for key in found]


def _delete(world: World) -> None:
    [key] = world.journals
    assert world.meddler.delete(key)


def _rewrite(world: World) -> None:
    [key] = world.journals
    assert world.meddler.rewrite(key)


@pytest.mark.parametrize("meddle", [_delete, _rewrite])
@pytest.mark.parametrize("policy", [Policy(), ONCE])
def test_a_claim_that_is_deleted_or_rewritten_in_flight_is_paid_for_once(
    meddle: Callable[[World], None], policy: Policy
) -> None:
    world = World()
    actor = until(Actor(world, policy, max_retries=9), "billed, no response")
    meddle(world)

    receipt = actor.finish()

    assert receipt.error is None
    assert (world.posts, len(world.bill), receipt.unknown_outcomes) == (1, 1, 0)
    assert world.entry().state is EntryState.STORED
    assert stored(world) == images_of(0)


@pytest.mark.parametrize("meddle", [_delete, _rewrite])
def test_a_paid_entry_that_is_deleted_or_rewritten_while_it_is_stored_is_written_again(
    meddle: Callable[[World], None],
) -> None:
    world = World()
    actor = until(Actor(world), "fetch")
    meddle(world)

    receipt = actor.finish()

    assert (len(world.bill), receipt.error, world.entry().state) == (1, None, EntryState.STORED)


def test_a_copy_that_takes_a_stale_claim_over_and_dies_unsent_loses_nothing() -> None:
    world = World()
    paused = until(Actor(world), "billed, no response")
    world.clock.skip(STALE)
    taker = until(until(Actor(world), "before PutObject"), "after PutObject")
    taker.kill()

    receipt = paused.finish()

    assert receipt.error is None
    assert (world.posts, len(world.bill)) == (1, 1)
    assert stored(world) == images_of(0)
    # Nobody can know that the dead copy had sent nothing: its claim counts.
    assert receipt.unknown_outcomes == 1
    again = Actor(world).finish()
    assert (again.is_reused, again.unknown_outcomes, world.posts) == (True, 1, 1)


def test_a_copy_that_was_paused_and_finds_another_response_stores_its_own_beside_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    paused = until(Actor(world), "billed, no response")
    world.clock.skip(STALE)
    taken = Actor(world).finish()

    receipt = paused.finish()

    assert len(world.bill) == 2
    assert receipt.error is None
    assert receipt.is_reused
    assert receipt.images == taken.images
    assert receipt.unknown_outcomes == taken.unknown_outcomes == 1
    assert stored(world) == images_of(1)
    [surplus] = {key.rpartition("/")[0] for key in world.journals if "surplus" in key}
    assert stored(world, f"{surplus}/") == images_of(0)
    assert "paid for twice" in caplog.text


@pytest.mark.parametrize("answer", ["502 by a proxy", "520 by a proxy", "504", "unreadable", "lost"])
def test_an_answer_that_may_hide_a_bill_is_counted_and_at_most_once_sends_once(answer: str) -> None:
    world = World(answer=lambda: answer)

    receipt = Actor(world, ONCE, max_retries=4).finish()
    again = Actor(world, ONCE, max_retries=4).finish()

    assert world.posts == 1
    assert isinstance(receipt.error, OutcomeUnknown)
    assert receipt.error.unknown_outcomes == receipt.unknown_outcomes == 1
    assert isinstance(again.error, OutcomeUnknown)
    assert again.error.unknown_outcomes == 1


def test_five_timeouts_are_told_as_five_requests_that_may_be_billed(caplog: pytest.LogCaptureFixture) -> None:
    world = World(answer=lambda: "504")

    receipt = Actor(world, max_retries=4).finish()

    assert (world.posts, len(world.bill)) == (5, 5)
    assert isinstance(receipt.error, GatewayFailed | OutcomeUnknown)
    assert receipt.error.unknown_outcomes == receipt.unknown_outcomes == 5
    assert "5 request(s) for these images may have been billed" in str(receipt.error)
    assert "nothing was generated" not in str(receipt.error)
    assert caplog.text.count("may have been billed") >= 4
    assert len(world.entry().unknown) == 5


def test_what_is_sent_again_has_to_fit_into_the_budget_of_a_single_task() -> None:
    world = World(answer=lambda: "504")

    receipt = Actor(world, max_retries=4, max_cost_usd=2 * IMAGES * PRICE).finish()

    assert world.posts == 2
    assert isinstance(receipt.error, OverBudget)
    assert receipt.error.unknown_outcomes == 2
    again = Actor(world, max_retries=4, max_cost_usd=2 * IMAGES * PRICE).finish()
    assert isinstance(again.error, OverBudget)
    assert world.posts == 2


def test_a_budget_counts_what_the_task_has_paid_for_another_prompt() -> None:
    world = World()
    limit = IMAGES * PRICE
    Actor(world, prompt="p1", max_cost_usd=limit).finish()

    receipt = Actor(world, prompt="p2", max_cost_usd=limit).finish()

    assert isinstance(receipt.error, OverBudget)
    assert "Earlier requests cost 0.08" in str(receipt.error)
    assert len(world.bill) == 1
    assert Actor(world, prompt="p2", max_cost_usd=2 * limit).finish().error is None


def test_a_person_who_asks_for_new_images_opens_a_new_account() -> None:
    world = World()
    limit = IMAGES * PRICE
    Actor(world, max_cost_usd=limit).finish()

    receipt = Actor(world, Policy("regenerate"), buyer=CLEARED, max_cost_usd=limit).finish()

    assert receipt.error is None
    assert len(world.bill) == 2


def test_images_that_another_prompt_has_replaced_are_an_error_that_names_it() -> None:
    """One run and one key: P1, edited to P2, reverted to P1."""
    world = World()
    Actor(world, prompt="p1").finish()
    Actor(world, prompt="p2").finish()

    receipt = Actor(world, prompt="p1").finish()

    assert isinstance(receipt.error, ImagesLost)
    assert not receipt.error.retryable
    assert "s3://bucket/i/0.png" in str(receipt.error)
    assert "replaced" in str(receipt.error)
    assert "run-id" in str(receipt.error) or " r" in str(receipt.error)
    assert len(world.bill) == 2
    assert stored(world) == images_of(1)


def test_a_deleted_image_is_an_error_that_says_so_or_a_purchase_where_anew_is_allowed() -> None:
    world = World()
    Actor(world).finish()
    assert world.meddler.delete("i/1.png")

    receipt = Actor(world).finish()

    assert isinstance(receipt.error, ImagesLost)
    assert "s3://bucket/i/1.png was deleted" in str(receipt.error)
    assert [image.key for image in receipt.images] == ["i/0.png"]
    assert len(world.bill) == 1
    anew = Actor(world, Policy("regenerate")).finish()
    assert anew.error is None
    assert len(world.bill) == 2
    assert stored(world) == images_of(1)


def test_a_regeneration_whose_response_is_lost_leaves_the_old_images_what_they_were() -> None:
    world = World()
    first = Actor(world).finish()
    world.answer = lambda: "lost"
    lost = Actor(world, Policy("regenerate"), buyer=CLEARED).finish()
    assert isinstance(lost.error, OutcomeUnknown)
    world.answer = lambda: "images"

    reused = Actor(world, Policy("reuse"), buyer=CLEARED).finish()
    failing = Actor(world, Policy("reuse"), buyer=replace(BUYER, max_tries=9)).finish()

    assert world.posts == 2
    for receipt in (reused, failing):
        assert receipt.error is None
        assert receipt.images == first.images
        assert receipt.unknown_outcomes == 1
    assert stored(world) == images_of(0)


def test_a_lost_regeneration_is_still_counted_when_the_old_images_are_bought_anew() -> None:
    world = World()
    Actor(world).finish()
    world.answer = lambda: "lost"
    Actor(world, Policy("regenerate"), buyer=CLEARED).finish()
    world.answer = lambda: "images"
    assert world.meddler.delete("i/0.png")

    anew = Actor(world, Policy("regenerate"), buyer=BUYER).finish()

    assert anew.error is None
    assert (len(world.bill), anew.unknown_outcomes) == (3, 1)


def test_a_refused_request_leaves_an_entry_that_counts_nothing_and_holds_nobody_up() -> None:
    """Nothing is deleted: DeleteObject may not be allowed, and many stores know no conditional deletes."""
    world = World(answer=lambda: "422")
    world.store.denied.add("s3:DeleteObject")
    world.store.delete_conditions = "501"
    refused = Actor(world, ONCE).finish()
    assert isinstance(refused.error, InvalidRequest)
    assert refused.unknown_outcomes == 0
    world.answer = lambda: "images"

    receipt = Actor(world, ONCE).finish()

    assert receipt.error is None
    assert (len(world.bill), receipt.unknown_outcomes) == (1, 0)
    assert world.store.count("DeleteObject") == 0


def test_each_send_has_a_claim_of_its_own() -> None:
    """A refreshed claim of the same bytes would have the same ETag, and a copy with the old one would win."""
    world = World(answer=lambda: "429")
    seen = set()
    actor = Actor(world, max_retries=3)
    while not actor.is_over:
        if actor.at == "sent, not billed":
            seen.add(world.entry().claim.id)
        actor.step()

    assert world.posts == 4
    assert len(seen) == 4


def test_a_response_that_cannot_be_recorded_is_stored_and_told_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    actor = until(Actor(world), "billed, no response")
    [key] = world.journals
    world.store.put(key, b"garbage")

    receipt = actor.finish()

    assert receipt.error is None
    assert stored(world) == images_of(0)
    assert "could not be recorded" in caplog.text


def test_a_surplus_response_that_cannot_be_stored_is_logged_in_full_terms(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    paused = until(Actor(world), "billed, no response")
    world.clock.skip(STALE)
    Actor(world).finish()
    world.store.refused["Metadata"] = "AccessDenied"

    with caplog.at_level(logging.ERROR):
        receipt = paused.finish()

    assert receipt.is_reused
    assert len(world.bill) == 2
    lost = [record.getMessage() for record in caplog.records if "is lost" in record.getMessage()]
    assert len(lost) == IMAGES
    assert all("Ask AIsa's support with the request id" in message for message in lost)
    assert "https://" not in caplog.text


@pytest.mark.parametrize("max_cost_usd", [None, Decimal(1)])
def test_a_task_makes_at_most_five_requests_besides_its_images(max_cost_usd: Any) -> None:
    world = World()

    Actor(world, max_cost_usd=max_cost_usd).finish()

    assert len(world.store.requests) - IMAGES <= 5


def test_a_reuse_takes_one_request_and_one_more_per_image() -> None:
    world = World()
    Actor(world).finish()
    before = len(world.store.requests)

    Actor(world).finish()

    assert len(world.store.requests) - before == 1 + IMAGES
    assert world.store.count("HeadObject") == IMAGES
