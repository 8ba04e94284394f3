from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import pytest

from airflow_provider_aisa.core.gateway.response import GeneratedImage, GenerationResponse
from airflow_provider_aisa.core.images.finding import verify
from airflow_provider_aisa.core.s3.bucket import Bucket
from airflow_provider_aisa.exceptions import ImageLinkExpired, StorageFailed
from airflow_provider_aisa.sandbox import Fault

if TYPE_CHECKING:
    from tests.core.images.site import Site

BY_HASH = "a/{sha256}.{ext}"


class Counting(Bucket):
    """Counts requests by kind."""

    def __init__(self, site: Site) -> None:
        super().__init__(site.client, site.name)
        object.__setattr__(self, "requests", [])

    requests: list[str]

    def head_image(self, key: str) -> Any:
        self.requests.append("HEAD")
        return super().head_image(key)

    def put_image(self, *arguments: Any, **options: Any) -> str:
        self.requests.append("PUT")
        return super().put_image(*arguments, **options)

    def newest_keys(self, *arguments: Any, **options: Any) -> list[str]:
        self.requests.append("LIST")
        return super().newest_keys(*arguments, **options)


def problems(site: Site, images: Any, claim_id: str = "claim-1") -> list[str]:
    return [problem for _, problem in verify(images, claim_id=claim_id, bucket=site.bucket)]


@pytest.mark.parametrize("key", ["a/{index}.png", "a/{index}.{ext}", BY_HASH, "banner.png"])
def test_what_an_earlier_attempt_has_stored_is_not_stored_again(site: Site, key: str) -> None:
    response = site.buy(3)
    first = site.store(response, key=key)
    bucket = Counting(site)
    again = site.store(response, key=key, paid_before=1.0, bucket=bucket)
    assert again == first
    assert bucket.requests.count("PUT") == 0
    assert site.downloads == (6 if key == BY_HASH else 3)
    assert problems(site, again.stored) == []


def test_a_first_attempt_looks_for_nothing(site: Site) -> None:
    bucket = Counting(site)
    site.store(site.buy(2), bucket=bucket)
    assert bucket.requests == ["PUT", "PUT"]


@pytest.mark.parametrize("key", ["a/{index}.png", BY_HASH])
def test_images_of_another_purchase_are_not_taken_for_this_ones(site: Site, key: str) -> None:
    response = site.buy(2)
    site.store(response, key=key, claim_id="last-monday")
    bucket = Counting(site)
    moved = site.store(response, key=key, claim_id="today", paid_before=1.0, bucket=bucket)
    assert len(moved.stored) == 2
    assert bucket.requests.count("PUT") == 2
    assert problems(site, moved.stored, "today") == []


def test_an_image_with_a_hash_in_its_key_is_found_when_its_link_is_gone(site: Site) -> None:
    """Its key cannot be known before its bytes, which nobody can fetch any more."""
    response = site.buy(2)
    first = site.store(response, key=BY_HASH)
    site.gateway.inject(Fault("expired_link", times=9))
    bucket = Counting(site)
    assert site.store(response, key=BY_HASH, paid_before=1.0, bucket=bucket) == first
    assert set(bucket.requests) == {"LIST", "HEAD"}


def test_an_image_that_was_never_stored_is_not_found_among_those_that_were(site: Site) -> None:
    response = site.buy(3)
    half = replace(response, images=response.images[:2])
    site.store(half, key=BY_HASH, asked=3)
    site.gateway.inject(Fault("expired_link", times=9))
    moved = site.store(response, key=BY_HASH, paid_before=1.0)
    assert [image.index for image in moved.stored] == [0, 1]
    ((image, error),) = moved.failed
    assert image.index == 2
    assert type(error) is ImageLinkExpired


@pytest.mark.parametrize("key", ["a/{index}.png", "a/{index}.{ext}"])
def test_a_key_that_is_known_is_not_searched_for(site: Site, key: str) -> None:
    response = site.buy()
    site.gateway.inject(Fault("expired_link", times=9))
    bucket = Counting(site)
    moved = site.store(response, key=key, paid_before=1.0, bucket=bucket)
    assert [type(error) for _, error in moved.failed] == [ImageLinkExpired]
    assert set(bucket.requests) == {"HEAD"}


def test_the_search_looks_at_a_hundred_of_the_newest_objects_and_no_more(site: Site) -> None:
    """A folder of images that are named by their hash may hold a million of other tasks."""
    for number in range(150):
        site.client.put_object(Bucket=site.name, Key=f"a/{number}.png", Body=b"x")
    response = site.buy()
    site.gateway.inject(Fault("expired_link", times=9))
    bucket = Counting(site)
    site.store(response, key=BY_HASH, paid_before=1.0, bucket=bucket)
    assert bucket.requests == ["LIST", *["HEAD"] * 100]


def test_what_was_written_long_before_the_purchase_is_not_looked_at(site: Site) -> None:
    site.client.put_object(Bucket=site.name, Key="a/0.png", Body=b"x")
    assert site.bucket.newest_keys("a/", 3600.0, most=5) == ["a/0.png"]
    assert site.bucket.newest_keys("a/", -1.0, most=5) == []
    assert site.bucket.newest_keys("b/", 3600.0, most=5) == []


class Pages:
    """Stands in for a client that lists more objects than a test can write."""

    def __init__(self, count: int) -> None:
        self.listed = 0
        self._count = count

    def get_paginator(self, _name: str) -> Pages:
        return self

    def paginate(self, *, PaginationConfig: dict[str, int], **_: object) -> Any:  # noqa: N803 - boto3's name
        now = datetime.now(UTC)
        for first in range(0, min(self._count, PaginationConfig["MaxItems"]), 1_000):
            self.listed += 1_000
            contents = [{"Key": str(first + number), "LastModified": now} for number in range(1_000)]
            yield {"Contents": contents, "ResponseMetadata": {"HTTPHeaders": {}}}


def test_a_search_lists_ten_thousand_objects_and_no_more() -> None:
    pages = Pages(1_000_000)
    found = Bucket(cast("Any", pages), "bucket").newest_keys("a/", 3600.0, most=100)
    assert len(found) == 100
    assert pages.listed == 10_000


def test_damaged_metadata_of_a_stored_image_mean_that_it_is_stored_anew(site: Site) -> None:
    response = site.buy()
    (image,) = site.store(response).stored
    metadata = {"claim": "claim-1", "index": "0", "size": "wide", "sha256": image.sha256}
    site.client.put_object(Bucket=site.name, Key=image.key, Body=b"x", Metadata=metadata)
    assert site.store(response, paid_before=1.0).stored[0].sha256 == image.sha256
    assert problems(site, [image]) == []


def test_images_that_are_where_they_were_stored_have_nothing_wrong_with_them(site: Site) -> None:
    moved = site.store(site.buy(2))
    bucket = Counting(site)
    assert verify(moved.stored, claim_id="claim-1", bucket=bucket) == ()
    assert bucket.requests == ["HEAD", "HEAD"]


def test_a_copy_in_place_is_still_the_same_image(site: Site) -> None:
    """Re-encryption and changes of the storage class do that: the ETag changes, and the image does not."""
    (image,) = site.store(site.buy()).stored
    site.client.copy_object(
        Bucket=site.name,
        Key=image.key,
        CopySource={"Bucket": site.name, "Key": image.key},
        MetadataDirective="REPLACE",
        Metadata={**site.client.head_object(Bucket=site.name, Key=image.key)["Metadata"], "note": "moved"},
    )
    assert problems(site, [image]) == []


def test_a_deleted_image_is_named_as_such(site: Site) -> None:
    first, second = site.store(site.buy(2)).stored
    site.client.delete_object(Bucket=site.name, Key=first.key)
    assert verify([first, second], claim_id="claim-1", bucket=site.bucket) == ((first, "deleted"),)


def test_an_image_that_another_run_has_replaced_is_told_with_that_run(site: Site) -> None:
    (image,) = site.store(site.buy()).stored
    site.metadata = {"dag-id": "shop", "task-id": "draw", "run-id": "tuesday"}
    site.store(site.buy(), claim_id="claim-2")
    assert problems(site, [image]) == ["replaced by DAG shop, task draw, run tuesday"]


def test_an_object_of_another_program_is_told_as_such(site: Site) -> None:
    (image,) = site.store(site.buy()).stored
    site.client.put_object(Bucket=site.name, Key=image.key, Body=b"x", Metadata={"dag-id": "x" * 500})
    assert problems(site, [image]) == ["replaced by something that this package did not write"]


def test_other_bytes_under_the_same_purchase_are_told(site: Site) -> None:
    (image,) = site.store(site.buy()).stored
    site.store(site.buy())
    assert problems(site, [image]) == ["replaced by another image of the same purchase"]


def test_a_store_that_does_not_tell_is_an_error_and_no_proof(site: Site) -> None:
    (image,) = site.store(site.buy()).stored
    with pytest.raises(StorageFailed):
        verify([image], claim_id="claim-1", bucket=Bucket(site.client, "x/y/z?"))


def test_nothing_is_asked_about_no_images(site: Site) -> None:
    empty = GenerationResponse("model", None, (GeneratedImage(0, error_code="refused"),), {}, None)
    moved = site.store(empty)
    assert (moved.stored, moved.failed) == ((), ())
    assert verify(moved.stored, claim_id="claim-1", bucket=site.bucket) == ()
