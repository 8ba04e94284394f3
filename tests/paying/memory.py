"""A bucket in memory that keeps the rules of conditional writes, or breaks one of them on purpose."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, cast

from airflow_provider_aisa.core.s3 import (
    Bucket,
    ConditionConflict,
    ConditionFailed,
    ConditionUnsupported,
    StoredObject,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mypy_boto3_s3 import S3Client

Manners = Literal["conditional", "ignores", "501"]
_stores = itertools.count()


@dataclass
class Memory:
    """What a store holds, by its own clock."""

    manners: Manners = "conditional"
    now: float = 0.0
    objects: dict[str, tuple[bytes, str, float]] = field(default_factory=dict)
    images: dict[str, dict[str, Any]] = field(default_factory=dict)
    conflicts: int = 0
    writes: list[str] = field(default_factory=list)
    etags: itertools.count[int] = field(default_factory=itertools.count)
    #: Verdicts about stores are kept per endpoint in the whole process.
    endpoint: str = field(default_factory=lambda: f"https://s3-{next(_stores)}.test")


class MemoryBucket(Bucket):
    """One actor's view of a store; `checkpoint` is called before and after everything that it does."""

    def __init__(self, memory: Memory, checkpoint: Callable[[str], None] = lambda _: None) -> None:
        client = SimpleNamespace(meta=SimpleNamespace(endpoint_url=memory.endpoint))
        super().__init__(cast("S3Client", client), "memory")
        object.__setattr__(self, "memory", memory)
        object.__setattr__(self, "checkpoint", checkpoint)

    memory: Memory
    checkpoint: Callable[[str], None]

    def check_args(self) -> None:
        """Nothing to check."""

    def read(self, key: str) -> StoredObject | None:
        self.checkpoint("read")
        found = self.memory.objects.get(key)
        if found is None:
            return None
        body, etag, modified = found
        return StoredObject(body, etag, self.memory.now - modified)

    def write(self, key: str, body: bytes, *, only_if: str | None, is_conditional: bool = True) -> str:
        self.checkpoint("before write")
        memory = self.memory
        if memory.conflicts:
            memory.conflicts -= 1
            raise ConditionConflict
        if is_conditional and memory.manners == "501":
            raise ConditionUnsupported
        self._check(key, only_if, is_conditional=is_conditional)
        etag = f"etag-{next(memory.etags)}"
        memory.objects[key] = (body, etag, memory.now)
        memory.writes.append(key)
        self.checkpoint("after write")
        return etag

    def delete(self, key: str, *, only_if: str | None) -> None:
        self.checkpoint("before delete")
        if key in self.memory.objects:
            self._check(key, only_if, is_conditional=only_if is not None)
            del self.memory.objects[key]
        self.checkpoint("after delete")

    def put_image(
        self, file: BinaryIO, *, key: str, content_type: str, sha256: str, metadata: Mapping[str, str]
    ) -> str:
        self.checkpoint("before upload")
        etag = f"image-{next(self.memory.etags)}"
        self.memory.images[key] = {
            "Metadata": dict(metadata),
            "ContentType": content_type,
            "ContentLength": sum(map(len, iter(file.read, b""))),
            "ETag": etag,
        }
        self.checkpoint("after upload")
        return etag

    def head_image(self, key: str) -> Mapping[str, Any] | None:
        self.checkpoint("head")
        return self.memory.images.get(key)

    def _check(self, key: str, only_if: str | None, *, is_conditional: bool) -> None:
        if not is_conditional or self.memory.manners == "ignores":
            return
        found = self.memory.objects.get(key)
        if (found[1] if found else None) != only_if:
            raise ConditionFailed
