"""A batch without Airflow and without waiting: a scripted gateway, a store in memory, clocks that only count.

The runner, the journal, the client and the downloads are the real ones. A test says what the gateway, the
CDN and the store do, runs attempts of one batch, and looks at the bill.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx

from airflow_provider_aisa.core.batch.runner import DOWNLOADS, TRANSFERS, Batch
from airflow_provider_aisa.core.batch.source import RawRequest
from airflow_provider_aisa.core.batch.spec import BatchSpec, ItemDefaults
from airflow_provider_aisa.core.budget import Budget
from airflow_provider_aisa.core.gateway.client import AisaClient
from airflow_provider_aisa.core.gateway.models import DEFAULT_MODEL, DEFAULT_SIZE
from airflow_provider_aisa.core.gateway.response import GenerationResponse
from airflow_provider_aisa.core.images.download import Fetcher
from airflow_provider_aisa.core.images.stored import StoredImage
from airflow_provider_aisa.core.images.transfer import Lanes
from airflow_provider_aisa.core.journal.entry import Buyer, Claim, Entry, EntryState
from airflow_provider_aisa.core.journal.steps import Policy
from airflow_provider_aisa.core.layout import Owner, Target
from airflow_provider_aisa.core.logs import quietly
from airflow_provider_aisa.core.workbench import Timing, Workbench
from tests.fakes.clock import Clock
from tests.fakes.gateway import PRICE, FakeCdn, FakeGateway
from tests.fakes.meddler import Meddler
from tests.fakes.s3 import BUCKET, FakeS3, FakeS3Client, S3Object
from tests.support import make_pacer, make_settings

if TYPE_CHECKING:
    from airflow_provider_aisa.core.batch.plan import Plan
    from airflow_provider_aisa.core.batch.progress import Tally
    from airflow_provider_aisa.core.gateway.settings import ConnectionSettings
    from airflow_provider_aisa.core.job import Job

OWNER: Final = Owner("dag", "run", "task")
#: Seconds after which a claim of these tests is stale, by the store's clock.
STALE: Final = 1_000.0
#: What the log says once a batch stops.
STOPPED: Final = "Nothing more is sent; what is paid for is being stored."
#: Seconds until a test that hangs is given up.
PATIENCE: Final = 60.0

ManifestLine = dict[str, Any]


@dataclass
class Scene:
    """One task instance's batch: its gateway, CDN and store outlive the attempts."""

    folder: Path
    gateway: FakeGateway = field(default_factory=FakeGateway)
    s3: FakeS3 = field(default_factory=FakeS3)
    settings: ConnectionSettings = field(
        default_factory=lambda: make_settings(timeout=10.0, max_concurrency=4, max_retries=2)
    )
    clock: Clock = field(default_factory=Clock)
    #: How the client waits; None: its clock goes on at once.
    asleep: Callable[[float], Awaitable[None]] | None = None
    #: Called before each request to the store.
    on_store: Callable[[str, str], None] = lambda _op, _key: None
    #: Called after each of them.
    after_store: Callable[[str, str], None] = lambda _op, _key: None
    #: Called with the figures.
    on_report: Callable[[Tally], object] = lambda _tally: None
    timing: Timing = field(default_factory=lambda: Timing(poll=0.005))
    #: Of the latest attempt.
    store: FakeS3Client = field(init=False)
    client: AisaClient = field(init=False)
    tally: Tally = field(init=False)
    reports: int = 0
    plans: list[Plan] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.cdn = FakeCdn(self.gateway)

    def run(self, requests: Sequence[object], **spec: Any) -> dict[str, Any]:
        """Run one attempt to its end; `spec` is as of :func:`make_spec`."""
        try:
            return asyncio.run(asyncio.wait_for(self.arun(requests, **spec), PATIENCE))
        finally:
            self.close()

    def close(self) -> None:
        """Close the plans of attempts whose event loop, and all threads of it, have ended."""
        while self.plans:
            self.plans.pop().close()

    async def arun(self, requests: Sequence[object], **changes: Any) -> dict[str, Any]:
        """Do what :meth:`run` does, beside others on this event loop."""
        spec = make_spec(prices=self.settings.prices, **changes)
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        self.client = client = self._client()
        self.store = store = self.s3.client(self.on_store, self.after_store)
        raws = (RawRequest(f"requests[{index}]", value) for index, value in enumerate(requests))
        plan = spec.plan(raws, folder)
        self.plans.append(plan)  # A cancelled attempt's threads may still read it.
        bench = Workbench(
            client,
            Fetcher(lambda: httpx.MockTransport(self.cdn), allow_loopback=False, max_retries=0),
            store.bucket(extra_args=changes.get("s3_extra_args", {})),
            folder,
            Lanes(transfers=TRANSFERS, downloads=DOWNLOADS),
            Budget(spec.max_cost_usd),
            timing=self.timing,
            sleep=self.asleep or self._sleep,
        )
        with quietly():
            return await Batch(spec, plan, bench, self._report).run()

    def one_at_a_time(self, **settings: Any) -> None:
        """Let the connection allow one request at once."""
        self.settings = replace(self.settings, max_concurrency=1, **settings)

    def outdate_claims(self) -> None:
        """Let so much time pass that nobody can be waiting for a response any more."""
        self.s3.clock.skip(STALE)

    @property
    def manifest(self) -> list[ManifestLine]:
        """The lines of the latest manifest."""
        [key] = [key for key in self.s3.objects if "/manifest-" in key]
        return [json.loads(line) for line in self.s3.objects[key].body.decode().splitlines()]

    def line(self, item_id: str) -> ManifestLine:
        """Return an item's line of the manifest."""
        [line] = [line for line in self.manifest if line["id"] == item_id]
        return line

    def statuses(self) -> dict[str, str]:
        """Return what the manifest says became of each item."""
        return {line["id"]: line["status"] for line in self.manifest}

    def entry_key(self, item_id: str) -> str:
        """Return the key of an item's one entry."""
        objects = self.s3.objects
        keys = [key for key in self.meddler.keys("/items/") if key.endswith(".json")]
        [key] = [key for key in keys if json.loads(objects[key].body)["item"] == item_id]
        return key

    @property
    def asked(self) -> Counter[str]:
        """How often the latest attempt has asked the store for what."""
        return Counter(request.operation for request in self.store.requests)

    def pretend(self, requests: Sequence[object]) -> None:
        """Put into the store what an attempt leaves that has stored everything: to run it takes longer."""
        spec = make_spec()
        raws = (RawRequest(f"requests[{index}]", value) for index, value in enumerate(requests))
        response = GenerationResponse("m", 1, (), {"generated_images": 1}, "req_1", delivered=1)
        with spec.plan(raws, Path(tempfile.mkdtemp(dir=self.folder))) as plan:
            for planned in plan.left():
                job = spec.job(planned.item)
                entry = Entry(
                    EntryState.STORED,
                    spec.buyer,
                    job.request.fingerprint(),
                    job.request.summary(),
                    Claim(f"c{planned.position}", lifetime=70.0),
                    price_usd=Decimal(str(PRICE)),
                    item=planned.item.id,
                    response=response,
                    images=(self._pretend_image(job, f"c{planned.position}"),),
                )
                self.s3.put(job.journal_key, entry.to_json())

    def _pretend_image(self, job: Job, claim_id: str) -> StoredImage:
        key, sha256 = job.target.key(index=0, ext="png", sha256="", several=False), "0" * 64
        metadata = {"claim": claim_id, "index": "0", "sha256": sha256, "size": "1x1"}
        found = self.s3.put(key, b"i", ContentType="image/png", Metadata=metadata)
        return StoredImage(
            index=0,
            uri=f"s3://{BUCKET}/{key}",
            bucket=BUCKET,
            key=key,
            width=1,
            height=1,
            size="1x1",
            content_type="image/png",
            bytes=len(found.body),
            sha256=sha256,
            etag=found.etag.strip('"'),
        )

    def entries(self) -> list[dict[str, Any]]:
        """Return the items' entries of the journal."""
        objects = self.s3.objects
        return [
            json.loads(objects[key].body) for key in objects if "/items/" in key and key.endswith(".json")
        ]

    @property
    def images(self) -> dict[str, S3Object]:
        """What is stored that is not the package's own."""
        return {key: found for key, found in self.s3.objects.items() if "_aisa/" not in key}

    @property
    def meddler(self) -> Meddler:
        """Somebody who changes objects in the store."""
        return Meddler(self.s3)

    def _report(self, tally: Tally) -> None:
        self.tally = tally
        self.reports += 1
        self.on_report(tally)

    async def _sleep(self, seconds: float) -> None:
        self.clock.sleep(seconds)
        await asyncio.sleep(0)

    def _client(self) -> AisaClient:
        return AisaClient(
            self.settings,
            pacer=make_pacer(self.clock, concurrency=self.settings.max_concurrency),
            transport=httpx.MockTransport(self.gateway),
            max_wait=float("inf"),
            asleep=self.asleep or self._sleep,
            randomness=lambda: 0.5,
        )


def make_spec(
    *,
    s3_key: str | None = "out/",
    size: object = DEFAULT_SIZE,
    n: object = 1,
    model: object = DEFAULT_MODEL,
    owner: Owner = OWNER,
    max_tries: int = 0,
    on_existing: Any = "reuse",
    delivery: Any = "at-least-once",
    **fields: Any,
) -> BatchSpec:
    """Return a spec as the operator makes it. A person's Clear raises `max_tries`."""
    target = Target.parse(s3_key, None, default_folder=owner.path(), has_items=True)
    return BatchSpec(
        ItemDefaults(size=size, n=n, model=model, target=target),
        Buyer(owner, max_tries),
        policy=Policy(on_existing, delivery),
        **fields,
    ).in_bucket(BUCKET)


def items(count: int, **fields: Any) -> list[dict[str, Any]]:
    """Return requests whose ids and prompts are ``i0``, ``i1`` and so on."""
    return [{"id": f"i{number}", "prompt": f"i{number}", **fields} for number in range(count)]


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another task or thread does."""
    while not condition():  # noqa: ASYNC110 - threads change it, and set no event of a loop
        await asyncio.sleep(0.001)


def block_until(condition: Callable[[], bool]) -> None:
    """Do what :func:`until` does, in a thread."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "what this waits for never happened"
        time.sleep(0.001)
