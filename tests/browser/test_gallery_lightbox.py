"""One image in full, with mouse and keyboard, and all that is known of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.browser.conftest import BUCKET

if TYPE_CHECKING:
    from tests.browser.gallery import Place


POSITION = "dialog .position"
WHOLE_IMAGE = "dialog .stage img[src^='image?']"


def test_keys_open_an_image_lead_to_the_others_and_back_to_its_tile(place: Place) -> None:
    look = place.look_at_run("postcards", place.postcards)
    look.wait_for_images(4)
    look.frame.locator("button.tile").first.focus()
    look.press("ArrowRight")
    look.press("Enter")
    look.frame.wait_for_selector("dialog[open] .stage img")
    for key, expected in (
        ("", "2 of 11"),
        ("ArrowRight", "3 of 11"),
        ("ArrowLeft", "2 of 11"),
        ("End", "11 of 11"),
        ("ArrowRight", "11 of 11"),
        ("Home", "1 of 11"),
    ):
        if key:
            look.press(key)
        look.wait_for_text(POSITION, expected)
    look.frame.wait_for_selector(WHOLE_IMAGE)
    look.keep_both("gallery-image")
    look.press("Escape")
    # First the browser gives the focus back to the tile that was clicked, then the page to the one last seen.
    look.wait_until("() => document.activeElement.closest('.cell')?.ariaPosInSet === '1'")

    assert not look.frame.evaluate("() => document.querySelector('dialog').open")
    look.assert_quiet()


def test_image_in_full_comes_with_all_that_is_known_of_it(place: Place) -> None:
    look = place.look_at_task("cover")
    look.wait_for_images(4)
    look.frame.locator("button.tile").nth(1).click()
    look.frame.wait_for_selector(WHOLE_IMAGE)
    details = look.text("dialog .details")

    for known in (
        "A harbour town seen from the sea at dawn, linocut, warm palette",
        "1920 \u00d7 1920",
        "$0.16 for 4 images",
        "seedream-4-5-251128",
        "req_",
        f"s3://{BUCKET}/seedream/postcards/",
    ):
        assert known in details
    assert look.frame.evaluate("() => document.querySelector('dialog .stage img').naturalWidth") == 1920


def test_image_can_be_downloaded_its_place_copied_and_its_task_opened(place: Place) -> None:
    visit = place.visit()
    visit.context.grant_permissions(["clipboard-read", "clipboard-write"])
    look = place.look_at_task("motif/mapped/0", visit)
    look.wait_for_images(1)
    look.frame.locator("button.tile").first.click()
    with visit.page.expect_download() as download:
        look.frame.get_by_role("link", name="Download").click()
    look.frame.get_by_role("button", name="Copy s3://").click()
    look.frame.wait_for_selector("text=Copied")
    copied = visit.page.evaluate("() => navigator.clipboard.readText()")
    look.frame.get_by_role("link", name="Open the task").click()
    visit.page.wait_for_url("**/tasks/motif/mapped/0")

    assert download.value.suggested_filename == "0.png"
    assert copied.startswith(f"s3://{BUCKET}/seedream/postcards/")
    assert copied.endswith("/motif/0/0.png")


def test_failed_task_shows_the_message_and_the_fix(place: Place) -> None:
    look = place.look_at_task("refused")
    look.frame.locator("button.tile").click()
    look.frame.wait_for_selector("dialog[open]")
    look.keep("gallery-failed")

    assert "Refused by the content policy" in look.text("dialog .stage")
    assert "Change the prompt" in look.text("dialog .stage")
    assert "content_policy_violation" in look.text("dialog .details")
