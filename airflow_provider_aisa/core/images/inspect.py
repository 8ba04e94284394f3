"""What a file is, said by its bytes: never by its URL, its name or a server's content type."""

from __future__ import annotations

from dataclasses import dataclass
from io import SEEK_END, BytesIO
from typing import BinaryIO, Final

import imagesize

from airflow_provider_aisa.core.layout import SUFFIXES
from airflow_provider_aisa.exceptions import ImageUnusable

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_PNG_END: Final = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_JPEG_END: Final = b"\xff\xd9"
#: Bytes in which a file says what it is.
HEAD_BYTES: Final = 4096
#: Bytes in which the size of a JPEG must stand. It may come late, after colour profiles and previews, but a
#: hostile one could make the search of a whole file take minutes.
_LATEST_SIZE: Final = 1024 * 1024
_TAIL: Final = 4096  # bytes; some encoders pad behind the end marker


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What an image's header says. Width and height are in pixels, as stored (before any EXIF rotation)."""

    content_type: str
    width: int
    height: int

    @property
    def ext(self) -> str:
        """The ending of a new file, without the dot."""
        return SUFFIXES[self.content_type][0][1:]


def inspect(file: BinaryIO) -> ImageInfo:
    """Read a file's type and size; raise ImageUnusable unless it is a complete PNG, JPEG or WebP."""
    file.seek(0)
    head = file.read(HEAD_BYTES)
    length = file.seek(0, SEEK_END)
    kind = kind_of(head)
    if kind is None:
        raise ImageUnusable(f"what came is no PNG, JPEG or WebP; it begins with {_printable(head)}")
    if not _is_complete(file, kind, head, length):
        raise ImageUnusable(f"the {kind.upper()} is cut short after {length:,} bytes")
    width, height = _size(head)
    if kind == "jpeg" and width < 1:
        file.seek(0)
        width, height = _size(file.read(_LATEST_SIZE))
    if width < 1 or height < 1:
        raise ImageUnusable(f"the header of the {kind.upper()} gives no width and height")
    return ImageInfo(f"image/{kind}", width, height)


def kind_of(head: bytes) -> str | None:
    """Return what a file is by its first bytes: png, jpeg or webp; None for anything else."""
    if head.startswith(_PNG):
        return "png"
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    return None


def _is_complete(file: BinaryIO, kind: str, head: bytes, length: int) -> bool:
    if kind == "webp":
        return length >= int.from_bytes(head[4:8], "little") + 8
    file.seek(max(0, length - _TAIL))
    return (_PNG_END if kind == "png" else _JPEG_END) in file.read()


def _size(head: bytes) -> tuple[int, int]:
    # -1 for what it cannot read: it lets no exception out.
    width, height = imagesize.get(BytesIO(head), exif_rotation=False)
    return int(width), int(height)


def _printable(head: bytes) -> str:
    return "nothing" if not head else repr(head[:12])
