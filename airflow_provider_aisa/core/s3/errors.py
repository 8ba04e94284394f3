"""What S3 answers when it refuses, in this package's own words and with the next step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from airflow_provider_aisa.exceptions import StorageFailed

_PERMISSIONS: Final = (
    "Allow the AWS connection s3:GetObject and s3:PutObject there, and s3:ListBucket on the bucket"
)
_NEXT: Final = {
    "404": "Create the bucket, or correct s3_bucket",
    "NoSuchBucket": "Create the bucket, or correct s3_bucket",
    "403": _PERMISSIONS,
    "AccessDenied": _PERMISSIONS,
    "InvalidStorageClass": "Correct s3_extra_args",
    "InvalidRequest": "Correct s3_extra_args",
    "InvalidArgument": "Correct s3_extra_args",
    "301": "Set the bucket's region_name in the AWS connection",
    "PermanentRedirect": "Set the bucket's region_name in the AWS connection",
}
_CHECK: Final = "Check the AWS connection, its endpoint and its credentials"


class ConditionFailed(Exception):
    """A conditional write found another object than it expected (412), or none (404)."""


class ConditionConflict(Exception):
    """Another conditional write of the same object is under way (409): try again."""


class ConditionUnsupported(Exception):
    """The store does not know conditional writes (501)."""


@contextmanager
def reported(what: str, *, is_conditional: bool = False) -> Iterator[None]:
    """Turn botocore's errors into this package's, with the next step in the message.

    :param is_conditional: the request has a condition, so that some answers are about that.
    """
    from botocore.exceptions import BotoCoreError, ClientError
    from urllib3.exceptions import HTTPError

    try:
        yield
    except (BotoCoreError, HTTPError) as e:  # urllib3's own come from bodies that break off
        raise StorageFailed(f"{_CHECK}. {type(e).__name__}: {what}.") from None
    except ClientError as e:
        status = e.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        code = str(e.response.get("Error", {}).get("Code") or status)
        if is_conditional and status == 412:
            raise ConditionFailed from None
        if is_conditional and status == 409:
            raise ConditionConflict from None
        if is_conditional and (status == 501 or code == "NotImplemented"):
            raise ConditionUnsupported from None
        # A bucket does not appear by itself. Permissions do, some time after they were granted.
        retryable = False if code == "NoSuchBucket" else None
        message = f"{_NEXT.get(code, _CHECK)}. S3 says {code}: {what}."
        raise StorageFailed(message, status=status, code=code, retryable=retryable) from None
