"""Where images go: a key is decided by the task and the image, never by the attempt or the clock."""

from __future__ import annotations

import hashlib
import posixpath
import re
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, Self

from airflow_provider_aisa.exceptions import InvalidRequest

#: File name endings by content type; the first is the one that new files get.
SUFFIXES: Final = MappingProxyType(
    {"image/png": (".png",), "image/jpeg": (".jpg", ".jpeg"), "image/webp": (".webp",)}
)
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_PLACEHOLDERS: Final = ("ext", "index", "sha256")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]|^\.+$")
#: Airflow's own run ids hold ':' and '+' in fixed places only: 'manual__2026-01-01T00:00:00+00:00'.
_TIME = re.compile(r"T\d\d:\d\d:\d\d(\.\d+)?[+-]\d\d:\d\d")
_SURROGATE = re.compile("[\ud800-\udfff]")
_LONGEST_KEY: Final = 1024  # bytes of UTF-8: S3's limit
_IN_A_FOLDER: Final = "{index}.{ext}"
_ITEM_IN_A_FOLDER: Final = "{id}/{index}.{ext}"


@dataclass(frozen=True, slots=True)
class Owner:
    """The task instance that pays: what default keys and the objects' metadata are made of."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1

    def path(self) -> str:
        """Return ``<dag_id>/<run_id>/<task_id>[/<map_index>]``, made safe for S3 and for file systems."""
        parts = [self.dag_id, self.run_id, self.task_id]
        if self.map_index >= 0:
            parts.append(str(self.map_index))
        return "/".join(safe_name(part) for part in parts)


@dataclass(frozen=True, slots=True)
class Target:
    """A bucket and the template of the keys in it. Build it with :meth:`parse`."""

    bucket: str | None
    template: str

    @classmethod
    def parse(
        cls, s3_key: object, s3_bucket: object, *, default_folder: str = "", has_items: bool = False
    ) -> Self:
        """Read where an author wants the images.

        :param s3_key: a key, a prefix that ends in ``/``, ``s3://bucket/key``, or None for
            ``seedream/<default_folder>/{index}.{ext}``.
        :param s3_bucket: a bucket's name, or None.
        :param default_folder: what the default is made of, such as :meth:`Owner.path`.
        :param has_items: it is a batch's: ``{id}`` is filled in by :meth:`of_item`, and a folder holds one
            folder per item.
        :raises InvalidRequest: a placeholder that nobody fills in, two buckets, or a key that is too long.
        """
        in_a_folder = _ITEM_IN_A_FOLDER if has_items else _IN_A_FOLDER
        bucket, template = _split(s3_key, _parse_bucket(s3_bucket), in_a_folder)
        if template is None:
            template = f"seedream/{default_folder}/"
        if template.endswith("/"):
            template += in_a_folder
        placeholders = (*_PLACEHOLDERS, "id") if has_items else _PLACEHOLDERS
        for name in _PLACEHOLDER.findall(template):
            if name not in placeholders:
                known = ", ".join(f"{{{known}}}" for known in sorted(placeholders))
                msg = f"s3_key {s3_key!r} has {{{name}}}, which nobody fills in: use one of {known}"
                raise InvalidRequest(msg)
        target = cls(bucket, template)
        target._check_length(s3_key)
        return target

    def of_item(self, item_id: str) -> Self:
        """Return where a batch's item goes: ``{id}`` filled in, made safe for S3.

        :raises InvalidRequest: its keys are too long.
        """
        target = replace(self, template=self.template.replace("{id}", safe_name(item_id)))
        target._check_length(self.template)
        return target

    def _check_length(self, s3_key: object) -> None:
        longest = self.key(index=9_999, ext="webp", sha256="0" * 64, several=True)
        if len(longest.encode()) > _LONGEST_KEY:
            msg = f"s3_key {s3_key!r} makes keys of more than {_LONGEST_KEY} bytes: shorten it"
            raise InvalidRequest(msg)

    @property
    def folder(self) -> str:
        """The folder that all images share, with its ``/``; empty for the bucket's root."""
        folder, slash, _ = self.template.partition("{")[0].rpartition("/")
        return folder + slash

    def key(self, *, index: int, ext: str, sha256: str, several: bool) -> str:
        """Return an image's key; ``-{index}`` is added when several images would share one."""
        template = self.template
        if several and not {"index", "sha256"} & set(_PLACEHOLDER.findall(template)):
            stem, suffix = posixpath.splitext(template)
            template = f"{stem}-{{index}}{suffix}"
        values = {"index": str(index), "ext": ext, "sha256": sha256, "id": "{id}"}
        return _PLACEHOLDER.sub(lambda match: values[match[1]], template)


def _split(s3_key: object, bucket: str | None, in_a_folder: str) -> tuple[str | None, str | None]:
    if s3_key is None:
        return bucket, None
    if not isinstance(s3_key, str) or not s3_key.strip() or _SURROGATE.search(s3_key):
        msg = f"s3_key {s3_key!r} is no key: use a key, a prefix that ends in '/', s3://bucket/key, or None"
        raise InvalidRequest(msg)
    if "://" not in s3_key:
        return bucket, s3_key
    scheme, _, rest = s3_key.partition("://")
    named, _, key = rest.partition("/")
    if scheme.lower() != "s3" or not named:
        msg = f"s3_key {s3_key!r} is no S3 URL: use s3://bucket/key"
        raise InvalidRequest(msg)
    if bucket is not None and bucket != named:
        msg = f"s3_key names bucket {named!r} and s3_bucket names {bucket!r}: leave one of them out"
        raise InvalidRequest(msg)
    return named, key or in_a_folder


def _parse_bucket(s3_bucket: object) -> str | None:
    if s3_bucket is None:
        return None
    if not isinstance(s3_bucket, str) or not s3_bucket.strip() or "/" in s3_bucket:
        msg = (
            f"s3_bucket {s3_bucket!r} is no bucket name: use the name alone, without s3:// and without a key"
        )
        raise InvalidRequest(msg)
    return s3_bucket.strip()


def safe_name(name: str) -> str:
    """Replace what S3 tools stumble over; a hash keeps names apart that an author chose."""
    safe = _UNSAFE.sub("_", name)
    if safe == name or not _UNSAFE.search(_TIME.sub("", name)):
        return safe
    return f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
