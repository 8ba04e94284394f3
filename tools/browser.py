"""A headless Chromium that looks at a local Airflow as a person does. It reaches no other machine.

The browser is the system's own (Debian: `apt-get install chromium`), driven by Playwright, which brings none.
Whatever a page asks of another origin is refused and kept in `Visit.foreign`, so that a test can say so.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Self
from urllib.parse import urlsplit

from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import BrowserContext, Page, Playwright, Route

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
TOKEN_COOKIE = "_token"  # noqa: S105 - the name of Airflow's own cookie
Theme = Literal["light", "dark"]


class BrowserMissing(RuntimeError):
    """There is no Chromium on this machine; the message says how to get one."""


def find_chromium() -> str:
    """Return the path of Chromium: AISA_CHROMIUM, or the first of its usual names on the PATH."""
    if named := os.environ.get("AISA_CHROMIUM"):
        return named
    for name in NAMES:
        if found := shutil.which(name):
            return found
    raise BrowserMissing(
        f"no browser: none of {', '.join(NAMES)} is on the PATH. Debian: apt-get install chromium. "
        "Elsewhere: set AISA_CHROMIUM to the path of a Chromium or Chrome."
    )


@dataclass
class Visit:
    """A window of its own, with its own cookies, and what was noticed while it was open.

    `problems` holds what the pages' scripts threw and what the console called an error.
    """

    page: Page
    context: BrowserContext
    origin: str
    problems: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    def open(self, path: str) -> None:
        """Go to a path of the site, and wait until the network has been quiet for a moment."""
        self.page.goto(f"{self.origin}{path}", wait_until="networkidle")

    def screenshot(self, path: Path) -> Path:
        """Keep what is on the screen."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=path)
        return path

    def _check_origin(self, route: Route) -> None:
        url = route.request.url
        if url.startswith(("data:", "blob:", f"{self.origin}/")):
            route.continue_()
            return
        self.foreign.append(url)
        route.abort()


_drivers: list[Playwright] = []


@contextlib.contextmanager
def _driver() -> Iterator[Playwright]:
    """Yield the process's one Playwright: a second one in the same thread refuses to start."""
    if _drivers:
        yield _drivers[0]
        return
    with sync_playwright() as playwright:
        _drivers.append(playwright)
        try:
            yield playwright
        finally:
            _drivers.clear()


class Browser:
    """A running Chromium, as a context manager. Each `visit` is a window that knows nothing of the others."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._windows: list[BrowserContext] = []

    def __enter__(self) -> Self:
        executable = find_chromium()
        playwright = self._stack.enter_context(_driver())
        # As root, which containers are, Chromium starts without its own sandbox only.
        self._chromium = playwright.chromium.launch(
            executable_path=executable, chromium_sandbox=os.geteuid() != 0
        )
        self._stack.callback(self._chromium.close)
        return self

    def __exit__(self, *_: object) -> None:
        self.close_windows()
        self._stack.close()

    def close_windows(self) -> None:
        """Close the windows that are open: each takes memory, and its pages go on asking."""
        while self._windows:
            self._windows.pop().close()

    def visit(
        self,
        url: str,
        *,
        token: str | None = None,
        theme: Theme = "light",
        system_theme: Theme = "light",
        size: tuple[int, int] = (1440, 900),
        scale: float = 1,
    ) -> Visit:
        """Open an empty window for the site at `url`.

        `token` is that of `POST /auth/token`: the person is signed in. `theme` is what the person chose in
        Airflow, `system_theme` what the operating system prefers, `size` the window's in CSS pixels.
        """
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc}"
        context = self._chromium.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme=system_theme,
            device_scale_factor=scale,
            reduced_motion="reduce",
        )
        self._windows.append(context)
        context.add_init_script(f"try {{ localStorage.setItem('theme', '{theme}') }} catch {{}}")
        if token is not None:
            context.add_cookies([{"name": TOKEN_COOKIE, "value": token, "url": url}])
        page = context.new_page()
        visit = Visit(page, context, origin)
        context.route("**/*", visit._check_origin)
        page.on("pageerror", lambda error: visit.problems.append(str(error)))
        page.on(
            "console",
            lambda message: visit.problems.append(message.text) if message.type == "error" else None,
        )
        return visit
