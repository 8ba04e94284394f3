"""What a task's result says of an image: where it is, and how to tell that it still is the same one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class StoredImage:
    """One image in S3.

    :param index: of the image in its response, from 0.
    :param width: pixels.
    :param height: pixels.
    :param size: ``WIDTHxHEIGHT``.
    :param bytes: its length.
    :param sha256: 64 hex digits.
    :param etag: what S3 called the object when it was written; empty when nobody knows. A batch compares it
        with a listing, which costs a thousandth of a request per image.
    """

    index: int
    uri: str
    bucket: str
    key: str
    width: int
    height: int
    size: str
    content_type: str
    bytes: int
    sha256: str
    etag: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return what stands in XComs and manifests."""
        document = asdict(self)
        del document["etag"]
        return document
