"""One class per thing that a caller does next.

AisaError
├── InvalidConnection       fix the Airflow connection
├── InvalidRequest          fix the request
│   ├── ModelNotRouted      use the route that the message names
│   ├── ContentRefused      change the prompt
│   └── OverBudget          raise max_cost_usd, or ask for less
├── KeyRefused              fix the key, or what it may do
│   └── QuotaExceeded       raise the key's spend cap, or wait for its next period
├── RateLimited             wait `retry_after` seconds
├── GatewayFailed           try again later: nothing was generated
├── OutcomeUnknown          nobody knows whether images were billed
│   └── ImageRefused        change the prompt: the model answered in words
├── FewerImages             decide whether the stored ones are enough
├── ItemsFailed             look at the batch's manifest: the other items are stored
├── ImageUnavailable        try the download again: the images are paid for
│   ├── ImageLinkExpired    the link is gone, and the image with it
│   └── ImageUnusable       what came is not an image that may be stored
├── ImagesLost              restore the stored images, or ask for new ones
├── AlreadyGenerated        take the images that exist, or ask for new ones
├── JournalUnreadable       look at the journal's object
└── StorageFailed           fix the bucket, its permissions or the upload's arguments
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self


class AisaError(Exception):
    """Something between a request and its stored images went wrong; the message says what to do next.

    :param status: HTTP status of the gateway's answer, where there was one.
    :param code: the gateway's error code, such as ``rate_limit_exceeded``.
    :param request_id: the gateway's id of the request: its support asks for it.
    :param retry_after: seconds after which the gateway wants to be asked again.
    :param retryable: whether the same call can succeed later; None for what is usual for the class.
    :param unknown_outcomes: requests that may have been billed without a response being received.
    """

    #: Whether the same call can succeed later without a person changing anything.
    retryable = False

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        retryable: bool | None = None,
        unknown_outcomes: int = 0,
    ) -> None:
        super().__init__(message)
        if retryable is not None:
            self.retryable = retryable
        self.status = status
        self.code = code
        self.request_id = request_id
        self.retry_after = retry_after
        self.unknown_outcomes = unknown_outcomes

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions with keyword arguments do not survive pickling by themselves.
        return (error_from_dict, (self.to_dict(),))

    def extended(self, more: str, **changes: Any) -> Self:
        """Return the same error with more to say, and with some details changed."""
        details = self.to_dict() | changes
        del details["error"]
        return type(self)(f"{details.pop('message')} {more}", **details)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON for :func:`error_from_dict`: a trigger's event carries an error to its task."""
        return {
            "error": type(self).__name__,
            "message": str(self),
            "status": self.status,
            "code": self.code,
            "request_id": self.request_id,
            "retry_after": self.retry_after,
            "retryable": self.retryable,
            "unknown_outcomes": self.unknown_outcomes,
        }


def error_from_dict(document: Mapping[str, Any]) -> AisaError:
    """Rebuild an error from :meth:`AisaError.to_dict`; an unknown class becomes an AisaError."""
    details = dict(document)
    found = globals().get(details.pop("error"))
    kind = found if isinstance(found, type) and issubclass(found, AisaError) else AisaError
    return kind(details.pop("message"), **details)


class InvalidConnection(AisaError):
    """The Airflow connection lacks something, or holds a wrong value."""


class InvalidRequest(AisaError, ValueError):
    """The request is wrong as it stands; sending it again changes nothing."""


class ModelNotRouted(InvalidRequest):
    """The model exists, but on another route of the gateway."""


class ContentRefused(InvalidRequest):
    """The gateway's content policy refused the prompt. Not billed."""


class OverBudget(InvalidRequest):
    """The request costs more than ``max_cost_usd`` allows, or cannot be priced. Nothing was sent."""


class KeyRefused(AisaError):
    """The API key is missing, wrong, revoked or not allowed to do this."""


class QuotaExceeded(KeyRefused):
    """The key's spend cap is reached."""


class RateLimited(AisaError):
    """The key's rate limit is used up for longer than a call may wait."""

    retryable = True


class GatewayFailed(AisaError):
    """The gateway could not be reached, or answered that it failed, as often as it was asked."""

    retryable = True


class OutcomeUnknown(AisaError):
    """The request was sent and no usable response came back: images may have been billed."""

    retryable = True


class ImageRefused(OutcomeUnknown):
    """The model answered in words and drew nothing; whether that was billed is unknown."""

    retryable = False


class FewerImages(AisaError):
    """The gateway returned fewer images than were asked and are on the bill; those that came are stored."""


class ItemsFailed(AisaError):
    """Items of a batch failed, more than its author allows; the others are stored.

    It is retryable when one of them is.
    """


class ImageUnavailable(AisaError):
    """An image that is paid for could not be fetched now."""

    retryable = True


class ImageLinkExpired(ImageUnavailable):
    """The link to a paid image does not work any more, so the image cannot be fetched."""

    retryable = False


class ImageUnusable(ImageUnavailable):
    """What the link holds is not a complete PNG, JPEG or WebP, or may not be fetched."""


class ImagesLost(AisaError):
    """Images that were stored have been deleted or replaced since: what is at their URIs is not theirs."""


class AlreadyGenerated(AisaError):
    """An earlier run has finished these images, and ``on_existing`` says ``fail``."""


class JournalUnreadable(AisaError):
    """The journal is damaged, was not written by this package, or by a newer version of it."""


class StorageFailed(AisaError):
    """S3 refused: the bucket is missing, may not be written, or the upload's arguments are wrong."""

    retryable = True
