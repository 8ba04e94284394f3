"""What S3 takes with an object, besides its bytes: checked before anything is paid."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from airflow_provider_aisa.exceptions import InvalidRequest

#: Arguments of PutObject that this package sets, or that would make an upload depend on what is there.
OWN_ARGS: Final = frozenset(
    {
        "Body", "Bucket", "Key", "ContentType", "ContentLength", "ContentMD5", "IfMatch", "IfNoneMatch",
        "ChecksumAlgorithm", "ChecksumSHA256", "ChecksumSHA1", "ChecksumCRC32", "ChecksumCRC32C",
        "ChecksumCRC64NVME", "WriteOffsetBytes",
    }
)  # fmt: skip
#: Arguments of PutObject that an object with the same protection as the images needs too.
JOURNAL_ARGS: Final = frozenset(
    {
        "ServerSideEncryption",
        "SSEKMSKeyId",
        "SSEKMSEncryptionContext",
        "BucketKeyEnabled",
        "ExpectedBucketOwner",
    }
)
#: Arguments of PutObject that S3 keeps as they are, whatever they say.
HARMLESS_ARGS: Final = frozenset(
    {"Metadata", "CacheControl", "ContentDisposition", "ContentEncoding", "ContentLanguage", "Expires"}
)
#: Encryption with the caller's own key: it would have to be kept wherever a task is kept.
_CUSTOMER_KEY_ARGS: Final = frozenset({"SSECustomerAlgorithm", "SSECustomerKey", "SSECustomerKeyMD5"})
#: User metadata that this package sets.
OWN_METADATA: Final = frozenset(
    {"ai-generated", "model", "dag-id", "task-id", "run-id", "claim", "index", "sha256", "size"}
)
_METADATA_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")
_METADATA_TEXT: Final = re.compile(r"[ -~]*")
_METADATA_VALUE: Final = 250  # characters
#: Bytes of all names and values of an object's user metadata, which is S3's own limit.
_MOST_METADATA: Final = 2048


def check_extra_args(extra_args: object) -> None:
    """Raise InvalidRequest when ``s3_extra_args`` is no mapping, or sets what the upload itself sets."""
    if extra_args is None:
        return
    if not isinstance(extra_args, Mapping):
        raise InvalidRequest(
            f"s3_extra_args is a {type(extra_args).__name__}: use a dict of PutObject's arguments"
        )
    if taken := sorted(OWN_ARGS & set(extra_args)):
        raise InvalidRequest(f"s3_extra_args may not set {', '.join(taken)}: the image decides that")
    if keys := sorted(_CUSTOMER_KEY_ARGS & set(extra_args)):
        raise InvalidRequest(
            f"s3_extra_args may not set {', '.join(keys)}: a deferred task's arguments are in Airflow's "
            "database, where a key must not be. Use ServerSideEncryption 'aws:kms' with SSEKMSKeyId instead"
        )
    metadata = extra_args.get("Metadata", {})
    if not isinstance(metadata, Mapping):
        raise InvalidRequest("s3_extra_args['Metadata'] is no dict: use a dict of strings")
    for name, value in metadata.items():
        if not _METADATA_NAME.fullmatch(str(name)) or not _METADATA_TEXT.fullmatch(str(value)):
            raise InvalidRequest(
                f"s3_extra_args['Metadata'] has {name!r}: {value!r}, which no header can carry: use letters, "
                "digits and hyphens in the name, and printable ASCII in the value"
            )
        if str(name).lower() in OWN_METADATA:
            raise InvalidRequest(f"s3_extra_args['Metadata'] may not set {name!r}: the upload sets it itself")


def check_metadata(own: Mapping[str, str], extra_args: Mapping[str, Any]) -> None:
    """Raise InvalidRequest when an image's user metadata is more than S3 takes (2 KB).

    :param own: what the upload itself sets.
    """
    everything = {**extra_args.get("Metadata", {}), **{name: header_safe(own[name]) for name in own}}
    length = sum(len(str(name).encode()) + len(str(value).encode()) for name, value in everything.items())
    if length > _MOST_METADATA:
        raise InvalidRequest(
            f"the images' metadata would be {length:,} bytes, and S3 takes {_MOST_METADATA:,}: shorten "
            "s3_extra_args['Metadata']. Nothing was sent."
        )


def header_safe(value: str) -> str:
    """Percent-encode what a header cannot carry: user metadata is ASCII."""
    return quote(value, safe=" !\"#$&'()*+,-./:;<=>?@[]^_`{|}~")[:_METADATA_VALUE]
