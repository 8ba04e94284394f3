"""What a successful task leaves behind: images in S3, a small XCom, a log, and nothing that is secret."""

from __future__ import annotations

import hashlib
import json
import logging
from io import BytesIO
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from airflow_provider_aisa.exceptions import FewerImages, ImageUnusable
from airflow_provider_aisa.sandbox import Fault

if TYPE_CHECKING:
    from tests.operators.conftest import Desk

DEFAULT = "seedream/dag/run/generate/"


def test_the_result_says_what_is_in_s3_and_what_it_cost(desk: Desk) -> None:
    result = desk.run(n=2)

    images = result.pop("images")
    journal_uri = result.pop("journal_uri")
    assert result.pop("created") > 1_700_000_000
    assert result.pop("request_id").startswith("req_")
    assert result == {
        "model": "seedream-4-5-251128",
        "reused": False,
        "cost_usd": 0.08,
        "usage": {"generated_images": 2, "output_tokens": 32768, "total_tokens": 32768},
        "unknown_outcomes": 0,
    }
    assert journal_uri.startswith(f"s3://{desk.bucket}/{DEFAULT}_aisa/")
    assert desk.keys() == [f"{DEFAULT}0.png", f"{DEFAULT}1.png"]
    for index, image in enumerate(images):
        stored = desk.s3.get_object(Bucket=desk.bucket, Key=f"{DEFAULT}{index}.png")
        content = stored["Body"].read()
        assert image == {
            "index": index,
            "uri": f"s3://{desk.bucket}/{DEFAULT}{index}.png",
            "bucket": desk.bucket,
            "key": f"{DEFAULT}{index}.png",
            "width": 2048,
            "height": 2048,
            "size": "2048x2048",
            "content_type": "image/png",
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        assert stored["ContentType"] == "image/png"
        assert Image.open(BytesIO(content)).size == (2048, 2048)


def test_the_xcom_is_small_json_at_any_number_of_images(desk: Desk) -> None:
    assert len(json.dumps(desk.run(n=8))) < 4096


def test_metadata_says_where_an_image_comes_from_in_ascii(desk: Desk) -> None:
    result = desk.run(run_id="späť", s3_key="{index}.{ext}", s3_extra_args={"Metadata": {"team": "shop"}})

    metadata = desk.s3.head_object(Bucket=desk.bucket, Key=result["images"][0]["key"])["Metadata"]
    assert metadata["run-id"] == "sp%C3%A4%C5%A5"
    assert metadata["ai-generated"] == "true"
    assert metadata["model"] == "seedream-4-5-251128"
    assert (metadata["dag-id"], metadata["task-id"], metadata["team"]) == ("dag", "generate", "shop")


@pytest.mark.parametrize(
    ("image_format", "ext", "content_type"),
    [("png", "png", "image/png"), ("jpeg", "jpg", "image/jpeg"), ("webp", "webp", "image/webp")],
)
def test_the_bytes_decide_the_ending_and_the_content_type(
    desk: Desk, image_format: str, ext: str, content_type: str
) -> None:
    desk.gateway.change(image_format=image_format)

    [image] = desk.run()["images"]

    assert image["key"].endswith(f".{ext}")
    assert image["content_type"] == content_type


def test_an_ending_that_the_bytes_contradict_is_kept_with_a_warning(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.gateway.image_format = "jpeg"

    with caplog.at_level(logging.WARNING):
        [image] = desk.run(s3_key="hero.png")["images"]

    assert (image["key"], image["content_type"]) == ("hero.png", "image/jpeg")
    assert "{ext}" in caplog.text


def test_the_log_says_what_is_about_to_be_paid_and_what_was_stored(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        result = desk.run(n=2)

    assert "2 image(s) of seedream-4-5-251128, 2048x2048, about $0.080" in caplog.text
    assert f"billed 2 image(s), $0.080; request {result['request_id']}" in caplog.text
    for image in result["images"]:
        assert f"Stored {image['uri']}" in caplog.text


def test_no_secret_and_no_link_is_in_logs_result_journal_or_metadata(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        result = desk.run(n=2)

    head = desk.s3.head_object(Bucket=desk.bucket, Key=result["images"][0]["key"])
    everywhere = caplog.text + json.dumps(result) + json.dumps(desk.journal()) + json.dumps(head["Metadata"])
    for secret in (desk.gateway.api_key, desk.store.secret_key, "X-Signature", desk.gateway.cdn_url):
        assert secret not in everywhere
    assert all(request.credentials == () for request in desk.gateway.cdn_requests)


def test_fewer_images_than_asked_fail_after_the_good_ones_are_stored(desk: Desk) -> None:
    desk.gateway.inject(Fault("fewer_images"))

    with pytest.raises(FewerImages, match=r"returned 2 of 3 .* 2 are paid for \(\$0\.080\)"):
        desk.run(n=3)

    assert len(desk.keys()) == 2


def test_fewer_images_can_be_kept(desk: Desk) -> None:
    desk.gateway.inject(Fault("image_error"))

    result = desk.run(n=3, on_partial="keep")

    assert len(result["images"]) == 2
    assert result["cost_usd"] == 0.08


def test_a_retry_after_fewer_images_pays_nothing_and_says_the_same(desk: Desk) -> None:
    desk.gateway.inject(Fault("fewer_images"))
    for tries in (1, 2):
        with pytest.raises(FewerImages):
            desk.run(n=3, tries=tries)

    assert len(desk.run(n=3, tries=3, on_partial="keep")["images"]) == 2
    assert desk.gateway.billed == 2


def test_no_images_and_no_bill_is_an_error_after_which_a_retry_buys(desk: Desk) -> None:
    desk.gateway.inject(Fault("no_images"))
    with pytest.raises(FewerImages, match="returned 0 of 1"):
        desk.run(on_partial="keep")
    assert desk.journal()["claim"]["ended"]
    assert desk.journal()["unknown"] == []

    assert len(desk.run(tries=2)["images"]) == 1
    assert desk.gateway.billed == 1


def test_images_inside_the_response_are_stored_like_linked_ones(desk: Desk) -> None:
    desk.gateway.inject(Fault("b64_json"))

    result = desk.run(n=2)

    assert [image["size"] for image in result["images"]] == ["2048x2048"] * 2
    assert desk.gateway.cdn_requests == []
    assert "b64_json" not in json.dumps(desk.journal())


def test_images_inside_the_response_survive_a_failed_upload(desk: Desk) -> None:
    desk.gateway.inject(Fault("b64_json"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("airflow_provider_aisa.core.images.inline.inspect", _unusable)
        with pytest.raises(ImageUnusable):
            desk.run()

    assert len(desk.run(tries=2)["images"]) == 1
    assert desk.gateway.billed == 1


def _unusable(_: object) -> None:
    raise ImageUnusable("for a test")
