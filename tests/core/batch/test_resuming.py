"""A retry goes on where the last attempt stopped: it pays for what is missing, and reads little else."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from decimal import Decimal

import pytest

from airflow_provider_aisa.core.batch.runner import TRANSFERS
from airflow_provider_aisa.core.layout import Owner
from airflow_provider_aisa.exceptions import (
    ItemsFailed,
    QuotaExceeded,
)
from tests.core.batch.scene import PATIENCE, Scene, block_until, items, until
from tests.fakes.gateway import (
    CONTENT_REFUSED,
    LOST,
    QUOTA_EXCEEDED,
    SERVER_ERROR,
    TIMED_OUT,
    UNAVAILABLE,
    Answer,
    Post,
    billed,
)
from tests.fakes.s3_rules import s3_error


def test_a_retry_pays_only_for_what_is_missing_and_asks_the_store_little(scene: Scene) -> None:
    for number in range(5):
        scene.gateway.script[f"i{100 * number}"] = [CONTENT_REFUSED]
    with pytest.raises(ItemsFailed):
        scene.run(items(450))
    assert len(scene.gateway.sent) == 450

    result = scene.run(items(450))

    assert (result["stored"], result["reused"], result["cost_usd"]) == (450, 445, 18.0)
    assert len(scene.gateway.sent) == 455
    asked = Counter(request.operation for request in scene.store.requests)
    assert asked["ListObjectsV2"] == 2  # the journal and the images
    assert scene.store.count("GetObject", "/items/") == asked["GetObject"] <= 450 + 5
    assert scene.store.count("PutObject", "/items/") == 3 * 5
    assert scene.store.count("PutObject", "/manifest-") == 1
    assert (
        asked["PutObject"] <= 3 * 5 + 5 + 1 + 2
    )  # and images, manifest, proof that the bucket can be written
    assert asked["HeadObject"] == 0


def test_a_retry_of_a_finished_batch_sends_nothing_and_says_the_same(scene: Scene) -> None:
    first = scene.run(items(300))
    sent = len(scene.gateway.sent)
    assert scene.run(items(300)) == {**first, "reused": 300}
    assert len(scene.gateway.sent) == sent
    asked = Counter(request.operation for request in scene.store.requests)
    assert asked["GetObject"] == 300
    assert asked.total() - asked["GetObject"] <= 5


def test_a_retry_fetches_what_is_paid_for_and_not_stored(scene: Scene) -> None:
    scene.cdn.script = {f"i{number}": [500] for number in (1, 3)}
    with pytest.raises(ItemsFailed):
        scene.run(items(5))

    result = scene.run(items(5))

    assert (result["stored"], result["reused"]) == (5, 5)
    assert scene.gateway.bill.total() == 5
    assert all(line["status"] == "stored" for line in scene.manifest)


def test_a_retry_says_what_everything_cost_and_not_what_it_paid_itself(scene: Scene) -> None:
    scene.gateway.script["i1"] = [CONTENT_REFUSED]
    with pytest.raises(ItemsFailed):
        scene.run(items(3))
    result = scene.run(items(3))
    assert result["cost_usd"] == 0.12
    assert result["usage"] == {"generated_images": 3, "output_tokens": 300}
    assert (scene.tally.paid_images, scene.tally.paid_usd) == (1, Decimal("0.04"))


def test_a_request_that_may_have_been_billed_is_counted_in_every_later_result(scene: Scene) -> None:
    scene.gateway.script["i1"] = [LOST]
    with pytest.raises(ItemsFailed):
        scene.run(items(3))
    for _ in range(2):
        assert scene.run(items(3))["unknown_outcomes"] == 1
    assert scene.gateway.bill == {"i0": 1, "i1": 2, "i2": 1}


@pytest.mark.parametrize(("then", "unknown"), [(UNAVAILABLE, 1), (CONTENT_REFUSED, 1), (SERVER_ERROR, 3)])
def test_a_request_that_may_have_been_billed_is_not_forgotten_when_the_store_failed_meanwhile(
    scene: Scene, then: Answer, unknown: int
) -> None:
    scene.gateway.script["i0"] = [billed(TIMED_OUT), then, then, then]
    writes = 0

    def fail_once(operation: str, key: str) -> None:
        nonlocal writes
        writes += operation == "PutObject" and "/items/" in key
        if operation == "PutObject" and "/items/" in key and writes == 2:  # the first is the claim
            raise s3_error("SlowDown")

    scene.on_store = fail_once
    assert scene.run(items(1), on_item_failure="keep")["unknown_outcomes"] == unknown
    assert writes > 2
    scene.gateway.script.clear()
    assert scene.run(items(1))["unknown_outcomes"] == unknown
    assert scene.gateway.generated["i0"] == 2


def test_new_and_changed_items_are_bought_and_the_others_are_not(scene: Scene) -> None:
    scene.run([{"id": "a", "prompt": "a"}, {"id": "b", "prompt": "b"}, "c"])
    scene.run([{"id": "b", "prompt": "b anew"}, "c", {"id": "a", "prompt": "a"}, "d"])
    assert scene.gateway.bill == {"a": 1, "b": 1, "c": 1, "b anew": 1, "d": 1}


# Other copies of the same task.


def test_two_batches_of_one_task_at_the_same_time_pay_once_for_each_item(scene: Scene) -> None:
    other = replace(scene)
    requests = items(40)

    async def both() -> list[dict[str, object]]:
        return await asyncio.wait_for(
            asyncio.gather(scene.arun(requests), other.arun(requests[::-1])), PATIENCE
        )

    one, another = asyncio.run(both())

    assert scene.gateway.bill == {f"i{number}": 1 for number in range(40)}
    assert (one["stored"], another["stored"]) == (40, 40)
    assert scene.tally.paid_images + other.tally.paid_images == 40
    assert one["cost_usd"] == another["cost_usd"] == 1.6


def test_items_that_another_copy_is_sending_do_not_hold_up_the_others(scene: Scene) -> None:
    claimed = 4 * scene.settings.max_concurrency + 2 * TRANSFERS
    other = replace(scene, settings=replace(scene.settings, max_concurrency=claimed))
    mine = items(claimed + 10)
    free = {item["id"] for item in mine[claimed:]}

    def hold(post: Post) -> None:
        if post.prompt not in free:
            block_until(lambda: free <= scene.gateway.bill.keys())

    scene.gateway.on_request = hold

    async def both() -> dict[str, object]:
        first = asyncio.create_task(other.arun(mine[:claimed]))
        await until(lambda: len(scene.gateway.sent) == claimed)
        result = await scene.arun(mine)
        await first
        return result

    result = asyncio.run(asyncio.wait_for(both(), PATIENCE))

    assert (result["stored"], result["reused"]) == (claimed + 10, claimed)
    assert scene.gateway.bill.total() == claimed + 10


def test_who_waits_for_another_copy_is_not_waited_for_when_the_batch_stops(scene: Scene) -> None:
    other = replace(scene)
    scene.gateway.script["mine"] = [QUOTA_EXCEEDED]
    is_over = False

    def hold(post: Post) -> None:
        if post.prompt != "mine":
            block_until(lambda: is_over)

    scene.gateway.on_request = hold

    async def both() -> None:
        nonlocal is_over
        first = asyncio.create_task(other.arun(items(2)))
        await until(lambda: len(scene.gateway.sent) == 2)
        with pytest.raises(QuotaExceeded, match="0 of 3 items are stored"):
            await scene.arun([*items(2), {"id": "mine", "prompt": "mine"}])
        is_over = True
        await first

    asyncio.run(asyncio.wait_for(both(), PATIENCE))
    assert scene.gateway.bill == {"i0": 1, "i1": 1}


def test_the_claims_of_a_copy_that_died_are_taken_over_and_admitted(scene: Scene) -> None:
    scene.run(items(3))
    for key in scene.meddler.keys("/items/"):
        assert scene.meddler.edit(key, state="claimed", response=None, images=[])
    scene.outdate_claims()

    result = scene.run(items(3))

    assert (result["stored"], result["reused"], result["unknown_outcomes"]) == (3, 0, 3)
    assert scene.gateway.bill.total() == 6


def test_another_run_pays_for_itself_unless_the_author_gives_a_key(scene: Scene) -> None:
    later = Owner("dag", "later", "task")
    scene.run(items(2))
    scene.run(items(2), owner=later, s3_key="later/")
    assert scene.gateway.bill.total() == 4

    scene.run(items(2), idempotency_key="refresh")
    scene.run(items(3), idempotency_key="refresh", owner=later)
    assert scene.gateway.bill.total() == 7


# Cancelled: a person's mark, a timeout, a deploy.


def test_a_batch_that_is_cancelled_records_what_is_being_paid_for(scene: Scene) -> None:
    limit = scene.settings.max_concurrency
    is_cancelled = False

    def hold(_post: Post) -> None:
        block_until(lambda: is_cancelled)

    scene.gateway.on_request = hold

    async def cancelled() -> None:
        nonlocal is_cancelled
        task = asyncio.create_task(scene.arun(items(50)))
        await until(lambda: len(scene.gateway.sent) == limit)
        task.cancel()
        asyncio.get_running_loop().call_soon(release)
        with pytest.raises(asyncio.CancelledError):
            await task

    def release() -> None:
        nonlocal is_cancelled
        is_cancelled = True

    asyncio.run(asyncio.wait_for(cancelled(), PATIENCE))
    assert scene.gateway.bill.total() == limit
    assert [entry["state"] for entry in scene.entries()] == ["paid"] * limit

    result = scene.run(items(50))
    assert (result["stored"], result["reused"]) == (50, limit)
    assert scene.gateway.bill.total() == 50


def test_a_batch_that_is_cancelled_keeps_what_is_stored(scene: Scene) -> None:
    stored = 0

    def hold(post: Post) -> None:
        if int(post.prompt[1:]) >= 20:
            block_until(lambda: stored >= 20)

    scene.gateway.on_request = hold

    async def cancelled() -> None:
        nonlocal stored
        task = asyncio.create_task(scene.arun(items(60)))
        await until(lambda: [entry["state"] for entry in scene.entries()].count("stored") == 20)
        task.cancel()
        stored = 20
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(asyncio.wait_for(cancelled(), PATIENCE))
    paid, uploaded = scene.gateway.bill.total(), len(scene.images)
    assert uploaded >= 20

    result = scene.run(items(60))

    assert (result["stored"], result["reused"], scene.gateway.bill.total()) == (60, paid, 60)
    uploads = scene.store.count("PutObject", "out/") - scene.store.count("PutObject", "_aisa/")
    assert uploads == 60 - uploaded
    # One look at each possible ending of an image that was paid for and not stored; none at the others.
    assert scene.store.count("HeadObject") <= 4 * (paid - 20)
