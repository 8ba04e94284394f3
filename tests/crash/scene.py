"""One task instance, the gateway and the store that it works with, and what can be proved about all three.

Between the worker and both stands a tripwire. What was billed is read from the gateway's own ledger, what was
recorded from what the store has accepted, what is stored from the bytes in the bucket.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import time
import urllib.request
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

from airflow_provider_aisa.core.journal.entry import Entry, EntryState
from airflow_provider_aisa.sandbox import Sandbox
from tests.crash.tripwire import Tripwire

if TYPE_CHECKING:
    from collections.abc import Callable

    from mypy_boto3_s3 import S3Client

    from airflow_provider_aisa.sandbox import CdnRequest, GatewayRequest
    from tests.crash.tripwire import Act, Seen
    from tests.crash.workers import Outcome, Run, Workers
    from tools.seaweedfs import SeaweedFS

#: Seconds that a worker waits for a response. With `worker.CLAIM_MARGIN`, how long a dead one's claim stands.
TIMEOUT = 2.0
#: Seconds that a test waits for what a worker does.
PATIENCE = 30.0
IMAGES = 2
SIZE = "1920x1920"
_numbers = itertools.count(1)


class Scene:
    """A context manager. Each scene has a gateway and tripwires of its own; the store is shared."""

    def __init__(self, *, workers: Workers, store: SeaweedFS, bucket: str, deferrable: bool = False) -> None:
        self._workers = workers
        self._store = store
        self._bucket = bucket
        self._deferrable = deferrable
        #: Whose operator runs: seedream, wan or gemini.
        self.family = "seedream"
        self._stack = ExitStack()
        self._client: S3Client = store.client()
        number = next(_numbers)
        self.run_id = f"{bucket}-{number}"
        self.prompt = f"scene {number}"
        self.on_request: Callable[[GatewayRequest | CdnRequest], object] = lambda _: None
        self.current: Run | None = None

    def __enter__(self) -> Self:
        self.sandbox = self._stack.enter_context(Sandbox(on_request=self._tell))
        self.s3 = self._stack.enter_context(Tripwire(self._store.endpoint_url))
        self.gateway = self._stack.enter_context(Tripwire(self.sandbox.base_url.removesuffix("/v1")))
        return self

    def __exit__(self, *_: object) -> None:
        if self.current is not None:
            self.current.kill()
        self._stack.close()
        self._client.close()

    def start(
        self,
        *,
        try_number: int = 1,
        max_tries: int = 3,
        timeout: float = TIMEOUT,
        max_retries: int = 4,
        **operator: Any,
    ) -> Run:
        """Start the task in a worker of its own. A try that has deferred goes on with its trigger."""
        aisa = {"conn_type": "aisa", "host": f"{self.gateway.url}/v1", "password": self.sandbox.api_key}
        aws = json.loads(self._store.airflow_connection(bucket=self._bucket))
        aws["extra"]["endpoint_url"] = self.s3.url
        ti = {
            "dag_id": "crash",
            "run_id": self.run_id,
            "task_id": "generate",
            "map_index": -1,
            "try_number": try_number,
            "max_tries": max_tries,
        }
        env = {
            "AIRFLOW_CONN_AISA_DEFAULT": json.dumps(
                {**aisa, "extra": {"timeout": timeout, "max_retries": max_retries}}
            ),
            "AIRFLOW_CONN_AWS_DEFAULT": json.dumps(aws),
        }
        options: dict[str, Any] = {"prompt": self.prompt, "n": IMAGES, "deferrable": self._deferrable}
        if self.family == "seedream":
            options["size"] = SIZE
        else:
            options |= {"family": self.family, "s3_key": self.folder}
        options = {name: value for name, value in (options | operator).items() if value is not None}
        self.current = self._workers.start({"ti": ti, "env": env, "operator": options})
        return self.current

    def run(self, **options: Any) -> Outcome:
        """Run the task to its end, with nothing in its way."""
        self.s3.script = self.gateway.script = lambda _: None
        self.on_request = lambda _: None
        return self.start(timeout=30.0, **options).wait()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for what the worker does."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, "the worker never came that far"
            time.sleep(0.002)

    def kill(self) -> None:
        """Kill the worker; it is gone when this returns."""
        assert self.current is not None
        self.current.kill()

    def _tell(self, request: GatewayRequest | CdnRequest) -> None:
        self.on_request(request)

    @property
    def posts(self) -> int:
        """How many billable requests have arrived at the gateway, whole or in part."""
        return len(self.sandbox.requests)

    @property
    def folder(self) -> str:
        """Where the task's images and its journal are."""
        return f"seedream/crash/{self.run_id}/generate/"

    def objects(self) -> dict[str, bytes]:
        """Return what is in the store, by name."""
        listing = self._client.list_objects_v2(Bucket=self._bucket, Prefix=self.folder)
        keys = [entry["Key"] for entry in listing.get("Contents", [])]
        return {
            key.removeprefix(self.folder): self._client.get_object(Bucket=self._bucket, Key=key)[
                "Body"
            ].read()
            for key in keys
        }

    def claim_of(self, name: str) -> str:
        """Return the id of the purchase that a stored image belongs to."""
        head = self._client.head_object(Bucket=self._bucket, Key=self.folder + name)
        return head["Metadata"]["claim"]

    def recorded(self) -> list[dict[str, Any]]:
        """Return the journal's `paid` entries that the store has accepted, oldest first."""
        return [json.loads(seen.body) for seen in self.s3.accepted("PUT paid")]

    def lost(self) -> int:
        """Count images whose paid response was recorded and whose bytes are not in the store."""
        stored = {hashlib.sha256(body).hexdigest() for body in self.objects().values()}
        links = [image["url"] for entry in self.recorded() for image in entry["response"]["images"]]
        return sum(hashlib.sha256(fetch(link)).hexdigest() not in stored for link in links)


def fetch(link: str) -> bytes:
    """Download a link of the sandbox: past the proxies of the environment, and past the CDN's faults."""
    link = link.replace("/images/", "/moved/images/")  # The copy that its redirects lead to always works.
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(link) as response:
        body: bytes = response.read()
        return body


def check_stored(scene: Scene, outcome: Outcome) -> Entry:
    """Assert that a task's result, the bytes in the store and the journal agree; return the journal's entry.

    Nothing but the images and one journal may be there, and no link may be left anywhere. Nothing may have
    been deleted on the way: many buckets do not allow it.
    """
    assert [answer for answer in scene.s3.answers if answer.seen.method == "DELETE"] == []
    objects = scene.objects()
    journals = [name for name in objects if name.startswith("_aisa/")]
    assert len(journals) == 1, journals
    images = outcome.result["images"]
    assert [image["index"] for image in images] == list(range(IMAGES))
    found = {name: hashlib.sha256(body).hexdigest() for name, body in objects.items() if name not in journals}
    assert found == {image["key"].removeprefix(scene.folder): image["sha256"] for image in images}
    entry = Entry.from_json(objects[journals[0]], uri=journals[0])
    assert entry.state is EntryState.STORED
    assert [image.to_dict() for image in entry.images] == images
    assert len(entry.unknown) == outcome.result["unknown_outcomes"]
    assert {scene.claim_of(name) for name in found} == {entry.claim.id}
    assert b"http" not in objects[journals[0]]
    assert "http" not in json.dumps(outcome.result)
    return entry


def nth(label: str, count: int, act: Act) -> Callable[[Seen], Act | None]:
    """Return a script: the act happens to the `count`-th request whose label begins with this."""
    seen = itertools.count(1)

    def script(request: Seen) -> Act | None:
        return act if request.label.startswith(label) and next(seen) == count else None

    return script
