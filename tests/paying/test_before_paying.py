"""Whatever S3 would refuse at the upload is found before anything is paid."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_aisa.core.layout import Target
from airflow_provider_aisa.core.s3.arguments import check_extra_args
from airflow_provider_aisa.exceptions import InvalidRequest, StorageFailed
from tests.paying.world import IMAGES, Actor, World

ONLY_S3_KNOWS: list[tuple[dict[str, Any], str, str]] = [
    ({"StorageClass": "GLACIER_IR"}, "StorageClass", "InvalidStorageClass"),
    ({"ACL": "public-read"}, "ACL", "AccessControlListNotSupported"),
    ({"Tagging": "team=web"}, "Tagging", "AccessDenied"),
    (
        {"ObjectLockMode": "GOVERNANCE", "ObjectLockRetainUntilDate": "2030-01-01T00:00:00Z"},
        "ObjectLockMode",
        "InvalidRequest",
    ),
    ({"WebsiteRedirectLocation": "/"}, "WebsiteRedirectLocation", "InvalidRedirectLocation"),
]


@pytest.mark.parametrize(("extra_args", "argument", "code"), ONLY_S3_KNOWS)
def test_arguments_that_s3_refuses_are_found_before_the_request(
    extra_args: dict[str, Any], argument: str, code: str
) -> None:
    world = World()
    world.store.allows_acls = world.store.has_object_lock = True
    world.store.refused[argument] = code

    receipt = Actor(world, s3_extra_args=extra_args).finish()

    assert isinstance(receipt.error, StorageFailed)
    assert receipt.error.code == code
    assert "s3_extra_args" in str(receipt.error)
    assert (world.posts, receipt.unknown_outcomes, receipt.was_sent) == (0, 0, False)


@pytest.mark.parametrize(("extra_args", "argument", "code"), ONLY_S3_KNOWS)
def test_arguments_that_s3_accepts_take_one_more_request(
    extra_args: dict[str, Any], argument: str, code: str
) -> None:
    world = World()
    world.store.allows_acls = world.store.has_object_lock = True

    receipt = Actor(world, s3_extra_args=extra_args).finish()

    assert receipt.error is None
    assert len(world.store.requests) - IMAGES == 6
    [proof] = world.meddler.keys("proof-")
    assert argument in world.store.objects[proof].arguments
    assert argument in world.store.objects["i/0.png"].arguments
    assert code


@pytest.mark.parametrize(
    "extra_args",
    [
        {"CacheControl": "no-store", "Metadata": {"team": "web"}},
        {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "key"},
    ],
)
def test_arguments_that_cannot_fail_or_that_the_journal_carries_need_no_proof(
    extra_args: dict[str, Any],
) -> None:
    world = World()

    receipt = Actor(world, s3_extra_args=extra_args).finish()

    assert receipt.error is None
    assert world.meddler.keys("proof-") == []


def test_a_bucket_that_encrypts_with_a_key_that_nobody_may_use_is_found_by_the_claim() -> None:
    world = World()
    world.store.refused["SSEKMSKeyId"] = "KMS.DisabledException"

    receipt = Actor(
        world, s3_extra_args={"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "disabled"}
    ).finish()

    assert isinstance(receipt.error, StorageFailed)
    assert world.posts == 0


def test_more_metadata_than_s3_takes_is_found_before_the_request() -> None:
    world = World()

    receipt = Actor(world, s3_extra_args={"Metadata": {"a": "x" * 1000, "b": "y" * 1000}}).finish()

    assert isinstance(receipt.error, InvalidRequest)
    assert "2,048" in str(receipt.error)
    assert world.posts == 0


def test_metadata_up_to_the_limit_is_stored() -> None:
    world = World()

    receipt = Actor(world, s3_extra_args={"Metadata": {"a": "x" * 1000}}).finish()

    assert receipt.error is None
    assert world.store.objects["i/0.png"].metadata["a"] == "x" * 1000


@pytest.mark.parametrize("name", ["SSECustomerKey", "SSECustomerAlgorithm", "SSECustomerKeyMD5"])
def test_a_callers_own_encryption_key_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(InvalidRequest, match="Airflow's database") as caught:
        check_extra_args({name: "c2VjcmV0"})

    assert "c2VjcmV0" not in str(caught.value)
    assert "aws:kms" in str(caught.value)


@pytest.mark.parametrize(
    "s3_key",
    ["a\x00b.png", "a\nb.png", "../b.png", "a/../b.png", "a/./b.png", "s3://bucket/../b.png", "a/.."],
)
def test_a_key_that_no_client_can_be_trusted_with_is_refused(s3_key: str) -> None:
    with pytest.raises(InvalidRequest, match="s3_key"):
        Target.parse(s3_key, "bucket" if "://" not in s3_key else None)


@pytest.mark.parametrize("s3_key", ["a/..b/c.png", "a/b..png", ".hidden/x.png", "a//b.png"])
def test_dots_that_are_part_of_a_name_are_allowed(s3_key: str) -> None:
    assert Target.parse(s3_key, "bucket").template == s3_key
