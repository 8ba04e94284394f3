"""What the table of `make e2e-celery` says of a storm that went well, and of each way it can go wrong."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_aisa.sandbox import GatewayRequest, LedgerEntry
from tools.fleet.judge import CHUNK, judge_chunks, judge_deferred, judge_parts
from tools.fleet.report import Finding, at_least, at_most, equal, table, within
from tools.fleet.scene import IN_FLIGHT
from tools.fleet.storm import Blow, StormError, weather

if TYPE_CHECKING:
    from collections.abc import Callable

ITEMS = TASKS = 2 * CHUNK
UNKNOWN = 3  # items whose response got lost


@dataclass
class Gateway:
    """What a sandbox has seen: one bill for each prompt, and a second one where the response got lost."""

    ledger: list[LedgerEntry] = field(default_factory=list)
    requests: list[GatewayRequest] = field(default_factory=list)
    max_in_flight_seen: int = IN_FLIGHT

    @property
    def billed(self) -> int:
        return len(self.ledger)

    def serve(self, prompt: str, status: int | None = 200) -> None:
        now = datetime.now(UTC)
        self.requests.append(
            GatewayRequest(
                request_id=str(len(self.requests)),
                method="POST",
                path="/v1/images/generations",
                headers={},
                body=b"",
                time=now,
                status=status,
            )
        )
        if status != 429:
            self.ledger.append(
                LedgerEntry(
                    request_id="",
                    model="",
                    prompt=prompt,
                    n=1,
                    size="",
                    images=1,
                    cost_usd=Decimal("0.04"),
                    status=status,
                    time=now,
                )
            )


class Storm:
    """A storm that went well, in which a test breaks what it likes. It stands for a scene and its fleet."""

    def __init__(self) -> None:
        self.fleet = self
        self.chunks, self.deferred = Gateway(), Gateway()
        self.states = {"chunks": "success", "deferred": "success"}
        self.manifest = [line(f"item-{n}", unknown=int(n < UNKNOWN)) for n in range(ITEMS)]
        self.results = [{"images": [{}], "unknown_outcomes": int(n < UNKNOWN)} for n in range(TASKS)]
        self.stored = {"chunks/": ITEMS, "deferred/": TASKS}
        self.tried = [1, 2]
        self.restarted = {"worker-1": 1, "triggerer-1": 1, "triggerer-2": 1}
        for gateway, prompt in ((self.chunks, "item-{}"), (self.deferred, "deferred {:03}")):
            for number in range(ITEMS):
                if number < UNKNOWN:
                    gateway.serve(prompt.format(number), status=None)
                gateway.serve(prompt.format(number))

    def run_state(self, dag_id: str, _: str) -> str:
        return self.states[dag_id]

    def xcom(self, dag_id: str, _run_id: str, _task_id: str, *, map_index: int) -> dict[str, Any]:
        return self.results[map_index] if dag_id == "deferred" else {"manifest_uri": str(map_index)}

    def lines(self, manifest_uri: str) -> list[dict[str, Any]]:
        return self.manifest[int(manifest_uri) * CHUNK :][:CHUNK]

    def keys(self, prefix: str) -> range:
        return range(self.stored[prefix])

    def tries(self, *_: str) -> list[int]:
        return self.tried

    def restarts(self) -> dict[str, int]:
        return self.restarted

    def broken(self) -> set[str]:
        """Return what the table calls broken."""
        scene: Any = self
        findings = [
            *judge_chunks(scene, "run", ITEMS),
            *judge_deferred(scene, "run", TASKS),
            *judge_parts(scene),
        ]
        return {finding.what for finding in findings if not finding.holds}


def line(name: str, *, unknown: int = 0, status: str = "stored") -> dict[str, Any]:
    return {"id": name, "status": status, "unknown_outcomes": unknown}


def test_a_storm_that_kept_every_promise_has_none_broken() -> None:
    assert Storm().broken() == set()


def lose_an_item(storm: Storm) -> None:
    storm.manifest[-1]["status"] = "failed"


def store_an_item_under_anothers_name(storm: Storm) -> None:
    storm.manifest[-1] = line("item-3")


def bill_a_stored_item_again(storm: Storm) -> None:
    storm.chunks.serve("item-50")


def bill_one_item_again_and_another_never(storm: Storm) -> None:
    storm.chunks.ledger[-1] = storm.chunks.ledger[-2]


def bill_a_deferred_image_again(storm: Storm) -> None:
    storm.deferred.serve("deferred 050")


def list_more_than_was_billed(storm: Storm) -> None:
    del storm.chunks.ledger[UNKNOWN + 3 :]


def send_one_too_many(storm: Storm) -> None:
    storm.chunks.max_in_flight_seen = IN_FLIGHT + 1


def refuse_two_in_a_hundred(storm: Storm) -> None:
    for _ in range(2):
        storm.chunks.serve("item-9", status=429)


def hit_nothing(storm: Storm) -> None:
    storm.tried = [1, 1]
    storm.restarted = {"worker-1": 1, "triggerer-1": 1}
    for entry in (*storm.manifest, *storm.results):
        entry["unknown_outcomes"] = 0
    for gateway in (storm.chunks, storm.deferred):
        gateway.ledger = [entry for entry in gateway.ledger if entry.status is not None]


@pytest.mark.parametrize(
    ("defect", "broken"),
    [
        (lose_an_item, {"chunks: items stored", "chunks: billed"}),
        (store_an_item_under_anothers_name, {"chunks: items stored"}),
        (bill_a_stored_item_again, {"chunks: billed", "chunks: billed again and not listed"}),
        (bill_one_item_again_and_another_never, {"chunks: billed again and not listed"}),
        (bill_a_deferred_image_again, {"deferred: billed", "deferred: billed again and not listed"}),
        (list_more_than_was_billed, {"chunks: billed"}),
        (send_one_too_many, {"chunks: most in flight"}),
        (refuse_two_in_a_hundred, {"chunks: answers 429"}),
        (
            hit_nothing,
            {
                "chunks: requests whose sender was killed",
                "chunks: tasks tried again",
                "deferred: requests whose sender was killed",
                "triggerer-2: started again",
            },
        ),
    ],
)
def test_what_went_wrong_is_called_broken_and_nothing_else(
    defect: Callable[[Storm], None], broken: set[str]
) -> None:
    storm = Storm()
    defect(storm)
    assert storm.broken() == broken


@pytest.mark.parametrize("prefix", ["chunks/", "deferred/"])
@pytest.mark.parametrize("difference", [-1, 1])
def test_an_image_too_few_or_too_many_in_the_bucket_is_a_broken_promise(prefix: str, difference: int) -> None:
    storm = Storm()
    storm.stored[prefix] += difference
    assert storm.broken() == {f"{prefix.rstrip('/')}: images in the bucket"}


@pytest.mark.parametrize("dag_id", ["chunks", "deferred"])
def test_a_run_that_failed_is_broken_although_its_results_are_missing(dag_id: str) -> None:
    storm = Storm()
    storm.states[dag_id] = "failed"
    storm.manifest, storm.results = [], []
    assert f"{dag_id}: run" in {
        finding.what
        for finding in (
            judge_chunks(storm, "run", ITEMS)  # type: ignore[arg-type]
            if dag_id == "chunks"
            else judge_deferred(storm, "run", TASKS)  # type: ignore[arg-type]
        )
        if not finding.holds
    }


def test_the_bounds_of_a_promise_belong_to_it() -> None:
    held = [at_most("", 2, 2), at_least("", 2, 2), within("", 2, 2, 3), within("", 3, 2, 3), equal("", 2, 2)]
    broken = [
        at_most("", 3, 2),
        at_least("", 1, 2),
        within("", 1, 2, 3),
        within("", 4, 2, 3),
        equal("", 1, 2),
    ]
    assert Counter(finding.holds for finding in held) == {True: 5}
    assert Counter(finding.holds for finding in broken) == {False: 5}


def test_the_table_names_each_broken_promise() -> None:
    shown = table([Finding("kept", "1", "1", holds=True), Finding("lost", "1", "2", holds=False)])
    assert [line.split() for line in shown.splitlines()[1:]] == [
        ["kept", "1", "1", "ok"],
        ["lost", "1", "2", "BROKEN"],
    ]


def test_a_storm_whose_runs_end_before_every_blow_is_an_error() -> None:
    """It would have shown nothing."""
    struck: list[str] = []
    gateway: Any = SimpleNamespace(billed=10)
    scene: Any = SimpleNamespace(
        fleet=SimpleNamespace(run_state=lambda *_: "success", keep_alive=lambda: None),
        chunks=gateway,
        deferred=gateway,
    )
    blows = [
        Blow(name, lambda: struck.append("struck"), gateway, after) for name, after in (("a", 10), ("b", 11))
    ]
    with pytest.raises(StormError, match="before this could strike: b"):
        weather(scene, {"chunks": "run"}, blows, print)
    assert struck == ["struck"]
