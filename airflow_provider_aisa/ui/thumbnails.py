"""Small pictures for the pages: WebP, made once, kept in the folder ``_aisa/`` next to the images.

A file is decoded only when its header promises few enough pixels: it decides how much memory that takes.
Without Pillow (the extra ``gallery``) there are no thumbnails, and browsers scale the images themselves.
"""

from __future__ import annotations

import logging
import tempfile
from contextlib import closing
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from io import BytesIO
from typing import IO, TYPE_CHECKING, Final

from airflow_provider_aisa.exceptions import StorageFailed
from airflow_provider_aisa.ui.results import Picture, Place, Purchase
from airflow_provider_aisa.ui.stores import Store, Unavailable, readable

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from PIL.Image import Image as PillowImage

log = logging.getLogger(__name__)

CONTENT_TYPE: Final = "image/webp"
#: Pixels of the shorter side: sharp at twice the size of a tile.
SHORT_SIDE: Final = 400
_LONGEST_SIDE: Final = 3 * SHORT_SIDE
#: 4096 x 4096, the largest image that is drawn today, and a margin: about 100 MB while it is decoded.
MOST_PIXELS: Final = 24_000_000
_LARGEST_IMAGE: Final = 64 * 1024 * 1024  # bytes
_LARGEST_THUMBNAIL: Final = 512 * 1024  # bytes
_IN_MEMORY: Final = 8 * 1024 * 1024  # bytes of an image that are read before a file is used
_HEAD: Final = 64 * 1024  # bytes in which the size of an image stands
_CHUNK: Final = 1024 * 1024  # bytes
_OWN_FOLDER: Final = "_aisa/"


class NoThumbnail(Exception):
    """This image is shown as it is; the message says why."""


def is_possible() -> bool:
    """Return whether Pillow is installed."""
    return find_spec("PIL") is not None


@cache
def prepare() -> None:
    """Load what the first pictures need, half a second's worth: while a browser still reads its page."""
    import_module("airflow.providers.amazon.aws.hooks.s3")
    if is_possible():
        import_module("PIL.Image").preinit()


class Thumbnails:
    """Thumbnails of the images in a bucket. Blocks: each takes a core for about a tenth of a second."""

    def __init__(self) -> None:
        self._read_only: set[str] = set()  # buckets that refuse to keep thumbnails

    def find(self, picture: Picture, purchase: Purchase, store: Store) -> bytes | None:
        """Return the thumbnail that is kept, or None.

        :raises Unavailable: there is one, and the image itself is not there any more.
        """
        try:
            content = store.read(place_of(picture, purchase), what="thumbnail", limit=_LARGEST_THUMBNAIL)
        except Unavailable:
            return None
        if not _is_webp(content):
            return None
        store.check_picture(picture)
        return content

    @staticmethod
    def make(picture: Picture, store: Store) -> bytes:
        """Return a new thumbnail.

        :raises NoThumbnail: this image is shown as it is.
        :raises Unavailable: S3 does not give the image away.
        """
        if picture.bytes > _LARGEST_IMAGE:
            raise NoThumbnail(f"more than {_LARGEST_IMAGE:,} bytes")
        with tempfile.SpooledTemporaryFile(_IN_MEMORY) as file:
            _, body = store.open_picture(picture)
            with closing(body), readable(picture.place):
                _copy(body, file)
            return draw(file)

    def keep(self, content: bytes, picture: Picture, purchase: Purchase, store: Store) -> None:
        """Keep a new thumbnail, if the bucket may be written."""
        place = place_of(picture, purchase)
        if place.bucket in self._read_only:
            return
        try:
            store.write(place, content, content_type=CONTENT_TYPE)
        except StorageFailed as e:
            self._read_only.add(place.bucket)
            log.warning("Thumbnails are made anew each time: %s", e)


def place_of(picture: Picture, purchase: Purchase) -> Place:
    """Return where the thumbnail of an image is kept: in the folder of the journals."""
    where = purchase.records or picture.place
    folder, found, _ = where.key.partition(_OWN_FOLDER)
    if not found:
        folder = picture.place.folder.key
    return Place(picture.place.bucket, f"{folder}{_OWN_FOLDER}thumbnails/{picture.sha256}.webp")


def draw(file: IO[bytes]) -> bytes:
    """Return the WebP thumbnail of an image file.

    :raises NoThumbnail: it has too many pixels, or is no PNG, JPEG or WebP that can be decoded.
    """
    import imagesize
    from PIL import Image, ImageOps

    file.seek(0)
    width, height = imagesize.get(BytesIO(file.read(_HEAD)))
    _check_pixels(width, height)
    file.seek(0)
    try:
        with Image.open(file, formats=("PNG", "JPEG", "WEBP")) as image:
            _check_pixels(*image.size)  # Two readers of a hostile header need not agree.
            factor = max(SHORT_SIDE / min(image.size), 1 / 64)
            size = tuple(min(_LONGEST_SIDE, max(1, round(side * factor))) for side in image.size)
            image.draft("RGB", (size[0], size[1]))
            small = image if image.mode in {"RGB", "RGBA"} else image.convert(_mode(image))
            small.thumbnail((size[0], size[1]), Image.Resampling.BICUBIC, reducing_gap=2.0)
            content = BytesIO()
            ImageOps.exif_transpose(small).save(content, "WEBP", quality=82, method=2)
    except NoThumbnail:
        raise
    except Exception as e:  # Pillow raises many kinds for files that are not what they say
        raise NoThumbnail(f"it cannot be decoded ({type(e).__name__})") from None
    return content.getvalue()


def _mode(image: PillowImage) -> str:
    return "RGBA" if image.has_transparency_data else "RGB"


def _check_pixels(width: int, height: int) -> None:
    if not 0 < width * height <= MOST_PIXELS or min(width, height) < 1:
        raise NoThumbnail(f"{width} x {height} are more pixels than are decoded here")


def _copy(body: StreamingBody, file: IO[bytes]) -> None:
    left = _LARGEST_IMAGE
    while chunk := body.read(_CHUNK):
        left -= len(chunk)
        if left < 0:
            raise NoThumbnail(f"more than {_LARGEST_IMAGE:,} bytes")
        file.write(chunk)


def _is_webp(content: bytes) -> bool:
    return content[:4] == b"RIFF" and content[8:12] == b"WEBP"
