"""What importing the operator adds to a DAG file that imports BaseOperator anyway."""

from __future__ import annotations

import json
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.report import Table, verdict
from benchmarks.servers import environment, run_python

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

BASE = "from airflow.providers.common.compat.sdk import BaseOperator"
OURS = "import airflow_provider_aisa.operators.seedream"
TARGET = 0.05  # seconds
HEAVY = frozenset(
    {"PIL", "aiohttp", "airflow_provider_aisa.sandbox", "boto3", "botocore", "httpx", "pydantic"}
)
#: What Airflow's own import has left to be collected is not counted as ours.
_PROGRAM = """
import gc, json, sys, time
def now(): return [time.perf_counter(), time.process_time()]
began = now()
{base}
gc.collect()
between, before = now(), set(sys.modules)
{more}
after = now()
print(json.dumps([began, between, after, sorted(set(sys.modules) - before)]))
"""


class _Times(NamedTuple):
    """Seconds, and the CPU's: on a busy machine only these can be compared."""

    wall: float
    cpu: float

    def minus(self, other: _Times) -> _Times:
        return _Times(self.wall - other.wall, self.cpu - other.cpu)

    def text(self) -> tuple[str, str]:
        return f"{self.wall:.3f}", f"{self.cpu:.3f}"


@dataclass(frozen=True, slots=True)
class _Import:
    """One process: what everything took, what its last statement took, and which modules that loaded."""

    everything: _Times
    last: _Times
    modules: frozenset[str]


def main(runs: int) -> Table:
    """Import with and without the operator, in turn, in fresh processes."""
    with environment() as env:
        _import("", env)  # compiles the modules, and brings them into the system's cache
        _import(OURS, env)
        pairs = [(_import("", env), _import(OURS, env)) for _ in range(2 * runs + 1)]
    loaded = pairs[0][1].modules
    heavy = sorted(HEAVY & loaded)
    without = _medians(base.everything for base, _ in pairs)
    added = _medians(ours.everything.minus(base.everything) for base, ours in pairs)
    itself = _medians(ours.last for _, ours in pairs)
    return Table(
        "Import",
        ("what", "seconds", "CPU seconds"),
        (
            (f"`{BASE}`", *without.text()),
            ("the operator: difference of processes with and without it", *added.text()),
            ("the operator: its own import statement, after that one", *itself.text()),
        ),
        (
            f"Medians of {len(pairs)} pairs of fresh processes, taken in turn.",
            f"Modules added: {len(loaded)}; of {', '.join(sorted(HEAVY))}: {', '.join(heavy) or 'none'}.",
            verdict(
                f"under {TARGET} CPU seconds of its own, none of those", met=itself.cpu < TARGET and not heavy
            ),
        ),
    )


def _import(more: str, env: Mapping[str, str]) -> _Import:
    program = _PROGRAM.format(base=BASE, more=more)
    began, between, after, modules = json.loads(run_python("-c", program, env=env))
    end = _Times(*after)
    return _Import(end.minus(_Times(*began)), end.minus(_Times(*between)), frozenset(modules))


def _medians(times: Iterable[_Times]) -> _Times:
    return _Times(*map(median, zip(*times, strict=True)))
