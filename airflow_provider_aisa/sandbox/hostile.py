"""Answers that cost their reader time or memory. One without an end stops when its reader leaves."""

from __future__ import annotations

import asyncio
import zlib
from functools import lru_cache
from typing import TYPE_CHECKING

from aiohttp import web

from airflow_provider_aisa.sandbox.wire import cut, send

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_BLOCK = 2**20
_SHORTEST_PAUSE = 0.001  # seconds; a pause of 0 would keep the server busy


async def drip_headers(request: web.BaseRequest, pause: float) -> None:
    """Send the head of an answer byte by byte, `pause` seconds before each, and never the end of it."""
    for byte in _endless_head():
        await asyncio.sleep(max(pause, _SHORTEST_PAUSE))
        if request.transport is None or request.transport.is_closing():
            return
        request.transport.write(byte)


async def drip_body(request: web.BaseRequest, headers: Mapping[str, str], pause: float) -> None:
    """Answer 200, and then send blanks, with which JSON may begin: one each `pause` seconds."""
    await _send_for_ever(request, headers, b" ", max(pause, _SHORTEST_PAUSE))


async def endless_body(request: web.BaseRequest, headers: Mapping[str, str]) -> None:
    """Answer 200, and then send blanks as fast as they are read."""
    await _send_for_ever(request, headers, b" " * _BLOCK, 0.0)


async def _send_for_ever(
    request: web.BaseRequest, headers: Mapping[str, str], piece: bytes, pause: float
) -> None:
    response = web.StreamResponse(headers=headers)
    response.content_type = "application/json"
    await send(request, response, _repeated(piece), pause=pause)
    cut(request)


def _repeated(piece: bytes) -> Iterator[bytes]:
    while True:
        yield piece


def _endless_head() -> Iterator[bytes]:
    yield from (bytes([byte]) for byte in b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
    while True:
        yield from (bytes([byte]) for byte in b"X-Sandbox-Drip: 1\r\n")


@lru_cache(maxsize=2)
def _repeated_in_gzip(byte: bytes, length: int) -> tuple[bytes, int]:
    """Return a gzip stream that more can follow, and the checksum of what it holds."""
    packer = zlib.compressobj(9, wbits=-15)
    # What ends in a full flush does not depend on what came before it, so it can be repeated.
    block = packer.compress(byte * _BLOCK) + packer.flush(zlib.Z_FULL_FLUSH)
    checksum, plain = 0, byte * _BLOCK
    for _ in range(length // _BLOCK):
        checksum = zlib.crc32(plain, checksum)
    return b"\x1f\x8b\x08\0\0\0\0\0\2\xff" + block * (length // _BLOCK), checksum


def gzip_bomb(byte: bytes, end: bytes = b"", *, length: int = 2**30) -> bytes:
    """Return gzip of one byte, `length` times (whole MiB), and then `end`. A thousandth of that is sent.

    A GiB takes a second the first time: call it in a thread.
    """
    start, checksum = _repeated_in_gzip(byte, length)
    packer = zlib.compressobj(wbits=-15)
    trailer = zlib.crc32(end, checksum).to_bytes(4, "little") + (length + len(end)).to_bytes(4, "little")
    return start + packer.compress(end) + packer.flush() + trailer


def twice_gzipped_bomb() -> bytes:
    """Return a few kilobytes that are a GiB once they are unpacked twice."""
    packer = zlib.compressobj(9, wbits=31)
    return packer.compress(gzip_bomb(b"\0")) + packer.flush()
