"""What an author wants of a batch: what is the same for all items, and what makes a valid item of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, Self

from airflow_provider_aisa.core.batch.plan import Item, Plan
from airflow_provider_aisa.core.batch.source import RawRequest
from airflow_provider_aisa.core.gateway.models import SEEDREAM, Family, find_model
from airflow_provider_aisa.core.gateway.request import UNSET, ImageRequest
from airflow_provider_aisa.core.job import BatchPlace, Job, OnPartial
from airflow_provider_aisa.core.journal.entry import Buyer
from airflow_provider_aisa.core.journal.steps import Policy
from airflow_provider_aisa.core.layout import BatchLayout, Target
from airflow_provider_aisa.exceptions import InvalidRequest

OnItemFailure = Literal["keep", "fail"]


FIELDS: Final = (
    "prompt",
    "id",
    "size",
    "n",
    "model",
    "s3_key",
    "aspect_ratio",
    "image_size",
    "reference_images",
    "extra_body",
)
MAX_ID: Final = 200  # characters
_MOST: Final = 10**MAX_ID  # as a number; Python refuses to write far longer ones
_DERIVED_ID: Final = 16  # hex digits of the request's fingerprint
_MOST_SHOWN: Final = 20
_LONGEST_PROBLEM: Final = 500  # characters: an author's value may be of any length


@dataclass(frozen=True, slots=True)
class Outside:
    """What has to be looked up to read an item; while a DAG is parsed, nothing is.

    :param pinned: returns a request that says which version of each reference image it means.
    :param family_of_unknown: returns the family by whose rules a model is asked that is not known here.
    """

    pinned: Callable[[ImageRequest], ImageRequest] = lambda request: request
    family_of_unknown: Callable[[str], Family] = lambda _: SEEDREAM

    def family_of(self, model: object) -> Family:
        """Return the family of any model."""
        if not isinstance(model, str):
            return SEEDREAM
        spec = find_model(model)
        return spec.family if spec else self.family_of_unknown(model)


_NOWHERE: Final = Outside()


@dataclass(frozen=True, slots=True)
class ItemDefaults:
    """What an item has that does not say otherwise; all as in :meth:`ImageRequest.parse`.

    :param size: of items whose model takes a size.
    :param n: of items whose model makes several images in a request.
    :param target: parsed for items, with the batch's bucket as soon as that is known.
    :param aspect_ratio: of items whose model takes one; so is ``image_size``.
    :param extra_body: of items of the batch's own family: others have other fields.
    """

    size: object
    n: object
    model: object
    target: Target
    aspect_ratio: object = None
    image_size: object = None
    extra_body: object = None

    def read(self, raw: object, outside: Outside = _NOWHERE) -> Item:
        """Read a prompt, or a dict with ``prompt`` and optionally the other :data:`FIELDS`.

        :raises InvalidRequest: whatever is wrong with it; the message does not hold the prompt.
        """
        fields = _fields(raw)
        model = _given(fields, "model", self.model)
        family = outside.family_of(model)
        request = ImageRequest.parse(
            prompt=fields["prompt"],
            size=_given(fields, "size", self.size if family.has_size and self.size is not None else UNSET),
            n=_given(fields, "n", 1 if family.is_one_by_one else self.n),
            model=model,
            unknown_as=family,
            reference_images=fields.get("reference_images"),
            extra_body=_given(
                fields, "extra_body", self.extra_body if family == outside.family_of(self.model) else None
            ),
            aspect_ratio=self._option(fields, family, "aspect_ratio"),
            image_size=self._option(fields, family, "image_size"),
        )
        request.check_single()
        request = outside.pinned(request)
        given = fields.get("id")
        item_id = request.fingerprint()[:_DERIVED_ID] if given is None else parse_id(given)
        target = self.target
        if fields.get("s3_key") is not None:
            target = Target.parse(fields["s3_key"], target.bucket, has_items=True)
        return Item(item_id, given is not None, request, target.of_item(item_id))

    def _option(self, fields: Mapping[str, Any], family: Family, name: str) -> object:
        return _given(fields, name, getattr(self, name) if name in family.options else None)


@dataclass(frozen=True)
class BatchSpec:
    """All that is the same for each item.

    :param defaults: its target has a bucket.
    :param prices: USD per image by model, as in :meth:`ImageRequest.price_usd`.
    :param max_failures: how many items, or which share of them, may fail before the batch stops.
    :param max_cost_usd: for all that the task instance pays, in all its tries.
    """

    defaults: ItemDefaults
    buyer: Buyer
    policy: Policy = field(default_factory=Policy)
    on_partial: OnPartial = "fail"
    on_item_failure: OnItemFailure = "fail"
    max_failures: int | float | None = None
    max_cost_usd: Decimal | None = None
    idempotency_key: str | None = None
    s3_extra_args: Mapping[str, Any] = field(default_factory=dict)
    prices: Mapping[str, Decimal] = field(default_factory=dict)

    @cached_property
    def layout(self) -> BatchLayout:
        """Where the batch keeps what is not an image."""
        return BatchLayout.of(self.defaults.target, self.buyer.owner, self.idempotency_key)

    def in_bucket(self, name: str) -> Self:
        """Return the spec once its bucket is known."""
        target = replace(self.defaults.target, bucket=name)
        return replace(self, defaults=replace(self.defaults, target=target))

    def job(self, item: Item) -> Job:
        """Return the job of an item."""
        return Job(
            item.request,
            item.target,
            self.buyer,
            price_usd=item.price_usd,
            policy=self.policy,
            on_partial=self.on_partial,
            idempotency_key=self.idempotency_key,
            s3_extra_args=self.s3_extra_args,
            batch=BatchPlace(item.id, f"{self.layout.entries}{item.journal}"),
        )

    def allowed_failures(self, total: int) -> float:
        """Return how many of so many items may fail before the batch stops."""
        if self.max_failures is None:
            return math.inf
        return self.max_failures * total if isinstance(self.max_failures, float) else self.max_failures

    def plan(self, raws: Iterable[RawRequest], folder: Path, outside: Outside = _NOWHERE) -> Plan:
        """Check and price every item before the first is paid for; close what is returned.

        :param folder: an empty one, for what is kept of the items.
        :param outside: what is looked up for them.
        :raises InvalidRequest: with the first bad items and their number.
        """
        plan = Plan(folder, self.defaults.target.bucket)
        try:
            self._fill(plan, raws, outside)
        except BaseException:
            plan.close()
            raise
        return plan

    def _fill(self, plan: Plan, raws: Iterable[RawRequest], outside: Outside) -> None:
        problems: list[str] = []
        bad = 0
        for raw in raws:
            try:
                plan.add(raw.where, self._read(raw, outside))
            except InvalidRequest as e:
                bad += 1
                if bad <= _MOST_SHOWN:
                    problems.append(f"{raw.where}: {str(e)[:_LONGEST_PROBLEM]}")
        if bad:
            total = plan.total + bad
            shown = "" if bad <= _MOST_SHOWN else f"; the first {_MOST_SHOWN}"
            raise InvalidRequest(
                f"{bad:,} of {total:,} items are wrong{shown}:\n"
                + "\n".join(problems)
                + "\nNothing was sent."
            )

    def _read(self, raw: RawRequest, outside: Outside) -> Item:
        if isinstance(raw.value, InvalidRequest):
            raise raw.value
        item = self.defaults.read(raw.value, outside)
        price = item.request.price_usd(self.prices)
        if price is None:
            item.request.check_budget(self.max_cost_usd, price)  # What all cost is checked when it is known.
        name = self.layout.journal_name(item.id, item.request.fingerprint(), self.idempotency_key)
        return replace(item, price_usd=price, journal=name)


def parse_id(value: object) -> str:
    """Return an item's id as text; a whole number, such as a SKU's, is one too."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < _MOST:
        value = str(value)
    if isinstance(value, str) and value.strip() and len(value) <= MAX_ID and value.isprintable():
        return value
    raise InvalidRequest(
        f"id {_shown(value)} is no id: use 1 to {MAX_ID} printable characters, or a whole number"
    )


def parse_max_failures(value: object) -> int | float | None:
    """Return a count (a whole number from 0), a share (a float from 0.0 to 1.0), or None for no limit."""
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value
    if isinstance(value, float) and 0.0 <= value <= 1.0:
        return value
    raise InvalidRequest(
        f"max_failures {value!r} is neither a number of items nor a share of them: use a whole number such "
        "as 10, a float such as 0.05, or None"
    )


def parse_max_concurrency(value: object) -> int | None:
    """Return how many requests may be in flight at once, or None for the connection's own limit."""
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise InvalidRequest(
        f"max_concurrency {value!r} is no number of requests: use a whole number from 1, or None"
    )


def _shown(value: object) -> str:
    return repr(value[:50]) if isinstance(value, str) else f"of type {type(value).__name__}"


def _fields(raw: object) -> Mapping[str, Any]:
    if isinstance(raw, str):
        return {"prompt": raw}
    if not isinstance(raw, Mapping):
        raise InvalidRequest(f"is a {type(raw).__name__}: use a prompt, or a dict of {', '.join(FIELDS)}")
    if unknown := [str(name)[:50] for name in raw if name not in FIELDS]:
        raise InvalidRequest(f"has {unknown[0]!r}, which means nothing here: use {', '.join(FIELDS)}")
    if raw.get("prompt") is None:
        raise InvalidRequest("has no prompt: say what to draw")
    return raw


def _given(fields: Mapping[str, Any], name: str, default: object) -> object:
    value = fields.get(name)
    return default if value is None else value
