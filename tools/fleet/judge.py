"""What became of the storm: each promise beside what was counted at the gateway, in S3 and in results.

That the blows did hit something is counted as well: a storm that missed proves nothing.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from tools.fleet.report import Finding, at_least, at_most, equal, within
from tools.fleet.scene import IN_FLIGHT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from airflow_provider_aisa.sandbox import Sandbox
    from tools.fleet.scene import Scene

CHUNK = 50  # items
REFUSED_SHARE = 0.01  # of the requests, answered with 429
STRUCK = ("worker", "triggerer-1", "triggerer-2")


def judge_chunks(scene: Scene, run_id: str, items: int) -> Iterator[Finding]:
    """Compare the mapped batches' manifests with the gateway's ledger and the bucket."""
    fleet, gateway = scene.fleet, scene.chunks
    yield (ended := equal("chunks: run", fleet.run_state("chunks", run_id), "success"))
    if not ended.holds:  # its results are not all there
        return
    lines: list[dict[str, Any]] = []
    for index in range(-(-items // CHUNK)):
        result = fleet.xcom("chunks", run_id, "generate", map_index=index)
        lines += scene.lines(result["manifest_uri"])
    stored = [line["id"] for line in lines if line["status"] == "stored"]
    yield at_most("chunks: most in flight", gateway.max_in_flight_seen, IN_FLIGHT)
    yield from judge_refusals("chunks", gateway)
    yield equal("chunks: items stored", len(set(stored)), items)
    yield equal("chunks: images in the bucket", len(scene.keys("chunks/")), items)
    unknown = {line["id"]: line["unknown_outcomes"] for line in lines}
    yield from judge_bill("chunks", gateway, received=len(stored), unknown=unknown)
    tries = fleet.tries("chunks", run_id, "generate")
    yield at_least("chunks: tasks tried again", sum(number > 1 for number in tries), 1)


def judge_deferred(scene: Scene, run_id: str, tasks: int) -> Iterator[Finding]:
    """Compare the deferred tasks' results with the gateway's ledger and the bucket."""
    fleet, gateway = scene.fleet, scene.deferred
    yield (ended := equal("deferred: run", fleet.run_state("deferred", run_id), "success"))
    if not ended.holds:
        return
    results = [fleet.xcom("deferred", run_id, "generate", map_index=index) for index in range(tasks)]
    yield from judge_refusals("deferred", gateway)
    images = sum(len(result["images"]) for result in results)
    yield equal("deferred: images in results", images, tasks)
    yield equal("deferred: images in the bucket", len(scene.keys("deferred/")), tasks)
    unknown = {f"deferred {index:03}": result["unknown_outcomes"] for index, result in enumerate(results)}
    yield from judge_bill("deferred", gateway, received=images, unknown=unknown)


def judge_refusals(what: str, gateway: Sandbox) -> Iterator[Finding]:
    """No more than one request in a hundred was refused for being too many."""
    refused = sum(request.status == 429 for request in gateway.requests)
    yield at_most(f"{what}: answers 429", refused, int(REFUSED_SHARE * len(gateway.requests)))


def judge_bill(
    what: str, gateway: Sandbox, *, received: int, unknown: Mapping[str, int]
) -> Iterator[Finding]:
    """Each image billed was received, or is listed by its prompt as a request without a response."""
    lost = sum(unknown.values())
    yield within(f"{what}: billed", gateway.billed, received, received + lost)
    billed = Counter(entry.prompt for entry in gateway.ledger)
    unsaid = [prompt for prompt, times in billed.items() if times > 1 + unknown.get(prompt, 0)]
    yield equal(f"{what}: billed again and not listed", len(unsaid), 0)
    yield at_least(f"{what}: requests whose sender was killed", lost, 1)


def judge_parts(scene: Scene) -> Iterator[Finding]:
    """Each part that was struck has been started again."""
    restarts = scene.fleet.restarts()
    for name in STRUCK:
        times = sum(count for part, count in restarts.items() if part.startswith(name))
        yield at_least(f"{name}: started again", times, 1)
