"""What a job leaves behind, successful or not: XComs, manifests, metrics and logs are made of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from airflow_provider_aisa.core.gateway.response import GenerationResponse
from airflow_provider_aisa.core.images.stored import StoredImage
from airflow_provider_aisa.exceptions import AisaError


@dataclass(frozen=True, slots=True)
class Receipt:
    """What one job came to.

    :param response: the one that was paid for, by this attempt or an earlier one, without links; None when
        there is none.
    :param cost_usd: what it cost when it was bought; None when nobody knows the price.
    :param images: those that are in S3: also when others of the response failed.
    :param unknown_outcomes: requests that may have been billed without a response being received.
    :param was_sent: this attempt has sent a request.
    :param is_reused: this attempt has paid for none of the images.
    :param error: why the job has not succeeded; None when it has.
    """

    journal_uri: str
    response: GenerationResponse | None = None
    cost_usd: float | None = 0.0
    images: tuple[StoredImage, ...] = ()
    unknown_outcomes: int = 0
    was_sent: bool = False
    is_reused: bool = False
    error: BaseException | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing was paid, may have been paid, or is stored."""
        return self.response is None and not self.unknown_outcomes

    @property
    def result(self) -> dict[str, Any]:
        """The value for XCom: small, JSON, and without anything that is secret.

        :raises AisaError: the job has not succeeded.
        """
        if self.error is not None:
            raise self.error
        if self.response is None:
            raise AisaError(f"the journal {self.journal_uri} names no response: look at it, and report this")
        return {
            "model": self.response.model,
            "created": self.response.created,
            "request_id": self.response.request_id,
            "reused": self.is_reused,
            "cost_usd": self.cost_usd,
            "usage": dict(self.response.usage),
            "unknown_outcomes": self.unknown_outcomes,
            "images": [image.to_dict() for image in self.images],
            "journal_uri": self.journal_uri,
        }
