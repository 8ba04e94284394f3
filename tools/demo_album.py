"""The demo's pictures, copied out of the bucket: every one that was paid for, before its store goes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path

    from mypy_boto3_s3 import S3Client


class Album:
    """Copies objects of a bucket into a folder. Leaving it as a context manager saves what is left to save.

    That is every other image, when `is_paid`, and after a failure the journals, too: they hold the links to
    images that were paid for and are not stored. Pictures of earlier demos, perhaps paid ones, stay.
    """

    def __init__(self, client: S3Client, bucket: str, folder: Path, *, is_paid: bool) -> None:
        self._client = client
        self._bucket = bucket
        self._folder = folder
        self._is_paid = is_paid
        self._prefix = time.strftime("%Y%m%d-%H%M%S")
        self._saved: set[str] = set()

    def save(self, key: str) -> str:
        """Copy one object; return where it is now, from the project's folder on."""
        return self._copy(key, key.rpartition("/")[2])

    def _copy(self, key: str, name: str) -> str:
        self._folder.mkdir(exist_ok=True)
        path = self._folder / f"{self._prefix}-{name}"
        self._client.download_file(self._bucket, key, str(path))
        self._saved.add(key)
        return f"{self._folder.name}/{path.name}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if not self._is_paid:
            return
        for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket):
            for key in (item["Key"] for item in page.get("Contents", [])):
                if key not in self._saved and (kind or "/_aisa/" not in f"/{key}"):
                    # All of the key: the images of two runs may have the same name in different folders.
                    print(f"Saved: {self._copy(key, key.replace('/', '-'))}", flush=True)
