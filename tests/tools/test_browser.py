"""What the browser of the tests notices. Without a Chromium on this machine these tests are skipped."""

from __future__ import annotations

import http.server
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tools.browser import Browser, BrowserMissing, Theme, find_chromium

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = b"""<!doctype html><title>page</title><img src="http://192.0.2.1/pixel.png" alt="">
<script>document.title = localStorage.getItem("theme") + " " + document.cookie; undefinedName()</script>"""


class Pages(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = PAGE if self.path == "/" else b""
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with closing(server.socket):
            yield f"http://127.0.0.1:{server.server_port}"
            server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    try:
        find_chromium()
    except BrowserMissing as missing:
        pytest.skip(str(missing))
    with Browser() as browser:
        yield browser


def test_requests_to_other_machines_are_refused_and_kept(browser: Browser, site: str) -> None:
    visit = browser.visit(site)
    visit.open("/")

    assert visit.foreign == ["http://192.0.2.1/pixel.png"]


def test_what_a_script_throws_is_kept(browser: Browser, site: str) -> None:
    visit = browser.visit(site)
    visit.open("/")

    assert [problem for problem in visit.problems if "undefinedName" in problem]


def test_each_visit_has_its_own_person_and_theme(browser: Browser, site: str) -> None:
    """A token is the person's cookie; a visit without one is anonymous."""
    titles = []
    people: list[tuple[str | None, Theme]] = [("a", "dark"), (None, "light")]
    for token, theme in people:
        visit = browser.visit(site, token=token, theme=theme)
        visit.open("/")
        titles.append(visit.page.title())

    assert titles == ["dark _token=a", "light"]


def test_a_missing_browser_is_an_error_that_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("AISA_CHROMIUM", raising=False)

    with pytest.raises(BrowserMissing, match="apt-get install chromium"):
        find_chromium()


def test_two_browsers_can_run_side_by_side(browser: Browser, site: str) -> None:
    with Browser() as another:
        visits = [one.visit(site, token=token) for one, token in ((browser, "a"), (another, "b"))]
        for visit in visits:
            visit.open("/")
        titles = [visit.page.title() for visit in visits]

    assert titles == ["light _token=a", "light _token=b"]
