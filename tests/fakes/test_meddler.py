from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.fakes.meddler import Meddler
from tests.fakes.png import png
from tests.fakes.s3 import FakeS3

IMAGE = png("ours")
ENTRY = b'{"version": 2}'


def scene() -> tuple[FakeS3, Meddler]:
    store = FakeS3()
    store.put("image", IMAGE, ContentType="image/png", Metadata={"claim": "ours"})
    store.put("entry", ENTRY, ContentType="application/json")
    return store, Meddler(store)


@pytest.mark.parametrize(
    ("meddle", "key", "body", "metadata"),
    [
        (lambda m: m.rewrite("image"), "image", IMAGE, {"claim": "ours"}),
        (lambda m: m.overwrite("image"), "image", png("drawn by somebody else"), {}),
        (lambda m: m.replace_bytes("image"), "image", png("drawn by somebody else"), {"claim": "ours"}),
        (lambda m: m.copy_over("entry", "image"), "image", ENTRY, {}),
        (lambda m: m.truncate("image"), "image", IMAGE[: len(IMAGE) // 2], {"claim": "ours"}),
        (lambda m: m.truncate("image", 0), "image", b"", {"claim": "ours"}),
        (lambda m: m.garble("entry"), "entry", b"\x00 no JSON, and no image", {}),
        (lambda m: m.make_newer("entry"), "entry", b'{"version": 999}', {}),
        (lambda m: m.edit("entry", state="gone"), "entry", b'{"version": 2, "state": "gone"}', {}),
    ],
)
def test_what_is_meddled_with_has_another_etag_and_the_rest_stays(
    meddle: Callable[[Meddler], bool], key: str, body: bytes, metadata: dict[str, str]
) -> None:
    store, meddler = scene()
    before = store.objects

    assert meddle(meddler)

    after = store.objects
    assert (after[key].body, after[key].metadata) == (body, metadata)
    assert after[key].etag != before[key].etag
    assert after.keys() == before.keys()
    assert [other for other in after if after[other] != before[other]] == [key]
    assert len(meddler.done) == 1
    assert store.requests == []


def test_deleting_leaves_nothing_and_nothing_can_be_done_to_nothing() -> None:
    store, meddler = scene()

    assert meddler.delete("image")
    assert not any(
        (
            meddler.delete("image"),
            meddler.rewrite("image"),
            meddler.copy_over("image", "entry"),
            meddler.make_newer("image"),
        )
    )

    assert meddler.keys() == ["entry"]
    assert meddler.done == [("delete", "image")]
    assert json.loads(store.objects["entry"].body) == {"version": 2}
