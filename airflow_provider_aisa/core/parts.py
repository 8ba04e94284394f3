"""Several images of a model that makes one per request: each is a purchase of its own, told in one receipt.

One that fails takes none of the others along, and a retry pays for that one only.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from itertools import chain

from airflow_provider_aisa.core.account import purchases
from airflow_provider_aisa.core.budget import spent_on
from airflow_provider_aisa.core.gateway.response import GenerationResponse
from airflow_provider_aisa.core.generate import generate
from airflow_provider_aisa.core.job import Job
from airflow_provider_aisa.core.layout import proof_key
from airflow_provider_aisa.core.receipt import Receipt
from airflow_provider_aisa.core.workbench import Workbench
from airflow_provider_aisa.exceptions import AisaError, ContentRefused, FewerImages, ImageRefused

log = logging.getLogger(__name__)

#: What can be wrong with some of several images, and not with the others.
_PARTIAL = (ContentRefused, FewerImages, ImageRefused)


async def generate_all(job: Job, bench: Workbench) -> Receipt:
    """Do what is left to be done of a job, in as many requests as it takes; errors are in the receipt."""
    parts = job.parts()
    if len(parts) == 1:
        return await generate(job, bench)
    try:
        await asyncio.to_thread(_prepare, job, bench)
    except AisaError as e:
        return Receipt(bench.bucket.uri(job.journal_key), error=e)
    receipts = await asyncio.gather(*(generate(part, bench) for part in parts))
    return _joined(job, receipts)


def _prepare(job: Job, bench: Workbench) -> None:
    """Find out what was spent before, and that S3 takes the images' arguments, once for all requests."""
    bucket = bench.bucket
    job.check_metadata()
    if job.max_cost_usd is not None:
        spent = (spent_on(one.entry, job.buyer, job.policy) for _, one in purchases(job, bucket))
        bench.budget.spent += sum(spent, Decimal(0))
    if unproven := bucket.unproven_args:
        bucket.prove_args(proof_key(job.target, job.idempotency_key, unproven))


def _joined(job: Job, receipts: list[Receipt]) -> Receipt:
    """Return one receipt for all: images in the order of their numbers, figures added up."""
    images = tuple(
        replace(image, index=number) for number, receipt in enumerate(receipts) for image in receipt.images
    )
    costs = [receipt.cost_usd for receipt in receipts]
    unknown = sum(receipt.unknown_outcomes for receipt in receipts)
    return Receipt(
        receipts[0].journal_uri,
        response=_joined_response(job, [each.response for each in receipts if each.response is not None]),
        cost_usd=None if None in costs else float(sum(Decimal(str(cost)) for cost in costs)),
        images=images,
        unknown_outcomes=unknown,
        was_sent=any(receipt.was_sent for receipt in receipts),
        is_reused=all(receipt.is_reused for receipt in receipts),
        error=_joined_error(job, receipts, unknown),
    )


def _joined_response(job: Job, responses: list[GenerationResponse]) -> GenerationResponse | None:
    if not responses:
        return None
    usage: Counter[str] = Counter()
    for name, figure in chain.from_iterable(response.usage.items() for response in responses):
        if isinstance(figure, int) and not isinstance(figure, bool):
            usage[name] += figure
    return GenerationResponse(
        responses[0].model,
        responses[0].created,
        (),
        dict(usage),
        ", ".join(response.request_id for response in responses if response.request_id) or None,
        delivered=sum(response.delivered for response in responses),
    )


def _joined_error(job: Job, receipts: list[Receipt], unknown: int) -> BaseException | None:
    failed = [receipt for receipt in receipts if receipt.error is not None]
    if not failed:
        return None
    # What a retry can help is told first: the task must not be given up for an image that was refused.
    failed.sort(key=lambda receipt: not getattr(receipt.error, "retryable", False))
    error = failed[0].error
    if not isinstance(error, AisaError):
        return error
    stored = ", ".join(image.uri for receipt in receipts for image in receipt.images) or "none"
    told = f"{len(receipts) - len(failed)} of {job.request.n} images are stored, each of a request of its own"
    if job.on_partial == "keep" and stored != "none" and isinstance(error, _PARTIAL):
        log.warning("%s. Kept, as on_partial='keep' says. %s", told, error)
        return None
    return error.extended(f"{told}: {stored}.", unknown_outcomes=unknown)
