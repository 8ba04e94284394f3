"""A batch is shown item by item: from its manifest, from its journal while it runs, and never another's."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_aisa.exceptions import ItemsFailed
from airflow_provider_aisa.sandbox import Fault
from airflow_provider_aisa.ui.notes import BATCH_KEY, FAILURE_KEY
from tests.operators.conftest import desk
from tests.ui.world import FIELDS

if TYPE_CHECKING:
    from tests.operators.conftest import Desk
    from tests.ui.world import World

__all__ = ["desk"]

_RUNS = itertools.count()
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
REQUESTS = [{"id": name, "prompt": f"A {name}"} for name in ("panda", "otter", "heron")]


@dataclass
class Batches:
    """Batches that really ran, put into Airflow's database as it would have them."""

    world: World
    desk: Desk

    def __post_init__(self) -> None:
        self.world.dag_id = "dag"  # as tests.operators.conftest has it
        self.run_id = f"batch-{next(_RUNS)}"
        self.run = self.world.add_run(self.run_id)

    def draw(self, requests: Any = REQUESTS, **arguments: Any) -> dict[str, Any]:
        """Run a batch as task `generate`, and return its result."""
        return self.desk.run_batch(requests, run_id=self.run_id, on_item_failure="keep", **arguments)

    def add(self, *, fields: Any = FIELDS, **task: Any) -> None:
        """Let Airflow have a task instance of it."""
        self.world.add_task(run=self.run, run_id=self.run_id, fields=fields, **task)

    def add_finished(self, result: dict[str, Any], **task: Any) -> None:
        self.add(xcoms={"return_value": result, BATCH_KEY: self.note(result)}, **task)

    def note(self, result: dict[str, Any]) -> dict[str, Any]:
        """Return what the batch said when it began."""
        manifest = result["manifest_uri"]
        return {
            "folder_uri": f"{manifest.rpartition('/')[0]}/",
            "manifest_uri": manifest,
            "items": result["items"],
        }

    def data(self, **query: Any) -> dict[str, Any]:
        return self.world.data(self.run_id, **query)

    def image(self, item: str, **query: Any) -> Any:
        return self.world.ask("image", run_id=self.run_id, task_id="generate", item=item, **query)

    def delete(self, uri: str) -> None:
        self.world.s3.delete_object(Bucket=self.world.bucket, Key=uri.partition(f"{self.world.bucket}/")[2])


@pytest.fixture
def batches(world: World, desk: Desk) -> Batches:
    return Batches(world, desk)


def items(view: dict[str, Any]) -> list[tuple[str | None, str]]:
    return [(tile["item"], tile["kind"]) for tile in view["tiles"]]


def test_a_finished_batch_shows_its_items_in_the_order_of_the_requests(batches: Batches) -> None:
    batches.desk.gateway.inject(Fault("content_refused", prompt="otter"))
    batches.add_finished(batches.draw())
    view = batches.data()

    assert items(view) == [("panda", "image"), ("otter", "failure"), ("heron", "image")]
    assert view["tiles"][1]["error"] == "ContentRefused"
    assert view["figures"] == {
        "images": 2, "cost_usd": 0.08, "unpriced": 0, "reused": 0, "failed": 1, "refused": 1, "not_sent": 0,
        "unknown_outcomes": 0,
    }  # fmt: skip
    assert items(batches.data(only_failures=True)) == [("otter", "failure")]
    assert batches.data(limit=0)["total"] == 3


def test_each_image_of_an_item_is_the_one_in_its_line(batches: Batches) -> None:
    batches.add_finished(batches.draw([{"id": "a/b ☃", "prompt": "A panda", "n": 2}]))
    [line] = batches.desk.manifest()

    for picture in line["images"]:
        answer = batches.image("a/b ☃", index=picture["index"])
        assert answer.content == batches.desk.read(picture["uri"])
    assert batches.image("a/b ☃", index=2).status_code == 404
    assert batches.image("no such item").status_code == 404
    assert batches.world.ask("image", run_id=batches.run_id, task_id="generate").status_code == 404


def test_a_running_batch_shows_what_is_stored_with_its_prompts_and_its_progress(batches: Batches) -> None:
    result = batches.draw()
    batches.delete(result["manifest_uri"])
    batches.add(state="running", xcoms={BATCH_KEY: {**batches.note(result), "items": 10}})
    view = batches.data()

    assert sorted(items(view)) == [(name, "image") for name in ("heron", "otter", "panda")]
    assert {tile["prompt"] for tile in view["tiles"]} == {"A panda", "A otter", "A heron"}
    assert view["figures"]["images"] == 3
    assert view["figures"]["cost_usd"] == 0.12
    [progress] = view["progress"]
    assert (progress["items"], progress["stored"], progress["in_flight"]) == (10, 3, 0)
    [line] = [tile for tile in view["tiles"] if tile["item"] == "panda"]
    assert batches.image("panda").content == batches.desk.read(line["uri"])


def test_a_running_batch_shows_what_is_new_when_it_is_looked_at_again(
    batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow_provider_aisa.ui import running

    monkeypatch.setattr(running, "_LOOKS_EVERY", 0.0)
    result = batches.draw(REQUESTS[:1])
    batches.add(state="running", xcoms={BATCH_KEY: batches.note(result)})
    assert items(batches.data()) == [("panda", "image")]

    batches.draw(REQUESTS, tries=2)
    shown = items(batches.data())
    assert shown[0] == ("panda", "image")  # what is there keeps its place
    assert sorted(shown) == [(name, "image") for name in ("heron", "otter", "panda")]


def test_requests_under_way_are_counted_and_not_shown(batches: Batches) -> None:
    result = batches.draw()
    [key] = [
        key
        for key in batches.desk.all_keys()
        if "/items/" in key and b'"panda"' in batches.desk.read(f"s3://{batches.world.bucket}/{key}")
    ]
    entry = json.loads(batches.desk.read(f"s3://{batches.world.bucket}/{key}"))
    claimed = {**entry, "state": "claimed", "images": [], "response": None}
    batches.world.s3.put_object(Bucket=batches.world.bucket, Key=key, Body=json.dumps(claimed).encode())
    batches.add(state="running", xcoms={BATCH_KEY: batches.note(result)})
    view = batches.data()

    assert sorted(items(view)) == [("heron", "image"), ("otter", "image")]
    assert view["progress"][0]["in_flight"] == 1


def test_a_batch_that_failed_shows_its_items_and_why(batches: Batches) -> None:
    batches.desk.gateway.inject(Fault("content_refused", prompt="otter"))
    with pytest.raises(ItemsFailed) as raised:
        batches.desk.run_batch(REQUESTS, run_id=batches.run_id)
    [key] = [key for key in batches.desk.all_keys() if "/manifest-" in key]
    note = batches.note({"manifest_uri": f"s3://{batches.world.bucket}/{key}", "items": 3})
    failure = {"error": "ItemsFailed", "message": str(raised.value)}
    batches.add(state="failed", began=LONG_AGO, xcoms={BATCH_KEY: note, FAILURE_KEY: failure})
    view = batches.data()

    assert items(view) == [("panda", "image"), ("otter", "failure"), ("heron", "image")]
    assert [problem["message"] for problem in view["problems"]] == [str(raised.value)]
    assert (view["figures"]["images"], view["figures"]["refused"], view["progress"]) == (2, 1, [])


@pytest.mark.parametrize("manifest", ["missing", "of an earlier try"])
def test_a_batch_whose_last_try_was_killed_shows_what_its_journal_has(
    batches: Batches, manifest: str
) -> None:
    result = batches.draw(REQUESTS[:1])
    if manifest == "missing":
        batches.delete(result["manifest_uri"])
    began = datetime.now(UTC) + timedelta(seconds=60)
    batches.add(state="failed", began=began, xcoms={BATCH_KEY: batches.note(result)})

    assert items(batches.data()) == [("panda", "image")]
    assert batches.image("panda").status_code == 200


def test_a_manifest_that_was_deleted_is_said_to_be_deleted(batches: Batches) -> None:
    result = batches.draw()
    batches.add_finished(result)
    batches.delete(result["manifest_uri"])
    view = batches.data()

    assert [tile["kind"] for tile in view["tiles"]] == ["missing"] * 3
    assert {tile["message"] for tile in view["tiles"]} == {
        f"The manifest was deleted from S3: {result['manifest_uri']} is not there any more."
    }


def test_damaged_lines_of_a_manifest_are_left_out(batches: Batches) -> None:
    result = batches.draw()
    batches.add_finished(result)
    first, second, third = batches.desk.read(result["manifest_uri"]).splitlines()
    damaged = [first, b"{", b"[]", b'{"id": 1}', second[:50], b"[" * 100_000, first, b"\xff\xfe", third]
    key = result["manifest_uri"].partition(f"{batches.world.bucket}/")[2]
    batches.world.s3.put_object(Bucket=batches.world.bucket, Key=key, Body=b"\n".join(damaged))

    assert items(batches.data()) == [("panda", "image"), ("heron", "image"), (None, "missing")]


def test_a_manifest_that_was_written_anew_is_read_anew(batches: Batches) -> None:
    batches.desk.gateway.inject(Fault("content_refused", prompt="otter"))
    batches.add_finished(batches.draw())
    assert batches.data()["tiles"][1]["kind"] == "failure"
    batches.draw(tries=2)

    assert [tile["kind"] for tile in batches.data()["tiles"]] == ["image"] * 3


def test_the_manifest_of_another_dags_batch_shows_nothing_when_ones_own_xcom_names_it(
    batches: Batches,
) -> None:
    """Its address can be worked out by whoever knows a run's id; its folder belongs to who paid."""
    theirs = batches.draw()
    world = batches.world
    world.dag_id = "another-dag"
    run = world.add_run(batches.run_id)
    for task_id, key, state in (("a", "return_value", "success"), ("b", BATCH_KEY, "running")):
        value = theirs if key == "return_value" else batches.note(theirs)
        world.add_task(task_id, run=run, run_id=batches.run_id, state=state, xcoms={key: value})
    view = world.data(batches.run_id)

    assert {tile["kind"] for tile in view["tiles"]} == {"missing"}
    assert all("does not belong to this task instance" in tile["message"] for tile in view["tiles"])
    assert ["does not belong" in problem["message"] for problem in view["problems"]] == [True]
    for task_id in ("a", "b"):
        answer = world.ask("image", run_id=batches.run_id, task_id=task_id, item="panda")
        assert answer.status_code == 403
        assert answer.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    "change",
    [
        {"manifest_uri": "s3://{bucket}/elsewhere/manifest.jsonl"},
        {"manifest_uri": "s3://other/{key}"},
        {"folder_uri": "s3://{bucket}/"},
        {"folder_uri": "http://169.254.169.254/"},
        {"folder_uri": None},
    ],
)
def test_a_note_that_points_elsewhere_is_no_note(batches: Batches, change: dict[str, Any]) -> None:
    result = batches.draw()
    key = result["manifest_uri"].partition(f"{batches.world.bucket}/")[2]
    changed = {
        name: value and value.format(bucket=batches.world.bucket, key=key) for name, value in change.items()
    }
    batches.add(state="running", xcoms={BATCH_KEY: {**batches.note(result), **changed}})

    assert [tile["kind"] for tile in batches.data()["tiles"]] == ["waiting"]
    assert batches.image("panda").status_code == 404


def test_batches_that_share_an_idempotency_key_each_show_the_shared_folder(batches: Batches) -> None:
    result = batches.draw(idempotency_key="spring")
    batches.add_finished(result, fields={**FIELDS, "idempotency_key": "spring"})

    assert len(batches.data()["tiles"]) == 3
    assert batches.image("panda").status_code == 200


def test_a_run_without_rendered_fields_still_shows_the_batch_with_a_key_of_its_dag(batches: Batches) -> None:
    batches.add_finished(batches.draw(idempotency_key="spring"), fields=None)

    assert [tile["kind"] for tile in batches.data()["tiles"]] == ["image"] * 3


def test_chunks_of_a_mapped_batch_follow_each_other(batches: Batches) -> None:
    for map_index, some in enumerate((REQUESTS[:2], REQUESTS[2:])):
        batches.add_finished(batches.draw(some, map_index=map_index), map_index=map_index)

    assert items(batches.data()) == [("panda", "image"), ("otter", "image"), ("heron", "image")]
    assert items(batches.data(offset=1, limit=1)) == [("otter", "image")]
    assert items(batches.data(offset=2)) == [("heron", "image")]
    assert batches.image("heron", map_index=1).status_code == 200
    assert batches.image("heron", map_index=0).status_code == 404


def test_finished_batch_shows_the_prompts_that_its_journal_has(batches: Batches) -> None:
    """The manifest has none, so that refused prompts are nowhere."""
    batches.add_finished(batches.draw())

    assert [tile["prompt"] for tile in batches.data()["tiles"]] == ["A panda", "A otter", "A heron"]


def test_manifest_that_names_the_journal_of_another_task_shows_no_prompt_of_it(batches: Batches) -> None:
    mine = batches.draw()["manifest_uri"]
    secret = batches.desk.run_batch([{"id": "panda", "prompt": "Nobody may read this"}], idempotency_key="s")
    key = mine.partition(f"{batches.world.bucket}/")[2]
    forged = batches.desk.read(secret["manifest_uri"])
    batches.world.s3.put_object(Bucket=batches.world.bucket, Key=key, Body=forged)
    batches.add_finished({**secret, "manifest_uri": mine})
    [tile] = batches.data()["tiles"]

    assert tile["item"] == "panda"
    assert tile["prompt"] is None
