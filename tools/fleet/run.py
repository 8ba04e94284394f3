"""All scenarios on one fleet, and the table of what was counted. `python -m tools.fleet` starts it."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tools.airflow_run import AirflowError
from tools.fleet.double import deliver_twice
from tools.fleet.measure import measure
from tools.fleet.report import Finding, table
from tools.fleet.scene import IN_FLIGHT, open_scene
from tools.fleet.services import ServiceError
from tools.fleet.storm import StormError, storm
from tools.seaweedfs import SeaweedFSError

FAILURES = (AirflowError, ServiceError, StormError, SeaweedFSError)


def main() -> int:
    """Run the scenarios; return 1 when a promise is broken or the fleet fails."""
    parser = argparse.ArgumentParser(prog="python -m tools.fleet", description=__doc__)
    parser.add_argument("--items", type=int, default=500, help="in the batches of 50")
    parser.add_argument("--tasks", type=int, default=200, help="deferred ones")
    parser.add_argument("--keep", type=Path, help="an empty folder for logs and data, which stays")
    parser.add_argument("--measure", action="store_true", help="only the figures of docs/scaling.md")
    options = parser.parse_args()
    if options.measure:
        print(measure(print))
        return 0
    try:
        with tempfile.TemporaryDirectory(prefix="aisa-fleet-") as folder:
            findings = run(options.keep or Path(folder), options.items, options.tasks)
    except FAILURES as error:
        print(f"The fleet failed: {error}", file=sys.stderr)
        return 1
    print(table(findings))
    return int(not all(finding.holds for finding in findings))


def run(folder: Path, items: int, tasks: int) -> list[Finding]:
    """Start the fleet, run all scenarios on it, end it, and return what was counted."""
    started = time.monotonic()

    def say(message: str) -> None:
        print(f"[{time.monotonic() - started:5.0f} s] {message}", flush=True)

    folder.chmod(0o755)  # PostgreSQL runs as another user
    say("Starting PostgreSQL, Redis, SeaweedFS, three sandboxes and Airflow")
    with open_scene(folder, config={}) as scene:
        fleet = scene.fleet
        for dag_id in ("chunks", "deferred", "slow"):
            fleet.unpause(dag_id)
        fleet.pool("aisa", IN_FLIGHT)
        say("The fleet is ready")
        findings = storm(scene, items, tasks, say)
        say("The storm is over; counted")
        findings += deliver_twice(scene, say)
        restarts = ", ".join(f"{name} {count}x" for name, count in fleet.restarts().items())
        say(f"Parts that had to be started again: {restarts}. Stopping everything")
    say("Nothing is left running")
    return findings


if __name__ == "__main__":
    sys.exit(main())
