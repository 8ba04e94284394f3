"""The gallery in Airflow's pages, as far as the tests look at it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from pathlib import Path

    from mypy_boto3_s3 import S3Client
    from playwright.sync_api import Frame, Locator, Page

    from airflow_provider_aisa.sandbox import Sandbox
    from tools.airflow_run import StandaloneAirflow
    from tools.browser import Browser, Theme, Visit

WAIT = 300.0  # seconds; an idle machine needs a tenth of it
PATIENCE = 60_000  # milliseconds that the browser waits for what should be there at once
THEMES: tuple[Theme, ...] = ("light", "dark")

_LOADED = "[...document.querySelectorAll('.cell img')].filter((img) => img.naturalWidth > 0).length"
_TILES = """() => [...document.querySelectorAll(".cell")]
    .sort((a, b) => a.ariaPosInSet - b.ariaPosInSet)
    .map((cell) => cell.querySelector("img")?.alt ?? cell.innerText.replaceAll("\\n", " "))"""
_WATCH_SHIFTS = """() => {
    window.shifts = [];
    new PerformanceObserver((list) => {
        for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifts.push(entry.value);
    }).observe({ type: "layout-shift", buffered: true });
}"""
_COLOURS_OF_AIRFLOW = """() => {
    const root = getComputedStyle(document.documentElement);
    const probe = document.body.appendChild(document.createElement("div"));
    probe.style.background = root.getPropertyValue("--chakra-colors-bg");
    probe.style.color = root.getPropertyValue("--chakra-colors-fg");
    const { backgroundColor, color } = getComputedStyle(probe);
    probe.remove();
    return { backgroundColor, color };
}"""
_COLOURS_OF_GALLERY = """() => ({
    backgroundColor: getComputedStyle(document.documentElement).backgroundColor,
    color: getComputedStyle(document.body).color,
})"""


@dataclass
class Look:
    """A window, and the gallery in it: a tab of Airflow's page, or a page of its own."""

    visit: Visit
    frame: Frame
    images: Path

    def keep(self, name: str) -> None:
        """Keep what is on the screen."""
        self.visit.screenshot(self.images / f"{name}.png")

    def keep_both(self, name: str) -> None:
        """Keep what is on the screen, light and then dark."""
        self.keep(f"{name}-light")
        self.turn_dark()
        self.keep(f"{name}-dark")

    def press(self, key: str) -> None:
        self.visit.page.keyboard.press(key)

    def wait_until(self, condition: str, argument: object = None) -> None:
        """Wait for a JavaScript function to say yes."""
        self.frame.wait_for_function(condition, arg=argument, timeout=PATIENCE)

    def wait_for_images(self, number: int) -> None:
        """Wait until so many thumbnails are drawn."""
        self.wait_until(f"(wanted) => {_LOADED} >= wanted", number)

    def wait_for_text(self, selector: str, text: str) -> None:
        """Wait until the first such element says exactly this."""
        self.wait_until(
            "([selector, text]) => document.querySelector(selector)?.innerText === text", [selector, text]
        )

    def text(self, selector: str) -> str:
        """Return what an element says, on one line."""
        return " ".join(self.frame.locator(selector).inner_text().split())

    def tiles(self) -> list[str]:
        """Return what a screen reader calls each tile that is drawn, in their order."""
        found: list[str] = self.frame.evaluate(_TILES)
        return found

    def colours(self) -> tuple[dict[str, str], dict[str, str]]:
        """Return the colours of the gallery, and those of Airflow's page around it, as both are drawn."""
        return self.frame.evaluate(_COLOURS_OF_GALLERY), self.visit.page.evaluate(_COLOURS_OF_AIRFLOW)

    def turn_dark(self) -> None:
        """Let Airflow turn dark as its button does, and wait until the gallery has followed."""
        self.visit.page.evaluate("() => { document.documentElement.className = 'dark' }")
        self.wait_until("() => document.documentElement.classList.contains('dark')")
        self.visit.page.wait_for_timeout(500)  # Airflow's own colours pass slowly

    def watch_shifts(self) -> None:
        """Begin to note what moves without a person's doing."""
        self.frame.evaluate(_WATCH_SHIFTS)

    def shifts(self) -> float:
        """Return by how much things have moved: the sum of Chromium's layout shift scores."""
        return float(self.frame.evaluate("() => window.shifts.reduce((sum, one) => sum + one, 0)"))

    def assert_quiet(self, *, expected: tuple[str, ...] = ()) -> None:
        """Fail when a page asked another machine, or a script of ours broke."""
        assert self.visit.foreign == []
        problems = [one for one in self.visit.problems if not any(word in one for word in expected)]
        assert problems == []


@dataclass
class Place:
    """The Airflow that is looked at, what has run in it, and who looks."""

    airflow: StandaloneAirflow
    gateway: Sandbox
    s3: S3Client
    browser: Browser
    images: Path
    postcards: str = ""
    catalogue: str = ""
    secret: str = ""

    def run_dags(self) -> None:
        """Run each DAG once; wait for all tasks but the one that waits for a person."""
        for dag_id in ("postcards", "catalogue", "secret_project"):
            self.airflow.unpause(dag_id)
        self.postcards = self.airflow.trigger("postcards")
        self.catalogue = self.airflow.trigger("catalogue")
        self.secret = self.airflow.trigger("secret_project")
        self.airflow.wait_for_run("catalogue", self.catalogue, WAIT)
        self.airflow.wait_for_run("secret_project", self.secret, WAIT)
        self.airflow.wait_until(self._only_a_person_is_awaited, WAIT, "the postcards")

    def _only_a_person_is_awaited(self) -> bool:
        path = f"/api/v2/dags/postcards/dagRuns/{quote(self.postcards, safe='')}/taskInstances"
        found = self.airflow.api("GET", path)["task_instances"]
        states = {(one["task_id"], one["state"]) for one in found}
        waiting = {("approve", "deferred"), ("approve", "awaiting_input")}
        return bool(states & waiting) and {state for _, state in states - waiting} <= {"success", "failed"}

    def visit(
        self,
        user: str | None = "viewer",
        *,
        theme: Theme = "light",
        system_theme: Theme = "light",
        size: tuple[int, int] = (1440, 900),
    ) -> Visit:
        """Open a window for a user, or for nobody."""
        token = None if user is None else self.airflow.log_in(user)
        visit = self.browser.visit(
            self.airflow.url, token=token, theme=theme, system_theme=system_theme, size=size
        )
        visit.page.set_default_timeout(PATIENCE)
        return visit

    def look(self, path: str, visit: Visit | None = None) -> Look:
        """Open a tab of Airflow with the gallery, and wait until the gallery is drawn."""
        visit = visit or self.visit()
        visit.page.goto(f"{visit.origin}{path}")
        visit.page.wait_for_selector("iframe")
        frame = visit.page.frames[-1]
        frame.wait_for_url("**/aisa/**")
        frame.wait_for_selector("main[aria-busy=false]")
        return Look(visit, frame, self.images)

    @staticmethod
    def follow(link: Locator) -> Page:
        """Click on a link; return the window that it leads to. Airflow 3.1 opens another one."""
        if link.get_attribute("target") != "_blank":
            link.click()
            return link.page
        with link.page.context.expect_page() as opened:
            link.click()
        return opened.value

    def look_at_run(self, dag_id: str, run_id: str, visit: Visit | None = None) -> Look:
        """Open the tab of a run."""
        return self.look(f"/dags/{dag_id}/runs/{quote(run_id, safe=':+')}/plugin/images-dag-run", visit)

    def look_at_task(self, task: str, visit: Visit | None = None) -> Look:
        """Open the tab of a task instance of the postcards."""
        run = quote(self.postcards, safe=":+")
        return self.look(f"/dags/postcards/runs/{run}/tasks/{task}/plugin/images-task-instance", visit)

    def look_at_page(self, dag_id: str, run_id: str, visit: Visit) -> Look:
        """Open the page of a run by itself."""
        visit.page.goto(f"{visit.origin}/aisa/run?dag_id={dag_id}&run_id={quote(run_id, safe='')}")
        return Look(visit, visit.page.main_frame, self.images)
