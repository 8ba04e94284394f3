"""What earlier attempts have settled saves reading, and is believed as far as the journal bears it out."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_aisa.core.batch.manifest import stored_line
from airflow_provider_aisa.core.batch.resume import LEAST, SHARE, Checkpoint, Settled
from airflow_provider_aisa.core.generate import GenerationResult
from airflow_provider_aisa.core.journal.entry import Buyer
from airflow_provider_aisa.exceptions import ItemsFailed, StorageFailed
from tests.batch.gateway import images
from tests.batch.scene import OWNER, Scene, items, make_order
from tests.batch.store import Store
from tests.paying.memory import Memory

RESULT = GenerationResult(
    model="m",
    created=None,
    request_id="req_1",
    reused=False,
    cost_usd=0.04,
    usage={"generated_images": 1},
    unknown_outcomes=0,
    images=({"index": 0, "uri": "s3://memory/0.png"},),
    journal_uri="s3://memory/j.json",
)


def make_settled(number: int = 0, **changes: Any) -> Settled:
    values = {
        "journal": f"{number}.json",
        "etag": f"etag-{number}",
        "fingerprint": "f",
        "attempt": Buyer(OWNER, 2),
        "line": stored_line(f"ä{number}\u2028", RESULT),
    }
    return Settled(**{**values, **changes})


def checkpoint_of(memory: Memory) -> Checkpoint:
    return Checkpoint(Store(memory), make_order())


def kept_objects(memory: Memory) -> list[str]:
    return [key for key in memory.objects if "/settled/" in key]


def change_kept(scene: Scene, **changes: Any) -> None:
    """Change all kept lines, as nobody but an accident would."""
    for key in kept_objects(scene.memory):
        body, etag, moment = scene.memory.objects[key]
        lines = [{**json.loads(line), **changes} for line in body.decode().split("\n")]
        scene.memory.objects[key] = ("\n".join(map(json.dumps, lines)).encode(), etag, moment)


def reads_of(scene: Scene) -> int:
    """Return how many entries of the journal the latest attempt has read."""
    return scene.store.count("read", "/items/")


def test_a_settled_item_is_read_back_as_it_was_written() -> None:
    settled = make_settled()
    assert Settled.from_json(settled.to_json()) == settled
    assert "\n" not in settled.to_json()


def test_what_is_settled_is_kept_in_few_objects() -> None:
    memory = Memory()
    checkpoint = checkpoint_of(memory)
    assert not checkpoint.is_due
    for number in range(LEAST):
        assert not checkpoint.is_due
        checkpoint.add(make_settled(number))
    assert checkpoint.is_due
    checkpoint.keep()
    assert not checkpoint.is_due
    checkpoint.keep()
    assert len(kept_objects(memory)) == 1


def test_the_more_is_kept_the_more_has_to_come_for_another_object() -> None:
    memory = Memory()
    checkpoint = checkpoint_of(memory)
    for number in range(10_000):
        checkpoint.add(make_settled(number))
        if checkpoint.is_due:
            checkpoint.keep()
    assert len(kept_objects(memory)) < 100
    # Whoever dies now has lost at most this much of it.
    kept = sum(memory.objects[key][0].count(b"\n") + 1 for key in kept_objects(memory))
    assert 10_000 - kept <= 10_000 * SHARE


@pytest.mark.parametrize("count", [3, 60])
def test_a_retry_reads_the_kept_lines_instead_of_the_journal(scene: Scene, count: int) -> None:
    first = scene.run(items(count))
    before = scene.manifest

    again = scene.run(items(count))

    assert reads_of(scene) == 0
    assert again == {**first, "reused": count}
    assert scene.manifest == [{**line, "reused": True} for line in before]
    assert scene.gateway.bill.total() == count


def test_what_is_restored_is_not_kept_again(scene: Scene) -> None:
    scene.run(items(3))
    kept = kept_objects(scene.memory)
    scene.run(items(3))
    scene.run(items(4))
    assert len(kept_objects(scene.memory)) == len(kept) + 1


def test_a_third_attempt_needs_no_entry_that_the_second_had_to_read(scene: Scene) -> None:
    scene.run(items(3))
    for key in kept_objects(scene.memory):
        del scene.memory.objects[key]

    scene.run(items(3))
    assert reads_of(scene) == 3
    scene.run(items(3))

    assert reads_of(scene) == 0
    assert scene.gateway.bill.total() == 3


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"5",
        b"null",
        b'{"journal": "a"}',
        b'{"attempt": {"owner": {}, "max_tries": 0}, "line": {}}',
        b'{"attempt": {"owner": "x", "max_tries": 0}, "line": {}}',
        b"<html>",
    ],
)
def test_a_damaged_object_is_a_warning_and_the_journal_is_read(
    scene: Scene, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    scene.run(items(3))
    [key] = kept_objects(scene.memory)
    scene.memory.objects[key] = (body, "etag", 0.0)

    result = scene.run(items(3))

    assert (result["stored"], result["reused"]) == (3, 3)
    assert reads_of(scene) == 3
    assert scene.gateway.bill.total() == 3
    assert [f"s3://memory/{key} is damaged" in record.getMessage() for record in caplog.records].count(
        True
    ) == 1


def test_the_lines_before_the_damage_still_count(scene: Scene) -> None:
    scene.run(items(3))
    [key] = kept_objects(scene.memory)
    body, etag, moment = scene.memory.objects[key]
    scene.memory.objects[key] = (body[:-20], etag, moment)

    scene.run(items(3))

    assert reads_of(scene) == 1
    assert scene.gateway.bill.total() == 3


def test_a_kept_line_that_lacks_a_field_is_damaged_too(scene: Scene) -> None:
    scene.run(items(3))
    change_kept(scene, line={"id": "i0"})
    assert scene.run(items(3))["reused"] == 3


def test_an_object_that_is_gone_between_listing_and_reading_is_none(scene: Scene) -> None:
    scene.run(items(3))

    def delete(operation: str, key: str) -> None:
        if operation == "read" and "/settled/" in key:
            scene.memory.objects.pop(key, None)

    scene.on_store = delete
    assert scene.run(items(3))["reused"] == 3
    assert reads_of(scene) == 3


def test_a_line_of_an_entry_that_was_written_since_is_not_believed(scene: Scene) -> None:
    scene.run(items(3))
    for key, (body, _, moment) in list(scene.memory.objects.items()):
        if "/items/" in key:
            document = json.loads(body)
            document["images"][0]["uri"] = "s3://memory/elsewhere.png"
            scene.memory.objects[key] = (json.dumps(document).encode(), f"new-{key}", moment)

    scene.run(items(3))

    assert reads_of(scene) == 3
    assert {line["images"][0]["uri"] for line in scene.manifest} == {"s3://memory/elsewhere.png"}


def test_a_line_whose_entry_somebody_has_deleted_is_not_believed(scene: Scene) -> None:
    scene.run(items(3))
    [first, *_] = [key for key in scene.memory.objects if "/items/" in key]
    del scene.memory.objects[first]

    result = scene.run(items(3))

    assert (result["stored"], result["reused"]) == (3, 2)
    assert scene.gateway.bill.total() == 4


def test_a_line_of_another_request_under_the_same_key_is_not_believed(scene: Scene) -> None:
    scene.run([{"id": "a", "prompt": "one"}], idempotency_key="refresh")
    with pytest.raises(ItemsFailed, match="InvalidRequest 1"):
        scene.run([{"id": "a", "prompt": "two"}], idempotency_key="refresh")
    assert "belongs to another request" in scene.line("a")["message"]
    assert scene.gateway.bill == {"one": 1}


def test_an_item_that_was_dropped_from_the_requests_is_not_in_the_figures(scene: Scene) -> None:
    scene.run(items(5))
    result = scene.run(items(2))
    assert (result["items"], result["stored"], result["cost_usd"]) == (2, 2, 0.08)
    assert [line["id"] for line in scene.manifest] == ["i0", "i1"]


def test_items_are_found_again_in_any_order_and_among_new_ones(scene: Scene) -> None:
    scene.run(items(5))
    result = scene.run(items(7)[::-1])
    assert (result["stored"], result["reused"]) == (7, 5)
    assert [line["id"] for line in scene.manifest] == [f"i{number}" for number in range(6, -1, -1)]
    assert scene.gateway.bill.total() == 7


# A Clear raises max_tries; on_existing decides.


def test_a_cleared_batch_reuses_what_is_kept(scene: Scene) -> None:
    scene.run(items(3))
    result = scene.run(items(3), max_tries=1)
    assert (result["reused"], reads_of(scene), scene.gateway.bill.total()) == (3, 0, 3)


def test_a_cleared_batch_that_regenerates_pays_anew_once(scene: Scene) -> None:
    scene.run(items(3))

    result = scene.run(items(3), max_tries=1, on_existing="regenerate")
    assert (result["stored"], result["reused"], scene.gateway.bill.total()) == (3, 0, 6)

    # Its own retry finds what it has bought itself.
    result = scene.run(items(3), max_tries=1, on_existing="regenerate")
    assert (result["reused"], reads_of(scene), scene.gateway.bill.total()) == (3, 0, 6)


def test_a_cleared_batch_that_may_not_reuse_fails_each_finished_item(scene: Scene) -> None:
    scene.run(items(2))
    with pytest.raises(ItemsFailed, match=r"2 items failed \(AlreadyGenerated 2\)") as caught:
        scene.run(items(3), max_tries=1, on_existing="fail")
    assert not caught.value.retryable
    assert scene.statuses() == {"i0": "failed", "i1": "failed", "i2": "stored"}
    assert scene.gateway.bill.total() == 3


def test_fewer_images_are_restored_only_for_who_keeps_them(scene: Scene) -> None:
    scene.gateway.script["i0"] = [images(1)]
    requests = items(2, n=2)
    assert scene.run(requests, on_partial="keep")["stored"] == 2
    assert scene.run(requests, on_partial="keep")["reused"] == 2
    assert reads_of(scene) == 0

    with pytest.raises(ItemsFailed, match="FewerImages 1"):
        scene.run(requests, on_partial="fail")

    assert scene.statuses() == {"i0": "failed", "i1": "stored"}
    assert [len(line["images"]) for line in scene.manifest] == [1, 2]
    assert scene.gateway.bill.total() == 3


def test_what_failed_is_not_kept_so_that_a_changed_mind_is_asked(scene: Scene) -> None:
    scene.gateway.script["i0"] = [images(1)]
    requests = items(2, n=2)
    with pytest.raises(ItemsFailed):
        scene.run(requests, on_partial="fail")
    assert scene.run(requests, on_partial="keep")["stored"] == 2
    assert reads_of(scene) == 1
    assert scene.gateway.bill.total() == 3


def test_another_run_with_the_same_key_believes_the_lines_of_the_first(scene: Scene) -> None:
    other = {
        "idempotency_key": "refresh",
        "owner": make_order().attempt.owner.__class__("dag", "later", "task"),
    }
    scene.run(items(3), idempotency_key="refresh")
    result = scene.run(items(3), **other)
    assert (result["reused"], reads_of(scene), scene.gateway.bill.total()) == (3, 0, 3)


# The store.


def test_a_store_that_refuses_the_lines_is_a_warning_and_the_batch_succeeds(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(operation: str, key: str) -> None:
        if operation == "write" and "/settled/" in key:
            raise StorageFailed("S3 says AccessDenied")

    scene.on_store = refuse
    with caplog.at_level(logging.WARNING):
        assert scene.run(items(3))["stored"] == 3
    assert "A retry will have to read more of the journal: S3 says AccessDenied" in caplog.text

    scene.on_store = lambda _op, _key: None
    assert scene.run(items(3))["reused"] == 3
    assert (reads_of(scene), scene.gateway.bill.total()) == (3, 3)


def test_lines_that_were_refused_are_written_with_the_next(tmp_path: Path) -> None:
    memory, refuses = Memory(), [True, False]

    def refuse(operation: str, _key: str) -> None:
        if operation == "write" and refuses.pop(0):
            raise StorageFailed("S3 says SlowDown")

    checkpoint = Checkpoint(Store(memory, refuse), make_order())
    checkpoint.add(make_settled(1))
    checkpoint.keep()
    checkpoint.add(make_settled(2))
    checkpoint.keep()
    [key] = kept_objects(memory)
    assert sorted(
        Settled.from_json(line).journal for line in memory.objects[key][0].decode().split("\n")
    ) == [
        "1.json",
        "2.json",
    ]


def test_a_store_that_refuses_the_lines_is_asked_again_when_twice_as_many_have_come() -> None:
    answers: list[type[Exception] | None] = [StorageFailed, None]

    def answer(operation: str, _key: str) -> None:
        if operation == "write" and (error := answers.pop(0)):
            raise error("S3 says AccessDenied")

    memory = Memory()
    checkpoint = Checkpoint(Store(memory, answer), make_order())
    asked_at = []
    for number in range(2 * LEAST):
        checkpoint.add(make_settled(number))
        if checkpoint.is_due:
            asked_at.append(number + 1)
            checkpoint.keep()
    assert asked_at == [LEAST, 2 * LEAST]
    [key] = kept_objects(memory)
    assert memory.objects[key][0].count(b"\n") + 1 == 2 * LEAST


@pytest.mark.parametrize("operation", ["list", "read"])
def test_a_store_that_does_not_tell_what_is_there_stops_the_batch_before_anything_is_paid(
    scene: Scene, operation: str
) -> None:
    scene.run(items(2))

    def fail(done: str, _key: str) -> None:
        if done == operation:
            raise StorageFailed("S3 does not answer")

    scene.on_store = fail
    with pytest.raises(StorageFailed, match="S3 does not answer"):
        scene.run(items(5))
    assert scene.gateway.bill.total() == 2


def test_a_listing_of_thousands_of_entries_is_read_page_by_page(scene: Scene) -> None:
    order = make_order()
    for number in range(2_500):
        scene.memory.objects[f"{order.entries}{number}.json"] = (b"", f"e{number}", 0.0)
    scene.run(items(1))
    assert scene.store.count("list") == 3
    assert reads_of(scene) == 0
