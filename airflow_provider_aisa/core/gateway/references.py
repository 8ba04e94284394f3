"""Reference images: what a request says of them, and what goes to the gateway in their place.

A request names them, and knows the version of each object that was looked at: that is what identifies a
purchase. What it takes to show one to the gateway is made for each send, and is kept nowhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from airflow_provider_aisa.core.gateway.models import FAMILIES_WITH_REFERENCES, Family
from airflow_provider_aisa.exceptions import InvalidRequest

_S3: Final = re.compile(
    r"s3://(?P<bucket>[A-Za-z0-9._-]{1,255})/(?P<key>[^\x00-\x1f\x7f\ud800-\udfff]{1,1024})"
)
_LONGEST: Final = 2048  # characters of a URL
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
#: Parameters of links that open something to whoever has them: such a link is a secret, and it ends.
_SIGNED: Final = frozenset(
    {
        "access_token",
        "sig",
        "signature",
        "token",
        "x-amz-security-token",
        "x-amz-signature",
        "x-goog-signature",
        "x-oss-signature",
    }
)


@dataclass(frozen=True, slots=True)
class Reference:
    """An image that a model is to look at.

    :param uri: ``s3://bucket/key``, or an ``https://`` URL that anybody may read.
    :param etag: of the S3 object that was looked at; None before that, and of a URL, which is all that
        identifies what it leads to: servers that draw a picture anew would otherwise be paid for twice.
    """

    uri: str
    etag: str | None = None

    @property
    def place(self) -> tuple[str, str] | None:
        """The bucket and the key; None of a URL."""
        match = _S3.fullmatch(self.uri)
        return (match["bucket"], match["key"]) if match else None

    def identity(self) -> list[str]:
        """Return what of it identifies a purchase, as JSON."""
        return [self.uri] if self.etag is None else [self.uri, self.etag]


@dataclass(frozen=True, slots=True)
class Attachment:
    """What is sent in a reference image's place: a link or the bytes. It lives as long as one request.

    :param data: in base64.
    """

    content_type: str
    link: str = field(default="", repr=False)
    data: str = field(default="", repr=False)


def parse_references(value: object, family: Family, *, model: str) -> tuple[Reference, ...]:
    """Read what an author wrote; nothing is looked at yet.

    :param value: S3 URIs or https URLs in a list, one of them alone, or None. A string of a JSON list is
        accepted, because templates render to strings.
    :raises InvalidRequest: there are more than the model takes, or one is neither.
    """
    if value is None or value == "":
        return ()
    given = _listed(value)
    if len(given) > family.most_references:
        if not family.most_references:
            users = " and ".join(FAMILIES_WITH_REFERENCES)
            raise InvalidRequest(f"leave reference_images out: {model} takes none, those of {users} do")
        raise InvalidRequest(
            f"leave some reference_images out: {model} takes {family.most_references}, and {len(given)} are "
            "given"
        )
    return tuple(map(_parse, given))


def known_references(summary: Mapping[str, Any]) -> list[Reference]:
    """Return the references that a request's summary names, as they were looked at."""
    listed = summary.get("reference_images")
    found = listed if isinstance(listed, list) else []
    return [
        Reference(*each)
        for each in found
        if isinstance(each, list) and len(each) in {1, 2} and all(isinstance(one, str) for one in each)
    ]


def _listed(value: object) -> list[object]:
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            raise InvalidRequest(
                "reference_images is a text that is no JSON: use a list, or check the template"
            ) from None
    if isinstance(value, str):
        return [value]
    if isinstance(value, list | tuple):
        return list(value)
    raise InvalidRequest(f"reference_images is a {type(value).__name__}: use a list of S3 URIs or https URLs")


def _parse(value: object) -> Reference:
    text = value.strip() if isinstance(value, str) else ""
    if _S3.fullmatch(text):
        return Reference(text)
    scheme, _, rest = text.partition("://")
    if scheme.lower() == "s3":
        raise InvalidRequest(f"write a reference image as s3://bucket/key: {text[:80]!r} is none")
    if scheme.lower() not in {"http", "https"} or not rest:
        # Not its value: it may be an image's bytes.
        kind = "" if isinstance(value, str) else f" of type {type(value).__name__}"
        raise InvalidRequest(f"use s3://bucket/key or an https URL: a reference image{kind} is neither")
    return Reference(_checked_url(text))


def _checked_url(text: str) -> str:
    """Return a URL that is no secret and that a gateway can be given. What is refused is not shown."""
    try:
        url = urlsplit(text)
        host, names = url.hostname, {name.lower() for name, _ in parse_qsl(url.query, keep_blank_values=True)}
    except ValueError:
        host, names = None, set()
    if not host or not text.isascii() or not text.isprintable() or " " in text or len(text) > _LONGEST:
        raise InvalidRequest(
            f"write a reference image as a URL of at most {_LONGEST} ASCII characters without blanks: one "
            "is none"
        )
    if url.username is not None or names & _SIGNED:
        raise InvalidRequest(
            f"use the S3 URI of a reference image that not everybody may read: the one at {host} is given "
            "as a link that is a secret, and that would be kept with the task"
        )
    if url.scheme != "https" and host not in _LOOPBACK:
        raise InvalidRequest(f"use https: a reference image at {host} is given as {url.scheme}://")
    return text
