"""The gallery's views in Airflow's own pages: a run, a task, a batch and a DAG, light and dark."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.browser.gallery import THEMES

if TYPE_CHECKING:
    from tests.browser.gallery import Place
    from tools.browser import Theme


@pytest.mark.parametrize("theme", THEMES)
def test_run_shows_its_images_in_the_colours_of_airflow(place: Place, theme: Theme) -> None:
    """What the operating system prefers does not count: it is the other one here."""
    visit = place.visit(theme=theme, system_theme="light" if theme == "dark" else "dark")
    look = place.look_at_run("postcards", place.postcards, visit)
    look.wait_for_images(8)
    look.keep(f"gallery-run-{theme}")

    assert look.text(".figures") == "10 images · $0.40 · 1 refused"
    assert look.text(".chip >> nth=0") == "All 11"
    gallery, airflow = look.colours()
    assert gallery == airflow
    look.assert_quiet()


def test_every_image_says_what_it_shows_and_every_button_has_a_name(place: Place) -> None:
    look = place.look_at_run("postcards", place.postcards, place.visit(size=(1440, 2400)))
    look.wait_for_images(10)
    names = look.tiles()

    assert len(names) == 11
    assert "A red panda reading a map on a mountain pass, watercolour, morning light" in names
    assert len([name for name in names if name.startswith("Refused by the content policy")]) == 1
    unnamed = look.frame.evaluate(
        "() => [...document.querySelectorAll('button, a')].filter("
        "(one) => !one.innerText.trim() && !one.ariaLabel && !one.querySelector('img[alt]')).length"
    )
    assert unnamed == 0
    listed = look.frame.get_by_role("list", name="Images").get_by_role("listitem")
    assert listed.count() == 11
    assert listed.first.get_attribute("aria-setsize") == "11"


def test_prompt_that_is_html_stays_text(place: Place) -> None:
    look = place.look_at_run("postcards", place.postcards, place.visit(size=(1440, 2400)))
    look.wait_for_images(10)
    [name] = [name for name in look.tiles() if "hedgehog" in name]

    assert name.startswith("<img src=x onerror=")
    assert "broken into" not in look.visit.page.title() + look.frame.title()
    assert look.frame.locator("img[src=x]").count() == 0
    look.assert_quiet()


def test_task_with_four_images_shows_them_side_by_side_and_turns_dark_with_airflow(place: Place) -> None:
    look = place.look_at_task("cover")
    look.wait_for_images(4)
    look.keep_both("gallery-task")
    gallery, airflow = look.colours()
    assert gallery == airflow
    assert look.frame.evaluate("() => document.documentElement.style.colorScheme") == "dark"

    tops = "() => [...document.querySelectorAll('.cell')].map((c) => c.getBoundingClientRect().top)"
    found = look.frame.evaluate(tops)
    assert len(found) == 4
    assert len(set(found)) == 1


def test_page_of_a_task_links_to_its_gallery(place: Place) -> None:
    """Airflow highlights the tab only when the link's address is what its own router writes."""
    visit = place.visit()
    visit.page.goto(f"{visit.origin}/dags/postcards/runs/{place.postcards}/tasks/cover/details")
    page = place.follow(visit.page.get_by_role("link", name="Gallery"))
    page.wait_for_url("**/tasks/cover/plugin/images-task-instance")

    tab = page.get_by_role("link", name="Images", exact=True)
    assert "active" in str(tab.get_attribute("class"))


def test_task_of_others_says_so(place: Place) -> None:
    look = place.look_at_task("count")
    look.keep("gallery-foreign")

    assert "This task does not make images with airflow-provider-aisa." in look.text(".empty-state")


def test_chips_show_one_task_or_the_failures_only(place: Place) -> None:
    look = place.look_at_run("postcards", place.postcards, place.visit(size=(1440, 2400)))
    count = "(wanted) => document.querySelectorAll('.cell button').length === wanted"
    for name, number in (("motif", 6), ("cover", 4), ("Failures", 1), ("All", 11)):
        look.frame.locator(".chip", has_text=name).click()
        look.wait_until(count, number)
        assert look.text(".figures") == "10 images · $0.40 · 1 refused"


def test_batch_shows_its_items_and_which_of_them_failed(place: Place) -> None:
    look = place.look_at_run("catalogue", place.catalogue)
    look.wait_for_images(8)
    look.keep_both("gallery-batch")

    assert look.text(".figures") == "11 images · $0.44 · 1 refused"
    assert len([name for name in look.tiles() if name.startswith("Refused")]) == 1
    look.assert_quiet()


def test_dag_shows_a_row_for_each_run_and_what_they_cost(place: Place) -> None:
    look = place.look("/dags/postcards/plugin/images")
    look.wait_for_images(6)
    look.keep_both("gallery-dag")

    assert look.text(".run .figures") == "10 images · $0.40 · 1 refused"
    bars = look.frame.locator(".bars a")
    labels = bars.evaluate_all("(some) => some.map((one) => one.getAttribute('aria-label'))")
    assert [label.split(": ")[1] for label in labels] == ["$0.40 for 10 images"]
    look.frame.get_by_role("button", name="Per day").click()
    assert "of 1 run" in str(look.frame.locator(".bars g").first.get_attribute("aria-label"))
    look.frame.locator(".run-head a").first.click()
    look.visit.page.wait_for_url("**/plugin/images-dag-run")
    look.assert_quiet()


def test_tab_opens_in_a_window_of_its_own(place: Place) -> None:
    look = place.look_at_run("postcards", place.postcards)
    with look.visit.context.expect_page() as opened:
        look.frame.get_by_role("button", name="Open in a window of its own").click()
    opened.value.wait_for_selector("main[aria-busy=false]")

    assert opened.value.locator(".figures").inner_text().startswith("10 images")
    assert opened.value.locator("nav a").first.inner_text() == "postcards"


def test_run_is_found_by_an_address_as_airflow_3_1_writes_it(place: Place) -> None:
    """It puts the ids into a tab's address as they are; a plus sign is read as a space there."""
    visit = place.visit()
    visit.page.goto(f"{visit.origin}/aisa/run?dag_id=postcards&run_id={place.postcards}")
    visit.page.wait_for_selector("main[aria-busy=false]")

    assert "+" in place.postcards
    assert visit.page.locator(".figures").inner_text().startswith("10 images")
    assert visit.problems == []


@pytest.mark.parametrize("width", [360, 768])
def test_page_of_its_own_fits_a_phone(place: Place, width: int) -> None:
    look = place.look_at_page("postcards", place.postcards, place.visit(size=(width, 800)))
    look.wait_for_images(2)
    look.keep(f"gallery-phone-{width}")
    look.frame.locator("button.tile").first.click()
    look.frame.wait_for_selector("dialog .stage img[src^='image?']")
    look.keep(f"gallery-phone-{width}-lightbox")

    assert look.frame.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    assert look.frame.locator("nav a").first.inner_text() == "postcards"
    look.assert_quiet()


def test_nothing_moves_while_a_page_is_drawn_and_scrolled(place: Place) -> None:
    look = place.look_at_page("postcards", place.postcards, place.visit())
    look.watch_shifts()
    look.wait_for_images(6)
    look.visit.page.mouse.wheel(0, 3000)
    look.visit.page.wait_for_timeout(500)

    assert look.shifts() < 0.001
