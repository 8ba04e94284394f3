"""Images of exactly the size asked for, and padded files that a strict decoder still accepts.

Padding is a number until it is sent: no 16 MB file is ever held in memory.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from airflow_provider_aisa.sandbox.drawing import (
    Picture,
    caption_height,
    draw_caption,
    draw_scene,
    palette,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_aisa.sandbox.settings import ImageFormat

_LONGEST_SIDE: dict[ImageFormat, int] = {"png": 2**31 - 1, "jpeg": 65_535, "webp": 16_383}
_CHUNK = 256 * 1024
_ZEROS = memoryview(bytes(_CHUNK))
_COMMENT = 65_537  # bytes of the longest JPEG comment segment, marker and length included


@dataclass(frozen=True)
class ImageFile:
    """An encoded image. A number among the segments stands for that many zero bytes."""

    segments: tuple[bytes | int, ...]

    @property
    def length(self) -> int:
        """The size of the file in bytes."""
        return sum(segment if isinstance(segment, int) else len(segment) for segment in self.segments)

    def chunks(self, limit: int | None = None, *, largest: int = _CHUNK) -> Iterator[bytes | memoryview]:
        """Yield the file, or its first `limit` bytes, in pieces of at most `largest` bytes or 256 KiB."""
        left = self.length if limit is None else limit
        largest = min(largest, _CHUNK)
        for segment in self.segments:
            whole = min(left, segment if isinstance(segment, int) else len(segment))
            for start in range(0, whole, largest):
                size = min(largest, whole - start)
                yield _ZEROS[:size] if isinstance(segment, int) else segment[start : start + size]
            left -= whole


def fitting_format(wanted: ImageFormat, width: int, height: int) -> ImageFormat:
    """Return the format of such an image: PNG where a side is too long for the one wanted."""
    return wanted if max(width, height) <= _LONGEST_SIDE[wanted] else "png"


def render(picture: Picture) -> ImageFile:
    """Encode a picture. Takes a few milliseconds of CPU for PNG, tens for the others: call it in a thread."""
    data = _png(picture) if picture.image_format == "png" else _by_pillow(picture)
    padding = (picture.image_bytes or 0) - len(data)
    return ImageFile(_PAD[picture.image_format](data, padding) if padding > 0 else (data,))


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(name)))


@lru_cache(maxsize=64)
def _compressed_scene(width: int, height: int) -> tuple[bytes, int]:
    """Return the scene of this size as a PNG chunk that more data can follow, and the checksum so far."""
    rows = height - caption_height(width, height)
    raw = draw_scene(width, height, left=1).crop((0, 0, width + 1, rows)).tobytes()
    packer = zlib.compressobj(1)
    data = packer.compress(raw) + packer.flush(zlib.Z_FULL_FLUSH)
    return _chunk(b"IDAT", data), zlib.adler32(raw)


def _png(picture: Picture) -> bytes:
    # Pillow would compress four megapixels for each image. Only the caption differs: it is compressed alone
    # and put behind the cached scene, in the same zlib stream. The column on the left is PNG's filter bytes.
    scene, checksum = _compressed_scene(picture.width, picture.height)
    raw = draw_caption(picture, left=1).tobytes()
    packer = zlib.compressobj(1, wbits=-15)
    end = packer.compress(raw) + packer.flush() + struct.pack(">I", zlib.adler32(raw, checksum))
    header = struct.pack(">IIBBBBB", picture.width, picture.height, 8, 3, 0, 0, 0)
    chunks = [_chunk(b"IHDR", header), _chunk(b"PLTE", palette(picture)), scene, _chunk(b"IDAT", end)]
    return b"".join([b"\x89PNG\r\n\x1a\n", *chunks, _chunk(b"IEND", b"")])


def _by_pillow(picture: Picture) -> bytes:
    image = draw_scene(picture.width, picture.height)
    image.paste(draw_caption(picture), (0, picture.height - caption_height(picture.width, picture.height)))
    image.putpalette(palette(picture))
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, picture.image_format, quality=80, method=0)
    return buffer.getvalue()


@lru_cache(maxsize=64)
def _zero_chunk_checksum(size: int) -> bytes:
    checksum = zlib.crc32(b"paDd")
    for start in range(0, size, _CHUNK):
        checksum = zlib.crc32(_ZEROS[: size - start], checksum)
    return struct.pack(">I", checksum)


def _pad_png(data: bytes, padding: int) -> tuple[bytes | int, ...]:
    size = max(0, padding - 12)
    start = data[:-12] + struct.pack(">I", size) + b"paDd"  # private, ancillary, safe to copy
    return start, size, _zero_chunk_checksum(size) + data[-12:]


def _pad_jpeg(data: bytes, padding: int) -> tuple[bytes | int, ...]:
    scan = _start_of_scan(data)
    segments: list[bytes | int] = [data[:scan]]
    count = -(-padding // _COMMENT)
    for number in range(count):
        size = max(4, (padding + number) // count) - 4
        segments += [b"\xff\xfe" + struct.pack(">H", size + 2), size]
    return *segments, data[scan:]


def _start_of_scan(jpeg: bytes) -> int:
    position = 2
    while jpeg[position : position + 2] != b"\xff\xda":
        position += 2 + struct.unpack_from(">H", jpeg, position + 2)[0]
    return position


def _pad_webp(data: bytes, padding: int) -> tuple[bytes | int, ...]:
    size = max(0, padding - 8 + padding % 2)
    riff = b"RIFF" + struct.pack("<I", len(data) + size)
    return riff + data[8:] + b"PADD" + struct.pack("<I", size), size


_PAD = {"png": _pad_png, "jpeg": _pad_jpeg, "webp": _pad_webp}
