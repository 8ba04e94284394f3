"""The gallery as a person sees it: in Airflow's own pages, light and dark, with mouse and keyboard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.gallery.conftest import BUCKET, THEMES, WAIT, Place, theme_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Frame

    from tools.browser import Theme, Visit

Keep = Any
LOADED = "() => [...document.querySelectorAll('.cell img')].filter((img) => img.naturalWidth > 0).length"
SHIFTS = """() => {
    window.shifts = [];
    new PerformanceObserver((list) => {
        for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifts.push(entry.value);
    }).observe({ type: "layout-shift", buffered: true });
}"""


def wait_until(frame: Frame, condition: str, argument: object = None) -> None:
    frame.wait_for_function(condition, arg=argument, timeout=60_000)


def wait_for_images(frame: Frame, number: int) -> None:
    wait_until(frame, f"(wanted) => ({LOADED})() >= wanted", number)


def text(frame: Frame, selector: str) -> str:
    return " ".join(frame.locator(selector).inner_text().split())


def tiles(frame: Frame) -> list[str]:
    """Return what a screen reader calls each tile that is drawn, in their order."""
    found: list[str] = frame.evaluate(
        """() => [...document.querySelectorAll(".cell")]
            .sort((a, b) => a.ariaPosInSet - b.ariaPosInSet)
            .map((cell) => cell.querySelector("img")?.alt ?? cell.innerText.replaceAll("\\n", " "))"""
    )
    return found


def assert_quiet(visit: Visit, *, expected: tuple[str, ...] = ()) -> None:
    """Fail when a page asked another machine, or a script of ours broke."""
    assert visit.foreign == []
    unexpected = [one for one in visit.problems if not any(word in one for word in expected)]
    assert unexpected == []


@pytest.mark.parametrize("theme", THEMES)
def test_a_run_shows_its_images_in_airflows_own_colours(place: Place, keep: Keep, theme: Theme) -> None:
    """What the operating system prefers does not count: it is the other one here."""
    other: Theme = "light" if theme == "dark" else "dark"
    visit = place.visit(theme=theme, system_theme=other)
    frame = place.run_tab(visit, "postcards", place.postcards)
    wait_for_images(frame, 4)
    keep(visit, f"run-{theme}")

    assert text(frame, ".figures") == "10 images · $0.40 · 1 refused"
    assert text(frame, ".chip >> nth=0") == "All 11"
    colours = frame.evaluate(
        "() => ({ backgroundColor: getComputedStyle(document.documentElement).backgroundColor,"
        " color: getComputedStyle(document.body).color })"
    )
    assert colours == theme_of(visit)
    assert_quiet(visit)


def test_the_gallery_turns_dark_when_airflow_does(place: Place) -> None:
    visit = place.visit(theme="light")
    frame = place.run_tab(visit, "postcards", place.postcards)
    visit.page.evaluate("() => { document.documentElement.className = 'dark' }")
    wait_until(frame, "() => document.documentElement.classList.contains('dark')")

    assert frame.evaluate("() => document.documentElement.style.colorScheme") == "dark"


def test_every_image_says_what_it_shows_and_every_button_has_a_name(place: Place) -> None:
    visit = place.visit(size=(1440, 2400))
    frame = place.run_tab(visit, "postcards", place.postcards)
    wait_for_images(frame, 10)
    names = tiles(frame)

    assert len(names) == 11
    assert "A red panda reading a map on a mountain pass, watercolour, morning light" in names
    assert [name for name in names if name.startswith("Refused by the content policy")]
    unnamed = frame.evaluate(
        "() => [...document.querySelectorAll('button, a')].filter("
        "(one) => !one.innerText.trim() && !one.ariaLabel && !one.querySelector('img[alt]')).length"
    )
    assert unnamed == 0
    listed = frame.get_by_role("list", name="Images").get_by_role("listitem")
    assert listed.count() == 11
    assert listed.first.get_attribute("aria-setsize") == "11"


def test_a_prompt_that_is_html_stays_text(place: Place) -> None:
    visit = place.visit(size=(1440, 2400))
    frame = place.run_tab(visit, "postcards", place.postcards)
    wait_for_images(frame, 10)
    [name] = [name for name in tiles(frame) if "hedgehog" in name]

    assert name.startswith("<img src=x onerror=")
    assert "broken into" not in visit.page.title() + frame.title()
    assert frame.locator("img[src=x]").count() == 0
    assert_quiet(visit)


@pytest.mark.parametrize("theme", THEMES)
def test_keys_open_an_image_lead_to_the_others_and_back_to_its_tile(
    place: Place, keep: Keep, theme: Theme
) -> None:
    visit = place.visit(theme=theme)
    frame = place.run_tab(visit, "postcards", place.postcards)
    wait_for_images(frame, 4)
    frame.locator("button.tile").first.focus()
    press: Callable[[str], None] = visit.page.keyboard.press
    position = frame.locator("dialog .position")
    press("ArrowRight")
    press("Enter")
    frame.wait_for_selector("dialog[open] .stage img")
    assert position.inner_text() == "2 of 11"
    for key, expected in (
        ("ArrowRight", "3 of 11"),
        ("ArrowLeft", "2 of 11"),
        ("End", "11 of 11"),
        ("Home", "1 of 11"),
    ):
        press(key)
        wait_until(
            frame, "(wanted) => document.querySelector('dialog .position').textContent === wanted", expected
        )
    for _ in range(11):
        press("ArrowRight")
    wait_until(
        frame, "(wanted) => document.querySelector('dialog .position').textContent === wanted", "11 of 11"
    )
    press("Home")
    frame.wait_for_selector("dialog .stage img[src^='image?']")
    keep(visit, f"lightbox-{theme}")
    press("Escape")
    wait_until(frame, "() => !document.querySelector('dialog').open")

    assert frame.evaluate("() => document.activeElement.closest('.cell').ariaPosInSet") == "1"
    assert_quiet(visit)


def test_an_image_in_full_comes_with_all_that_is_known_of_it(place: Place) -> None:
    visit = place.visit()
    frame = place.task_tab(visit, "cover")
    wait_for_images(frame, 4)
    frame.locator("button.tile").nth(1).click()
    frame.wait_for_selector("dialog .stage img[src^='image?']")
    details = text(frame, "dialog .details")

    assert "A harbour town seen from the sea at dawn, linocut, warm palette" in details
    assert "1920 \u00d7 1920" in details
    assert "$0.16 for 4 images" in details
    assert "seedream-4-5-251128" in details
    assert "req_" in details
    assert f"s3://{BUCKET}/seedream/postcards/" in details
    assert frame.evaluate("() => document.querySelector('dialog .stage img').naturalWidth") == 1920


def test_an_image_can_be_downloaded_its_place_copied_and_its_task_opened(place: Place) -> None:
    visit = place.visit()
    visit.context.grant_permissions(["clipboard-read", "clipboard-write"])
    frame = place.task_tab(visit, "motif/mapped/0")
    wait_for_images(frame, 1)
    frame.locator("button.tile").first.click()
    with visit.page.expect_download() as download:
        frame.get_by_role("link", name="Download").click()
    frame.get_by_role("button", name="Copy s3://").click()
    frame.wait_for_selector("text=Copied")
    copied = visit.page.evaluate("() => navigator.clipboard.readText()")
    frame.get_by_role("link", name="Open the task").click()
    visit.page.wait_for_url("**/tasks/motif/mapped/0")

    assert download.value.suggested_filename == "0.png"
    assert copied.startswith(f"s3://{BUCKET}/seedream/postcards/")
    assert copied.endswith("/motif/0/0.png")


@pytest.mark.parametrize("theme", THEMES)
def test_a_task_with_four_images_shows_them_side_by_side(place: Place, keep: Keep, theme: Theme) -> None:
    visit = place.visit(theme=theme)
    frame = place.task_tab(visit, "cover")
    wait_for_images(frame, 4)
    keep(visit, f"task-{theme}")
    tops = frame.evaluate(
        "() => [...document.querySelectorAll('.cell')].map((c) => c.getBoundingClientRect().top)"
    )

    assert len(tops) == 4
    assert len(set(tops)) == 1


def test_a_failed_task_shows_the_message_and_the_fix(place: Place, keep: Keep) -> None:
    visit = place.visit()
    frame = place.task_tab(visit, "refused")
    frame.locator("button.tile").click()
    frame.wait_for_selector("dialog[open]")
    keep(visit, "failed")

    assert "Refused by the content policy" in text(frame, "dialog .stage")
    assert "Change the prompt" in text(frame, "dialog .stage")
    assert "content_policy_violation" in text(frame, "dialog .details")


def test_a_task_of_others_says_so(place: Place, keep: Keep) -> None:
    visit = place.visit()
    frame = place.task_tab(visit, "count")
    keep(visit, "foreign")

    assert "This task does not make images with airflow-provider-aisa." in text(frame, ".empty-state")


def test_chips_show_one_task_or_the_failures_only(place: Place) -> None:
    visit = place.visit(size=(1440, 2400))
    frame = place.run_tab(visit, "postcards", place.postcards)
    for name, number in (("motif", 6), ("cover", 4), ("Failures", 1), ("All", 11)):
        frame.locator(".chip", has_text=name).click()
        wait_until(frame, "(wanted) => document.querySelectorAll('.cell button').length === wanted", number)
        assert text(frame, ".figures") == "10 images · $0.40 · 1 refused"


@pytest.mark.parametrize("theme", THEMES)
def test_a_batch_shows_its_items_and_which_of_them_failed(place: Place, keep: Keep, theme: Theme) -> None:
    visit = place.visit(theme=theme)
    frame = place.run_tab(visit, "catalogue", place.catalogue)
    wait_for_images(frame, 8)
    keep(visit, f"batch-{theme}")

    assert text(frame, ".figures") == "11 images · $0.44 · 1 refused"
    assert len([name for name in tiles(frame) if name.startswith("Refused")]) == 1
    assert_quiet(visit)


@pytest.mark.parametrize("theme", THEMES)
def test_a_dag_shows_a_row_for_each_run_and_what_they_cost(place: Place, keep: Keep, theme: Theme) -> None:
    visit = place.visit(theme=theme)
    frame = place.open_tab(visit, "/dags/catalogue/plugin/images")
    wait_for_images(frame, 6)
    keep(visit, f"dag-{theme}")

    assert text(frame, ".run .figures") == "11 images · $0.44 · 1 refused"
    bars = frame.locator(".bars a")
    assert [
        label.split(": ")[1]
        for label in bars.evaluate_all("(some) => some.map((one) => one.getAttribute('aria-label'))")
    ] == ["$0.44 for 11 images"]
    frame.get_by_role("button", name="Per day").click()
    assert "of 1 run" in str(frame.locator(".bars g").first.get_attribute("aria-label"))
    frame.locator(".run-head a").first.click()
    visit.page.wait_for_url("**/plugin/images-dag-run")
    assert_quiet(visit)


def test_a_running_batch_fills_in_as_images_are_stored_and_nothing_moves(place: Place, keep: Keep) -> None:
    run_id = place.airflow.trigger("catalogue", {"items": 40})
    visit = place.visit()
    frame = place.run_tab(visit, "catalogue", run_id)
    frame.evaluate(SHIFTS)
    wait_until(frame, "() => document.querySelector('progress')?.value >= 4")
    wait_for_images(frame, 4)
    keep(visit, "running")
    words = text(frame, ".progress")
    place.airflow.wait_for_run("catalogue", run_id, WAIT)
    wait_until(frame, "() => document.querySelector('.figures').innerText.startsWith('40 images')")
    wait_until(frame, "() => !document.querySelector('progress')")

    assert "of 40 items stored" in words
    assert "per minute" in words
    assert "left" in words
    assert_quiet(visit)


def test_a_run_that_has_stored_nothing_yet_says_so_and_then_shows_its_images(place: Place) -> None:
    place.gateway.latency = 5
    try:
        run_id = place.airflow.trigger("secret_project")
        visit = place.visit("admin")
        frame = place.run_tab(visit, "secret_project", run_id)
        first = text(frame, "main")
        place.airflow.wait_for_run("secret_project", run_id, WAIT)
        wait_for_images(frame, 1)
    finally:
        place.gateway.latency = 1

    assert first.startswith("0 images")
    assert_quiet(visit)


def test_a_deleted_image_says_so_in_its_tile_and_in_full(place: Place, keep: Keep) -> None:
    run_id = place.airflow.trigger("catalogue", {"items": 3})
    place.airflow.wait_for_run("catalogue", run_id, WAIT)
    result = place.airflow.xcom("catalogue", run_id, "shots")
    folder = result["manifest_uri"].removeprefix(f"s3://{BUCKET}/").partition("_aisa/")[0]
    place.s3.delete_object(Bucket=BUCKET, Key=f"{folder}sku-0001/0.png")
    visit = place.visit()
    frame = place.run_tab(visit, "catalogue", run_id)
    frame.wait_for_selector(".picture.missing")
    keep(visit, "deleted")
    in_tile = text(frame, ".picture.missing")
    frame.locator(".cell", has=frame.locator(".missing")).locator("button").click()
    frame.wait_for_selector("dialog .words")

    assert in_tile.startswith("The image was deleted from S3: s3://")
    assert "deleted from S3" in text(frame, "dialog .stage")
    assert_quiet(visit, expected=("404",))


def test_somebody_without_permission_is_told_so_and_shown_nothing(place: Place, keep: Keep) -> None:
    visit = place.visit("viewer")
    path = f"/aisa/run?dag_id=secret_project&run_id={place.secret.replace('+', '%2B')}"
    answers = []
    visit.page.on("response", lambda answer: answers.append((answer.url, answer.status)))
    visit.page.goto(f"{visit.origin}{path}")
    keep(visit, "forbidden")

    assert answers[0][1] == 403
    assert "Nobody may read this" not in visit.page.content()
    assert visit.page.locator("img").count() == 0


def test_nobody_gets_nothing(place: Place) -> None:
    visit = place.visit(None)
    answer = visit.page.goto(f"{visit.origin}/aisa/run?dag_id=postcards&run_id=x")

    assert answer is not None
    assert answer.status == 401


def test_a_session_that_ends_is_said_to_have_ended(place: Place, keep: Keep) -> None:
    visit = place.visit()
    frame = place.run_tab(visit, "postcards", place.postcards)
    wait_for_images(frame, 4)
    visit.context.clear_cookies()
    frame.locator(".chip", has_text="cover").click()
    frame.wait_for_selector(".notice")
    keep(visit, "signed-out")

    assert "Reload the page to sign in again" in text(frame, ".notices")


@pytest.mark.parametrize("width", [360, 414, 768])
def test_a_page_of_its_own_fits_a_phone(place: Place, keep: Keep, width: int) -> None:
    visit = place.visit(size=(width, 800))
    visit.page.goto(f"{visit.origin}/aisa/run?dag_id=postcards&run_id={place.postcards.replace('+', '%2B')}")
    frame = visit.page.main_frame
    wait_for_images(frame, 2)
    keep(visit, f"phone-{width}")
    frame.locator("button.tile").first.click()
    frame.wait_for_selector("dialog[open]")
    keep(visit, f"phone-{width}-lightbox")

    assert frame.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    assert frame.locator("nav a").first.inner_text() == "postcards"
    assert_quiet(visit)


def test_nothing_moves_while_a_page_is_drawn_and_scrolled(place: Place) -> None:
    visit = place.visit()
    visit.page.goto(f"{visit.origin}/aisa/run?dag_id=postcards&run_id={place.postcards.replace('+', '%2B')}")
    frame = visit.page.main_frame
    frame.evaluate(SHIFTS)
    wait_for_images(frame, 6)
    visit.page.mouse.wheel(0, 3000)
    visit.page.wait_for_timeout(500)

    assert sum(frame.evaluate("() => window.shifts")) < 0.001


def test_a_human_in_the_loop_task_shows_the_images_that_it_asks_about(place: Place, keep: Keep) -> None:
    visit = place.visit("admin")
    run = place.postcards.replace(":", "%3A").replace("+", "%2B")
    visit.page.goto(f"{visit.origin}/dags/postcards/runs/{run}/tasks/approve/required_actions")
    visit.page.wait_for_function(
        "() => [...document.querySelectorAll('img[alt^=\"image \"]')]"
        ".filter((image) => image.naturalWidth > 0).length === 4"
    )
    keep(visit, "hitl")
