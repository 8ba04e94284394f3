"""A worker is killed at every step boundary and inside every step, in both forms, and Airflow runs it again.

The worker and its triggerer die by SIGKILL at what can be seen from outside; nothing in the code under test
knows of it. Sync: the scheduler finds a zombie and starts the next try. Deferred: the triggerer dies, and
another one runs the trigger again from the start, in the same try.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.crash.points import POINTS, Point, Stage
from tests.crash.scene import IMAGES, check_stored

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.crash.scene import Scene

    MakeScene = Callable[[bool], Scene]
    RecordProperty = Callable[[str, object], None]

FAMILIES = ("seedream", "wan")
FORMS = {False: "sync", True: "deferred"}
#: What Airflow changes in the second run.
AGAIN: dict[bool, dict[str, Any]] = {False: {"try_number": 2}, True: {}}
BILLED_BY_DEAD = {Stage.NOTHING: 0, Stage.CLAIMED: 0, Stage.BILLED: IMAGES, Stage.PAID: IMAGES}
THE_WINDOW = next(point for point in POINTS if point.name == "the response is there, not recorded")
CASES = [
    pytest.param(point, deferrable, id=f"{form}-{point.name.replace(' ', '_')}")
    for deferrable, form in FORMS.items()
    for point in POINTS
    if deferrable or not point.only_deferred
]


@pytest.mark.parametrize(("point", "deferrable"), CASES)
def test_killed_worker_pays_twice_only_in_the_window_and_says_so(
    make_scene: MakeScene, record_property: RecordProperty, point: Point, deferrable: bool
) -> None:
    """Only a worker that dies between billing and record costs more; `unknown_outcomes` counts it."""
    scene = make_scene(deferrable)
    # Two families whose images come as links take turns, each in both forms; Gemini's: test_kept.py.
    scene.family = FAMILIES[(POINTS.index(point) + deferrable) % 2]
    kill_at(point, scene)
    billed_at_most_once = scene.sandbox.billed
    if point.stage in {Stage.CLAIMED, Stage.BILLED}:
        check_refuses_to_send_again(scene)

    outcome = scene.run(**AGAIN[deferrable])

    check_stored(scene, outcome)
    unknown = outcome.result["unknown_outcomes"]
    assert scene.sandbox.billed == (2 * IMAGES if point.stage is Stage.BILLED else IMAGES)
    assert unknown == (1 if point.stage in {Stage.CLAIMED, Stage.BILLED} else 0)
    assert outcome.result["reused"] is (point.stage is Stage.PAID)
    assert scene.lost() == 0
    if point.stage is Stage.NOTHING:
        billed_at_most_once = scene.sandbox.billed
    row = [POINTS.index(point), point.name, FORMS[deferrable], point.stage.value, scene.sandbox.billed]
    record_property("crash", [*row, billed_at_most_once, IMAGES, scene.lost(), unknown])


@pytest.mark.parametrize("deferrable", FORMS, ids=FORMS.values())
def test_at_most_once_never_sends_a_second_request(make_scene: MakeScene, deferrable: bool) -> None:
    """With `delivery="at-most-once"` a request whose outcome is unknown fails the task for good."""
    scene = make_scene(deferrable)
    kill_at(THE_WINDOW, scene, delivery="at-most-once")

    for try_number in (2, 3):
        check_refuses_to_send_again(scene, try_number=try_number)

    assert scene.sandbox.billed == IMAGES


@pytest.mark.parametrize("deferrable", FORMS, ids=FORMS.values())
def test_every_death_in_the_window_is_counted(make_scene: MakeScene, deferrable: bool) -> None:
    """Two workers that die one after the other in the window are two unknown outcomes, not one."""
    scene = make_scene(deferrable)
    for deaths in (1, 2):
        THE_WINDOW.arm(scene)
        assert scene.start().wait().is_killed
        assert scene.sandbox.billed == deaths * IMAGES

    outcome = scene.run(**AGAIN[deferrable])

    check_stored(scene, outcome)
    assert outcome.result["unknown_outcomes"] == 2
    assert scene.sandbox.billed == 3 * IMAGES


def kill_at(point: Point, scene: Scene, **options: Any) -> None:
    """Start the task and kill it; what the dead worker was billed for is what the point says."""
    point.arm(scene)
    run = scene.start(**options)
    point.watch(scene)
    assert run.wait().is_killed
    assert scene.sandbox.billed == BILLED_BY_DEAD[point.stage]
    assert bool(scene.recorded()) is (point.stage is Stage.PAID)


def check_refuses_to_send_again(scene: Scene, *, try_number: int = 2) -> None:
    """Assert that an at-most-once try fails for good, and that the gateway hears nothing of it."""
    posts = scene.posts
    outcome = scene.run(delivery="at-most-once", try_number=try_number)
    assert outcome.error is not None
    assert outcome.error["error"] == "OutcomeUnknown"
    assert not outcome.error["retryable"]
    assert scene.posts == posts
