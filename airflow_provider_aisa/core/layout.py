"""Every key and folder in S3 that this package writes.

A key is decided by the task and the image, never by the try or the clock: whatever is done again finds what
was done before.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from dataclasses import asdict, dataclass, replace
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
#: S3 takes these as UTF-8 or not at all, and clients and consoles stumble over control characters.
_UNWRITABLE = re.compile("[\ud800-\udfff\x00-\x1f\x7f]")
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
        cls,
        s3_key: object,
        s3_bucket: object,
        *,
        default_folder: str = "",
        has_items: bool = False,
        root: str = "seedream",
    ) -> Self:
        """Read where an author wants the images.

        :param s3_key: a key, a prefix that ends in ``/``, ``s3://bucket/key``, or None for
            ``<root>/<default_folder>/{index}.{ext}``.
        :param s3_bucket: a bucket's name, or None.
        :param default_folder: what the default is made of, such as :meth:`Owner.path`.
        :param has_items: it is a batch's: ``{id}`` is filled in by :meth:`of_item`, and a folder holds one
            folder per item.
        :raises InvalidRequest: a placeholder that nobody fills in, two buckets, or a key that is too long.
        """
        in_a_folder = _ITEM_IN_A_FOLDER if has_items else _IN_A_FOLDER
        bucket, template = _split(s3_key, _parse_bucket(s3_bucket), in_a_folder)
        if template is None:
            template = f"{root}/{default_folder}/"
        if template.endswith("/"):
            template += in_a_folder
        placeholders = (*_PLACEHOLDERS, "id") if has_items else _PLACEHOLDERS
        for name in _PLACEHOLDER.findall(template):
            if name not in placeholders:
                known = ", ".join(f"{{{known}}}" for known in sorted(placeholders))
                msg = f"Use {known} in s3_key: nobody fills in {{{name}}} (s3_key is {s3_key!r})"
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

    def of_part(self, number: int) -> Self:
        """Return where one of several images goes that has a request of its own: ``{index}`` filled in."""
        return replace(self, template=self._telling_apart().replace("{index}", str(number)))

    def _telling_apart(self) -> str:
        if {"index", "sha256"} & set(_PLACEHOLDER.findall(self.template)):
            return self.template
        stem, suffix = posixpath.splitext(self.template)
        return f"{stem}-{{index}}{suffix}"

    def _check_length(self, s3_key: object) -> None:
        longest = self.key(index=9_999, ext="webp", sha256="0" * 64, several=True)
        if len(longest.encode()) > _LONGEST_KEY:
            msg = f"Shorten s3_key: it makes keys of more than {_LONGEST_KEY} bytes (s3_key is {s3_key!r})"
            raise InvalidRequest(msg)

    @property
    def folder(self) -> str:
        """The folder that all images share, with its ``/``; empty for the bucket's root."""
        folder, slash, _ = self.template.partition("{")[0].rpartition("/")
        return folder + slash

    def key(self, *, index: int, ext: str, sha256: str, several: bool) -> str:
        """Return an image's key; ``-{index}`` is added when several images would share one."""
        template = self._telling_apart() if several else self.template
        values = {"index": str(index), "ext": ext, "sha256": sha256, "id": "{id}"}
        return _PLACEHOLDER.sub(lambda match: values[match[1]], template)


def _split(s3_key: object, bucket: str | None, in_a_folder: str) -> tuple[str | None, str | None]:
    if s3_key is None:
        return bucket, None
    if not isinstance(s3_key, str) or not s3_key.strip() or _UNWRITABLE.search(s3_key):
        msg = f"Use a key, a prefix that ends in '/', s3://bucket/key, or None: s3_key is {s3_key!r}"
        raise InvalidRequest(msg)
    if {".", ".."} & set(s3_key.split("/")):
        # HTTP clients and proxies resolve such parts, so the object would land under another key or nowhere.
        raise InvalidRequest(f"Write s3_key out: it has a part that is '.' or '..' (s3_key is {s3_key!r})")
    if "://" not in s3_key:
        return bucket, s3_key
    scheme, _, rest = s3_key.partition("://")
    named, _, key = rest.partition("/")
    if scheme.lower() != "s3" or not named:
        msg = f"Use s3://bucket/key: s3_key is no S3 URL ({s3_key!r})"
        raise InvalidRequest(msg)
    if bucket is not None and bucket != named:
        msg = f"Leave one out: s3_key names bucket {named!r}, and s3_bucket names {bucket!r}"
        raise InvalidRequest(msg)
    return named, key or in_a_folder


def _parse_bucket(s3_bucket: object) -> str | None:
    if s3_bucket is None:
        return None
    if not isinstance(s3_bucket, str) or not s3_bucket.strip() or "/" in s3_bucket:
        msg = f"Use a bucket's name alone, without s3:// and without a key: s3_bucket is {s3_bucket!r}"
        raise InvalidRequest(msg)
    return s3_bucket.strip()


def safe_name(name: str) -> str:
    """Replace what S3 tools stumble over; a hash keeps names apart that an author chose."""
    safe = _UNSAFE.sub("_", name)
    if safe == name or not _UNSAFE.search(_TIME.sub("", name)):
        return safe
    return f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


#: The folder of everything that is not an image. What lies in it is documented in docs/paying-once.md.
_OWN_FOLDER: Final = "_aisa/"


def journal_root(target: Target, idempotency_key: str | None) -> str:
    """Return the folder of journals, with its ``/``.

    It lies next to the images. An author's own idempotency key keeps it at the bucket's root, so that
    changing ``s3_key`` does not lose it.
    """
    return f"{'' if idempotency_key is not None else target.folder}{_OWN_FOLDER}"


def journal_key(
    target: Target, owner: Owner, fingerprint: str, idempotency_key: str | None, *, number: int = 0
) -> str:
    """Return the key of a single request's journal: the same whenever the same purchase is meant.

    :param number: of several requests for one image each, which one it is.
    """
    root = journal_root(target, idempotency_key)
    if idempotency_key is not None:
        identity = {"idempotency_key": idempotency_key} | ({"image": number} if number else {})
        return f"{root}{_digest(identity)}.json"
    return f"{journals_of(target, owner)}{fingerprint[:20]}.json"


def journals_of(target: Target, owner: Owner) -> str:
    """Return how the keys of all journals begin that a task instance has without a key of its author's."""
    return f"{journal_root(target, None)}{_digest(asdict(owner))[:24]}-"


def surplus_target(journal_key: str, bucket: str, claim_id: str) -> Target:
    """Return where the images go that were paid for after another copy of the task had paid as well."""
    stem = journal_key.removesuffix(".json")
    return Target(bucket, f"{stem}.surplus-{claim_id}/{_IN_A_FOLDER}")


def kept_key(journal_key: str, claim_id: str, position: int) -> str:
    """Return where an image is put that was in the answer itself, until it is stored."""
    return f"{journal_key.removesuffix('.json')}.answer-{claim_id}/{position}"


def proof_key(target: Target, idempotency_key: str | None, arguments: str) -> str:
    """Return the key of the small object that proves that S3 accepts the images' own arguments."""
    return f"{journal_root(target, idempotency_key)}proof-{_digest({'arguments': arguments})[:16]}.txt"


@dataclass(frozen=True, slots=True)
class BatchLayout:
    """Where a batch keeps what is not an image.

    :param folder: with its ``/``.
    :param manifest: the key of the manifest: one for each task instance, also where several share a journal.
    """

    folder: str
    manifest: str

    @classmethod
    def of(cls, target: Target, owner: Owner, idempotency_key: str | None) -> Self:
        """Return the layout of a task instance's batch, or of all batches with an author's own key."""
        shared = {"batch": idempotency_key if idempotency_key is not None else asdict(owner)}
        folder = f"{journal_root(target, idempotency_key)}{_digest(shared)}/"
        return cls(folder, f"{folder}manifest-{_digest({'batch': asdict(owner)})[:16]}.jsonl")

    @property
    def entries(self) -> str:
        """The folder of the items' journals, with its ``/``."""
        return f"{self.folder}items/"

    @property
    def description(self) -> str:
        """The key of the object that says whose folder this is."""
        return f"{self.folder}batch.json"

    def journal_name(self, item_id: str, fingerprint: str, idempotency_key: str | None) -> str:
        """Return the name of an item's journal in :attr:`entries`.

        With an author's own key an item is its id; without one, its id and its request.
        """
        identity = {"item": item_id} if idempotency_key is not None else {"item": item_id, "is": fingerprint}
        return f"{_digest(identity)}.json"


def _digest(identity: object) -> str:
    canonical = json.dumps(identity, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:40]
