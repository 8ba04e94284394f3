"""Airflow's pages, as far as the tests click on them. What Airflow changes in its pages is changed here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Locator, Page

    from tools.browser import Visit


@dataclass
class Pages:
    """A signed-in window, and the folder for its screenshots."""

    visit: Visit
    images: Path

    @property
    def page(self) -> Page:
        """The window's page."""
        return self.visit.page

    def keep(self, name: str) -> None:
        """Keep what is on the screen."""
        self.visit.screenshot(self.images / f"{name}.png")

    def open_connections(self) -> None:
        self.visit.open("/connections")

    def add_connection(self, conn_id: str) -> ConnectionForm:
        """Open the form of a new connection, and choose our type."""
        self.open_connections()
        self.page.get_by_role("button", name="Add Connection").first.click()
        form = ConnectionForm(self.page.get_by_role("dialog"))
        form.dialog.get_by_label("Connection ID").fill(conn_id)
        form.dialog.get_by_role("combobox").click()
        self.page.keyboard.type("AIsa")
        self.page.get_by_role("option", name="AIsa", exact=True).click()
        form.field("Base URL").wait_for()
        return form

    def edit_connection(self, conn_id: str) -> ConnectionForm:
        """Open the form of a connection that is there."""
        self.open_connections()
        self.row(conn_id).get_by_role("button", name="Edit Connection").click()
        form = ConnectionForm(self.page.get_by_role("dialog"))
        form.field("Base URL").wait_for()
        return form

    def test_connection(self, conn_id: str) -> str:
        """Press the button in the list of connections; return what Airflow says."""
        self.open_connections()
        self.row(conn_id).get_by_role("button", name="Test Connection").click()
        toast = self.page.get_by_role("status").filter(has_text=re.compile("Test Connection")).first
        toast.wait_for(timeout=30_000)
        return toast.inner_text()

    def row(self, conn_id: str) -> Locator:
        """Return the row of a connection."""
        return self.page.get_by_role("row").filter(has=self.page.get_by_text(conn_id, exact=True))

    def open_task(self, dag_id: str, run_id: str, task_id: str, tab: str = "") -> None:
        """Open a tab of a task instance's page: the log unless it is named."""
        self.visit.open(f"/dags/{dag_id}/runs/{quote(run_id, safe='')}/tasks/{task_id}{tab}")

    def is_on_screen(self, text: str) -> bool:
        """Tell whether a person reads this without scrolling, to the last letter."""
        size = self.page.viewport_size
        assert size is not None
        found = self.page.get_by_text(text).last
        found.wait_for()
        return bool(found.evaluate(_IS_READABLE, text))


#: Finds the text inside its element, and asks at its beginning and its end what a click there would hit.
_IS_READABLE = """(element, text) => {
  const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const start = node.data.indexOf(text);
    if (start < 0) continue;
    const range = document.createRange();
    range.setStart(node, start);
    range.setEnd(node, start + text.length);
    return [...range.getClientRects()].every(({left, right, top, bottom}) =>
      [[left + 1, top + 1], [right - 1, bottom - 1]].every(([x, y]) => {
        const hit = document.elementFromPoint(x, y);
        return hit !== null && (element.contains(hit) || hit.contains(element));
      }));
  }
  return false;
}"""


@dataclass
class ConnectionForm:
    """The form of a connection of our type."""

    dialog: Locator

    def field(self, label: str) -> Locator:
        """Return a field by its label."""
        return self.dialog.get_by_label(label, exact=True)

    def extra_field(self, name: str) -> Locator:
        """Return the field of an extra; `open_extras` first."""
        return self.dialog.locator(f"[name=element_{name}]")

    def open_extras(self) -> None:
        """Unfold the extras."""
        self.dialog.get_by_role("button", name="Extra Fields", exact=True).click()
        self.extra_field("timeout").wait_for()

    def save(self) -> None:
        """Save, and wait until the form has closed."""
        self.dialog.get_by_role("button", name="Save").click()
        self.dialog.wait_for(state="hidden")
