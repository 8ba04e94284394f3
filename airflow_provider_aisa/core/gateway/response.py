"""What the gateway answered, read once: either a GenerationResponse or the error that it stands for.

Shapes and codes: https://aisa.one/docs, "OpenAI-Compatible Image Generations" and "Error Codes". Upstream
(BytePlus) may send fewer images than asked, entries that hold an error, or base64 instead of a link.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

from airflow_provider_aisa.exceptions import (
    AisaError,
    ContentRefused,
    GatewayFailed,
    InvalidConnection,
    InvalidRequest,
    KeyRefused,
    ModelNotRouted,
    OutcomeUnknown,
    QuotaExceeded,
    RateLimited,
)

if TYPE_CHECKING:
    import httpx

_KEY_LIKE = re.compile(r"\bsk-[A-Za-z0-9_\-]{4,}")
_LONGEST_MESSAGE: Final = 500

_BY_CODE: Final[dict[str, type[AisaError]]] = {
    "content_policy_violation": ContentRefused,
    "quota_exceeded": QuotaExceeded,
}
_BY_STATUS: Final[dict[int, type[AisaError]]] = {401: KeyRefused, 403: KeyRefused, 429: RateLimited}

_NEXT_STEP: Final[dict[type[AisaError], str]] = {
    ContentRefused: "Change the prompt; sending it again changes nothing, and nothing was billed.",
    QuotaExceeded: "Raise the key's spend cap in the AIsa console, or wait until its period ends.",
    ModelNotRouted: "This model is served by another route of the gateway: see AisaHook.request.",
    KeyRefused: "Check the key of the connection and what it is allowed to do.",
    RateLimited: "Lower max_concurrency or requests_per_minute in the connection, or try again later.",
    GatewayFailed: "The gateway or its upstream is at fault: try again later.",
    InvalidRequest: "Mend the request; sending it again changes nothing.",
    InvalidConnection: "Check the host of the connection. The key is not sent to where a redirect points.",
}


@dataclass(frozen=True, slots=True)
class GeneratedImage:
    """One entry of ``data``: a link, base64, or the error that stands in place of an image."""

    index: int
    url: str | None = field(default=None, repr=False)  # Signed: whoever reads it can fetch the image.
    b64_json: str | None = field(default=None, repr=False)
    error_code: str | None = None
    error_message: str | None = None

    @property
    def is_image(self) -> bool:
        """Whether there is something to store."""
        return self.url is not None or self.b64_json is not None


@dataclass(frozen=True, slots=True)
class GenerationResponse:
    """A billed response of the gateway.

    :param created: UNIX time in seconds, or None.
    :param usage: the gateway's own figures, verbatim.
    :param delivered: how many images came; it outlives their links.
    """

    model: str
    created: int | None
    images: tuple[GeneratedImage, ...]
    usage: Mapping[str, Any]
    request_id: str | None
    delivered: int = 0

    @property
    def available(self) -> tuple[GeneratedImage, ...]:
        """The entries that are images."""
        return tuple(image for image in self.images if image.is_image)

    @property
    def refused(self) -> tuple[GeneratedImage, ...]:
        """The entries that are errors."""
        return tuple(image for image in self.images if not image.is_image)

    @property
    def billed(self) -> int:
        """Images on the bill: the gateway's figure, or without one, what it delivered."""
        figure = self.usage.get("generated_images")
        return figure if isinstance(figure, int) and figure >= 0 else self.delivered

    @property
    def is_known_unbilled(self) -> bool:
        """Whether there are no images and the gateway itself says that none is on the bill."""
        return not self.available and self.usage.get("generated_images") == 0

    def without_links(self) -> Self:
        """Return the response as it is kept once every image is stored."""
        return replace(self, images=self.refused)


def read_generation(response: httpx.Response, *, model: str) -> GenerationResponse:
    """Read a 2xx answer; raise OutcomeUnknown when it is not the JSON that a billed request returns."""
    body = _json(response)
    data = body.get("data") if isinstance(body, dict) else None
    request_id = _request_id(response, body if isinstance(body, dict) else {})
    if not isinstance(body, dict) or not isinstance(data, list):
        msg = (
            f"AIsa answered {response.status_code} with {_describe(response)} instead of a list of images"
            f"{_request_note(request_id)}. The images may have been billed; a proxy in between may have "
            "replaced the response. Look at the usage page of the AIsa console before paying again."
        )
        raise OutcomeUnknown(msg, status=response.status_code, request_id=request_id)
    usage = body.get("usage")
    created = body.get("created")
    images = tuple(_read_entry(index, entry) for index, entry in enumerate(data))
    return GenerationResponse(
        model=body["model"] if isinstance(body.get("model"), str) else model,
        created=created if isinstance(created, int) else None,
        images=images,
        usage=usage if isinstance(usage, dict) else {},
        request_id=request_id,
        delivered=sum(image.is_image for image in images),
    )


def _read_entry(index: int, entry: object) -> GeneratedImage:
    if isinstance(entry, dict):
        if isinstance(entry.get("url"), str) and entry["url"]:
            return GeneratedImage(index, url=entry["url"])
        if isinstance(entry.get("b64_json"), str) and entry["b64_json"]:
            return GeneratedImage(index, b64_json=entry["b64_json"])
        error = entry.get("error")
        if isinstance(error, dict):
            return GeneratedImage(
                index,
                error_code=_clean(str(error.get("code") or "no code")),
                error_message=_clean(str(error.get("message") or "no message")),
            )
    return GeneratedImage(index, error_code="empty_entry", error_message="neither a link nor an image")


def read_error(response: httpx.Response, *, api_key: str) -> AisaError:
    """Return the error that a non-2xx answer stands for, with the gateway's words and the next step."""
    body = _json(response)
    detail = body.get("error") if isinstance(body, dict) else None
    detail = detail if isinstance(detail, dict) else {}

    def without_key(text: object) -> str:
        return _clean(str(text).replace(api_key, "***"))

    code = without_key(detail["code"]) if detail.get("code") else None
    kind = _error_class(response.status_code, code)
    said = without_key(detail.get("message") or _describe(response))
    request_id = _request_id(response, detail)
    request_id = without_key(request_id) if request_id else None
    msg = (
        f"AIsa answered {response.status_code}{f' {code}' if code else ''}: {said}"
        f"{_request_note(request_id)}. {_NEXT_STEP[kind]}"
    )
    return kind(
        msg,
        status=response.status_code,
        code=code,
        request_id=request_id,
        retry_after=read_retry_after(response),
    )


def read_code(response: httpx.Response) -> str | None:
    """Return the gateway's error code, or None in a body that has none."""
    body = _json(response)
    detail = body.get("error") if isinstance(body, dict) else None
    return str(detail["code"]) if isinstance(detail, dict) and detail.get("code") else None


def _error_class(status: int, code: str | None) -> type[AisaError]:
    if status >= 500:
        return GatewayFailed
    if status < 400:
        return InvalidConnection
    if status == 404 and code == "openai_error":
        return ModelNotRouted
    return _BY_CODE.get(code or "") or _BY_STATUS.get(status, InvalidRequest)


def read_retry_after(response: httpx.Response) -> float | None:
    """Return the seconds of ``Retry-After``, given as a number or as a date; None without a usable one."""
    value = response.headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", value):
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _json(response: httpx.Response) -> object:
    try:
        # NaN and its like are not JSON; Python reads them all the same.
        return response.json(parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None


def _request_id(response: httpx.Response, body: Mapping[str, Any]) -> str | None:
    value = body.get("request_id") or response.headers.get("x-request-id")
    return _clean(str(value)) if value else None


def _request_note(request_id: str | None) -> str:
    return f" (request {request_id})" if request_id else ""


def _describe(response: httpx.Response) -> str:
    """Say what kind of body came, for people who have to find the proxy that sent it."""
    if 300 <= response.status_code < 400:
        return f"a redirect to {_host(response.headers.get('location', ''))}"
    if not response.content:
        return "an empty body"
    if title := re.search(r"<title[^>]*>([^<]{1,200})", response.text, re.IGNORECASE):
        return f"an HTML page titled {_clean(title[1])!r}"
    kind = _clean(response.headers.get("content-type", "").partition(";")[0]) or "no content type"
    return f"{len(response.content)} bytes of {kind} that are not the expected JSON"


def _host(url: str) -> str:
    try:
        return _clean(urlsplit(url).hostname or "") or "nowhere"
    except ValueError:
        return "something that is no URL"


def _clean(text: str) -> str:
    """Keep a stranger's text on one line, short, and free of anything that looks like a key."""
    text = text.encode(errors="replace").decode()  # JSON can carry half a character; logs and S3 cannot.
    return _KEY_LIKE.sub("sk-***", " ".join(text.split()))[:_LONGEST_MESSAGE]
