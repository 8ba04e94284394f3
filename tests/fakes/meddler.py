"""What people, cleanup jobs, replication and key rotation do to objects, while nobody of the package looks.

Nothing that it does is a request of the package: it keeps no rules, and no client counts it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.fakes.png import png
from tests.fakes.s3 import BUCKET, FakeS3, S3Object


@dataclass
class Meddler:
    """Changes a store's objects. Each method returns whether there was anything to change."""

    store: FakeS3
    bucket: str = BUCKET
    #: What was done, and to which key, in order.
    done: list[tuple[str, str]] = field(default_factory=list)

    def keys(self, part_of_key: str = "") -> list[str]:
        """Return the keys that contain a text, in order."""
        with self.store.lock:
            return sorted(key for key in self._objects if part_of_key in key)

    def delete(self, key: str) -> bool:
        """Delete an object, as a lifecycle rule or a person does."""
        with self.store.lock:
            is_there = self._objects.pop(key, None) is not None
        return self._note("delete", key, is_done=is_there)

    def rewrite(self, key: str) -> bool:
        """Write the same bytes again, as a copy in place or a re-encryption does: ETag and time are new."""
        return self._change("rewrite", key, lambda found: found.body)

    def copy_over(self, source: str, key: str) -> bool:
        """Put a copy of one object, metadata included, under the key of another."""
        with self.store.lock:
            found = self._objects.get(source)
            if found is not None:
                self.store.put(key, found.body, bucket=self.bucket, **found.arguments)
        return self._note("copy over", key, is_done=found is not None)

    def overwrite(self, key: str, body: bytes | None = None, **arguments: Any) -> bool:
        """Put another program's object there: by default another image of the same size, without metadata."""
        content = png("drawn by somebody else") if body is None else body
        self.store.put(key, content, bucket=self.bucket, **{"ContentType": "image/png", **arguments})
        return self._note("overwrite", key, is_done=True)

    def replace_bytes(self, key: str, body: bytes | None = None) -> bool:
        """Change an object's bytes and leave its metadata: whoever reads only those believes it."""
        content = png("drawn by somebody else") if body is None else body
        return self._change("replace bytes", key, lambda _: content)

    def truncate(self, key: str, length: int | None = None) -> bool:
        """Cut an object off, by default in the middle."""
        return self._change(
            "truncate", key, lambda found: found.body[: _half(found) if length is None else length]
        )

    def garble(self, key: str, body: bytes = b"\x00 no JSON, and no image") -> bool:
        """Put garbage in an object's place."""
        return self._change("garble", key, lambda _: body)

    def make_newer(self, key: str) -> bool:
        """Make an entry of the journal one that a newer version of this package has written."""
        return self.edit(key, version=999)

    def edit(self, key: str, **fields: Any) -> bool:
        """Change fields of a JSON object, as a person with an editor does."""
        return self._change("edit", key, lambda found: json.dumps(json.loads(found.body) | fields).encode())

    @property
    def _objects(self) -> dict[str, S3Object]:
        return self.store.buckets[self.bucket]

    def _change(self, what: str, key: str, change: Callable[[S3Object], bytes]) -> bool:
        with self.store.lock:
            found = self._objects.get(key)
            if found is not None:
                self.store.put(key, change(found), bucket=self.bucket, **found.arguments)
        return self._note(what, key, is_done=found is not None)

    def _note(self, what: str, key: str, *, is_done: bool) -> bool:
        if is_done:
            self.done.append((what, key))
        return is_done


def _half(found: S3Object) -> int:
    return len(found.body) // 2
