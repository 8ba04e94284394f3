"""The store fails in the moments that matter. What was paid for is neither lost nor paid for again."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from airflow_provider_aisa.sandbox import Fault
from tests.crash.scene import IMAGES, TIMEOUT, check_stored
from tests.crash.tripwire import Act
from tests.crash.worker import CLAIM_MARGIN

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.crash.scene import Scene
    from tests.crash.tripwire import Moment, Seen

    MakeScene = Callable[[bool], Scene]

#: How often boto3 sends a request that the store fails to answer.
BOTO_ATTEMPTS = 5


@pytest.mark.parametrize("label", ["PUT claimed", "PUT paid", "PUT image 0", "PUT stored"])
def test_write_whose_answer_is_lost_is_recognized_as_our_own(make_scene: MakeScene, label: str) -> None:
    """The store has written it and the connection dies: the repeated write finds what it wanted to write."""
    scene = make_scene(True)
    faults = [Act("after", fault="cut")]
    scene.s3.script = lambda seen: faults.pop() if faults and seen.label == label else None

    outcome = scene.start(timeout=30.0).wait()

    assert not faults
    check_stored(scene, outcome)
    assert outcome.result["unknown_outcomes"] == 0
    assert scene.sandbox.billed == IMAGES


def test_record_that_the_store_denies_having_written_does_not_keep_its_links(make_scene: MakeScene) -> None:
    """The store writes the record and says each time that it failed: the next record recognizes it."""
    scene = make_scene(False)
    scene.s3.script = _failing("PUT paid", "after", times=BOTO_ATTEMPTS)

    outcome = scene.start(timeout=30.0).wait()

    check_stored(scene, outcome)
    assert scene.sandbox.billed == IMAGES


def test_images_are_stored_although_nothing_could_be_recorded(make_scene: MakeScene) -> None:
    """No record of the response can be written: the worker that has it stores the images all the same."""
    scene = make_scene(False)
    scene.s3.script = _failing("PUT paid", "before")

    outcome = scene.start(timeout=30.0).wait()

    check_stored(scene, outcome)
    assert scene.sandbox.billed == IMAGES


def test_response_is_recorded_late_when_its_images_cannot_be_stored(make_scene: MakeScene) -> None:
    """The store fails while the response is to be recorded, and then an image cannot be fetched, either.

    The task fails. Its retry knows what is paid for, fetches it and buys nothing.
    """
    scene = make_scene(False)
    scene.s3.script = _failing("PUT paid", "before", times=BOTO_ATTEMPTS)
    scene.sandbox.inject(Fault("html_image"))

    error = scene.start(timeout=30.0, max_retries=0).wait().error
    outcome = scene.run(try_number=2)

    assert error is not None
    assert error["error"] == "ImageUnusable"
    check_stored(scene, outcome)
    assert outcome.result["unknown_outcomes"] == 0
    assert scene.sandbox.billed == IMAGES


@pytest.mark.parametrize("deferrable", [False, True], ids=["sync", "deferred"])
def test_claim_that_took_too_long_is_not_relied_on(make_scene: MakeScene, deferrable: bool) -> None:
    """A claim's answer comes when the claim is stale and another copy has paid: nothing is sent on it."""
    scene = make_scene(deferrable)
    slow = [Act("after", fault="slow", seconds=TIMEOUT + 3 * CLAIM_MARGIN + 2.0)]
    scene.s3.script = lambda seen: slow.pop() if slow and seen.label == "PUT claimed" else None

    late = scene.start()
    while slow:
        time.sleep(0.01)
    other = scene.start(try_number=2).wait()

    check_stored(scene, other)
    assert late.wait().result["images"] == other.result["images"]
    assert scene.sandbox.billed == IMAGES


def _failing(label: str, moment: Moment, *, times: int = 1_000) -> Callable[[Seen], Act | None]:
    faults = [Act(moment, fault="500")] * times
    return lambda seen: faults.pop() if faults and seen.label == label else None
