"""A retry believes the journal as far as it can be read, and that images are there as far as S3 says so."""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING

import pytest

from airflow_provider_aisa.core.batch.resume import READERS
from airflow_provider_aisa.exceptions import ItemsFailed, StorageFailed
from tests.core.batch.scene import PATIENCE, Scene, items, make_spec
from tests.fakes.gateway import FakeGateway, Post, answer_json, images
from tests.fakes.s3 import BUCKET
from tests.fakes.s3_rules import s3_error

if TYPE_CHECKING:
    import httpx


# Entries.


@pytest.mark.parametrize("count", [3, 60])
def test_a_retry_reads_each_entry_once_and_lists_the_images(scene: Scene, count: int) -> None:
    first = scene.run(items(count))
    before = scene.manifest

    again = scene.run(items(count))

    assert again == {**first, "reused": count}
    assert scene.manifest == [{**line, "reused": True} for line in before]
    assert scene.gateway.bill.total() == count
    # Two listings; whose folder it is, and the manifest.
    assert scene.asked == {"ListObjectsV2": 2, "GetObject": count, "PutObject": 2}


def test_entries_are_read_side_by_side(scene: Scene) -> None:
    scene.run(items(READERS))
    together = threading.Barrier(READERS)

    def meet(operation: str, _key: str) -> None:
        if operation == "GetObject":
            together.wait(PATIENCE)

    scene.on_store = meet
    assert scene.run(items(READERS))["reused"] == READERS


def test_a_listing_of_thousands_of_entries_is_read_page_by_page(scene: Scene) -> None:
    scene.pretend(items(2_500))
    result = scene.run(items(2_501))
    assert (result["reused"], scene.gateway.bill) == (2_500, {"i2500": 1})
    assert scene.store.count("ListObjectsV2", "/items/") == 3
    assert scene.store.count("GetObject", "/items/") == 2_500


def test_items_are_found_again_in_any_order_and_among_new_ones(scene: Scene) -> None:
    scene.run(items(5))
    result = scene.run(items(7)[::-1])
    assert (result["stored"], result["reused"]) == (7, 5)
    assert [line["id"] for line in scene.manifest] == [f"i{number}" for number in range(6, -1, -1)]
    assert scene.gateway.bill.total() == 7


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"5",
        b"null",
        b"<html>",
        b'{"format": "airflow-provider-aisa journal", "version": 2}',
        b'{"format": "airflow-provider-aisa journal", "version": 99}',
    ],
)
def test_a_damaged_entry_is_its_items_failure_and_nothing_is_bought_for_it(scene: Scene, body: bytes) -> None:
    scene.run(items(3))
    assert scene.meddler.garble(scene.entry_key("i1"), body)

    result = scene.run(items(3), on_item_failure="keep")

    assert (result["stored"], result["reused"], result["errors"]) == (2, 2, {"JournalUnreadable": 1})
    assert scene.gateway.bill.total() == 3


def test_an_entry_that_lacks_a_field_is_damaged_too(scene: Scene) -> None:
    scene.run(items(2))
    assert scene.meddler.edit(scene.entry_key("i1"), claim={"id": "c"})
    assert scene.run(items(2), on_item_failure="keep")["errors"] == {"JournalUnreadable": 1}


def test_an_entry_that_is_rewritten_in_place_still_says_what_it_said(scene: Scene) -> None:
    scene.run(items(3))
    for key in scene.meddler.keys("/items/"):
        assert scene.meddler.rewrite(key)
    assert scene.run(items(3))["reused"] == 3
    assert scene.gateway.bill.total() == 3


def test_an_item_whose_entry_somebody_has_deleted_is_bought_anew(scene: Scene) -> None:
    scene.run(items(3))
    assert scene.meddler.delete(scene.entry_key("i1"))

    result = scene.run(items(3))

    assert (result["stored"], result["reused"]) == (3, 2)
    assert scene.gateway.bill == {"i0": 1, "i1": 2, "i2": 1}


def test_an_item_whose_entry_is_deleted_while_it_is_looked_for_is_bought_anew(scene: Scene) -> None:
    scene.run(items(3))
    gone = scene.entry_key("i1")

    def delete(operation: str, key: str) -> None:
        if operation == "GetObject" and key == gone:
            scene.meddler.delete(key)

    scene.on_store = delete
    assert scene.run(items(3))["reused"] == 2
    assert scene.gateway.bill == {"i0": 1, "i1": 2, "i2": 1}


@pytest.mark.parametrize("operation", ["ListObjectsV2", "GetObject"])
@pytest.mark.parametrize("part", ["/items/", "out/"])
def test_a_store_that_does_not_tell_what_is_there_stops_the_batch_before_anything_is_paid(
    scene: Scene, operation: str, part: str
) -> None:
    scene.run(items(2))

    def fail(done: str, key: str) -> None:
        if done == operation and part in key:
            raise s3_error("ServiceUnavailable", operation)

    scene.on_store = fail
    with pytest.raises(StorageFailed, match="ServiceUnavailable"):
        scene.run(items(5))
    assert scene.gateway.bill.total() == 2


def test_a_folder_with_foreign_objects_is_no_hindrance(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.run(items(3))
    entries = make_spec().layout.entries
    for name in ("", ".DS_Store", "notes.txt", "folder/", f"{'0' * 40}.surplus-c1/0.png"):
        scene.s3.put(f"{entries}{name}", b"not ours")
    scene.s3.put(f"{entries}foreign.json", b"{}")

    result = scene.run(items(3))

    assert (result["reused"], result["unmatched"]) == (3, 0)
    assert scene.store.count("GetObject") == 3 + 1  # Only what may be an entry is read.
    [told] = [text for text in caplog.messages if "cannot be read" in text]
    assert told.startswith("1 object(s) of the journal belong to no request")
    assert f"s3://{BUCKET}/{entries}foreign.json" in told


# Images.


def test_an_image_that_was_deleted_is_its_items_failure_and_is_not_bought_again(scene: Scene) -> None:
    scene.run(items(3))
    assert scene.meddler.delete("out/i1/0.png")

    with pytest.raises(ItemsFailed, match=r"ImagesLost 1") as caught:
        scene.run(items(3))

    assert not caught.value.retryable
    assert "s3://bucket/out/i1/0.png was deleted" in scene.line("i1")["message"]
    assert scene.statuses() == {"i0": "stored", "i1": "failed", "i2": "stored"}
    assert (scene.line("i1")["images"], scene.line("i1")["cost_usd"]) == ([], 0.04)
    assert scene.gateway.bill.total() == 3
    assert scene.store.count("HeadObject") <= 2


@pytest.mark.parametrize("meddle", ["overwrite", "replace_bytes", "copy_over"])
def test_an_image_that_was_replaced_is_its_items_failure(scene: Scene, meddle: str) -> None:
    scene.run(items(3))
    if meddle == "copy_over":
        assert scene.meddler.copy_over("out/i0/0.png", "out/i1/0.png")
    else:
        assert getattr(scene.meddler, meddle)("out/i1/0.png")

    with pytest.raises(ItemsFailed, match="ImagesLost 1"):
        scene.run(items(3))

    assert "s3://bucket/out/i1/0.png was replaced by" in scene.line("i1")["message"]
    assert scene.gateway.bill.total() == 3


def test_lost_images_are_bought_anew_where_a_person_has_asked_for_new_ones(scene: Scene) -> None:
    anew = {"on_existing": "regenerate", "max_tries": 1}
    scene.run(items(3), **anew)
    assert scene.meddler.delete("out/i1/0.png")

    result = scene.run(items(3), **anew)

    assert (result["stored"], result["reused"]) == (3, 2)
    assert scene.gateway.bill == {"i0": 1, "i1": 2, "i2": 1}


def test_images_that_are_rewritten_in_place_are_looked_at_one_by_one_and_believed(scene: Scene) -> None:
    """A copy onto itself, or another encryption, gives an object another ETag."""
    scene.run(items(5, n=2))
    for key in ("out/i1/0.png", "out/i3/0.png", "out/i3/1.png"):
        assert scene.meddler.rewrite(key)

    result = scene.run(items(5, n=2))

    assert (result["stored"], result["reused"], scene.gateway.bill.total()) == (5, 5, 10)
    assert scene.store.count("HeadObject") == 4  # Of two items both images.
    assert scene.store.count("ListObjectsV2", "/items/") == 1
    assert scene.store.count("PutObject", "/items/") == 0


@pytest.mark.parametrize("order", ["as listed", "mixed"])
def test_thousands_of_images_take_a_listing_per_thousand_in_whatever_order_they_are_asked_for(
    scene: Scene, order: str
) -> None:
    count = 3_200
    requests = [{"id": f"{number:05}", "prompt": "p"} for number in range(count)]
    if order == "mixed":  # Items without an id of their author's are named by a hash.
        requests.sort(key=lambda request: hashlib.sha256(request["id"].encode()).digest())
    scene.pretend(requests)

    assert scene.run(requests)["reused"] == count

    assert scene.gateway.sent == []
    assert scene.store.count("HeadObject") == 0
    listings = scene.store.count("ListObjectsV2") - scene.store.count("ListObjectsV2", "/items/")
    assert listings == 4


def test_a_folder_with_many_other_images_is_not_listed_to_its_end(scene: Scene) -> None:
    requests = [{"id": name, "prompt": name} for name in ("a", "z")]
    scene.run(requests)
    for number in range(9_000):
        scene.s3.put(f"out/m/{number}.png", b"")

    assert scene.run(requests)["reused"] == 2

    assert scene.store.count("ListObjectsV2") <= 1 + 3
    assert scene.store.count("HeadObject") <= 2


def test_images_outside_the_batchs_folder_are_found_as_well(scene: Scene) -> None:
    requests = [*items(2), {"id": "x", "prompt": "x", "s3_key": "elsewhere/x.png"}]
    scene.run(requests)
    assert scene.run(requests)["reused"] == 3
    assert scene.gateway.bill.total() == 3


def test_images_whose_keys_hold_their_hash_are_found_in_the_listing_too(scene: Scene) -> None:
    scene.run(items(3, s3_key="same-{sha256}.png"))
    assert scene.run(items(3, s3_key="same-{sha256}.png"))["reused"] == 3
    assert (scene.gateway.bill.total(), scene.store.count("HeadObject")) == (3, 0)


# Fewer images than asked.


def test_fewer_images_are_returned_only_to_who_keeps_them(scene: Scene) -> None:
    scene.gateway.script["i0"] = [images(1)]
    requests = items(2, n=2)
    assert scene.run(requests, on_partial="keep")["stored"] == 2
    assert scene.run(requests, on_partial="keep")["reused"] == 2
    assert scene.asked["HeadObject"] == 0

    with pytest.raises(ItemsFailed, match="FewerImages 1"):
        scene.run(requests, on_partial="fail")

    assert scene.statuses() == {"i0": "failed", "i1": "stored"}
    assert [len(line["images"]) for line in scene.manifest] == [1, 2]
    assert scene.gateway.bill.total() == 3


def test_an_author_who_keeps_fewer_images_after_all_gets_them_for_nothing(scene: Scene) -> None:
    scene.gateway.script["i0"] = [images(1)]
    requests = items(2, n=2)
    with pytest.raises(ItemsFailed):
        scene.run(requests, on_partial="fail")
    assert scene.run(requests, on_partial="keep")["stored"] == 2
    assert scene.gateway.bill.total() == 3


def test_a_response_that_was_billed_and_held_no_image_is_a_failure_in_every_attempt(scene: Scene) -> None:
    def refuse(gateway: FakeGateway, post: Post) -> httpx.Response:
        error = {"code": "OutputImageSensitiveContentDetected", "message": "words"}
        return answer_json(200, {**gateway.deliver(post, 1).json(), "data": [{"error": error}]})

    scene.gateway.script["i0"] = [refuse]
    for _ in range(3):
        with pytest.raises(ItemsFailed, match="FewerImages 1"):
            scene.run(items(2), on_partial="keep")
        assert scene.statuses() == {"i0": "failed", "i1": "stored"}
    assert scene.gateway.bill.total() == 2
