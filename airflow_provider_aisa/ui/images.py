"""An image on its way from S3 to a browser: a piece at a time, with the type that its first bytes say."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from airflow_provider_aisa.core.layout import SUFFIXES
from airflow_provider_aisa.ui.links import VERSION_DIGITS
from airflow_provider_aisa.ui.results import Picture
from airflow_provider_aisa.ui.sources import Find
from airflow_provider_aisa.ui.stores import Unavailable, readable
from airflow_provider_aisa.ui.threads import BYTES, DRAWING
from airflow_provider_aisa.ui.thumbnails import CONTENT_TYPE, NoThumbnail, Thumbnails, is_possible

if TYPE_CHECKING:
    from botocore.response import StreamingBody

_CHUNK: Final = 256 * 1024  # bytes
_HEAD: Final = 16
_DAY: Final = 24 * 60 * 60  # seconds


async def whole_image(find: Find, request: Request, *, version: str, is_download: bool) -> Response:
    """Return an image as it is in S3.

    :raises Unavailable: it is not there, or it is none.
    """
    headers = _headers(find.picture, "", version=version)
    if _is_known(request, headers):
        return Response(status_code=304, headers=headers)
    return await _stream(find, headers, is_download=is_download)


async def small_image(find: Find, request: Request, thumbnails: Thumbnails, *, version: str) -> Response:
    """Return the thumbnail of an image, or the image as it is where there can be none.

    :raises Unavailable: the image is not there, or it is none.
    """
    picture, purchase, store = find.picture, find.purchase, find.store
    headers = _headers(picture, "-small", version=version)
    if _is_known(request, headers):
        return Response(status_code=304, headers=headers)
    if not is_possible():
        return await _stream(find, headers, is_download=False)
    if (kept := await BYTES.run(lambda: thumbnails.find(picture, purchase, store))) is not None:
        return Response(kept, media_type=CONTENT_TYPE, headers=headers)
    try:
        content = await _draw(find, thumbnails, request)
    except NoThumbnail:
        return await _stream(find, headers, is_download=False)
    # Nobody waits until it is in S3.
    keep = BackgroundTask(BYTES.run, lambda: thumbnails.keep(content, picture, purchase, store))
    return Response(content, media_type=CONTENT_TYPE, headers=headers, background=keep)


async def _draw(find: Find, thumbnails: Thumbnails, request: Request) -> bytes:
    # Whoever has scrolled on does not wait any more, and the next ones should not have to wait for that.
    if await request.is_disconnected():
        raise Unavailable("Nobody waits for this thumbnail any more.", status=499)
    return await DRAWING.run(lambda: thumbnails.make(find.picture, find.store))


async def _stream(find: Find, headers: dict[str, str], *, is_download: bool) -> Response:
    picture = find.picture
    length, body = await BYTES.run(lambda: find.store.open_picture(picture))
    try:
        head = await BYTES.run(lambda: _read(body, picture, _HEAD))
        content_type = type_of(head, picture)
    except BaseException:
        body.close()
        raise
    name = f"{picture.place.key.rpartition('/')[2].rpartition('.')[0] or 'image'}{SUFFIXES[content_type][0]}"
    disposition = f"{'attachment' if is_download else 'inline'}; filename*=UTF-8''{quote(name, safe='')}"
    return StreamingResponse(
        _pieces(body, picture, head),
        media_type=content_type,
        headers={**headers, "Content-Length": str(length), "Content-Disposition": disposition},
    )


async def _pieces(body: StreamingBody, picture: Picture, head: bytes) -> AsyncIterator[bytes]:
    """Yield the image. A thread is used only while S3 is read: a slow browser holds none."""
    try:
        yield head
        while piece := await BYTES.run(lambda: _read(body, picture, _CHUNK)):
            yield piece
    finally:
        with suppress(Exception):
            body.close()


def _read(body: StreamingBody, picture: Picture, length: int) -> bytes:
    with readable(picture.place):
        return body.read(length)


def type_of(head: bytes, picture: Picture) -> str:
    """Return the content type of an image by its first 16 bytes.

    :raises Unavailable: it is none that is served, whatever its object says.
    """
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    raise Unavailable(f"{picture.place.uri} is no PNG, JPEG or WebP.", status=415)


def _headers(picture: Picture, what: str, *, version: str) -> dict[str, str]:
    # An address that names the image's hash never means another image; any other is asked about each time.
    is_fixed = len(version) >= VERSION_DIGITS and picture.sha256.startswith(version)
    return {
        "ETag": f'"{picture.sha256}{what}"',
        "Cache-Control": f"private, max-age={_DAY}, immutable" if is_fixed else "private, no-cache",
        # Airflow would compress it again, to no use.
        "Content-Encoding": "identity",
    }


def _is_known(request: Request, headers: dict[str, str]) -> bool:
    return headers["ETag"] in request.headers.get("if-none-match", "")
