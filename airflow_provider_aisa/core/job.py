"""All that is needed to do one request, wherever it is done: in a worker, or later in a triggerer.

A job is plain data without a secret, so it can be kept in Airflow's database while a task is deferred.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Any, Literal, Self

from airflow_provider_aisa.core.gateway.request import ImageRequest
from airflow_provider_aisa.core.journal.entry import Buyer, Policy, journal_name
from airflow_provider_aisa.core.layout import Owner, Target

OnPartial = Literal["fail", "keep"]


@dataclass(frozen=True, slots=True)
class Item:
    """Which of a batch's requests a job is.

    :param id: given by the author, or made of the request; unique in its batch.
    :param journal_folder: of the batch, with its ``/``.
    """

    id: str
    journal_folder: str


def journal_root(target: Target, idempotency_key: str | None) -> str:
    """Return the folder of journals, with its ``/``: next to the images, or with the author's own key not."""
    return f"{'' if idempotency_key is not None else target.folder}_aisa/"


@dataclass(frozen=True, slots=True)
class Job:
    """A valid request, where its images go, and what its author wants done about everything else.

    :param target: with its bucket.
    :param price_usd: per image; None when nobody knows it.
    :param idempotency_key: the author's own; None for one that belongs to the task instance.
    :param s3_extra_args: further arguments of PutObject.
    :param is_first_try: of a task in a worker, which is spared what only repeats need.
    :param item: which of a batch this is; None for a task's only request.
    """

    request: ImageRequest
    target: Target
    attempt: Buyer
    price_usd: Decimal | None = None
    policy: Policy = field(default_factory=Policy)
    on_partial: OnPartial = "fail"
    idempotency_key: str | None = None
    s3_extra_args: Mapping[str, Any] = field(default_factory=dict)
    is_first_try: bool = False
    item: Item | None = None

    @property
    def journal_key(self) -> str:
        """The key of the journal's entry: in ``_aisa/`` next to the images, or in the batch's folder.

        With the author's own key it is in the bucket's root, so that it does not move with the images.
        """
        item_id = self.item.id if self.item else None
        name = journal_name(self.attempt.owner, self.request.fingerprint(), self.idempotency_key, item_id)
        if self.item is not None:
            return f"{self.item.journal_folder}{name}"
        return f"{journal_root(self.target, self.idempotency_key)}{name}"

    def metadata(self) -> dict[str, str]:
        """Return the user metadata of each image."""
        owner = self.attempt.owner
        return {
            "ai-generated": "true",
            "model": self.request.model,
            "dag-id": owner.dag_id,
            "task-id": owner.task_id,
            "run-id": owner.run_id,
        }

    def cost_usd(self, images: int) -> float | None:
        """Return what so many images cost; None, never 0, when nobody knows their price."""
        return None if self.price_usd is None else float(self.price_usd * images)

    def cost_text(self, images: int) -> str:
        """Say what so many images cost."""
        return "an unknown amount" if self.price_usd is None else f"${self.price_usd * images:.3f}"

    def to_dict(self) -> dict[str, Any]:
        """Return JSON for :meth:`from_dict`."""
        price = None if self.price_usd is None else str(self.price_usd)
        return {**asdict(self), "price_usd": price, "s3_extra_args": dict(self.s3_extra_args)}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """Rebuild a job from :meth:`to_dict`."""
        price = document["price_usd"]
        attempt, item = document["attempt"], document["item"]
        return cls(
            **{
                **document,
                "request": ImageRequest(**document["request"]),
                "target": Target(**document["target"]),
                "attempt": Buyer(Owner(**attempt["owner"]), attempt["max_tries"]),
                "price_usd": None if price is None else Decimal(price),
                "policy": Policy(**document["policy"]),
                "item": None if item is None else Item(**item),
            }
        )
