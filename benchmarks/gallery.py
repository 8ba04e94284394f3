"""The gallery of a run with a batch of 3,000 images, in a real Airflow, looked at with a real browser."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import quote

import httpx
import psutil

from airflow_provider_aisa.sandbox import Sandbox
from benchmarks.report import Table, verdict
from benchmarks.work import BUCKET, MIB
from tools.airflow_run import StandaloneAirflow
from tools.browser import TOKEN_COOKIE, Browser, BrowserMissing, find_chromium
from tools.seaweedfs import SeaweedFS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

DAGS: Final = Path(__file__).parent / "dags"
DAG_ID: Final = "gallery_benchmark"
ITEMS: Final = 3_000
SIZE: Final = 4  # MiB
IN_FLIGHT: Final = 20
DRAWN: Final = 1_800.0  # seconds that the batch may take
LOOKS: Final = 20  # requests for the page's data, for the median
SCREENS_EVERY: Final = 0.4  # seconds between two turns of the wheel
LOOKED_AT: Final = 10  # one of so many windows full is looked at until its pictures are there
FIRST: Final = 6  # pictures: a row

MOST_PAGE: Final = 0.3  # seconds
MOST_FIRST: Final = 2.0  # seconds
MOST_MEMORY: Final = 300  # MiB

_DRAWN: Final = "(n) => [...document.images].filter((image) => image.naturalWidth > 0).length >= n"
_IN_VIEW: Final = """() => {
    const images = [...document.querySelectorAll(".cell img")].filter((image) => {
        const { top, bottom } = image.getBoundingClientRect();
        return bottom > 0 && top < innerHeight;
    });
    return images.length > 0 && images.every((image) => image.naturalWidth > 0);
}"""


@dataclass
class Memory:
    """Watches the resident memory of the API server's processes, in MiB."""

    processes: list[psutil.Process]
    before: float = 0.0
    peak: float = 0.0
    _is_over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self.before = self.peak = self.now()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def now(self) -> float:
        """Return what is resident now; what processes share counts once."""
        return sum(float(process.memory_full_info().pss) for process in self.processes) / MIB

    def _watch(self) -> None:
        while not self._is_over.wait(0.2):
            self.peak = max(self.peak, self.now())


def main(runs: int) -> list[Table]:
    """Draw the batch, then look at it: as a program, as a person who opens the page, and to its end."""
    try:
        find_chromium()
    except BrowserMissing as missing:
        print(f"The gallery is not measured: {missing}")
        return []
    return [_measure(runs)]


def _measure(runs: int) -> Table:
    with _airflow() as airflow:
        seconds, run_id = _draw(airflow)
        token = airflow.log_in(airflow.user)
        found = psutil.Process(airflow.processes("api_server")[0].pid)
        with Memory([found, *found.children(recursive=True)]) as memory, Browser() as browser:
            first, looks = _ask(airflow.url, token, run_id, LOOKS * runs)
            pages = [_open(browser, airflow.url, token, run_id) for _ in range(runs + 1)]
            thumbnails, scrolled = _scroll(browser, airflow.url, token, run_id)
    grown = memory.peak - memory.before
    first_ones, all_ones = (median(page[which] for page in pages[1:]) for which in (0, 1))
    rows = [
        ("the page's data, first request of all", f"{first:.2f} s"),
        ("the page's data, median", f"{median(looks):.3f} s"),
        ("first row of pictures, thumbnails not made yet", f"{pages[0][0]:.2f} s"),
        ("all pictures in view, thumbnails not made yet", f"{pages[0][1]:.2f} s"),
        ("first row of pictures, thumbnails made", f"{first_ones:.2f} s"),
        ("all pictures in view, thumbnails made", f"{all_ones:.2f} s"),
        (f"scrolling through to the end, {thumbnails:,} thumbnails sent", f"{scrolled:.0f} s"),
        ("API server before", f"{memory.before:.0f} MiB"),
        ("API server, peak", f"{memory.peak:.0f} MiB"),
    ]
    return Table(
        f"The gallery of a run with a batch of {ITEMS:,} images of {SIZE} MiB",
        ("what", "figure"),
        rows,
        (
            f"2048 x 2048, drawn by the sandbox and padded, in {seconds:.0f} s with {IN_FLIGHT} in flight.",
            "A window of 1440 x 900 on the same machine. Airflow, S3 store and browser share the cores.",
            f"The wheel turns by a window every {SCREENS_EVERY} s.",
            f"At one window of {LOOKED_AT} it rests until all pictures are there.",
            verdict(f"the request for the page under {MOST_PAGE} s", met=median(looks) < MOST_PAGE),
            verdict(
                f"the first pictures in under {MOST_FIRST:.0f} s, thumbnails made or not",
                met=max(first_ones, pages[0][0]) < MOST_FIRST,
            ),
            verdict(f"at most {MOST_MEMORY} MiB more in the API server", met=grown <= MOST_MEMORY),
        ),
    )


@contextmanager
def _airflow() -> Iterator[StandaloneAirflow]:
    with (
        tempfile.TemporaryDirectory(prefix="aisa-benchmarks-") as home,
        SeaweedFS() as store,
        Sandbox(image_bytes=SIZE * MIB) as gateway,
    ):
        store.create_bucket(BUCKET)
        gateway_connection = json.loads(gateway.connection)
        gateway_connection["extra"] = {**gateway_connection.get("extra", {}), "max_concurrency": IN_FLIGHT}
        connections = {
            "aisa_default": json.dumps(gateway_connection),
            "aws_default": store.airflow_connection(),
        }
        with StandaloneAirflow(Path(home), DAGS, connections=connections) as airflow:
            airflow.wait_until_ready()
            yield airflow


def _draw(airflow: StandaloneAirflow) -> tuple[float, str]:
    airflow.unpause(DAG_ID)
    began = time.monotonic()
    run_id = airflow.trigger(DAG_ID, {"items": ITEMS})
    if airflow.wait_for_run(DAG_ID, run_id, DRAWN) != "success":
        raise RuntimeError(airflow.task_log(DAG_ID, run_id, "shots")[-3_000:])
    return time.monotonic() - began, run_id


def _query(run_id: str) -> str:
    return f"dag_id={DAG_ID}&run_id={quote(run_id, safe='')}"


def _ask(url: str, token: str, run_id: str, looks: int) -> tuple[float, list[float]]:
    """Return how long the first request for the page's data takes, and the later ones, in seconds."""
    taken = []
    with httpx.Client(cookies={TOKEN_COOKIE: token}, trust_env=False, timeout=60) as client:
        for number in range(looks + 1):
            began = time.monotonic()
            answer = client.get(f"{url}/aisa/data/run?{_query(run_id)}&offset={number * 50 % ITEMS}&limit=60")
            taken.append(time.monotonic() - began)
            if answer.raise_for_status().json()["total"] != ITEMS:
                raise RuntimeError("the gallery does not show the whole batch")
    return taken[0], taken[1:]


def _open(browser: Browser, url: str, token: str, run_id: str) -> tuple[float, float]:
    """Return after how many seconds a new window has its first pictures, and all that fit."""
    began = time.monotonic()
    page = _visit(browser, url, token, run_id)
    page.wait_for_function(_DRAWN, arg=FIRST, timeout=120_000)
    first = time.monotonic() - began
    page.wait_for_function(_IN_VIEW, timeout=120_000)
    taken = time.monotonic() - began
    browser.close_windows()
    return first, taken


def _visit(browser: Browser, url: str, token: str, run_id: str) -> Page:
    visit = browser.visit(url, token=token)
    visit.context.unroute_all()  # Else each request takes a way through this process.
    page = visit.page
    page.goto(f"{url}/aisa/run?{_query(run_id)}", wait_until="commit")
    return page


def _scroll(browser: Browser, url: str, token: str, run_id: str) -> tuple[int, float]:
    """Turn the wheel to the end; return how many thumbnails were sent meanwhile, and the seconds."""
    page = _visit(browser, url, token, run_id)
    page.wait_for_function(_IN_VIEW, timeout=120_000)
    sent = []
    page.on(
        "requestfinished", lambda request: sent.append(request.url) if "/thumbnail?" in request.url else None
    )
    began = time.monotonic()
    windows = 0
    while page.evaluate("() => scrollY + innerHeight < document.documentElement.scrollHeight - 1"):
        page.mouse.wheel(0, 900)
        page.wait_for_timeout(SCREENS_EVERY * 1000)
        windows += 1
        if windows % LOOKED_AT == 0:
            page.wait_for_function(_IN_VIEW, timeout=120_000)
    page.wait_for_function(_IN_VIEW, timeout=120_000)
    return len(sent), time.monotonic() - began
