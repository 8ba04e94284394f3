"""What the pages are told: every image, every failure and every cost of a run, and of nothing else."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event

from airflow_provider_aisa.ui.notes import FAILURE_KEY
from tests.ui.world import BEGAN, FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.ui.world import World

REFUSED = {
    "error": "ContentRefused",
    "message": "the prompt was refused. Change it.",
    "code": "content_policy_violation",
    "request_id": "req_2",
    "unknown_outcomes": 0,
}
LOST = {**REFUSED, "error": "OutcomeUnknown", "message": "look at the usage page", "unknown_outcomes": 1}
FOREIGN = {"bash_command": 'echo "on_existing": "idempotency_key":'}


def image(number: int, **changes: Any) -> dict[str, Any]:
    """Return an image that nobody looks at."""
    key = f"images/{number}.png"
    return {
        "index": 0, "uri": f"s3://bucket/{key}", "bucket": "bucket", "key": key, "width": 64, "height": 48,
        "size": "64x48", "content_type": "image/png", "bytes": 100, "sha256": f"{number:064x}", **changes,
    }  # fmt: skip


@pytest.fixture
def statements(airflow_app: Any) -> Iterator[list[str]]:
    """Return what is asked of the database from now on, but for what decides who may see it."""
    from airflow import settings

    asked: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        if "FROM dag_run" in statement or "xcom" in statement or "rendered_task" in statement:
            asked.append(statement)

    event.listen(settings.engine, "before_cursor_execute", note)
    yield asked
    event.remove(settings.engine, "before_cursor_execute", note)


def kinds(view: dict[str, Any]) -> list[tuple[str, str]]:
    return [(tile["task_id"], tile["kind"]) for tile in view["tiles"]]


def test_a_run_shows_all_images_of_all_its_tasks_in_the_order_in_which_they_began(world: World) -> None:
    run = world.add_run()
    later = BEGAN + timedelta(minutes=1)
    world.add_task("a_later_task", run=run, began=later, xcoms={"return_value": world.result(image(1))})
    for map_index in (1, 0):
        result = world.result(image(10 + map_index))
        world.add_task(
            "motif", run=run, map_index=map_index, label=f"m{map_index}", xcoms={"return_value": result}
        )
    world.add_task(
        "cover", run=run, xcoms={"return_value": world.result(*(image(n, index=n) for n in range(4)))}
    )

    tiles = world.data()["tiles"]
    shown = [(tile["task_id"], tile["map_index"], tile["label"], tile["index"]) for tile in tiles]
    assert shown == [
        *(("cover", -1, None, index) for index in range(4)),
        ("motif", 0, "m0", 0),
        ("motif", 1, "m1", 0),
        ("a_later_task", -1, None, 0),
    ]


def test_a_tile_says_what_its_image_is_and_what_it_cost(world: World) -> None:
    run = world.add_run()
    fields = {**FIELDS, "prompt": "A red panda"}
    result = world.result(image(1), cost_usd=0.04, reused=True, unknown_outcomes=2)
    world.add_task(run=run, fields=fields, xcoms={"return_value": result})

    [tile] = world.data()["tiles"]
    assert tile == {
        "kind": "image", "task_id": "generate", "map_index": -1, "label": None, "item": None,
        "prompt": "A red panda", "index": 0, "width": 64, "height": 48, "bytes": 100, "sha256": f"{1:064x}",
        "uri": "s3://bucket/images/1.png", "model": "seedream-4-5-251128", "cost_usd": 0.04, "images": 1,
        "request_id": "req_1", "reused": True, "unknown_outcomes": 2,
    }  # fmt: skip


def test_the_figures_of_a_run_count_everything_once(world: World) -> None:
    run = world.add_run()
    results = [
        world.result(image(1), image(2), cost_usd=0.08),
        world.result(image(3), cost_usd=0.1, reused=True),
        world.result(image(4), cost_usd=None, unknown_outcomes=2),
    ]
    for map_index, result in enumerate(results):
        world.add_task(run=run, map_index=map_index, xcoms={"return_value": result})
    for task_id, note in (("refused", REFUSED), ("lost", LOST)):
        world.add_task(task_id, run=run, state="failed", xcoms={FAILURE_KEY: note})

    assert world.data()["figures"] == {
        "images": 4, "cost_usd": 0.18, "unpriced": 1, "reused": 1, "failed": 2, "refused": 1, "not_sent": 0,
        "unknown_outcomes": 3,
    }  # fmt: skip


def test_a_failed_task_is_a_tile_with_the_message_and_the_fix(world: World) -> None:
    run = world.add_run(state="failed")
    fields = {**FIELDS, "prompt": "A thing"}
    world.add_task(run=run, state="failed", fields=fields, xcoms={FAILURE_KEY: REFUSED})

    [tile] = world.data()["tiles"]
    assert (tile["kind"], tile["will_retry"], tile["prompt"]) == ("failure", False, "A thing")
    assert {name: tile[name] for name in REFUSED} == REFUSED


def test_a_task_of_ours_that_failed_without_a_note_points_to_its_log(world: World) -> None:
    """A worker that is killed leaves nothing but a state."""
    world.add_task(run=world.add_run(), state="failed")

    [tile] = world.data()["tiles"]
    assert (tile["kind"], tile["error"]) == ("failure", "Failed")
    assert "log" in tile["message"]


def test_a_task_that_is_tried_again_says_so(world: World) -> None:
    world.add_task(run=world.add_run(state="running"), state="up_for_retry", xcoms={FAILURE_KEY: LOST})

    [tile] = world.data()["tiles"]
    assert (tile["kind"], tile["will_retry"]) == ("failure", True)


@pytest.mark.parametrize("state", ["running", "deferred", "queued"])
def test_a_task_at_work_is_a_tile_that_waits(world: World, state: str) -> None:
    world.add_task(run=world.add_run(state="running"), state=state)
    view = world.data()

    assert kinds(view) == [("generate", "waiting")]
    assert view["run"]["is_over"] is False


@pytest.mark.parametrize("state", ["success", "failed", "running", None])
def test_tasks_of_others_have_no_tiles_and_are_not_called_ours(world: World, state: str) -> None:
    run = world.add_run()
    xcoms = {"return_value": {"images": [image(1)]}, "other": {"journal_uri": "s3://a/b"}}
    world.add_task("bash", run=run, state=state, fields=FOREIGN, xcoms=xcoms)
    view = world.data()

    assert view["tiles"] == []
    assert [(task["task_id"], task["is_ours"]) for task in view["tasks"]] == [("bash", False)]


def test_a_run_without_tasks_is_a_run(world: World) -> None:
    world.add_run(state="queued")

    assert (world.data()["tiles"], world.data()["tasks"]) == ([], [])


def test_a_task_and_an_instance_are_shown_by_themselves(world: World) -> None:
    run = world.add_run()
    for map_index in range(3):
        world.add_task(
            "motif", run=run, map_index=map_index, xcoms={"return_value": world.result(image(map_index))}
        )
    world.add_task("cover", run=run, xcoms={"return_value": world.result(image(9))})

    assert len(world.data(task_id="motif")["tiles"]) == 3
    assert [tile["map_index"] for tile in world.data(task_id="motif", map_index=1)["tiles"]] == [1]
    # What Airflow leaves in the address of a task that is not mapped:
    assert kinds(world.data(task_id="cover", map_index="{MAP_INDEX}")) == [("cover", "image")]
    assert world.data(task_id="no_such_task")["tasks"] == []


def test_pages_put_together_are_the_whole(world: World) -> None:
    run = world.add_run()
    for map_index in range(7):
        some = [image(100 * map_index + n, index=n) for n in range(map_index)]
        world.add_task(run=run, map_index=map_index, xcoms={"return_value": world.result(*some)})
    world.add_task("last", run=run, state="failed", xcoms={FAILURE_KEY: REFUSED})

    whole = world.data(limit=200)["tiles"]
    for size in (1, 2, 5, 21, 22, 23):
        pages = [world.data(offset=offset, limit=size)["tiles"] for offset in range(0, 30, size)]
        assert [tile for page in pages for tile in page] == whole
    assert len(whole) == world.data(limit=0)["total"] == 22


def test_only_one_task_or_only_failures_are_shown_while_the_figures_stay_those_of_the_run(
    world: World,
) -> None:
    run = world.add_run()
    world.add_task("good", run=run, xcoms={"return_value": world.result(image(1), image(2))})
    world.add_task("bad", run=run, state="failed", xcoms={FAILURE_KEY: REFUSED})
    whole = world.data()

    only_good, only_failures = world.data(only_task="good"), world.data(only_failures=True)
    assert kinds(only_good) == [("good", "image")] * 2
    assert kinds(only_failures) == [("bad", "failure")]
    assert (only_good["total"], only_failures["total"]) == (2, 1)
    assert only_good["figures"] == only_failures["figures"] == whole["figures"]
    assert only_good["tasks"] == only_failures["tasks"] == whole["tasks"]


def test_a_prompt_that_airflow_has_cut_is_shown_without_its_remark(world: World) -> None:
    cut = (
        "Truncated. You can change this behaviour in [core]max_templated_field_length. "
        "'A red panda who reads a map on... "
    )
    world.add_task(
        run=world.add_run(), fields={**FIELDS, "prompt": cut}, xcoms={"return_value": world.result(image(1))}
    )

    assert world.data()["tiles"][0]["prompt"] == "A red panda who reads a map on…"


@pytest.mark.parametrize(
    "prompt", ["<img src=x onerror=alert(1)>", "half \ud800 a character", "☃" * 5000, "\0"]
)
def test_any_prompt_reaches_the_page_as_text(world: World, prompt: str) -> None:
    fields = {**FIELDS, "prompt": prompt}
    world.add_task(run=world.add_run(), fields=fields, xcoms={"return_value": world.result(image(1))})

    answer = world.ask("data/run", run_id="run")
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json()["tiles"][0]["prompt"] == prompt[:2000]


def test_a_page_asks_the_database_twice_however_many_tasks_there_are(
    world: World, statements: list[str]
) -> None:
    run = world.add_run()
    for map_index in range(150):
        world.add_task(run=run, map_index=map_index, xcoms={"return_value": world.result(image(map_index))})
    del statements[:]
    world.data(limit=100)

    assert len(statements) == 2


def test_other_tasks_values_stay_in_the_database(world: World) -> None:
    """They may be large, and are nobody's business here."""
    from airflow_provider_aisa.ui.database import read_run

    run = world.add_run()
    large = {"rows": ["x" * 1000] * 1000}
    world.add_task("other", run=run, fields=FOREIGN, xcoms={"return_value": large, "some_key": large})
    world.add_task(run=run, xcoms={"return_value": world.result(image(1)), "some_key": large})
    found = read_run(world.dag_id, "run")

    assert found is not None
    assert {one.task_id: list(one.values) for one in found[1]} == {"other": [], "generate": ["return_value"]}


def test_a_dag_shows_its_last_runs_the_newest_first_with_what_they_cost(
    world: World, statements: list[str]
) -> None:
    for number in range(35):
        run_id = f"run-{number}"
        run = world.add_run(run_id, after=number)
        result = world.result(image(number), cost_usd=number / 100)
        world.add_task(run=run, run_id=run_id, xcoms={"return_value": result})
    del statements[:]
    runs = world.ask("data/dag").json()["runs"]

    assert [run["run_id"] for run in runs] == [f"run-{number}" for number in range(34, 4, -1)]
    assert [run["figures"]["cost_usd"] for run in runs] == [number / 100 for number in range(34, 4, -1)]
    assert len(statements) == 1


def test_a_dag_without_runs_and_runs_without_images_are_shown_as_such(world: World) -> None:
    assert world.ask("data/dag").json() == {"runs": []}
    world.add_task("other", run=world.add_run(), fields=FOREIGN)

    [run] = world.ask("data/dag").json()["runs"]
    assert run["figures"]["images"] == 0
