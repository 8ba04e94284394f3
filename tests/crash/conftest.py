"""What the proofs by crash share: a server of workers, one bucket, and the table of what became of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.crash.scene import Scene
    from tests.crash.workers import Workers
    from tools.seaweedfs import SeaweedFS

_ROW = "{:<36} {:<8} {:<25} {:>6} {:>14} {:>6} {:>4} {:>7}"
_HEADER = ("killed when", "form", "by then", "billed", "(at most once)", "stored", "lost", "unknown")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was billed, stored, lost and unknown after each crash, in images and requests."""
    properties = [
        (name, value)
        for report in terminalreporter.stats.get("passed", [])
        for name, value in report.user_properties
    ]
    for figures in (value for name, value in properties if name == "siege"):
        terminalreporter.section("what ten crashes cost, for a batch")
        for name, figure in figures.items():
            terminalreporter.line(f"{name:<52} {figure:>6}")
    rows = [value for name, value in properties if name == "crash"]
    if rows:
        terminalreporter.section("what a crash costs, for a task that asks for 2 images")
        terminalreporter.line(_ROW.format(*_HEADER))
        for _, *row in sorted(rows, key=lambda row: (row[2] == "deferred", row[0])):
            terminalreporter.line(_ROW.format(*row))


@pytest.fixture(scope="session")
def workers() -> Iterator[Workers]:
    """Run one server of workers per process: importing Airflow takes seconds."""
    from tests.crash.workers import Workers

    with Workers() as workers:
        yield workers


@pytest.fixture(scope="session")
def warm_bucket(s3_store: SeaweedFS) -> str:
    """Return a bucket that answers at once: the first write to a new one takes seconds."""
    bucket = s3_store.create_bucket("crash")
    client = s3_store.client()
    client.put_object(Bucket=bucket, Key="warm", Body=b"x")
    client.close()
    return bucket


@pytest.fixture
def make_scene(workers: Workers, s3_store: SeaweedFS, warm_bucket: str) -> Iterator[Callable[[bool], Scene]]:
    """Return a function that sets up a task: deferrable or not."""
    from contextlib import ExitStack

    from tests.crash.scene import Scene

    with ExitStack() as stack:
        yield lambda deferrable: stack.enter_context(
            Scene(workers=workers, store=s3_store, bucket=warm_bucket, deferrable=deferrable)
        )
