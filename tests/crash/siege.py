"""One batch whose worker is killed again and again, at moments that its own progress and a seed decide.

What is counted comes from outside, as in `chaos`: the bill from the gateway, the records from what the store
accepted, the images from the bytes in the store. A second purchase of an item is inside the window if the one
before it could not be recorded: its worker was killed first, or a proxy hid the response. Every other one is
a defect. Somebody rewrites journals whose requests are under way, too.
"""

from __future__ import annotations

import hashlib
import json
import random
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Self

from airflow_provider_aisa.sandbox import Fault, Sandbox
from tests.crash.meddler import Meddler
from tests.crash.routes import images_in, prompt_of
from tests.crash.tripwire import Tripwire

if TYPE_CHECKING:
    from airflow_provider_aisa.sandbox import LedgerEntry
    from tests.crash.tripwire import Act, Answered, Seen
    from tests.crash.workers import Outcome, Run, Workers
    from tools.seaweedfs import SeaweedFS

ITEMS: Final = 200
KILLS: Final = 10
TIMEOUT: Final = 3.0  # seconds that a worker waits for a response; one more, and its claim is stale
_LATENCY: Final = 0.05  # seconds per generation
_CONCURRENCY: Final = 8
_MOST_EVENTS: Final = 60  # from the progress at which a worker is doomed to its death
_LAST_ATTEMPT: Final = KILLS + 5
#: Items whose first response a proxy hides, and the share of requests whose journal somebody rewrites.
_HIDDEN: Final = 5
_REWRITTEN: Final = 0.1
_GEMINI: Final = 40  # of so many items, one is Gemini's
#: The last deaths leave enough to do for a worker to die at.
_LATEST: Final = ITEMS - 20


@dataclass(frozen=True)
class Doom:
    """A death: so many things happen after so many items were billed, and then `delay` seconds pass."""

    items: int
    events: int
    delay: float

    @classmethod
    def draw(cls, seed: int) -> list[Self]:
        """Decide about all deaths of a batch."""
        randomness = random.Random(seed)  # noqa: S311 - repeatable, not secret
        progress = sorted(randomness.randrange(_LATEST) for _ in range(KILLS))
        return [
            cls(items, randomness.randrange(_MOST_EVENTS), randomness.uniform(0, 0.03)) for items in progress
        ]


@dataclass
class Report:
    """What came of it; items and requests."""

    attempts: int = 0
    kills: int = 0
    billed: int = 0
    stored: int = 0
    manifests: int = 0
    duplicates: int = 0
    outside: int = 0
    unreported: int = 0
    unknown: int = 0
    rewritten: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether everything is stored, and nothing paid twice that could have been known."""
        is_complete = (self.stored, self.manifests) == (ITEMS, 1)
        is_cheap = self.billed <= ITEMS + self.unknown
        return is_complete and is_cheap and not (self.outside or self.unreported or self.notes)

    def rows(self) -> dict[str, int]:
        """Return the figures with their names."""
        return {
            "workers killed": self.kills,
            "attempts": self.attempts,
            "journals rewritten while a request was under way": self.rewritten,
            "responses hidden by a proxy": _HIDDEN,
            "items": ITEMS,
            "items in the manifest whose images are in the store": self.stored,
            "manifests": self.manifests,
            "requests billed": self.billed,
            "requests paid again, inside the window": self.duplicates - self.outside,
            "requests paid again, outside the window": self.outside,
            "requests paid again, not in unknown_outcomes": self.unreported,
            "unknown outcomes reported": self.unknown,
        }

    def __str__(self) -> str:
        return "\n".join([*(f"{name:<52} {value:>6}" for name, value in self.rows().items()), *self.notes])


class Siege:
    """A batch, its gateway and its store; a context manager."""

    def __init__(self, *, workers: Workers, store: SeaweedFS, bucket: str, seed: int) -> None:
        self._workers = workers
        self._store = store
        self._bucket = bucket
        self._seed = seed
        self._client = store.client()
        self._folder = f"siege-{seed}/"
        self._requests = [
            {"id": f"item-{number:03}", "prompt": f"siege {number:03}", **_model(number)}
            for number in range(ITEMS)
        ]
        self._meddler = Meddler(self._client, bucket)
        self._randomness = random.Random(f"{seed}/meddler")  # noqa: S311 - repeatable, not secret
        self._lock = threading.Lock()
        self._run: Run | None = None
        self._doom: Doom | None = None
        self._events = 0
        self._timer: threading.Timer | None = None
        self._killed: list[bool] = []  # by attempt
        self._billed: set[str] = set()
        #: When the store accepted the record of a response, by prompt; and who sent what got a usable one.
        self._recorded: dict[str, datetime] = {}
        self._usable: dict[str, int] = {}

    def __enter__(self) -> Self:
        self._sandbox = Sandbox(latency=_LATENCY).start()
        self._s3 = Tripwire(self._store.endpoint_url).__enter__()
        self._gateway = Tripwire(self._sandbox.base_url.removesuffix("/v1")).__enter__()
        self._s3.script, self._gateway.script = lambda _: self._happened(), self._asked
        self._s3.listener, self._gateway.listener = self._stored, self._generated
        for request in random.Random(self._seed).sample(self._requests, _HIDDEN):  # noqa: S311 - repeatable
            self._sandbox.inject(Fault("html_524", billed=True, prompt=request["prompt"]))
        return self

    def __exit__(self, *_: object) -> None:
        if self._run is not None:
            self._run.kill()
        self._gateway.__exit__()
        self._s3.__exit__()
        self._sandbox.stop()
        self._client.close()

    def run(self) -> Report:
        """Kill the batch's worker as often as was decided, let the last one finish, and count."""
        dooms, outcome = Doom.draw(self._seed), None
        while len(self._killed) < _LAST_ATTEMPT:
            outcome = self._attempt(dooms[0] if dooms else None)
            if outcome.is_killed:
                dooms.pop(0)
            elif outcome.value is not None:
                break
        return self._judge(outcome)

    def _attempt(self, doom: Doom | None) -> Outcome:
        run = self._start(len(self._killed))
        with self._lock:  # Together: what is left of a dead worker's requests must not kill it once more.
            self._run, self._doom, self._events = run, doom, 0
        outcome = run.wait()
        with self._lock:
            self._doom = None
        if self._timer is not None:
            self._timer.join()
            self._timer = None
        self._killed.append(outcome.is_killed)
        return outcome

    def _start(self, attempt: int) -> Run:
        aisa = {
            "conn_type": "aisa",
            "host": f"{self._gateway.url}/sender-{attempt}/v1",
            "password": self._sandbox.api_key,
            "extra": {"timeout": TIMEOUT, "max_concurrency": _CONCURRENCY},
        }
        aws = json.loads(self._store.airflow_connection(bucket=self._bucket))
        aws["extra"]["endpoint_url"] = self._s3.url
        names = {"dag_id": "siege", "run_id": str(self._seed), "task_id": "generate", "map_index": -1}
        return self._workers.start(
            {
                "ti": {**names, "try_number": attempt + 1, "max_tries": 100},
                "env": {
                    "AIRFLOW_CONN_AISA_DEFAULT": json.dumps(aisa),
                    "AIRFLOW_CONN_AWS_DEFAULT": json.dumps(aws),
                },
                "operator": {
                    "requests": self._requests,
                    "size": "1920x1920",
                    "s3_key": f"{self._folder}{{id}}.{{ext}}",
                },
            }
        )

    def _asked(self, seen: Seen) -> Act | None:
        self._happened()
        if self._randomness.random() < _REWRITTEN:
            return self._meddler.act("rewrite", prompt_of(seen))
        return None

    def _happened(self) -> None:
        """Note that something was seen of the running attempt: a request, or an answer to it."""
        with self._lock:
            doom, run = self._doom, self._run
            if doom is None or run is None or len(self._billed) < doom.items:
                return
            self._events += 1
            if self._events > doom.events:
                self._doom = None
                self._timer = threading.Timer(doom.delay, run.kill)
                self._timer.start()

    def _stored(self, answered: Answered) -> None:
        seen = answered.seen
        if seen.label in {"PUT paid", "PUT stored"} and 200 <= answered.status < 300:
            self._recorded.setdefault(json.loads(seen.body)["request"]["prompt"], datetime.now(UTC))
        self._meddler.watch(answered)
        self._happened()

    def _generated(self, answered: Answered) -> None:
        if answered.status == 200 and images_in(answered.body) is not None:
            self._billed.add(prompt_of(answered.seen))
            # On a busy machine an answer can come when the worker is about to stop waiting for it.
            if answered.seconds < TIMEOUT / 2:
                sender = int(answered.seen.path.partition("/sender-")[2].partition("/")[0])
                self._usable[answered.headers["X-Request-ID"]] = sender
        self._happened()

    def _judge(self, outcome: Outcome | None) -> Report:
        report = Report(
            attempts=len(self._killed),
            kills=sum(self._killed),
            billed=self._sandbox.billed,
            rewritten=self._meddler.rewritten,
        )
        if outcome is None or outcome.value is None:
            report.notes.append(f"the batch never succeeded: {outcome}")
            return report
        objects = self._objects()
        manifests = [body for key, body in objects.items() if "/manifest-" in key]
        report.manifests = len(manifests)
        lines = [json.loads(line) for body in manifests for line in body.splitlines()]
        report.unknown = outcome.value["unknown_outcomes"]
        self._compare(outcome.value, lines, objects, report)
        self._judge_bills({line["id"]: line["unknown_outcomes"] for line in lines}, report)
        return report

    def _judge_bills(self, unknown: dict[str, int], report: Report) -> None:
        bills: dict[str, list[LedgerEntry]] = {}
        for entry in self._sandbox.ledger:
            bills.setdefault(entry.prompt, []).append(entry)
        for request in self._requests:
            entries = bills[request["prompt"]]
            duplicates = len(entries) - 1
            outside = [later for later in range(1, len(entries)) if not self._is_inside(entries, later)]
            report.duplicates += duplicates
            report.outside += len(outside)
            report.unreported += max(0, duplicates - unknown.get(request["id"], 0))
            if outside:
                report.notes.append(f"{request['id']}: bills {outside} of {entries}")

    def _is_inside(self, entries: list[LedgerEntry], later: int) -> bool:
        """Whether nobody could know, when a request was sent, that the one before it had been billed."""
        before, after = entries[later - 1], entries[later]
        recorded = self._recorded.get(after.prompt)
        if recorded is not None and recorded < after.time:
            return False
        sender = self._usable.get(before.request_id)
        return sender is None or self._killed[sender]

    def _compare(
        self, value: dict[str, Any], lines: list[dict[str, Any]], objects: dict[str, bytes], report: Report
    ) -> None:
        """Note where result, manifest, journal and store do not agree."""
        if [line["id"] for line in lines] != [request["id"] for request in self._requests]:
            report.notes.append(f"the manifest has {len(lines)} lines, or in another order")
        for line in lines:
            told = [(image["key"], image["sha256"]) for image in line["images"]]
            found = [(key, hashlib.sha256(objects.get(key, b"")).hexdigest()) for key, _ in told]
            if line["status"] == "stored" and len(told) == 1 and told == found:
                report.stored += 1
            else:
                report.notes.append(f"{line['id']} is not what the manifest says: {line}")
        for key, body in objects.items():
            if _is_entry(key) and (b"http" in body or json.loads(body)["state"] != "stored"):
                report.notes.append(f"the journal {key} still is {json.loads(body)['state']}")
        journals = sum(map(_is_entry, objects))
        images = sum("/_aisa/" not in key for key in objects)
        if (images, journals) != (ITEMS, ITEMS):
            report.notes.append(f"there are {images} images and {journals} journals")
        if (value["stored"], value["failed"], value["not_sent"]) != (ITEMS, 0, 0):
            report.notes.append(f"the result says {value}")

    def _objects(self) -> dict[str, bytes]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._folder
        )
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        return {key: self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read() for key in keys}


def _is_entry(key: str) -> bool:
    return "/items/" in key and key.endswith(".json")


def _model(number: int) -> dict[str, str]:
    """Return the model of an item: half of them Wan's, few of Gemini's, which are sent two seconds apart."""
    if number % _GEMINI == 1:
        return {"model": "gemini-3-pro-image-preview"}
    return {"model": "wan2.7-image"} if number % 2 else {}
