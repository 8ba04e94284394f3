"""Two copies of one task that meet at the worst step: each says what is true of the purchase they share."""

from __future__ import annotations

import pytest

from airflow_provider_aisa.core.journal.entry import EntryState
from airflow_provider_aisa.core.journal.steps import Policy
from airflow_provider_aisa.core.workbench import Timing
from airflow_provider_aisa.exceptions import OutcomeUnknown, StorageFailed
from tests.paying.test_seams import images_of, stored, until
from tests.paying.world import Actor, World

ONCE = Policy("reuse", "at-most-once")


def test_who_records_a_response_that_another_copy_has_stored_already_keeps_its_images() -> None:
    """S3 has recorded it, its answer gets lost, and the other copy is faster than the repetition."""
    world = World()
    slow = until(Actor(world), "billed, no response")
    world.store.lost_answers = 1
    until(slow, "after PutObject")
    fast = Actor(world).finish()
    assert (fast.error, fast.is_reused) == (None, True)

    receipt = slow.finish()

    assert receipt.error is None
    assert (receipt.images, receipt.is_reused) == (fast.images, False)
    assert world.entry().state is EntryState.STORED
    assert world.entry().images == fast.images
    assert (world.posts, stored(world)) == (1, images_of(0))


@pytest.mark.parametrize("policy", [ONCE, Policy("reuse", "at-least-once")])
def test_who_loses_the_claim_to_a_copy_whose_response_gets_lost_says_so_as_well(policy: Policy) -> None:
    world = World(answer=lambda: "lost")
    late = until(Actor(world, policy), "before PutObject")
    lost = Actor(world, policy).finish()
    assert (lost.unknown_outcomes, world.posts) == (1, 1)

    receipt = late.finish()

    assert isinstance(receipt.error, OutcomeUnknown)
    assert receipt.error.unknown_outcomes == receipt.unknown_outcomes == world.posts
    assert world.posts == (1 if policy == ONCE else 2)


def test_a_claim_that_takes_too_long_is_given_back_unsent() -> None:
    """Otherwise it would count as a request that may have been billed, and at most once never send again."""
    world = World()

    receipt = Actor(world, ONCE, timing=Timing(claim_margin=0.0)).finish()

    assert isinstance(receipt.error, StorageFailed)
    assert "takes too long to write, so nothing was sent" in str(receipt.error)
    assert (world.posts, receipt.unknown_outcomes, world.entry().may_be_billed) == (0, 0, ())
    assert Actor(world, ONCE).finish().error is None
    assert len(world.bill) == 1


def test_what_another_copy_has_noted_in_our_entry_is_not_forgotten_by_the_next_claim() -> None:
    """A copy whose entry was deleted in flight notes its lost response in the one that it finds: ours."""
    answers = iter(["lost", "503", "images"])
    world = World(answer=lambda: next(answers))
    lost = until(Actor(world), "billed, no response")
    [key] = world.journals
    assert world.meddler.delete(key)
    ours = until(Actor(world, max_retries=1), "billed, no response")
    assert lost.finish().unknown_outcomes == 1

    receipt = ours.finish()

    assert receipt.error is None
    assert (len(world.bill), receipt.unknown_outcomes, len(world.entry().unknown)) == (2, 1, 1)
