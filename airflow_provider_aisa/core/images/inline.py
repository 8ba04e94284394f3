"""An image that came inside an answer goes from base64 to a file block by block, never twice in memory."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, Final, cast

from airflow_provider_aisa.core.images.download import (
    FetchedImage,
    HashedFile,
    check_length,
    refused,
    reported_folder,
)
from airflow_provider_aisa.core.images.inspect import inspect
from airflow_provider_aisa.exceptions import ImageUnusable

_BASE64_BLOCK: Final = 1024 * 1024  # characters; a multiple of 4


@contextmanager
def nameless_file(folder: Path) -> Iterator[BinaryIO]:
    """Yield a file that no directory lists: the system deletes it with its last user, however that ends."""
    with ExitStack() as stack:
        with reported_folder():
            file = stack.enter_context(tempfile.TemporaryFile(dir=folder, buffering=0))
        yield cast("BinaryIO", file)


def decode(b64_json: str, file: BinaryIO, check: Callable[[], object] = lambda: None) -> FetchedImage:
    """Write an image that came inside the response to a file. What is wrong with it stays wrong.

    :param check: called before each block; what it raises ends the work.
    :raises ImageUnusable: it is no complete image, or too long; it is not retryable.
    """
    check_length(len(b64_json) * 3 // 4 - 2)
    broken = refused("the response holds broken base64 in place of the image")
    if b64_json.find("=", 0, -2) >= 0:  # Each block by itself could end like this.
        raise broken
    written = HashedFile(file)
    try:
        for start in range(0, len(b64_json), _BASE64_BLOCK):
            check()
            written.write(base64.b64decode(b64_json[start : start + _BASE64_BLOCK], validate=True))
    except ValueError:
        raise broken from None
    return finish(written, file)


def finish(written: HashedFile, file: BinaryIO) -> FetchedImage:
    """Return what a complete file holds; raise ImageUnusable, not retryable, when it is no image."""
    sha256 = written.close()
    try:
        return FetchedImage(written.length, sha256, inspect(file))
    except ImageUnusable as e:
        raise refused(str(e)) from None
