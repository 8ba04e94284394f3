"""Which images of a purchase are in S3: an object says in its metadata whose it is, whatever its key is.

Keys are shared by design: a task that is cleared, a file name that is overwritten every Monday. So neither a
key nor an ETag proves that an image is the one that was paid for; the purchase's own id in the metadata does.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from airflow_provider_aisa.core.images.stored import StoredImage
from airflow_provider_aisa.core.layout import SUFFIXES, Target
from airflow_provider_aisa.core.s3.bucket import Bucket

#: Of the objects that a search finds, so many of the newest are looked at.
_MOST_CANDIDATES: Final = 100
#: Seconds that an image may be older than the journal's word that it is paid for: an attempt that could not
#: write this word stores the images first, and then tries once more.
_RECORDED_LATE: Final = 600.0
_LONGEST_NAME: Final = 100


def verify(
    images: Sequence[StoredImage], *, claim_id: str, bucket: Bucket
) -> tuple[tuple[StoredImage, str], ...]:
    """Return the images that are not what is at their keys, each with what is wrong; empty if all are.

    One HEAD request for each. Blocks.

    :param claim_id: of the purchase that stored them.
    :raises StorageFailed: S3 does not tell.
    """
    found = ((image, _what_is_wrong(image, claim_id, bucket.head_image(image.key))) for image in images)
    return tuple((image, problem) for image, problem in found if problem is not None)


class Earlier:
    """Finds images that an earlier attempt of the same purchase has stored. Blocks; for any thread.

    :param paid_before: seconds since the journal says that the purchase was paid for.
    :param several: the request was for more than one image.
    """

    def __init__(
        self, bucket: Bucket, target: Target, claim_id: str, paid_before: float, *, several: bool
    ) -> None:
        self._bucket = bucket
        self._target = target
        self._claim_id = claim_id
        self._paid = time.monotonic() - paid_before
        self._several = several

    def find(self, index: int) -> StoredImage | None:
        """Return an image whose key is known before its bytes: one request for each possible ending."""
        if "{sha256}" in self._target.template:
            return None
        endings = [suffixes[0][1:] for suffixes in SUFFIXES.values()]
        for ext in endings if "{ext}" in self._target.template else endings[:1]:
            key = self._target.key(index=index, ext=ext, sha256="", several=self._several)
            if (found := self.look_at(key, index)) is not None:
                return found
        return None

    def look_at(self, key: str, index: int) -> StoredImage | None:
        """Return what is at a key if it is this image of this purchase."""
        head = self._bucket.head_image(key)
        metadata = head["Metadata"] if head else {}
        if head is None or metadata.get("claim") != self._claim_id or metadata.get("index") != str(index):
            return None
        return _read_head(head, bucket=self._bucket, key=key)

    def search(self, index: int) -> StoredImage | None:
        """Return an image whose key holds the hash of its bytes, which cannot be downloaded any more.

        Its key is not known, but how it begins: what was written there since the purchase is looked at.
        """
        if "{sha256}" not in self._target.template:
            return None
        mark = "\0"  # No key holds it.
        key = self._target.key(index=index, ext=mark, sha256=mark, several=self._several)
        since = time.monotonic() - self._paid + _RECORDED_LATE
        for candidate in self._bucket.newest_keys(key.partition(mark)[0], since, most=_MOST_CANDIDATES):
            if (found := self.look_at(candidate, index)) is not None:
                return found
        return None


def _read_head(head: Mapping[str, Any], *, bucket: Bucket, key: str) -> StoredImage | None:
    """Return an image as its upload described it; None when its metadata were damaged since."""
    metadata = head["Metadata"]
    try:
        width, height = map(int, metadata["size"].split("x"))
        return StoredImage(
            index=int(metadata["index"]),
            uri=bucket.uri(key),
            bucket=bucket.name,
            key=key,
            width=width,
            height=height,
            size=metadata["size"],
            content_type=head["ContentType"],
            bytes=int(head["ContentLength"]),
            sha256=metadata["sha256"],
            etag=head["ETag"].strip('"'),
        )
    except (KeyError, ValueError):
        return None


def _what_is_wrong(image: StoredImage, claim_id: str, head: Mapping[str, Any] | None) -> str | None:
    if head is None:
        return "deleted"
    metadata = head["Metadata"]
    if metadata.get("claim") != claim_id:
        return f"replaced by {_writer(metadata)}"
    if metadata.get("sha256") != image.sha256 or head["ContentLength"] != image.bytes:
        return "replaced by another image of the same purchase"
    return None


def _writer(metadata: Mapping[str, str]) -> str:
    names = [metadata.get(f"{kind}-id", "")[:_LONGEST_NAME] for kind in ("dag", "task", "run")]
    if not all(names):
        return "something that this package did not write"
    dag_id, task_id, run_id = names
    return f"DAG {dag_id}, task {task_id}, run {run_id}"
