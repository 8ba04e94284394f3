"""The moments at which a worker is killed. Each says how far it had come: that decides what follows."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from airflow_provider_aisa.sandbox import CdnRequest, Fault, GatewayRequest
from tests.crash.scene import nth
from tests.crash.tripwire import Act

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.crash.scene import Scene
    from tests.crash.tripwire import Moment

    Arm = Callable[[Scene], None]

_GENERATION = 0.5  # seconds
_DOWNLOAD = 1.0


class Stage(Enum):
    """What was true when the worker died. The window that nobody can close is `BILLED`."""

    NOTHING = "nothing was claimed"
    CLAIMED = "claimed, and not billed"
    BILLED = "billed, and not recorded"
    PAID = "the response is recorded"


@dataclass(frozen=True)
class Point:
    """A moment. `arm` prepares the scene before the worker starts; `watch` kills it while it runs."""

    name: str
    stage: Stage
    arm: Arm = lambda _: None
    watch: Arm = lambda _: None
    only_deferred: bool = False


def _store(label: str, moment: Moment, *, count: int = 1) -> Arm:
    def arm(scene: Scene) -> None:
        scene.s3.script = nth(label, count, Act(moment, kill=scene.kill))

    return arm


def _gateway(moment: Moment) -> Arm:
    def arm(scene: Scene) -> None:
        scene.gateway.script = nth("POST", 1, Act(moment, kill=scene.kill))

    return arm


def _slow_generation(scene: Scene) -> None:
    scene.sandbox.latency = _GENERATION


def _while_generating(scene: Scene) -> None:
    scene.wait_until(lambda: scene.posts > 0)
    scene.kill()
    scene.wait_until(lambda: scene.sandbox.billed > 0)
    scene.sandbox.latency = 0.0


def _on_answer(kind: type[GatewayRequest] | type[CdnRequest], count: int = 1) -> Arm:
    """Kill when the sandbox has done its work and has not sent a byte of its answer."""

    def arm(scene: Scene) -> None:
        numbers = itertools.count(1)

        def on_request(request: GatewayRequest | CdnRequest) -> None:
            if isinstance(request, kind) and next(numbers) == count:
                scene.kill()

        scene.on_request = on_request

    return arm


def _slow_download(scene: Scene) -> None:
    scene.sandbox.inject(Fault("cdn_slow", delay=_DOWNLOAD))


def _while_downloading(scene: Scene) -> None:
    scene.wait_until(lambda: bool(scene.sandbox.cdn_requests))
    time.sleep(_DOWNLOAD / 2)  # Half of the image is there: that is the subject.
    scene.kill()


POINTS = (
    Point("the journal is asked for", Stage.NOTHING, _store("GET journal", "before")),
    Point("the journal's answer is on its way", Stage.NOTHING, _store("GET journal", "after")),
    Point(
        "the trigger asks for the journal",
        Stage.NOTHING,
        _store("GET journal", "before", count=2),
        only_deferred=True,
    ),
    Point("the claim is on its way", Stage.NOTHING, _store("PUT claimed", "before")),
    Point("half of the claim has arrived", Stage.NOTHING, _store("PUT claimed", "half-way")),
    Point("the claim is stored", Stage.CLAIMED, _store("PUT claimed", "after")),
    Point("the store is probed", Stage.CLAIMED, _store("PUT claimed", "after", count=2)),
    Point("the request is on its way", Stage.CLAIMED, _gateway("before")),
    Point("half of the request has arrived", Stage.CLAIMED, _gateway("half-way")),
    Point("the images are being generated", Stage.BILLED, _slow_generation, _while_generating),
    Point("billed, nothing answered", Stage.BILLED, _on_answer(GatewayRequest)),
    Point("the response is on its way", Stage.BILLED, _gateway("after")),
    Point("the response is there, not recorded", Stage.BILLED, _store("PUT paid", "before")),
    Point("half of the record has arrived", Stage.BILLED, _store("PUT paid", "half-way")),
    Point("the response is recorded", Stage.PAID, _store("PUT paid", "after")),
    Point("an image is asked for", Stage.PAID, _on_answer(CdnRequest)),
    Point("half of an image has arrived", Stage.PAID, _slow_download, _while_downloading),
    Point("the upload of an image begins", Stage.PAID, _store("PUT image", "before")),
    Point("half of an image is uploaded", Stage.PAID, _store("PUT image", "half-way")),
    Point("one image is stored", Stage.PAID, _store("PUT image", "after")),
    Point("half of the last image is uploaded", Stage.PAID, _store("PUT image", "half-way", count=2)),
    Point("all images are stored", Stage.PAID, _store("PUT image", "after", count=2)),
    Point("the final record is on its way", Stage.PAID, _store("PUT stored", "before")),
    Point("half of the final record has arrived", Stage.PAID, _store("PUT stored", "half-way")),
    Point("everything is recorded", Stage.PAID, _store("PUT stored", "after")),
)
