"""An image that is sent is the one that stands in the results, whole, with its own type, and nothing else."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_aisa.ui import stores
from airflow_provider_aisa.ui.links import image_url
from tests.ui.world import FIELDS, picture

if TYPE_CHECKING:
    from tests.ui.world import World

GENERATE: dict[str, Any] = {"run_id": "run", "task_id": "generate"}
HTML = b"<html><script>alert(document.cookie)</script></html>"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


def bytes_in(world: World, key: str) -> bytes:
    return world.s3.get_object(Bucket=world.bucket, Key=key)["Body"].read()


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP"])
def test_an_image_comes_as_it_is_in_s3_with_the_type_that_its_bytes_say(
    world: World, image_format: str
) -> None:
    """The object's own content type may be anything: another program may have written it."""
    content = picture(image_format=image_format)
    image = world.store("a/0.png", content, content_type="text/html")
    world.add_task(run=world.add_run(), xcoms={"return_value": world.result(image)})

    answer = world.ask("image", **GENERATE)
    assert answer.content == content
    assert answer.headers["Content-Type"] == f"image/{image_format.lower()}"
    assert answer.headers["Content-Length"] == str(len(content))


def test_each_image_of_a_task_has_its_number(world: World) -> None:
    world.finished_task("a/0.png", "a/1.png", "a/2.png")

    sent = [world.ask("image", index=index, **GENERATE).content for index in range(3)]
    assert sent == [bytes_in(world, f"a/{index}.png") for index in range(3)]
    assert world.ask("image", index=3, **GENERATE).status_code == 404


def test_a_mapped_instance_has_its_own_images(world: World) -> None:
    run = world.add_run()
    for map_index in range(2):
        result = world.result(world.store(f"{map_index}.png"))
        world.add_task(run=run, map_index=map_index, xcoms={"return_value": result})

    for map_index in range(2):
        answer = world.ask("image", map_index=map_index, **GENERATE)
        assert answer.content == bytes_in(world, f"{map_index}.png")
    assert world.ask("image", map_index=2, **GENERATE).status_code == 404


def test_the_address_that_others_put_into_their_pages_leads_to_the_image(world: World) -> None:
    result = world.finished_task("a/0.png")
    url = image_url(world.dag_id, "run", "generate", sha256=result["images"][0]["sha256"])
    world.ask("dag")  # signs in

    assert world.client.get(f"/{url}").content == bytes_in(world, "a/0.png")


def test_a_browser_that_has_the_image_is_told_so_without_asking_s3(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.finished_task("a/0.png")
    tag = world.ask("image", **GENERATE).headers["ETag"]
    monkeypatch.setattr(stores.Store, "open_picture", None)

    answer = world.ask("image", headers={"If-None-Match": tag}, **GENERATE)
    assert (answer.status_code, answer.content) == (304, b"")


def test_only_an_address_with_the_images_hash_may_be_kept_without_asking(world: World) -> None:
    sha256 = world.finished_task("a/0.png")["images"][0]["sha256"]

    kept = {
        v: world.ask("image", v=v, **GENERATE).headers["Cache-Control"] for v in (sha256[:16], "", "0" * 16)
    }
    assert list(kept.values()) == [
        "private, max-age=86400, immutable",
        "private, no-cache",
        "private, no-cache",
    ]


def test_a_download_has_a_name_and_the_ending_of_its_type(world: World) -> None:
    image = world.store("a/b/red panda ☃.png", picture(image_format="JPEG"))
    world.add_task(run=world.add_run(), xcoms={"return_value": world.result(image)})

    answer = world.ask("image", download=True, **GENERATE)
    assert answer.headers["Content-Disposition"] == "attachment; filename*=UTF-8''red%20panda%20%E2%98%83.jpg"


def test_an_image_is_not_compressed_again(world: World) -> None:
    world.finished_task("a/0.png")
    answer = world.ask("image", headers={"Accept-Encoding": "gzip"}, **GENERATE)

    assert answer.headers["Content-Encoding"] == "identity"


@pytest.mark.parametrize("content", [HTML, SVG, b"", b"GIF89a", b"RIFF1234WAVE", b"%PDF-1.7"])
def test_what_is_no_image_is_not_sent_whatever_its_object_says(world: World, content: bytes) -> None:
    image = world.store("a/0.png", content, content_type="image/png")
    world.add_task(run=world.add_run(), xcoms={"return_value": world.result(image)})

    for path in ("image", "thumbnail"):
        answer = world.ask(path, **GENERATE)
        assert answer.status_code == 415
        assert answer.headers["Content-Type"] == "application/json"
        assert "is no PNG, JPEG or WebP" in answer.json()["detail"]


def test_an_image_of_another_dag_cannot_be_had_by_writing_its_key_into_ones_own_xcom(world: World) -> None:
    """Whoever may edit XComs of one DAG, but not read another's, does not know the other's hashes."""
    theirs = world.store("theirs/0.png")
    forged = {**theirs, "sha256": hashlib.sha256(b"a guess").hexdigest()}
    world.add_task(run=world.add_run(), xcoms={"return_value": world.result(forged)})

    for path in ("image", "thumbnail"):
        answer = world.ask(path, **GENERATE)
        assert answer.status_code == 404
        assert "holds something else than the image of this result" in answer.json()["detail"]


def test_an_object_that_this_package_has_not_written_is_not_sent(world: World) -> None:
    image = world.store("a/0.png", metadata={})
    world.add_task(run=world.add_run(), xcoms={"return_value": world.result(image)})

    assert world.ask("image", **GENERATE).status_code == 404


@pytest.mark.parametrize(
    "query",
    [
        {"bucket": "other", "key": "a/0.png"},
        {"s3_key": "other/0.png", "uri": "s3://other/0.png"},
        {"aws_conn_id": "other"},
        {"item": "../../other"},
        {"item": "s3://other/0.png"},
    ],
)
def test_a_query_names_no_bucket_no_key_and_no_connection(world: World, query: dict[str, Any]) -> None:
    world.finished_task("a/0.png")
    world.store("other/0.png")

    assert world.ask("image", **GENERATE, **query).content == bytes_in(world, "a/0.png")


@pytest.mark.parametrize(
    "query",
    [
        {"run_id": "../run"},
        {"run_id": "%2e%2e/run"},
        {"run_id": "run' OR '1'='1"},
        {"run_id": "run\0"},
        {"task_id": "../generate"},
        {"task_id": "%"},
        {"map_index": "-1 OR 1=1"},
        {"index": "99999999999999999999"},
        {"index": "-1"},
    ],
)
def test_made_up_ids_lead_nowhere(world: World, query: dict[str, Any]) -> None:
    world.finished_task("a/0.png")
    answer = world.ask("image", **{**GENERATE, **query})

    if "map_index" in query:  # what is no number is no mapped instance
        assert answer.status_code == 200
    else:
        assert answer.status_code in {404, 422}


def test_a_deleted_image_is_said_to_be_deleted(world: World) -> None:
    world.finished_task("a/0.png")
    world.s3.delete_object(Bucket=world.bucket, Key="a/0.png")

    for path in ("image", "thumbnail"):
        answer = world.ask(path, **GENERATE)
        assert answer.status_code == 404
        assert answer.json()["detail"].startswith("The image was deleted from S3: s3://")


def test_a_bucket_that_cannot_be_reached_is_named_with_the_next_step(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.finished_task("a/0.png")
    monkeypatch.setenv(
        "AIRFLOW_CONN_AWS_DEFAULT",
        '{"conn_type": "aws", "login": "x", "password": "not-to-be-shown", "extra": '
        '{"endpoint_url": "http://127.0.0.1:9", "region_name": "us-east-1"}}',
    )
    answer = world.ask("image", **GENERATE)

    assert answer.status_code == 502
    assert answer.json()["detail"].startswith("Check the AWS connection, its endpoint and its credentials.")
    assert "not-to-be-shown" not in answer.text


def test_a_connection_that_only_workers_have_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    result = world.result(world.store("a/0.png"))
    fields = {**FIELDS, "aws_conn_id": "only_on_workers"}
    world.add_task(run=world.add_run(), fields=fields, xcoms={"return_value": result})
    answer = world.ask("image", **GENERATE)

    assert answer.status_code == 502
    assert "the AWS connection 'only_on_workers'" in answer.json()["detail"]


def test_a_run_whose_rendered_fields_airflow_has_dropped_uses_those_of_a_later_run(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow keeps rendered fields for the last thirty runs, and results for as long as the run."""
    connection = "AIRFLOW_CONN_AWS_DEFAULT"
    monkeypatch.setenv("AIRFLOW_CONN_OF_THE_TASK", os.environ[connection])
    monkeypatch.delenv(connection)
    result = world.result(world.store("a/0.png"))
    world.add_task(run=world.add_run("run"), fields=None, xcoms={"return_value": result})
    later = {**FIELDS, "aws_conn_id": "of_the_task"}
    world.add_task(run=world.add_run("later"), run_id="later", fields=later)

    assert world.ask("image", **GENERATE).content == bytes_in(world, "a/0.png")


def test_an_image_of_64_mib_comes_whole(world: World) -> None:
    content = picture() + bytes(64 * 1024 * 1024)
    image = world.store("a/0.png", content)
    world.add_task(run=world.add_run(), xcoms={"return_value": world.result(image)})

    answer = world.ask("image", **GENERATE)
    assert hashlib.sha256(answer.content).hexdigest() == image["sha256"]


def test_a_hundred_clients_at_once_each_get_their_image(world: World) -> None:
    images = [world.store(f"{index}.png", picture() + bytes(300_000), index=index) for index in range(10)]
    world.add_task(run=world.add_run(), xcoms={"return_value": world.result(*images)})

    def ask(number: int) -> str:
        answer = world.client.get(
            "/aisa/image", params={"dag_id": world.dag_id, "index": number % 10, **GENERATE}
        )
        return hashlib.sha256(answer.content).hexdigest()

    world.ask("dag")  # signs in
    with ThreadPoolExecutor(100) as pool:
        sent = list(pool.map(ask, range(100)))
    assert sent == [images[number % 10]["sha256"] for number in range(100)]


@pytest.mark.parametrize(
    "value",
    [
        "text",
        None,
        [],
        {"images": "no list", "journal_uri": 1},
        {"images": [None, 1, {}, {"bucket": 1}], "journal_uri": "s3://a/b"},
        {"images": [{"bucket": "b", "key": "k" * 2000, "sha256": "0" * 64}], "journal_uri": ""},
        {"items": "many", "manifest_uri": "s3://"},
        {"items": 10**400, "manifest_uri": "http://169.254.169.254/latest/meta-data"},
        {"images": [], "journal_uri": "x", "cost_usd": float("1e999"), "reused": "yes"},
    ],
    ids=str,
)
def test_an_xcom_that_is_no_result_shows_nothing_and_breaks_nothing(world: World, value: Any) -> None:
    world.add_task(
        run=world.add_run(), xcoms={"return_value": value, "aisa_batch": value, "aisa_failure": value}
    )

    assert world.ask("image", **GENERATE).status_code == 404
    assert world.data()["tiles"] == []
    assert world.ask("data/dag").json()["runs"][0]["figures"]["images"] == 0
