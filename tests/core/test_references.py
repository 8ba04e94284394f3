"""What is looked at, what is taken from earlier attempts, and what is sent: against S3 as AWS answers it."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import boto3
import httpx
import pytest
from botocore.config import Config
from botocore.response import StreamingBody
from botocore.stub import Stubber
from mypy_boto3_s3 import S3Client

from airflow_provider_aisa.core.gateway.references import Reference
from airflow_provider_aisa.core.gateway.request import ImageRequest
from airflow_provider_aisa.core.gateway.response import GenerationResponse
from airflow_provider_aisa.core.images.download import Fetcher
from airflow_provider_aisa.core.journal.entry import Buyer, Claim, Entry, EntryState
from airflow_provider_aisa.core.layout import Owner
from airflow_provider_aisa.core.references import References, attach
from airflow_provider_aisa.exceptions import InvalidRequest, StorageFailed
from tests.fakes.png import png

URI, URL = "s3://other/in/otter.png", "https://example.com/otter.png"
OTTER = png("otter")
MODELS = {"wan": "wan2.7-image", "gemini": "gemini-3-pro-image-preview"}


@pytest.fixture
def stubbed() -> Iterator[tuple[S3Client, Stubber]]:
    client = boto3.client(
        "s3",
        region_name="us-east-1",
        aws_access_key_id="AKID",
        aws_secret_access_key="secret",
        config=Config(retries={"max_attempts": 1}),
    )
    with Stubber(client) as stubber:
        yield client, stubber
        stubber.assert_no_pending_responses()


def fetcher(content: bytes | None = None, *, status: int = 200) -> Fetcher:
    """Return what fetches any URL and is given this; without it, no URL may be asked for."""

    def handle(_: httpx.Request) -> httpx.Response:
        assert content is not None
        return httpx.Response(status, stream=httpx.ByteStream(content))

    return Fetcher(lambda: httpx.MockTransport(handle), allow_loopback=False, max_retries=0)


def request(*references: str, family: str = "wan") -> ImageRequest:
    return ImageRequest.parse(prompt="p", model=MODELS[family], reference_images=references)


def found(body: bytes = OTTER, *, etag: str = "v1", total: int | None = None) -> dict[str, Any]:
    head = body[:4096]
    return {
        "Body": StreamingBody(io.BytesIO(head), len(head)),
        "ETag": f'"{etag}"',
        "ContentLength": len(head),
        "ContentRange": f"bytes 0-{len(head) - 1}/{len(body) if total is None else total}",
    }


def entry(state: EntryState, reference: Reference) -> Entry:
    """Return what an earlier attempt has left."""
    asked = replace(request(URI), reference_images=(reference,))
    response = GenerationResponse("m", None, (), {}, None)
    return Entry(
        state,
        Buyer(Owner("dag", "run", "task"), 0),
        asked.fingerprint(),
        json.loads(json.dumps(asked.summary())),
        Claim("1" * 32, 60.0),
        response=None if state is EntryState.CLAIMED else response,
    )


def test_one_read_of_its_beginning_says_all_that_has_to_be_known(stubbed: tuple[S3Client, Stubber]) -> None:
    client, stubber = stubbed
    where = {"Bucket": "other", "Key": "in/otter.png", "Range": "bytes=0-4095"}
    stubber.add_response("get_object", found(), where)

    references = References(client, fetcher())
    pinned = [references.pinned(request(URI, URI)) for _ in range(3)]

    assert {one.reference_images for one in pinned} == {(Reference(URI, "v1"),) * 2}


def test_a_store_that_knows_no_ranges_is_understood(stubbed: tuple[S3Client, Stubber]) -> None:
    client, stubber = stubbed
    answer = found()
    del answer["ContentRange"]
    stubber.add_response("get_object", answer | {"ContentLength": 30_000_000})
    with pytest.raises(InvalidRequest, match="30,000,000 bytes, and Wan takes 20,000,000"):
        References(client, fetcher()).pinned(request(URI))


@pytest.mark.parametrize(
    ("refusal", "told"),
    [
        (("NoSuchKey", 404), (InvalidRequest, "put a reference image at s3://other")),
        (("NoSuchBucket", 404), (InvalidRequest, "put a reference image at s3://other")),
        (("InvalidRange", 416), (InvalidRequest, "it is empty")),
        (("AccessDenied", 403), (StorageFailed, "s3:GetObject")),
        (("InternalError", 500), (StorageFailed, "S3 says InternalError")),
    ],
)
@pytest.mark.parametrize("state", [None, *EntryState])
def test_what_cannot_be_looked_at_is_taken_from_what_is_paid_for_and_from_nothing_else(
    stubbed: tuple[S3Client, Stubber],
    refusal: tuple[str, int],
    told: tuple[type[Exception], str],
    state: EntryState | None,
) -> None:
    """AWS answers 403, not 404, for an object that is gone from a bucket that may not be listed."""
    client, stubber = stubbed
    stubber.add_client_error("get_object", refusal[0], http_status_code=refusal[1])
    entries = [] if state is None else [entry(state, Reference(URI, "v0"))]
    references = References(client, fetcher(), lambda: entries)
    if state in {None, EntryState.CLAIMED}:
        with pytest.raises(told[0], match=told[1]):
            references.pinned(request(URI))
    else:
        assert references.pinned(request(URI)).reference_images == (Reference(URI, "v0"),)


def test_a_url_is_fetched_once_and_is_its_own_version(stubbed: tuple[S3Client, Stubber]) -> None:
    references = References(stubbed[0], fetcher(OTTER))
    assert references.pinned(request(URL, URL)).reference_images == (Reference(URL),) * 2


@pytest.mark.parametrize("status", [200, 404])
def test_a_url_without_an_image_is_named(stubbed: tuple[S3Client, Stubber], status: int) -> None:
    with pytest.raises(InvalidRequest, match=f"use another reference image than {URL}") as caught:
        References(stubbed[0], fetcher(b"<html>", status=status)).pinned(request(URL))
    assert "Nothing was sent" in str(caught.value)


@pytest.mark.parametrize("address", ["https://10.0.0.1/a.png", "https://169.254.169.254/a.png"])
def test_a_private_address_is_not_asked(stubbed: tuple[S3Client, Stubber], address: str) -> None:
    with pytest.raises(InvalidRequest, match=r"public address|private|reserved|local"):
        References(stubbed[0], fetcher()).pinned(request(address))


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize(("status", "words"), [(412, "has changed since"), (404, "put a reference image")])
def test_another_version_is_not_sent(
    stubbed: tuple[S3Client, Stubber], family: str, status: int, words: str
) -> None:
    client, stubber = stubbed
    asked = {"Bucket": "other", "Key": "in/otter.png", "IfMatch": '"v1"'}
    call = "head_object" if family == "wan" else "get_object"
    stubber.add_client_error(call, str(status), http_status_code=status, expected_params=asked)
    pinned = replace(request(URI, family=family), reference_images=(Reference(URI, "v1"),))
    with pytest.raises(InvalidRequest, match=words) as caught:
        attach(pinned, client=client, fetcher=fetcher(), lifetime=60)
    assert caught.value.retryable == (status == 412)


@pytest.mark.parametrize("family", MODELS)
def test_what_nobody_has_looked_at_is_not_sent(stubbed: tuple[S3Client, Stubber], family: str) -> None:
    with pytest.raises(InvalidRequest, match="nobody has looked at it"):
        attach(request(URI, family=family), client=stubbed[0], fetcher=fetcher(), lifetime=60)


def test_wan_is_given_a_url_as_it_is_and_gemini_what_it_leads_to(stubbed: tuple[S3Client, Stubber]) -> None:
    [link] = attach(request(URL), client=stubbed[0], fetcher=fetcher(), lifetime=60)
    assert link.link == URL
    image = fetcher(OTTER)
    [data] = attach(request(URL, family="gemini"), client=stubbed[0], fetcher=image, lifetime=60)
    assert (data.content_type, base64.b64decode(data.data)) == ("image/png", OTTER)
