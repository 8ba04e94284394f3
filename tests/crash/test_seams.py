"""Where a purchase was once paid for twice, lost or left unsaid: real workers, a real store, real sockets.

The other seams need no process: `tests/paying` tells them on fakes.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_aisa.sandbox import Fault, FaultKind
from tests.crash.meddler import Meddler
from tests.crash.scene import IMAGES, TIMEOUT, check_stored, nth
from tests.crash.tripwire import Act
from tests.crash.worker import CLAIM_MARGIN

if TYPE_CHECKING:
    from collections.abc import Callable

    from mypy_boto3_s3 import S3Client

    from tests.crash.meddler import Meddling
    from tests.crash.scene import Scene
    from tests.crash.tripwire import Seen

    MakeScene = Callable[[bool], Scene]

both_forms = pytest.mark.parametrize("deferrable", [False, True], ids=["sync", "deferred"])


@pytest.fixture
def meddler(s3_client: S3Client, warm_bucket: str) -> Meddler:
    """Return somebody who changes journals past the tripwire."""
    return Meddler(s3_client, warm_bucket)


@both_forms
@pytest.mark.parametrize("meddling", ["delete", "rewrite"])
@pytest.mark.parametrize("delivery", ["at-least-once", "at-most-once"])
def test_a_journal_that_is_changed_in_flight_is_paid_for_once(
    make_scene: MakeScene, meddler: Meddler, meddling: Meddling, delivery: str, deferrable: bool
) -> None:
    scene = make_scene(deferrable)
    scene.s3.listener = meddler.watch
    scene.gateway.script = lambda _: meddler.act(meddling, scene.prompt)

    outcome = scene.start(timeout=30.0, delivery=delivery).wait()

    assert meddler.deleted + meddler.rewritten == 1
    check_stored(scene, outcome)
    assert (scene.posts, scene.sandbox.billed) == (1, IMAGES)
    assert outcome.result["unknown_outcomes"] == 0


@both_forms
def test_a_copy_that_takes_a_stale_claim_over_and_dies_unsent_loses_nothing(
    make_scene: MakeScene, deferrable: bool
) -> None:
    """The first copy has its response, and its record is so slow that its claim becomes stale."""
    scene = make_scene(deferrable)
    slow = Act("before", fault="slow", seconds=TIMEOUT + 3 * CLAIM_MARGIN + 4.0)
    scene.s3.script = nth("PUT paid", 1, slow)
    first = scene.start()
    scene.wait_until(lambda: scene.sandbox.billed == IMAGES)
    claims = len(scene.s3.accepted("PUT claimed"))
    delayed = scene.s3.script
    second = scene.start(try_number=2)
    scene.s3.script = lambda seen: _kill_after_claim(seen, second.kill) or delayed(seen)
    assert second.wait().is_killed
    scene.s3.script = delayed

    outcome = first.wait()

    assert len(scene.s3.accepted("PUT claimed")) == claims + 1
    check_stored(scene, outcome)
    assert (scene.posts, scene.sandbox.billed) == (1, IMAGES)
    assert outcome.result["unknown_outcomes"] == 1  # Nobody can know that the dead copy had sent nothing.


def _kill_after_claim(seen: Seen, kill: Callable[[], object]) -> Act | None:
    return Act("after", kill=kill) if seen.label == "PUT claimed" else None


@pytest.mark.parametrize(
    ("kind", "deferrable"),
    [("html_error", False), ("html_504", True), ("html_520", False), ("html_524", True)],
)
def test_what_a_proxy_hides_is_counted_and_at_most_once_sends_once(
    make_scene: MakeScene, kind: FaultKind, deferrable: bool
) -> None:
    scene = make_scene(deferrable)
    scene.sandbox.inject(Fault(kind, billed=True))

    refused = scene.start(delivery="at-most-once", timeout=30.0).wait()
    outcome = scene.run(try_number=2)

    assert refused.error is not None
    assert (refused.error["error"], refused.error["unknown_outcomes"]) == ("OutcomeUnknown", 1)
    check_stored(scene, outcome)
    assert (scene.posts, scene.sandbox.billed) == (2, 2 * IMAGES)
    assert outcome.result["unknown_outcomes"] == 1


def test_what_is_sent_again_after_a_proxys_page_is_told_in_the_result(make_scene: MakeScene) -> None:
    scene = make_scene(False)
    scene.sandbox.inject(Fault("html_524", billed=True, times=2))

    outcome = scene.start(timeout=30.0, max_retries=2).wait()

    check_stored(scene, outcome)
    assert (scene.posts, scene.sandbox.billed) == (3, 3 * IMAGES)
    assert outcome.result["unknown_outcomes"] == 2


@pytest.mark.parametrize(("kind", "deferrable"), [("drip_headers", False), ("drip_body", True)])
def test_an_answer_that_drips_ends_with_the_timeout_and_is_counted(
    make_scene: MakeScene, kind: FaultKind, deferrable: bool
) -> None:
    """Each byte comes long before a read would time out. The claim outlives the request all the same."""
    scene = make_scene(deferrable)
    scene.sandbox.inject(Fault(kind, delay=TIMEOUT / 20))

    refused = scene.start(delivery="at-most-once").wait()
    outcome = scene.run(try_number=2)

    assert refused.error is not None
    assert (refused.error["error"], refused.error["unknown_outcomes"]) == ("OutcomeUnknown", 1)
    check_stored(scene, outcome)
    assert (scene.posts, outcome.result["unknown_outcomes"]) == (2, 1)


@both_forms
def test_a_regeneration_whose_response_is_lost_leaves_the_old_result(
    make_scene: MakeScene, deferrable: bool
) -> None:
    scene = make_scene(deferrable)
    first = scene.run()
    scene.sandbox.inject(Fault("cut_after_billing"))
    anew: dict[str, Any] = {"try_number": 2, "max_tries": 4}

    lost = scene.run(**anew, on_existing="regenerate", delivery="at-most-once")
    again = scene.run(try_number=3, max_tries=6)

    assert lost.error is not None
    assert lost.error["error"] == "OutcomeUnknown"
    assert again.result["images"] == first.result["images"]
    assert (again.result["reused"], again.result["unknown_outcomes"]) == (True, 1)
    assert scene.posts == 2


@both_forms
def test_more_images_than_asked_for_are_not_stored(make_scene: MakeScene, deferrable: bool) -> None:
    scene = make_scene(deferrable)
    scene.sandbox.inject(Fault("more_images"))

    outcome = scene.run()

    check_stored(scene, outcome)
    assert len(json.dumps(outcome.result)) < 4_096


@both_forms
@pytest.mark.parametrize("arguments", [{"StorageClass": "CHEAP"}, {"ObjectLockLegalHoldStatus": "ON"}])
def test_what_the_store_refuses_at_the_upload_is_found_before_paying(
    make_scene: MakeScene, arguments: dict[str, str], deferrable: bool
) -> None:
    scene = make_scene(deferrable)

    error = scene.run(s3_extra_args=arguments).error

    assert error is not None
    assert error["error"] in {"StorageFailed", "InvalidRequest"}
    assert scene.posts == 0


@both_forms
def test_a_deleted_image_is_an_error_and_not_a_dead_uri(
    make_scene: MakeScene, s3_client: S3Client, warm_bucket: str, deferrable: bool
) -> None:
    scene = make_scene(deferrable)
    gone = scene.run().result["images"][1]["key"]
    s3_client.delete_object(Bucket=warm_bucket, Key=gone)

    error = scene.run(try_number=2).error

    assert error is not None
    assert error["error"] == "ImagesLost"
    assert gone in error["message"]
    assert scene.posts == 1
