"""Each fault of the CDN. None changes the bill: the image was paid for before."""

from __future__ import annotations

import hashlib
import itertools
import time
import urllib.request
import xml.etree.ElementTree as ET
import zlib
from typing import Any

import httpx
import pytest

from airflow_provider_aisa.sandbox import Fault, FaultKind
from tests.sandbox.conftest import Api, opened


class Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect, and takes it for an answer."""

    def http_error_302(self, _request: object, response: Any, *_: object) -> Any:
        return response


def code(response: httpx.Response) -> str | None:
    """Return the error code of an object store's XML answer."""
    assert response.headers["Content-Type"].startswith("application/xml")
    return ET.fromstring(response.content).findtext("Code")  # noqa: S314  # the sandbox's own


@pytest.mark.parametrize(
    ("kind", "status", "xml"),
    [
        ("expired_link", 403, "AccessDenied"),
        ("missing_image", 404, "NoSuchKey"),
        ("cdn_server_error", 500, "InternalError"),
    ],
)
def test_an_error_is_an_object_stores_xml(api: Api, kind: FaultKind, status: int, xml: str) -> None:
    link = api.links()[0]
    api.sandbox.inject(Fault(kind))
    response = api.cdn.get(link)
    assert (response.status_code, code(response)) == (status, xml)
    assert api.cdn.get(link).status_code == 200
    assert api.sandbox.billed == 1


def test_cdn_cut_dies_half_way(api: Api) -> None:
    link = api.links()[0]
    api.sandbox.image_bytes = 2_000_000
    api.sandbox.inject(Fault("cdn_cut", times=2))
    for url in (link, api.links()[0]):
        received: list[bytes] = []
        with api.cdn.stream("GET", url) as response:
            assert response.status_code == 200
            with pytest.raises(httpx.TransportError):
                received.extend(response.iter_raw())
        assert 0 < len(b"".join(received)) < int(response.headers["Content-Length"])


def test_truncated_image_looks_complete_and_is_not(api: Api) -> None:
    link = api.links()[0]
    whole = api.cdn.get(link).content
    api.sandbox.inject(Fault("truncated_image"))
    half = api.cdn.get(link)
    assert int(half.headers["Content-Length"]) == len(half.content) == len(whole) // 2
    assert whole.startswith(half.content)
    with pytest.raises(OSError, match="truncated"):
        opened(half.content)


def test_html_image_is_a_page(api: Api) -> None:
    link = api.links()[0]
    api.sandbox.inject(Fault("html_image"))
    response = api.cdn.get(link)
    assert response.status_code == 200
    assert response.text.startswith("<!DOCTYPE html>")


def test_cdn_slow_takes_as_long_as_told_and_is_whole(api: Api) -> None:
    link = api.links()[0]
    api.sandbox.inject(Fault("cdn_slow", delay=0.3))
    start = time.monotonic()
    response = api.cdn.get(link)
    assert 0.3 <= time.monotonic() - start < 3
    assert opened(response.content).size == (2048, 2048)


def test_cdn_redirect_leads_to_a_copy_and_counts_as_one_download(api: Api) -> None:
    link = api.links()[0]
    api.sandbox.inject(Fault("cdn_redirect", times=2))
    responses = [api.cdn.get(link, follow_redirects=True) for _ in range(2)]
    assert [response.history[0].status_code for response in responses] == [302, 302]
    assert responses[0].content == responses[1].content == api.cdn.get(link).content


def test_cdn_redirect_private_leads_to_a_private_address(api: Api) -> None:
    link = api.links()[0]
    api.sandbox.inject(Fault("cdn_redirect_private"))
    response = api.cdn.get(link)
    assert response.status_code == 302
    assert response.headers["Location"].startswith("http://169.254.169.254/")


def test_cdn_redirect_mailto_leads_to_no_place_at_all(api: Api) -> None:
    link = api.links()[0]
    api.sandbox.inject(Fault("cdn_redirect_mailto"))
    with urllib.request.build_opener(Stay).open(link) as response:  # httpx does not even read it
        assert (response.status, response.headers["Location"]) == (302, "mailto:images@example.com")


def test_cdn_drip_sends_one_byte_at_a_time(api: Api) -> None:
    link = api.links()[0]
    whole = api.cdn.get(link).content
    api.sandbox.inject(Fault("cdn_drip", delay=0.01))
    with api.cdn.stream("GET", link) as response:
        assert int(response.headers["Content-Length"]) == len(whole)
        pieces = list(itertools.islice(response.iter_raw(), 5))
    assert pieces == [whole[position : position + 1] for position in range(5)]
    assert api.cdn.get(link).content == whole


def test_cdn_gzip_bomb_is_a_gigabyte_packed_twice(api: Api) -> None:
    link = api.links()[0]
    api.sandbox.inject(Fault("cdn_gzip_bomb"))
    with api.cdn.stream("GET", link) as response:
        packed = b"".join(response.iter_raw())
    assert response.headers["Content-Encoding"] == "gzip, gzip"
    assert len(packed) < 20_000
    once = zlib.decompress(packed, wbits=31)
    assert int.from_bytes(once[-4:], "little") >= 2**30
    assert zlib.decompressobj(wbits=31).decompress(once, 100) == bytes(100)


@pytest.mark.parametrize(("kind", "declared"), [("oversized_image", True), ("oversized_chunked", False)])
def test_an_oversized_image_is_above_64_mebibytes(api: Api, kind: FaultKind, declared: bool) -> None:
    link = api.links()[0]
    api.sandbox.inject(Fault(kind))
    received = 0
    with api.cdn.stream("GET", link) as response:
        assert ("Content-Length" in response.headers) == declared
        for piece in response.iter_raw():
            received += len(piece)
    assert received == 65 * 1024 * 1024


def test_a_client_may_leave_an_oversized_image_unread(api: Api) -> None:
    link = api.links()[0]
    api.sandbox.inject(Fault("oversized_image"))
    with api.cdn.stream("GET", link) as response:
        next(response.iter_raw(1024))
    assert api.cdn.get(link).status_code == 200


def test_a_link_expires(api: Api) -> None:
    api.sandbox.link_ttl = 0.3
    link = api.links()[0]
    assert api.cdn.get(link).status_code == 200
    time.sleep(0.35)
    response = api.cdn.get(link)
    assert (response.status_code, code(response)) == (403, "AccessDenied")
    assert "Request has expired" in response.text


def test_a_new_ttl_is_for_new_links(api: Api) -> None:
    old = api.links()[0]
    api.sandbox.link_ttl = 0
    assert [api.cdn.get(link).status_code for link in (old, api.links()[0])] == [200, 403]


@pytest.mark.parametrize(("old", "new"), [("X-Expires=", "X-Expires=9"), ("Signature=", "Signature=%E9")])
def test_a_link_that_was_changed_is_refused(api: Api, old: str, new: str) -> None:
    response = api.cdn.get(api.links()[0].replace(old, new))
    assert (response.status_code, code(response)) == (403, "SignatureDoesNotMatch")


def test_a_link_without_its_signature_is_refused(api: Api) -> None:
    response = api.cdn.get(api.links()[0].partition("?")[0])
    assert (response.status_code, code(response)) == (403, "SignatureDoesNotMatch")


@pytest.mark.parametrize("path", ["/", "/images/seedream/nothing.png", "/moved/images/seedream/nothing.png"])
def test_what_was_never_generated_is_not_found(api: Api, path: str) -> None:
    response = api.cdn.get(api.sandbox.cdn_url + path)
    assert (response.status_code, code(response)) == (404, "NoSuchKey")


def test_the_cdn_is_for_reading(api: Api) -> None:
    link = api.links()[0]
    response = api.cdn.put(link, content=b"x")
    assert (response.status_code, code(response)) == (405, "MethodNotAllowed")
    assert response.headers["Allow"] == "GET, HEAD"
    head = api.cdn.head(link)
    assert head.content == b""
    assert int(head.headers["Content-Length"]) == len(api.cdn.get(link).content)


def test_an_image_is_the_same_bytes_each_time(api: Api) -> None:
    links = api.links(n=2)
    digests = [hashlib.sha256(api.cdn.get(link).content).hexdigest() for link in [*links, *links]]
    assert digests[:2] == digests[2:]
    assert digests[0] != digests[1]


def test_the_cdn_remembers_every_credential(api: Api) -> None:
    link, key = api.links()[0], api.sandbox.api_key
    api.cdn.get(link)
    api.cdn.get(link, headers={"Authorization": "Basic x", "X-Debug": f"a {key} b"})
    api.cdn.get(link, headers={"Cookie": "session=1"})
    api.cdn.get(f"{link}&key={key}")
    expected: list[tuple[str, ...]] = [(), ("authorization", "x-debug"), ("cookie",), ("url",)]
    assert [request.credentials for request in api.sandbox.cdn_requests] == expected
    assert api.sandbox.cdn_requests[1].headers["x-debug"] == f"a {key} b"
    assert [request.path for request in api.sandbox.cdn_requests] == [httpx.URL(link).path] * 4


def test_a_fault_can_be_for_the_images_of_one_prompt(api: Api) -> None:
    cat, dog = api.links(prompt="a cat")[0], api.links(prompt="a dog")[0]
    api.sandbox.inject(Fault("missing_image", prompt="dog"))
    assert [api.cdn.get(link).status_code for link in (cat, dog, dog)] == [200, 404, 200]


def test_a_body_that_is_too_large_for_the_cdn_is_on_record_with_its_key(api: Api) -> None:
    api.cdn.post(f"{api.sandbox.cdn_url}/x", content=b"x" * 2**21, headers={"Authorization": "x"})
    assert [request.credentials for request in api.sandbox.cdn_requests] == [("authorization",)]
