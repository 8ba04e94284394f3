"""Requests are in flight up to the limit and never above it; a rate limit slows a batch and fails nothing."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from airflow_provider_aisa.core.batch.runner import TRANSFERS
from airflow_provider_aisa.exceptions import RateLimited
from tests.core.batch.scene import PATIENCE, Scene, items
from tests.fakes.gateway import RATE_LIMITED, SERVER_ERROR, Post, images, refused
from tests.fakes.s3 import Manners


@pytest.mark.parametrize("limit", [1, 2, 7, 30])
def test_as_many_requests_are_in_flight_as_the_connection_allows_and_no_more(
    scene: Scene, limit: int
) -> None:
    scene.settings = replace(scene.settings, max_concurrency=limit)
    together = threading.Barrier(limit)

    def meet(_post: Post) -> None:
        together.wait(PATIENCE)

    scene.gateway.on_request = meet
    assert scene.run(items(3 * limit))["stored"] == 3 * limit
    assert scene.gateway.most_in_flight == limit


def test_transfers_overlap_with_the_generations_that_follow(scene: Scene) -> None:
    scene.settings = replace(scene.settings, max_concurrency=1)
    # No image arrives before five others are generated.
    scene.cdn.is_ready = lambda prompt: len(scene.gateway.sent) > min(int(prompt[1:]) + 5, 19)
    assert scene.run(items(20))["stored"] == 20


def test_what_is_paid_for_and_not_stored_yet_does_not_pile_up(scene: Scene) -> None:
    most, limit = 0, 3 * (scene.settings.max_concurrency + TRANSFERS)

    def slowly(_prompt: str) -> bool:
        nonlocal most
        stored, billed = len(scene.images), scene.gateway.billed
        most = max(most, billed - stored)
        return billed >= min(10 + stored, 300)

    scene.cdn.is_ready = slowly
    assert scene.run(items(300))["stored"] == 300
    assert 0 < most <= limit


@pytest.mark.parametrize("times", [1, 3, 40])
def test_rate_limits_are_waited_out_however_many_there_are(scene: Scene, times: int) -> None:
    # The connection allows two retries: those are for failures.
    scene.gateway.script["i1"] = [RATE_LIMITED] * times
    result = scene.run(items(5), max_failures=0)
    assert (result["stored"], result["failed"]) == (5, 0)
    assert scene.tally.rate_limits == times
    assert scene.gateway.bill == {f"i{number}": 1 for number in range(5)}


def test_a_wait_grows_when_the_gateway_does_not_say_how_long(scene: Scene) -> None:
    scene.gateway.script["i0"] = [RATE_LIMITED] * 7
    scene.run(items(1))
    assert scene.clock.slept[:7] == [1, 2, 4, 8, 16, 30, 30]


def test_a_wait_is_as_long_as_the_gateway_says(scene: Scene) -> None:
    scene.gateway.script["i0"] = [refused(429, "rate_limit_exceeded", retry_after="3600")]
    scene.run(items(1))
    assert scene.clock.slept == [3_600]


def test_a_wait_of_more_than_an_hour_stops_the_batch_and_is_left_to_the_task(scene: Scene) -> None:
    scene.gateway.otherwise = refused(429, "rate_limit_exceeded", retry_after="7200")
    with pytest.raises(RateLimited, match="0 of 100 items are stored, 0 failed, 100 were not sent") as caught:
        scene.run(items(100))
    assert (caught.value.retry_after, caught.value.retryable) == (7_200, True)
    assert len(scene.gateway.sent) <= scene.settings.max_concurrency
    assert scene.clock.slept == []

    scene.gateway.otherwise = images()
    assert scene.run(items(100))["stored"] == 100
    assert scene.gateway.bill.total() == 100


def test_everyone_waits_when_one_is_told_to(scene: Scene) -> None:
    scene.settings = replace(scene.settings, max_concurrency=1)
    began = scene.clock.now
    scene.gateway.script["i0"] = [refused(429, "rate_limit_exceeded", retry_after="600")]
    sent_at: list[float] = []
    scene.gateway.on_request = lambda _post: sent_at.append(scene.clock.now - began)
    scene.run(items(5))
    assert sent_at[0] == 0
    assert min(sent_at[1:]) >= 600


def test_a_whole_batch_of_rate_limits_ends_with_all_items_stored(scene: Scene) -> None:
    for number in range(50):
        scene.gateway.script[f"i{number}"] = [RATE_LIMITED] * (number % 6)
    assert scene.run(items(50), max_failures=0)["stored"] == 50
    assert scene.tally.rate_limits == sum(number % 6 for number in range(50))
    assert scene.gateway.bill.total() == 50


def test_rate_limits_use_up_no_retry_of_a_request_that_fails_as_well(scene: Scene) -> None:
    scene.gateway.script["i0"] = [RATE_LIMITED, SERVER_ERROR, RATE_LIMITED, SERVER_ERROR, RATE_LIMITED]
    assert scene.run(items(1))["stored"] == 1
    assert len(scene.gateway.sent) == 6


def test_failures_use_up_the_retries_whatever_comes_between_them(scene: Scene) -> None:
    scene.gateway.script["i0"] = [SERVER_ERROR, RATE_LIMITED, SERVER_ERROR, RATE_LIMITED, SERVER_ERROR]
    assert scene.run(items(1), on_item_failure="keep")["errors"] == {"GatewayFailed": 1}


def test_a_rate_limit_counts_as_nothing_that_may_be_billed(scene: Scene) -> None:
    scene.gateway.script["i0"] = [RATE_LIMITED] * 3
    assert scene.run(items(1))["unknown_outcomes"] == 0
    [entry] = scene.entries()
    assert (entry["state"], entry["unknown"]) == ("stored", [])


def test_a_store_whose_conditions_are_worthless_is_asked_for_each_entry(scene: Scene) -> None:
    # A claim that the listing did not show could not be lost to: so it has to be looked for.
    scene.s3.put_conditions = "ignored"
    assert scene.run(items(5))["stored"] == 5
    assert scene.store.count("GetObject", "/items/") == 5


def test_a_store_that_keeps_conditions_is_not_asked_for_what_its_listing_does_not_show(scene: Scene) -> None:
    assert scene.run(items(5))["stored"] == 5
    assert scene.store.count("GetObject", "/items/") == 0


@pytest.mark.parametrize("manners", ["ignored", "501"])
def test_on_a_store_without_conditions_a_retry_pays_only_for_what_is_missing(
    scene: Scene, manners: Manners
) -> None:
    scene.s3.put_conditions = manners
    scene.run(items(3))
    assert scene.run(items(5))["reused"] == 3
    assert scene.gateway.bill.total() == 5


def test_a_new_item_costs_the_store_a_claim_a_record_and_its_images(scene: Scene) -> None:
    scene.run(items(20, n=2))
    assert scene.store.count("PutObject", "/items/") == 3 * 20  # claimed, paid, stored
    others = [request for request in scene.store.requests if "/items/" not in request.key]
    uploads = [
        request for request in others if request.operation == "PutObject" and "_aisa/" not in request.key
    ]
    assert len(uploads) == 40
    # A listing, what proves that the bucket can be written, whether it keeps conditions, and the manifest.
    assert len(others) - len(uploads) <= 4
    assert scene.store.count("GetObject") == scene.store.count("HeadObject") == 0
