"""A batch of Seedream's images: what an item does not say is Seedream's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_aisa.core.gateway.models import DEFAULT_MODEL, DEFAULT_SIZE
from airflow_provider_aisa.hooks.aisa import AisaHook
from airflow_provider_aisa.operators.image_batch import ImageBatchOperator

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.providers.common.compat.sdk import XComArg

    from airflow_provider_aisa.core.batch.spec import OnItemFailure
    from airflow_provider_aisa.core.job import OnPartial
    from airflow_provider_aisa.core.journal.steps import Delivery, OnExisting


class SeedreamBatchOperator(ImageBatchOperator):
    """Generate the images of many prompts in one task, side by side, and store them in S3.

    It is ``ImageBatchOperator`` with Seedream for items that do not say their model.

    All items are checked and priced before the first is paid for. Each has a journal entry of its own, so a
    retry pays only for those that are not paid for yet. What became of each is in a manifest in S3: JSON
    Lines, in the order of ``requests``.

    The task returns items, stored, reused, failed, not_sent, unmatched (purchases of earlier attempts that no
    request asks for any more), images, cost_usd, usage (the gateway's own figures, added up),
    unknown_outcomes, errors (how many by class), and manifest_uri.

    :param requests: a list of prompts; a list of dicts with ``prompt`` and optionally ``id``, ``size``,
        ``n``, ``model``, ``extra_body`` and ``s3_key``; the output of a task that returns such a list; or
        ``s3://bucket/key`` of a JSON Lines file of either. Items need different ids; without one, an
        item's id is made of its request. (templated)
    :param size: of items that do not say: ``WIDTHxHEIGHT`` in pixels. (templated)
    :param n: of items that do not say: how many images, from 1. (templated)
    :param model: of items that do not say: the model's id. (templated)
    :param extra_body: of items that do not say and whose model is Seedream's: further fields of the request,
        such as ``{"watermark": False, "seed": 7}``. (templated)
    :param s3_key: as of ``SeedreamGenerateOperator``, and with ``{id}``. The default is
        ``seedream/<dag_id>/<run_id>/<task_id>[/<map_index>]/{id}/{index}.{ext}``. (templated)
    :param s3_bucket: the bucket; by default the ``bucket_name`` of the AWS connection. (templated)
    :param s3_extra_args: further arguments of S3's PutObject: encryption, storage class, ACL, tags.
    :param aisa_conn_id: the AIsa connection.
    :param aws_conn_id: the AWS connection. (templated)
    :param max_cost_usd: for the whole batch, its earlier attempts and the requests that may have been
        billed included; fail before paying when it would cost more. (templated)
    :param max_concurrency: requests in flight at once, if fewer than the AIsa connection allows.
    :param on_item_failure: what an item's failure does to the task when all others are done: ``fail`` it,
        or ``keep`` it going. Either way the other items are stored and the manifest is written.
    :param max_failures: stop sending, and fail, when more items fail: a count (``10``) or a share
        (``0.05``).
    :param idempotency_key: pay once per key and item id instead of once per task instance: also across
        runs and DAGs that use the bucket. (templated)
    :param on_existing: what to do about an item that an earlier run (not an earlier try) has finished:
        ``reuse`` its images, ``regenerate`` and pay anew, or ``fail`` it. (templated)
    :param delivery: what to do about a request that may have been billed without its response being
        received: send it again (``at-least-once``), or fail the item for good (``at-most-once``).
    :param on_partial: what fewer images than asked do to an item: ``fail`` it, or ``keep`` them.
    """

    custom_operator_name = "Seedream batch"
    root_folder = "seedream"
    is_outermost = False

    def __init__(
        self,
        *,
        requests: Sequence[str | Mapping[str, Any]] | str | XComArg,
        size: str = DEFAULT_SIZE,
        n: int | str = 1,
        model: str = DEFAULT_MODEL,
        extra_body: Mapping[str, Any] | str | None = None,
        s3_key: str | None = None,
        s3_bucket: str | None = None,
        s3_extra_args: Mapping[str, Any] | None = None,
        aisa_conn_id: str = AisaHook.default_conn_name,
        aws_conn_id: str | None = "aws_default",
        max_cost_usd: float | str | None = None,
        max_concurrency: int | None = None,
        on_item_failure: OnItemFailure = "fail",
        max_failures: float | None = None,
        idempotency_key: str | None = None,
        on_existing: OnExisting | str = "reuse",
        delivery: Delivery = "at-least-once",
        on_partial: OnPartial = "fail",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            requests=requests,
            size=size,
            n=n,
            model=model,
            extra_body=extra_body,
            s3_key=s3_key,
            s3_bucket=s3_bucket,
            s3_extra_args=s3_extra_args,
            aisa_conn_id=aisa_conn_id,
            aws_conn_id=aws_conn_id,
            max_cost_usd=max_cost_usd,
            max_concurrency=max_concurrency,
            on_item_failure=on_item_failure,
            max_failures=max_failures,
            idempotency_key=idempotency_key,
            on_existing=on_existing,
            delivery=delivery,
            on_partial=on_partial,
            **kwargs,
        )
        self._check_when_parsed()
