"""Work for the whole fleet while its parts are killed.

Two runs share the fleet: ten mapped batches in a pool, and deferred tasks of another key.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tools.fleet.judge import CHUNK, judge_chunks, judge_deferred, judge_parts
from tools.fleet.scene import LONGEST

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_aisa.sandbox import Sandbox
    from tools.fleet.report import Finding
    from tools.fleet.scene import Scene

POLL_SECONDS = 0.5
STORM_SECONDS = 900.0  # 300 on two idle cores
FINAL = ("success", "failed")


@dataclass
class Blow:
    """Something that is done to the fleet once so many images are billed."""

    name: str
    strike: Callable[[], None]
    sandbox: Sandbox
    after: int


class StormError(RuntimeError):
    """The storm did not come to its end; the message says what was still missing."""


def storm(scene: Scene, items: int, tasks: int, say: Callable[[str], None]) -> list[Finding]:
    """Run both DAGs, strike every blow while they run, and return what was counted."""
    fleet = scene.fleet
    file = scene.upload_requests(items)
    runs = {
        "chunks": fleet.trigger("chunks", {"file": file, "size": CHUNK}),
        "deferred": fleet.trigger("deferred", {"count": tasks}),
    }
    weather(scene, runs, blows(scene, items, tasks), say)
    return [
        *judge_chunks(scene, runs["chunks"], items),
        *judge_deferred(scene, runs["deferred"], tasks),
        *judge_parts(scene),
    ]


def blows(scene: Scene, items: int, tasks: int) -> list[Blow]:
    """Return what strikes when: each while the work that it endangers is under way."""
    fleet = scene.fleet
    left = ["triggerer-1", "triggerer-2"]

    def kill_worker() -> None:
        fleet.kill(fleet.busiest_worker("chunks", "generate"))

    def kill_triggerer() -> None:
        left.remove(victim := waiting_triggerer(scene, left))
        fleet.kill(victim)

    return [
        Blow("a worker killed", kill_worker, scene.chunks, items // 8),
        Blow("Redis cut off and restarted", scene.broker.restart, scene.chunks, items // 3),
        Blow("PostgreSQL cut off and restarted", scene.database.restart, scene.chunks, items // 2),
        Blow("a triggerer killed", kill_triggerer, scene.deferred, tasks // 4),
        Blow("the other triggerer replaced", lambda: fleet.replace(left[0]), scene.deferred, tasks // 2),
    ]


def waiting_triggerer(scene: Scene, names: list[str]) -> str:
    """Return the first triggerer that waits for two responses: one may arrive before it is struck."""
    gateway = scene.deferred
    port = urlsplit(gateway.base_url).port or 0
    found: list[str] = []

    def look() -> bool:
        gateway.change(latency=LONGEST)
        found.extend(name for name in names if scene.fleet.connections(name, port) > 1)
        return bool(found)

    scene.fleet.wait_until(look, STORM_SECONDS, "a triggerer with requests under way")
    return found[0]


def weather(scene: Scene, runs: dict[str, str], coming: list[Blow], say: Callable[[str], None]) -> None:
    """Strike blow after blow, and wait for the end of the runs.

    Raises StormError when that takes too long, or when the runs ended before every blow was struck.
    """
    deadline, said = time.monotonic() + STORM_SECONDS, 0.0
    while True:
        states = {dag: scene.fleet.run_state(dag, run) for dag, run in runs.items()}
        for blow in [blow for blow in coming if blow.sandbox.billed >= blow.after]:
            say(f"{blow.name}, after {blow.sandbox.billed} images")
            blow.strike()
            coming.remove(blow)
        if all(state in FINAL for state in states.values()):
            break
        progress = f"chunks {states['chunks']}, {scene.chunks.billed} billed; "
        progress += f"deferred {states['deferred']}, {scene.deferred.billed} billed"
        if time.monotonic() > deadline:
            raise StormError(f"not over after {STORM_SECONDS:.0f} s: {progress}")
        if time.monotonic() - said > 10:
            say(progress)
            said = time.monotonic()
        scene.fleet.keep_alive()
        time.sleep(POLL_SECONDS)
    if coming:
        raise StormError(f"all was done before this could strike: {', '.join(blow.name for blow in coming)}")
