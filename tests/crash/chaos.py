"""Hundreds of workers are killed at random while the gateway, the CDN and the store fail as well.

Somebody deletes and rewrites journals whose requests are under way, too. Nobody can tell of a lost response
whose only record was deleted, so an attempt whose journal is deleted does not die, and its store works.

What happens is decided by the seed, the task's number, the attempt's and the request's: the same seed makes
the same decisions. How far a worker has come when its death arrives is up to the machine.

What is counted comes from outside: the bill from the gateway, the records from what the store accepted, the
images from the bytes in the store. A purchase beyond a task's first is a duplicate. It is inside the window
if the one before it could not be recorded: its worker was killed first, or the gateway never gave a usable
response. Every other duplicate is a defect.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self

from airflow_provider_aisa.sandbox import Fault, Sandbox
from tests.crash.meddler import Meddler
from tests.crash.routes import images_in, prompt_of
from tests.crash.scene import fetch
from tests.crash.tripwire import Act, Tripwire

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow_provider_aisa.sandbox import LedgerEntry
    from tests.crash.meddler import Meddling
    from tests.crash.tripwire import Answered, Seen
    from tests.crash.workers import Outcome, Run, Workers
    from tools.seaweedfs import SeaweedFS

TIMEOUT: Final = 3.0  # seconds that a worker waits for a response; one more, and its claim is stale
LATENCY: Final = 0.05  # seconds per generation
WILD_ATTEMPTS: Final = 6  # of a task, before it is left alone
LAST_ATTEMPT: Final = 20  # faults that have not struck yet still do
MOST_IMAGES: Final = 3
FAMILIES: Final = ("seedream", "wan", "gemini")
#: The share of attempts whose journal is deleted, or rewritten, while a request is under way.
_DELETED: Final = 0.1
_REWRITTEN: Final = 0.3

_GATEWAY_FAULTS: Final = (
    Fault("rate_limited", retry_after=0.2),
    Fault("server_error"),
    Fault("unavailable"),
    Fault("html_error"),
    Fault("server_error", billed=True),
    Fault("gateway_timeout"),
    Fault("gateway_timeout", billed=True),
    Fault("html_error", billed=True),
    Fault("html_504", billed=True),
    Fault("html_520", billed=True),
    Fault("html_524", billed=True),
    Fault("html_ok"),
    Fault("broken_json"),
    Fault("hang", billed=True),
    Fault("drip_headers", delay=0.2),
    Fault("drip_body", delay=0.2),
    Fault("cut_before_billing"),
    Fault("cut_after_billing"),
    Fault("cut_mid_body"),
    Fault("b64_json"),
)
_CDN_FAULTS: Final = (
    Fault("cdn_server_error"),
    Fault("cdn_cut"),
    Fault("cdn_slow", delay=0.3),
    Fault("cdn_redirect"),
    Fault("truncated_image"),
    Fault("html_image"),
)
_STORE_FAULTS: Final = (
    Act("before", fault="503"),
    Act("after", fault="500"),
    Act("before", fault="cut"),
    Act("after", fault="cut"),
    Act("before", fault="slow", seconds=0.3),
    Act("after", fault="slow", seconds=0.3),
)


@dataclass
class Attempt:
    """How one worker ended."""

    is_killed: bool = False
    error: dict[str, Any] | None = None


@dataclass(frozen=True)
class Plan:
    """What happens to one attempt: its death `delay` seconds after the `at_event`-th thing that it does.

    `meddling` is what somebody does to its journal while its first request is under way.
    """

    at_event: int | None
    delay: float
    faults: tuple[Fault, ...]
    is_store_faulty: bool
    meddling: Meddling | None = None

    @classmethod
    def draw(cls, randomness: random.Random, attempt: int) -> Self:
        """Decide about an attempt. The first few are wild, the others are left in peace."""
        if attempt > WILD_ATTEMPTS:
            return cls(None, 0.0, (), is_store_faulty=False)
        faults = []
        if randomness.random() < 0.25:
            faults.append(randomness.choice(_GATEWAY_FAULTS))
        if randomness.random() < 0.2:
            faults.append(randomness.choice(_CDN_FAULTS))
        at_event = randomness.randrange(26) if randomness.random() < 0.9 else None
        delay, is_store_faulty = randomness.uniform(0, 0.03), randomness.random() < 0.5
        fate = randomness.random()
        if fate < _DELETED:
            return cls(None, 0.0, tuple(faults), is_store_faulty=False, meddling="delete")
        meddling: Meddling | None = "rewrite" if fate < _DELETED + _REWRITTEN else None
        return cls(at_event, delay, tuple(faults), is_store_faulty, meddling)


@dataclass
class Task:
    """A task instance, and everything that was seen of it."""

    number: int
    seed: int
    family: str = "seedream"
    images: int = 1
    deferrable: bool = False
    delivery: str = "at-least-once"
    attempts: list[Attempt] = field(default_factory=list)
    outcome: Outcome | None = None
    #: When the store accepted the record of a response, by the gateway's request id.
    recorded: dict[str, datetime] = field(default_factory=dict)
    links: list[str] = field(default_factory=list)
    #: SHA-256 of recorded images that were in the answer itself.
    digests: set[str] = field(default_factory=set)
    _plan: Plan | None = None
    _run: Run | None = None
    _meddling: Meddling | None = None
    _events: itertools.count[int] = field(default_factory=itertools.count)
    _requests: itertools.count[int] = field(default_factory=itertools.count)
    _timers: list[threading.Timer] = field(default_factory=list)

    def __post_init__(self) -> None:
        randomness = self._random("task")
        self.family = randomness.choice(FAMILIES)
        # Several of Gemini's are several purchases, each as this one.
        self.images = 1 if self.family == "gemini" else randomness.randint(1, MOST_IMAGES)
        self.deferrable = randomness.random() < 0.5
        self.delivery = "at-most-once" if randomness.random() < 0.15 else "at-least-once"

    @property
    def prompt(self) -> str:
        """The task's own, so that a fault strikes no other."""
        return f"chaos {self.number:05d}"

    @property
    def folder(self) -> str:
        """Where its images and its journal are."""
        return f"task-{self.number:05d}/"

    def _random(self, *what: object) -> random.Random:
        return random.Random(f"{self.seed}/{self.number}/{what}")  # noqa: S311 - repeatable, not secret

    def plan(self, attempt: int) -> Plan:
        """Return what happens to an attempt; they are counted from 0."""
        return Plan.draw(self._random("attempt", attempt), attempt)

    def begin(self, start: Callable[[], Run]) -> tuple[Plan, Run]:
        """Start the next attempt."""
        self._plan = self.plan(len(self.attempts))
        self._meddling = self._plan.meddling
        self._events, self._requests = itertools.count(), itertools.count()
        self.attempts.append(Attempt())
        self._run = start()
        return self._plan, self._run

    def end(self, outcome: Outcome) -> None:
        """Note how the attempt ended. Its death does not come any more."""
        for timer in self._timers:
            timer.cancel()
            timer.join()
        self._timers.clear()
        self.attempts[-1] = Attempt(outcome.is_killed, outcome.error)
        self.outcome = outcome

    def happened(self) -> None:
        """Note that something was seen of the running attempt: a request, or an answer to it."""
        if self._plan and self._run and next(self._events) == self._plan.at_event:
            timer = threading.Timer(self._plan.delay, self._run.kill)
            self._timers.append(timer)
            timer.start()

    def store_act(self) -> Act | None:
        """Decide what happens to the next request to the store."""
        randomness = self._random("store", len(self.attempts), next(self._requests))
        if self._plan and self._plan.is_store_faulty and randomness.random() < 0.15:
            return randomness.choice(_STORE_FAULTS)
        return None

    def take_meddling(self) -> Meddling | None:
        """Decide what somebody does to the journal while a request to the gateway is under way."""
        meddling, self._meddling = self._meddling, None
        return meddling

    def record(self, seen: Seen, inline: Mapping[str, list[str]]) -> None:
        """Note that the store has accepted the record of a response.

        `inline` holds the images that were in the answers themselves, by the gateway's request id.
        """
        response = json.loads(seen.body)["response"]
        self.recorded.setdefault(response["request_id"], datetime.now(UTC))
        self.digests.update(inline.get(response["request_id"], ()))
        links = [image["url"] for image in response["images"] if image["url"]]
        self.links += [link for link in links if link not in self.links]


@dataclass
class Report:
    """What came of it all; images and requests."""

    kills: int = 0
    tasks: int = 0
    attempts: int = 0
    billed: int = 0
    stored: int = 0
    refused: int = 0
    duplicates: int = 0
    outside: int = 0
    unreported: int = 0
    lost: int = 0
    unknown: int = 0
    deleted: int = 0
    rewritten: int = 0
    hidden: int = 0
    families: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether nothing was lost, and nothing paid twice that could have been known."""
        return not (self.outside or self.unreported or self.lost or self.notes)

    def __str__(self) -> str:
        rows = {
            "workers killed": self.kills,
            "tasks": self.tasks,
            "attempts": self.attempts,
            "journals deleted while a request was under way": self.deleted,
            "journals rewritten while a request was under way": self.rewritten,
            "billed responses hidden by a proxy": self.hidden,
            "images billed": self.billed,
            "images stored": self.stored,
            **{f"images stored, of {family}": self.families[family] for family in FAMILIES},
            "at-most-once tasks that refused to send again": self.refused,
            "requests paid again, inside the window": self.duplicates - self.outside,
            "requests paid again, outside the window": self.outside,
            "requests paid again, not in unknown_outcomes": self.unreported,
            "unknown outcomes reported": self.unknown,
            "recorded images lost": self.lost,
        }
        lines = [f"{name:<48} {value:>6}" for name, value in rows.items()]
        return "\n".join(lines + self.notes)


class Chaos:
    """A gateway, tripwires and a bucket under attack; a context manager."""

    def __init__(self, *, workers: Workers, store: SeaweedFS, bucket: str, seed: int) -> None:
        self._workers = workers
        self._store = store
        self._bucket = bucket
        self._seed = seed
        self._client = store.client()
        self._meddler = Meddler(self._client, bucket)
        self._tasks: list[Task] = []
        self._lock = threading.Lock()
        self._kills = 0
        #: Which attempt sent the requests that got a usable response, by the gateway's request id.
        self._usable: dict[str, int] = {}
        #: The images that were in the answers themselves.
        self._inline: dict[str, list[str]] = {}

    def __enter__(self) -> Self:
        self._sandbox = Sandbox(latency=LATENCY, gemini_requests_per_minute=None).start()
        self._s3 = Tripwire(self._store.endpoint_url).__enter__()
        self._gateway = Tripwire(self._sandbox.base_url.removesuffix("/v1")).__enter__()
        self._s3.script, self._s3.listener = self._store_asked, self._store_answered
        self._gateway.script, self._gateway.listener = self._gateway_asked, self._gateway_answered
        return self

    def __exit__(self, *_: object) -> None:
        self._gateway.__exit__()
        self._s3.__exit__()
        self._sandbox.stop()
        self._client.close()

    def run(self, *, kills: int, parallel: int, progress: Callable[[int], object] = lambda _: None) -> Report:
        """Run tasks until so many workers have been killed and every task is done."""
        self._progress = progress
        with ThreadPoolExecutor(parallel) as pool:
            for driver in [pool.submit(self._drive, kills) for _ in range(parallel)]:
                driver.result()
        return self._report()

    def _drive(self, kills: int) -> None:
        while True:
            with self._lock:
                if self._kills >= kills:
                    return
                task = Task(len(self._tasks), self._seed)
                self._tasks.append(task)
            self._finish(task)

    def _finish(self, task: Task) -> None:
        """Run a task again and again, as Airflow would, until it has succeeded or failed for good."""
        try_number = 1
        while len(task.attempts) < LAST_ATTEMPT:
            plan, run = task.begin(partial(self._start, task, try_number))
            for fault in plan.faults:
                self._sandbox.inject(Fault.from_json({**vars(fault), "prompt": task.prompt}))
            outcome = run.wait()
            task.end(outcome)
            if outcome.is_killed:
                with self._lock:
                    self._kills += 1
                    self._progress(self._kills)
            elif outcome.error is None or not outcome.error["retryable"]:
                return
            # A triggerer that dies runs its trigger again; everything else is the scheduler's next try.
            try_number += 0 if outcome.is_killed and task.deferrable else 1

    def _start(self, task: Task, try_number: int) -> Run:
        aisa = {
            "conn_type": "aisa",
            "host": f"{self._gateway.url}/sender-{len(task.attempts) - 1}/v1",
            "password": self._sandbox.api_key,
            "extra": {"timeout": TIMEOUT, "max_retries": 2},
        }
        aws = json.loads(self._store.airflow_connection(bucket=self._bucket))
        aws["extra"]["endpoint_url"] = self._s3.url
        names = {"dag_id": "chaos", "run_id": f"{task.number:05d}", "task_id": "generate", "map_index": -1}
        return self._workers.start(
            {
                "ti": {**names, "try_number": try_number, "max_tries": 100},
                "env": {
                    "AIRFLOW_CONN_AISA_DEFAULT": json.dumps(aisa),
                    "AIRFLOW_CONN_AWS_DEFAULT": json.dumps(aws),
                },
                "operator": {
                    "family": task.family,
                    "prompt": task.prompt,
                    "n": task.images,
                    **({"size": "1920x1920"} if task.family == "seedream" else {}),
                    "s3_key": task.folder,
                    "deferrable": task.deferrable,
                    "delivery": task.delivery,
                },
            }
        )

    def _store_asked(self, seen: Seen) -> Act | None:
        task = self._task_of_path(seen)
        task.happened()
        return task.store_act()

    def _store_answered(self, answered: Answered) -> None:
        task = self._task_of_path(answered.seen)
        if answered.seen.label in {"PUT paid", "PUT stored"} and 200 <= answered.status < 300:
            task.record(answered.seen, self._inline)
        self._meddler.watch(answered)
        task.happened()

    def _gateway_asked(self, seen: Seen) -> Act | None:
        task = self._task_of_prompt(seen)
        task.happened()
        meddling = task.take_meddling()
        return self._meddler.act(meddling, task.prompt) if meddling else None

    def _gateway_answered(self, answered: Answered) -> None:
        # On a busy machine an answer can come when the worker is about to stop waiting for it.
        images = images_in(answered.body) if answered.status == 200 else None
        if images is not None:
            self._inline[answered.headers["X-Request-ID"]] = images
            if answered.seconds < TIMEOUT / 2:
                sender = int(answered.seen.path.partition("/sender-")[2].partition("/")[0])
                self._usable[answered.headers["X-Request-ID"]] = sender
        self._task_of_prompt(answered.seen).happened()

    def _task_of_path(self, seen: Seen) -> Task:
        return self._tasks[int(seen.path.partition("/task-")[2][:5])]

    def _task_of_prompt(self, seen: Seen) -> Task:
        return self._tasks[int(prompt_of(seen).partition(" ")[2])]

    def _report(self) -> Report:
        report = Report(
            kills=self._kills,
            tasks=len(self._tasks),
            billed=self._sandbox.billed,
            deleted=self._meddler.deleted,
            rewritten=self._meddler.rewritten,
            hidden=sum(entry.status is not None and entry.status >= 500 for entry in self._sandbox.ledger),
        )
        bills: dict[str, list[LedgerEntry]] = {task.prompt: [] for task in self._tasks}
        for entry in self._sandbox.ledger:
            bills[entry.prompt].append(entry)
        for task in self._tasks:
            report.attempts += len(task.attempts)
            self._judge(task, bills[task.prompt], report)
        return report

    def _judge(self, task: Task, bills: list[LedgerEntry], report: Report) -> None:
        outcome = task.outcome
        duplicates = max(0, len(bills) - 1)
        report.duplicates += duplicates
        outside = [later for later in range(1, len(bills)) if not self._is_inside(task, bills, later)]
        report.outside += len(outside)
        if outside:
            report.notes.append(f"task {task.number}: bills {outside} of {bills}, {task}")
        if outcome is not None and outcome.error is not None and task.delivery == "at-most-once":
            report.refused += outcome.error["error"] == "OutcomeUnknown"
        if task.delivery == "at-most-once" and duplicates:
            report.notes.append(f"task {task.number} is at-most-once and was billed {len(bills)} times")
        objects = self._objects(task)
        stored = {hashlib.sha256(body).hexdigest() for body in objects.values()}
        report.lost += len(task.digests - stored)
        report.lost += sum(hashlib.sha256(fetch(link)).hexdigest() not in stored for link in task.links)
        if outcome is not None and outcome.error is not None and outcome.error["error"] == "OutcomeUnknown":
            report.unreported += max(0, len(bills) - outcome.error["unknown_outcomes"])
        if outcome is None or outcome.value is None:
            is_refused = outcome is not None and outcome.error is not None and not outcome.error["retryable"]
            if not (is_refused and task.delivery == "at-most-once"):
                report.notes.append(f"task {task.number} never succeeded: {outcome}")
            return
        report.unknown += outcome.value["unknown_outcomes"]
        report.unreported += max(0, duplicates - outcome.value["unknown_outcomes"])
        report.stored += len(outcome.value["images"])
        report.families[task.family] += len(outcome.value["images"])
        report.notes += [f"task {task.number}: {what}" for what in _problems(task, outcome.value, objects)]

    def _is_inside(self, task: Task, bills: list[LedgerEntry], later: int) -> bool:
        """Whether nobody could know, when a request was sent, that the one before it had been billed."""
        before, moment = bills[later - 1], bills[later].time
        if any(recorded < moment for recorded in task.recorded.values()):
            return False
        sender = self._usable.get(before.request_id)
        return sender is None or task.attempts[sender].is_killed

    def _objects(self, task: Task) -> dict[str, bytes]:
        listing = self._client.list_objects_v2(Bucket=self._bucket, Prefix=task.folder)
        return {
            entry["Key"]: self._client.get_object(Bucket=self._bucket, Key=entry["Key"])["Body"].read()
            for entry in listing.get("Contents", [])
        }


def _problems(task: Task, value: dict[str, Any], objects: dict[str, bytes]) -> list[str]:
    """Return what is wrong with a task that succeeded: its result, the store and the journal must agree."""
    problems = []
    if len(value["images"]) != task.images:
        problems.append(f"{len(value['images'])} images instead of {task.images}")
    for image in value["images"]:
        body = objects.get(image["key"], b"")
        if hashlib.sha256(body).hexdigest() != image["sha256"]:
            problems.append(f"{image['key']} is not what the result says")
    for key, body in objects.items():
        is_entry = "/_aisa/" in key and key.endswith(".json")
        if is_entry and (b"http" in body or json.loads(body)["state"] != "stored"):
            problems.append(f"the journal {key} still is {json.loads(body)['state']}")
    return problems
