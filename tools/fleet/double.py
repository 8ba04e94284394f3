"""The classic double delivery: Redis hands a message out again while its task still runs.

It does so when a task takes longer than Celery's visibility timeout. Workers look for such messages when they
start and every hundred seconds, so one more worker is started here while the task runs.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from typing import TYPE_CHECKING

from tools.fleet.report import Finding, at_least, equal

if TYPE_CHECKING:
    from collections.abc import Callable

    from tools.fleet.scene import Scene

VISIBLE_AFTER = 5  # seconds, the visibility timeout
TAKES = 60.0  # seconds, of the one request: a worker takes up to half of it to start
TIMEOUT = 480.0
STARTED = re.compile(r"\[([0-9a-f-]+)\] Executing workload in Celery: .*log_path='dag_id=slow/")


def deliver_twice(scene: Scene, say: Callable[[str], None]) -> list[Finding]:
    """Run a task that outlasts the visibility timeout, and return what it cost."""
    fleet = scene.fleet
    impatient = {"AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT": str(VISIBLE_AFTER)}
    scene.slow.change(latency=TAKES)
    run = fleet.trigger("slow")
    fleet.wait_until(lambda: bool(scene.slow.requests), TIMEOUT, "the request of DAG 'slow'")
    asked = time.monotonic()
    fleet.wait_until(lambda: time.monotonic() - asked > VISIBLE_AFTER, TIMEOUT, "the visibility timeout")
    say(f"a worker joins with a visibility timeout of {VISIBLE_AFTER} s, while a request takes {TAKES:.0f} s")
    fleet.launch_worker("worker-3", environment=impatient)
    state = fleet.wait_for_run("slow", run, TIMEOUT)
    deliveries = Counter(STARTED.findall(fleet.worker_log()))
    return [
        equal("slow: run", state, "success"),
        at_least("slow: deliveries of its message", max(deliveries.values(), default=0), 2),
        equal("slow: billed", scene.slow.billed, 1),
        equal("slow: images in the bucket", len(scene.keys("slow/")), 1),
    ]
