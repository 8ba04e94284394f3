"""What an answer that is no success stands for: one of our errors, in the gateway's words.

Codes: https://aisa.one/docs, "Error Codes". On Gemini's route upstream's own shape comes through:
``{"error": {"code": 400, "message": …, "status": "INVALID_ARGUMENT"}}``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_aisa.core.gateway.answers import clean, describe, read_object, read_request_id
from airflow_provider_aisa.exceptions import (
    AisaError,
    ContentRefused,
    GatewayFailed,
    InvalidConnection,
    InvalidRequest,
    KeyRefused,
    ModelNotRouted,
    QuotaExceeded,
    RateLimited,
)

if TYPE_CHECKING:
    import httpx

_LONGEST_CODE: Final = 80

#: Upstream's codes on Gemini's route, and the HTTP status of each: https://cloud.google.com/apis/design/errors.
_GOOGLE_STATUS: Final = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
#: Under a 500: the workspace has no access to the model, and nothing was generated.
_NO_ACCESS: Final = "model_not_found"

_BY_CODE: Final[dict[str, type[AisaError]]] = {
    "content_policy_violation": ContentRefused,
    "quota_exceeded": QuotaExceeded,
}
_BY_STATUS: Final[dict[int, type[AisaError]]] = {401: KeyRefused, 403: KeyRefused, 429: RateLimited}

_NEXT_STEP: Final[dict[type[AisaError], str]] = {
    ContentRefused: "Change the prompt; sending it again changes nothing.",
    QuotaExceeded: "Raise the key's spend cap in the AIsa console, or wait until its period ends.",
    ModelNotRouted: "Use the operator of the model's family: another route of the gateway serves this model.",
    KeyRefused: "Check the key of the connection and what it is allowed to do.",
    RateLimited: "Lower max_concurrency or requests_per_minute in the connection, or try again later.",
    GatewayFailed: "Try again later: the gateway or its upstream is at fault.",
    InvalidRequest: "Fix the request; sending it again changes nothing.",
    InvalidConnection: "Check the host of the connection. The key is not sent to where a redirect points.",
}

#: Statuses that refuse a request before anything is generated, if the gateway itself sends them.
_REFUSING: Final = frozenset({400, 401, 403, 404, 422, 429})
#: Codes of 502 and 503 with which the gateway says that upstream has not taken the request.
_NOT_TAKEN: Final = frozenset({"upstream_unavailable", "gateway_error"})


def read_error(response: httpx.Response, *, api_key: str, note: str = "") -> AisaError:
    """Return the error that a non-2xx answer stands for, with the gateway's words and the next step.

    :param note: a sentence to end the message with.
    """
    detail = _detail(response)
    code = _code(detail)
    code = clean(code, api_key=api_key)[:_LONGEST_CODE] if code else None
    kind = _error_class(response.status_code, code)
    message = detail.get("message")
    said = clean(str(message), api_key=api_key) if message else describe(response, api_key=api_key)
    request_id = read_request_id(response, detail, api_key=api_key)
    retry_after = read_retry_after(response)
    words = f"AIsa answered {response.status_code}{f' {code}' if code else ''}: {said}"
    asks = f" It asks to wait {retry_after:,.0f} s." if retry_after else ""
    bill = " Nothing was billed." if is_refusal(response) else ""
    return kind(
        f"{_NEXT_STEP[kind]}{asks} {words}{request_note(request_id)}.{bill}{f' {note}' if note else ''}",
        status=response.status_code,
        code=code,
        request_id=request_id,
        retry_after=retry_after,
    )


def is_refusal(response: httpx.Response) -> bool:
    """Return whether an answer proves that nothing was generated, and so nothing is billed.

    Only the gateway's own JSON error with a code does that. A page that a proxy wrote may stand in place of
    a billed response, whatever its status: a redirect as well, with which filters lead to their block page
    after they have seen the response. A 500 and a timeout of upstream may hide a finished job.
    """
    code = _code(_detail(response))
    if code is None or code == "upstream_timeout":
        return False
    if response.status_code == 500 and code == _NO_ACCESS:
        return True
    return response.status_code in _REFUSING or (response.status_code in {502, 503} and code in _NOT_TAKEN)


def request_note(request_id: str | None) -> str:
    """Return the request's id as a part of a message: support asks for it."""
    return f" (request {request_id})" if request_id else ""


def _detail(response: httpx.Response) -> Mapping[str, Any]:
    detail = read_object(response.content).get("error")
    return detail if isinstance(detail, dict) else {}


def _code(detail: Mapping[str, Any]) -> str | None:
    code, status = detail.get("code"), detail.get("status")
    if isinstance(status, str) and code is not None and _GOOGLE_STATUS.get(status) == code:
        return status
    return code if isinstance(code, str) and code else None


def _error_class(status: int, code: str | None) -> type[AisaError]:
    if status >= 500:
        return KeyRefused if code == _NO_ACCESS and status == 500 else GatewayFailed
    if status < 400:
        return InvalidConnection
    if status == 404 and code == "openai_error":
        return ModelNotRouted
    return _BY_CODE.get(code or "") or _BY_STATUS.get(status, InvalidRequest)


def read_retry_after(response: httpx.Response) -> float | None:
    """Return the seconds of ``Retry-After``, given as a number or as a date; None without a usable one.

    A date is counted from the answer's own ``Date``: our clock may be wrong.
    """
    value = response.headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", value):
        return float(value)
    moment = _moment(value)
    if moment is None:
        return None
    now = _moment(response.headers.get("date", "")) or datetime.now(UTC)
    return max(0.0, (moment - now).total_seconds())


def _moment(date: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(date)
        # To UTC here: at the ends of the calendar a zone leads out of it.
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
