"""What the gallery says while something happens, when an image is gone, and to whom it says nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from tests.browser.conftest import BUCKET
from tests.browser.gallery import WAIT

if TYPE_CHECKING:
    from tests.browser.gallery import Place


def test_running_batch_fills_in_as_images_are_stored(place: Place) -> None:
    run_id = place.airflow.trigger("catalogue", {"items": 40})
    look = place.look_at_run("catalogue", run_id)
    look.wait_until("() => document.querySelector('progress')?.value >= 8")
    look.wait_for_images(8)
    look.keep("gallery-running")
    words = look.text(".progress")
    place.airflow.wait_for_run("catalogue", run_id, WAIT)
    look.wait_until("() => document.querySelector('.figures').innerText.startsWith('39 images')")
    look.wait_until("() => !document.querySelector('progress')")

    for said in ("of 40 items stored", "per minute", "left"):
        assert said in words
    look.assert_quiet()


def test_run_that_has_stored_nothing_yet_says_so_and_then_shows_its_images(place: Place) -> None:
    place.gateway.latency = 5
    try:
        run_id = place.airflow.trigger("secret_project")
        look = place.look_at_run("secret_project", run_id, place.visit("admin"))
        first = look.text("main")
        place.airflow.wait_for_run("secret_project", run_id, WAIT)
        look.wait_for_images(1)
    finally:
        place.gateway.latency = 1

    assert first.startswith("0 images")
    look.assert_quiet()


def test_deleted_image_says_so_in_its_tile_and_in_full(place: Place) -> None:
    run_id = place.airflow.trigger("catalogue", {"items": 3})
    place.airflow.wait_for_run("catalogue", run_id, WAIT)
    result = place.airflow.xcom("catalogue", run_id, "shots")
    folder = result["manifest_uri"].removeprefix(f"s3://{BUCKET}/").partition("_aisa/")[0]
    place.s3.delete_object(Bucket=BUCKET, Key=f"{folder}sku-0001/0.png")
    look = place.look_at_run("catalogue", run_id)
    look.frame.wait_for_selector(".picture.missing")
    look.wait_for_images(2)
    look.keep("gallery-deleted")
    in_tile = look.text(".picture.missing")
    look.frame.locator(".cell", has=look.frame.locator(".missing")).locator("button").click()
    look.frame.wait_for_selector("dialog .words")

    assert in_tile.startswith("The image was deleted from S3: s3://")
    assert "deleted from S3" in look.text("dialog .stage")
    look.assert_quiet(expected=("404",))


PATHS = ("run", "data/run", "dag", "data/dag", "image", "thumbnail")


def test_who_may_not_read_a_dag_gets_403_and_nothing_of_it(place: Place) -> None:
    """The admin sees at the same addresses what the viewer does not."""
    refused, allowed = place.visit("viewer").context.request, place.visit("admin").context.request
    query = f"dag_id=secret_project&run_id={quote(place.secret, safe='')}&task_id=cover"
    for path in PATHS:
        answers = [one.get(f"{place.airflow.url}/aisa/{path}?{query}") for one in (refused, allowed)]
        assert [answer.status for answer in answers] == [403, 200], path
        assert "Nobody may read this" not in answers[0].text()
        assert "image/" not in answers[0].headers["content-type"]


def test_who_may_not_read_a_dag_is_told_so_in_words(place: Place) -> None:
    look = place.look_at_page("secret_project", place.secret, place.visit("viewer"))
    look.frame.wait_for_selector("main[aria-busy=false]")
    look.keep("gallery-forbidden")

    assert "You have no permission to see this DAG's results." in look.text(".empty-state")
    assert look.frame.locator("img").count() == 0
    look.assert_quiet(expected=("403",))


def test_who_is_not_signed_in_gets_401(place: Place) -> None:
    nobody = place.visit(None).context.request
    query = f"dag_id=postcards&run_id={quote(place.postcards, safe='')}&task_id=cover"
    for path in (*PATHS, "static/0/run.js"):
        assert nobody.get(f"{place.airflow.url}/aisa/{path}?{query}").status == 401, path


def test_session_that_ends_is_said_to_have_ended(place: Place) -> None:
    """On a page of its own: around a tab, Airflow's page leads to the login by itself."""
    look = place.look_at_page("postcards", place.postcards, place.visit())
    look.wait_for_images(4)
    look.visit.context.clear_cookies()
    look.frame.locator(".chip", has_text="cover").click()
    look.frame.wait_for_selector(".notice")

    assert "Reload the page to sign in again" in look.text(".notices")


def test_human_in_the_loop_task_shows_the_images_that_it_asks_about(place: Place) -> None:
    visit = place.visit("admin")
    run = quote(place.postcards, safe=":+")
    visit.page.goto(f"{visit.origin}/dags/postcards/runs/{run}/tasks/approve/required_actions")
    visit.page.wait_for_function(
        "() => [...document.querySelectorAll('img[alt^=\"Image \"]')]"
        ".filter((image) => image.naturalWidth > 0).length === 4"
    )
    visit.screenshot(place.images / "gallery-choice.png")
