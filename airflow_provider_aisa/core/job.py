"""All that is needed to do one request, wherever it is done: in a worker, or later in a triggerer.

A job is plain data without a secret, so it can be kept in Airflow's database while a task is deferred.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Final, Literal, Self

from airflow_provider_aisa.core import typed_json
from airflow_provider_aisa.core.gateway.request import ImageRequest
from airflow_provider_aisa.core.journal.entry import Buyer
from airflow_provider_aisa.core.journal.steps import Policy
from airflow_provider_aisa.core.layout import Target, journal_key
from airflow_provider_aisa.core.s3.arguments import check_metadata

OnPartial = Literal["fail", "keep"]
_LARGEST_SIZE: Final = "999999x999999"


@dataclass(frozen=True, slots=True)
class BatchPlace:
    """Where a job stands that is one of a batch's, or of several for one task's images.

    :param item_id: given by the author, or made of the request; unique in its batch.
    :param journal_key: of the item's journal.
    """

    item_id: str
    journal_key: str


@dataclass(frozen=True, slots=True)
class Job:
    """A valid request, where its images go, and what its author wants done about everything else.

    :param target: with its bucket.
    :param price_usd: per image; None when nobody knows it.
    :param max_cost_usd: for all that the task instance pays or may pay; None for no limit. A batch has a
        budget of its own for all its jobs.
    :param idempotency_key: the author's own; None for one that belongs to the task instance.
    :param s3_extra_args: further arguments of PutObject.
    :param batch: None for a task's only request.
    """

    request: ImageRequest
    target: Target
    buyer: Buyer
    price_usd: Decimal | None = None
    max_cost_usd: Decimal | None = None
    policy: Policy = field(default_factory=Policy)
    on_partial: OnPartial = "fail"
    idempotency_key: str | None = None
    s3_extra_args: Mapping[str, Any] = field(default_factory=dict)
    batch: BatchPlace | None = None

    @property
    def journal_key(self) -> str:
        """The key of the journal's entry."""
        if self.batch is not None:
            return self.batch.journal_key
        first = self.request.parts()[0]
        return journal_key(self.target, self.buyer.owner, first.fingerprint(), self.idempotency_key)

    def parts(self) -> tuple[Self, ...]:
        """Return the jobs that it takes: itself, or one for each image where a request makes one image.

        Each is a purchase of its own: who asks for more images later pays only for those.
        """
        requests = self.request.parts()
        if len(requests) == 1:
            return (self,)
        return tuple(self._part(request) for request in requests)

    def _part(self, request: ImageRequest) -> Self:
        key = journal_key(
            self.target,
            self.buyer.owner,
            request.fingerprint(),
            self.idempotency_key,
            number=request.number,
        )
        place = BatchPlace(f"image {request.number}", key)
        return replace(self, request=request, target=self.target.of_part(request.number), batch=place)

    @property
    def cost_usd(self) -> Decimal:
        """What all images that are asked for cost; 0 when nobody knows their price."""
        return (self.price_usd or Decimal(0)) * self.request.n

    def metadata(self) -> dict[str, str]:
        """Return the user metadata of each image."""
        owner = self.buyer.owner
        return {
            "ai-generated": "true",
            "model": self.request.model,
            "dag-id": owner.dag_id,
            "task-id": owner.task_id,
            "run-id": owner.run_id,
        }

    def check_metadata(self) -> None:
        """Raise InvalidRequest when the images would carry more metadata than S3 takes."""
        of_image = {
            "claim": "0" * 32,
            "index": "000000",
            "sha256": "0" * 64,
            "size": self.request.size or _LARGEST_SIZE,
        }
        check_metadata({**self.metadata(), **of_image}, self.s3_extra_args)

    def cost_text(self, images: int) -> str:
        """Say what so many images cost."""
        return "an unknown amount" if self.price_usd is None else f"${self.price_usd * images:.3f}"

    def to_dict(self) -> dict[str, Any]:
        """Return JSON for :meth:`from_dict`."""
        document: dict[str, Any] = typed_json.dump(self)
        return document

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """Rebuild a job from :meth:`to_dict`."""
        return typed_json.load(cls, document)
