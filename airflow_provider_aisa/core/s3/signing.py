"""Signs an upload with the SHA-256 that it already carries, where botocore would read its body once more.

S3 wants the payload's hash in the signature. botocore computes it for each upload over http, and over https
as well when the checksum was given by its caller, although ``x-amz-checksum-sha256`` is the very same hash.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Final

import botocore
from botocore.auth import S3SigV4Auth

if TYPE_CHECKING:
    from botocore.awsrequest import AWSRequest
    from botocore.signers import RequestSigner
    from mypy_boto3_s3 import S3Client

_CHECKSUM: Final = "x-amz-checksum-sha256"
_OURS: Final = "aisa_signs"  # in a request's context
_VERSION: Final = "s3v4"
_LINK: Final = "-query"  # how botocore calls a signature that stands in a link


def sign_with_known_hash(client: S3Client) -> None:
    """Have a client's PutObject requests signed in this way. Everything else is signed as before."""
    choose: Any = _choose  # The stubs do not know that a handler may answer.
    client.meta.events.register_first("choose-signer.s3.PutObject", choose)
    client.meta.events.register_last("before-sign.s3.PutObject", _sign)


def sign_links_with_version_4(client: S3Client) -> None:
    """Have links to objects signed with version 4, unless the connection says otherwise.

    botocore still takes version 2 where a region once knew it: newer buckets and encrypted objects refuse it.
    """
    choose: Any = _choose_for_link  # The stubs do not know that a handler may answer.
    client.meta.events.register_first("choose-signer.s3.GetObject", choose)


def _choose_for_link(signature_version: object, **_: Any) -> str | None:
    return f"{_VERSION}{_LINK}" if signature_version == f"v4{_LINK}" else None


class _KnownHash(S3SigV4Auth):
    def payload(self, request: AWSRequest) -> str:
        known: str | None = request.headers.get(_CHECKSUM)
        return base64.b64decode(known).hex() if known else str(super().payload(request))


def _choose(signature_version: object, context: dict[str, Any], **_: Any) -> object:
    """Have botocore leave a request unsigned that it would have signed with the usual signature, version 4.

    Another one is left to botocore: for access points in several regions, for directory buckets, for links.
    """
    context[_OURS] = context.get("auth_type") in {None, "v4"} and signature_version in {"v4", _VERSION}
    return botocore.UNSIGNED if context[_OURS] else None


def _sign(
    request: AWSRequest, signing_name: str, region_name: str, request_signer: RequestSigner, **_: Any
) -> None:
    if not request.context.get(_OURS):
        return
    chosen = request.context.get("signing", {})  # By the endpoint, such as an access point's own region.
    service = chosen.get("signing_name") or signing_name
    region = chosen.get("region") or region_name
    credentials = chosen.get("request_credentials")
    usual = request_signer.get_auth_instance(service, region, _VERSION, request_credentials=credentials)
    _KnownHash(usual.credentials, service, region).add_auth(request)
