"""What is paid for is fetched, and only what is missing; nothing is ever bought again by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_aisa.sandbox import Fault
from tests.crash.scene import IMAGES, check_stored, nth
from tests.crash.tripwire import Act

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.crash.scene import Scene
    from tests.crash.tripwire import Moment

    MakeScene = Callable[[bool], Scene]

both_forms = pytest.mark.parametrize("deferrable", [False, True], ids=["sync", "deferred"])


def kill(scene: Scene, label: str, moment: Moment, *, count: int = 1, **options: Any) -> None:
    """Run the task until it is killed at a request to the store."""
    scene.s3.script = nth(label, count, Act(moment, kill=scene.kill))
    assert scene.start(**options).wait().is_killed


@both_forms
def test_stored_images_are_not_fetched_again(make_scene: MakeScene, deferrable: bool) -> None:
    """With every image in the store, a second run asks the CDN for nothing."""
    scene = make_scene(deferrable)
    kill(scene, "PUT stored", "before")
    assert len(scene.sandbox.cdn_requests) == IMAGES

    outcome = scene.run(try_number=2)

    assert len(scene.sandbox.cdn_requests) == IMAGES
    check_stored(scene, outcome)


@both_forms
def test_only_missing_images_are_fetched(make_scene: MakeScene, deferrable: bool) -> None:
    """With one image in the store, a second run fetches the other one only."""
    scene = make_scene(deferrable)
    scene.sandbox.inject(Fault("cdn_slow", after=1, delay=3.0))  # The worker does not live to see its end.
    kill(scene, "PUT image", "after")
    fetched = {request.path for request in scene.sandbox.cdn_requests}
    (stored,) = (name for name in scene.objects() if name.endswith(".png"))
    assert len(fetched) == IMAGES

    outcome = scene.run(try_number=2)

    again = {request.path for request in scene.sandbox.cdn_requests[IMAGES:]}
    assert again == {path for path in fetched if not path.endswith(f"-{stored}")}
    check_stored(scene, outcome)


@pytest.mark.parametrize(
    ("label", "moment", "deferrable"),
    [
        ("GET journal", "after", False),
        ("HEAD image", "before", True),
        ("HEAD image", "after", False),
        ("PUT image", "before", True),
        ("PUT image", "half-way", False),
        ("PUT image", "after", True),
        ("PUT stored", "before", False),
        ("PUT stored", "after", True),
    ],
)
def test_resumed_worker_can_be_killed_as_well(
    make_scene: MakeScene, label: str, moment: Moment, deferrable: bool
) -> None:
    """A run that only fetches what is paid for may die anywhere: the third one ends it, at the same price."""
    scene = make_scene(deferrable)
    kill(scene, "PUT paid", "after")
    kill(scene, label, moment, try_number=2)

    outcome = scene.run(try_number=3)

    check_stored(scene, outcome)
    assert outcome.result["reused"]
    assert scene.posts == 1
    assert scene.lost() == 0


@both_forms
def test_finished_task_that_airflow_did_not_hear_of_returns_the_same(
    make_scene: MakeScene, deferrable: bool
) -> None:
    """A worker that dies after its last record costs nothing: its result is read back, word for word."""
    scene = make_scene(deferrable)
    first = scene.run()

    again = scene.run(try_number=2)

    assert again.result == {**first.result, "reused": True}
    assert scene.posts == 1
    assert len(scene.sandbox.cdn_requests) == IMAGES


@both_forms
def test_expired_link_names_image_and_cost_and_buys_nothing(make_scene: MakeScene, deferrable: bool) -> None:
    """However often Airflow tries, an image whose link is gone is an error that says what was paid."""
    scene = make_scene(deferrable)
    kill(scene, "PUT paid", "after")

    for try_number in (2, 3):
        scene.sandbox.inject(Fault("expired_link", times=IMAGES))
        error = scene.run(try_number=try_number).error

        assert error is not None
        assert error["error"] == "ImageLinkExpired"
        assert not error["retryable"]
        for part in ("Image 0", "2 image(s) are paid for", "$0.080", "on_existing='regenerate'"):
            assert part in error["message"]
        assert "http" not in error["message"]
        assert scene.sandbox.pending_faults == []
    assert scene.posts == 1


@both_forms
def test_expired_link_does_not_keep_the_other_images_back(make_scene: MakeScene, deferrable: bool) -> None:
    """Every image whose link still works is stored before the error is raised."""
    scene = make_scene(deferrable)
    kill(scene, "PUT paid", "after")
    scene.sandbox.inject(Fault("expired_link", after=1))

    error = scene.run(try_number=2).error

    assert error is not None
    assert error["error"] == "ImageLinkExpired"
    assert len([name for name in scene.objects() if name.endswith(".png")]) == 1
    check_stored(scene, scene.run(try_number=3))  # The fault was a passing one.
    assert scene.posts == 1


@both_forms
@pytest.mark.parametrize("on_existing", ["reuse", "regenerate"])
def test_a_persons_clear_buys_anew_only_when_asked_to(
    make_scene: MakeScene, on_existing: str, deferrable: bool
) -> None:
    """A Clear raises `max_tries`. Only with `regenerate` it pays again, and only for links that are gone."""
    scene = make_scene(deferrable)
    kill(scene, "PUT paid", "after")
    scene.sandbox.inject(Fault("expired_link", times=IMAGES))
    assert scene.run(try_number=2).error is not None
    scene.sandbox.inject(Fault("expired_link", times=IMAGES))

    outcome = scene.run(try_number=3, max_tries=5, on_existing=on_existing)

    if on_existing == "reuse":
        assert outcome.error is not None
        assert scene.posts == 1
    else:
        check_stored(scene, outcome)
        assert not outcome.result["reused"]
        assert outcome.result["unknown_outcomes"] == 0
        assert scene.posts == 2


@pytest.mark.parametrize(
    ("label", "deferrable"),
    [("PUT claimed", False), ("PUT paid", True), ("PUT image", False), ("PUT stored", True)],
)
def test_regenerating_worker_can_be_killed_as_well(
    make_scene: MakeScene, label: str, deferrable: bool
) -> None:
    """A Clear with `regenerate` that dies after any of its writes pays once: a retry is no second Clear."""
    scene = make_scene(deferrable)
    first = scene.run()
    kill(scene, label, "after", try_number=2, max_tries=4, on_existing="regenerate")

    outcome = scene.run(try_number=3, max_tries=4, on_existing="regenerate")

    check_stored(scene, outcome)
    assert outcome.result["request_id"] != first.result["request_id"]
    assert scene.sandbox.billed == 2 * IMAGES
    assert outcome.result["unknown_outcomes"] == (1 if label == "PUT claimed" else 0)


@both_forms
def test_two_live_copies_pay_once(make_scene: MakeScene, deferrable: bool) -> None:
    """While one copy waits for its response, another one waits for that copy, and both return the same."""
    scene = make_scene(deferrable)
    scene.sandbox.latency = 1.0
    copies = [scene.start(timeout=30.0) for _ in range(2)]

    one, other = (copy.wait().result for copy in copies)

    assert {**one, "reused": True} == {**other, "reused": True}
    assert scene.posts == 1
