"""Work for the whole fleet while its parts are killed, and the counts that show what became of it.

Two runs share the fleet: ten mapped batches in a pool, and deferred tasks of another key. Everything is
judged by what the gateway billed, what lies in the bucket, and what the results say.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tools.fleet.report import Finding, at_most, equal, within
from tools.fleet.scene import IN_FLIGHT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_provider_aisa.sandbox import Sandbox
    from tools.fleet.scene import Scene

CHUNK = 50
POLL_SECONDS = 0.5
STORM_SECONDS = 420.0
REFUSED_SHARE = 0.01  # of the requests, answered with 429
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
    return [*judge_chunks(scene, runs["chunks"], items), *judge_deferred(scene, runs["deferred"], tasks)]


def blows(scene: Scene, items: int, tasks: int) -> list[Blow]:
    """Return what strikes when: each while the work that it endangers is under way."""
    fleet = scene.fleet
    return [
        Blow("worker-1 killed", lambda: fleet.kill("worker-1"), scene.chunks, items // 8),
        Blow("Redis cut off and restarted", scene.broker.restart, scene.chunks, items // 3),
        Blow("PostgreSQL cut off and restarted", scene.database.restart, scene.chunks, items // 2),
        Blow("triggerer-1 killed", lambda: fleet.kill("triggerer-1"), scene.deferred, tasks // 4),
        Blow("triggerer-2 replaced", lambda: fleet.replace("triggerer-2"), scene.deferred, tasks // 2),
    ]


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


def judge_chunks(scene: Scene, run_id: str, items: int) -> Iterator[Finding]:
    """Compare the mapped batches' manifests with the gateway's ledger and the bucket."""
    fleet = scene.fleet
    lines: list[dict[str, Any]] = []
    for index in range(-(-items // CHUNK)):
        result = fleet.xcom("chunks", run_id, "generate", map_index=index)
        lines += scene.lines(result["manifest_uri"])
    requests = scene.chunks.requests
    refused = sum(request.status == 429 for request in requests)
    yield equal("chunks: run", fleet.run_state("chunks", run_id), "success")
    yield at_most("chunks: most in flight", scene.chunks.max_in_flight_seen, IN_FLIGHT)
    yield at_most("chunks: answers 429", refused, int(REFUSED_SHARE * len(requests)))
    stored = [line["id"] for line in lines if line["status"] == "stored"]
    yield equal("chunks: items stored", len(set(stored)), items)
    yield equal("chunks: images in the bucket", len(scene.keys("chunks/")), items)
    unknown = {line["id"]: line["unknown_outcomes"] for line in lines}
    yield from judge_bill("chunks", scene.chunks, received=len(stored), unknown=unknown)


def judge_deferred(scene: Scene, run_id: str, tasks: int) -> Iterator[Finding]:
    """Compare the deferred tasks' results with the gateway's ledger and the bucket."""
    fleet = scene.fleet
    results = [fleet.xcom("deferred", run_id, "generate", map_index=index) for index in range(tasks)]
    yield equal("deferred: run", fleet.run_state("deferred", run_id), "success")
    images = sum(len(result["images"]) for result in results)
    yield equal("deferred: images in results", images, tasks)
    yield equal("deferred: images in the bucket", len(scene.keys("deferred/")), tasks)
    unknown = {f"deferred {index:03}": result["unknown_outcomes"] for index, result in enumerate(results)}
    yield from judge_bill("deferred", scene.deferred, received=images, unknown=unknown)


def judge_bill(what: str, gateway: Sandbox, *, received: int, unknown: dict[str, int]) -> Iterator[Finding]:
    """Each image billed was received, or is listed by its prompt as a request without a response."""
    lost = sum(unknown.values())
    yield within(f"{what}: billed", gateway.billed, received, received + lost)
    billed = Counter(entry.prompt for entry in gateway.ledger)
    unsaid = [prompt for prompt, times in billed.items() if times > 1 + unknown.get(prompt, 0)]
    yield equal(f"{what}: billed again and not listed", len(unsaid), 0)
