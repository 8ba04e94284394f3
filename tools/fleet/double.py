"""The classic double delivery: Redis hands a message out again while its task still runs.

It does so when a task takes longer than Celery's visibility timeout. The second worker then starts the same
task instance beside the first.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from tools.fleet.report import Finding, at_least, equal

if TYPE_CHECKING:
    from collections.abc import Callable

    from tools.fleet.scene import Scene

VISIBLE_AFTER = 10  # seconds; of the workers, shorter than the task
TAKES = 45.0  # seconds; of the one request
TIMEOUT = 240.0
RECEIVED = re.compile(r"Task execute_workload\[([0-9a-f-]+)\] received")


def deliver_twice(scene: Scene, say: Callable[[str], None]) -> list[Finding]:
    """Run a task that outlasts the visibility timeout, and return what it cost."""
    fleet = scene.fleet
    impatient = {"AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT": str(VISIBLE_AFTER)}
    for name in ("worker-1", "worker-2"):
        fleet.end(name)
        fleet.launch_worker(name, environment=impatient)
    before = len(fleet.worker_log())
    scene.slow.change(latency=TAKES)
    run = fleet.trigger("slow")
    say(f"a task of {TAKES:.0f} s, with a visibility timeout of {VISIBLE_AFTER} s")
    state = fleet.wait_for_run("slow", run, TIMEOUT)
    deliveries = Counter(RECEIVED.findall(fleet.worker_log()[before:]))
    return [
        equal("slow: run", state, "success"),
        at_least("slow: deliveries of its message", max(deliveries.values(), default=0), 2),
        equal("slow: billed", scene.slow.billed, 1),
        equal("slow: images in the bucket", len(scene.keys("slow/")), 1),
    ]
