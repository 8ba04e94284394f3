"""Thousands of images in one task: as fast as the key allows, each paid for once."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast, get_args

from airflow_provider_aisa.core.batch.source import check_requests, iter_requests
from airflow_provider_aisa.core.batch.spec import (
    BatchSpec,
    ItemDefaults,
    OnItemFailure,
    Outside,
    parse_max_concurrency,
    parse_max_failures,
)
from airflow_provider_aisa.core.gateway.models import DEFAULT_MODEL, SEEDREAM
from airflow_provider_aisa.core.gateway.request import check_model, parse_max_cost, parse_n, parse_size
from airflow_provider_aisa.core.layout import Target
from airflow_provider_aisa.exceptions import InvalidRequest
from airflow_provider_aisa.hooks.aisa import AisaHook
from airflow_provider_aisa.labels import label_of_requests
from airflow_provider_aisa.links import GalleryLink, ImagesLink, JournalLink, ManifestLink
from airflow_provider_aisa.metrics import BatchMetrics
from airflow_provider_aisa.operators.base import (
    AisaOperator,
    check_choice,
    is_literal,
    is_plain,
    parse_idempotency_key,
    prepare,
)
from airflow_provider_aisa.ui.notes import note_batch

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from decimal import Decimal

    from airflow.providers.common.compat.sdk import BaseOperatorLink, Context, XComArg

    from airflow_provider_aisa.core.gateway.models import Family
    from airflow_provider_aisa.core.gateway.settings import ConnectionSettings
    from airflow_provider_aisa.core.job import OnPartial
    from airflow_provider_aisa.core.journal.steps import Delivery, OnExisting
    from airflow_provider_aisa.core.s3.bucket import Bucket

#: Literal items that are checked whenever the DAG is parsed; all are checked before anything is paid.
PARSED_ITEMS: Final = 100
#: Of the defaults of items, what stands for one that is a template, while a DAG is parsed.
_STAND_INS: Final = {
    "size": None,
    "n": 1,
    "model": DEFAULT_MODEL,
    "aspect_ratio": None,
    "image_size": None,
    "extra_body": None,
}


class ImageBatchOperator(AisaOperator):
    """Generate the images of many prompts in one task, side by side, and store them in S3.

    All items are checked and priced before the first is paid for. Each has a journal entry of its own, so a
    retry pays only for those that are not paid for yet. What became of each is in a manifest in S3: JSON
    Lines, in the order of ``requests``.

    The task returns items, stored, reused, failed, not_sent, unmatched (purchases of earlier attempts that no
    request asks for any more), images, cost_usd, usage (the gateway's own figures, added up),
    unknown_outcomes, errors (how many by class), and manifest_uri.

    Items may be of any model, each with its own parameters, route and price; a model's own limit of requests
    is kept beside the key's.

    :param requests: a list of prompts; a list of dicts with ``prompt`` and optionally ``id``, ``model``,
        ``n``, ``size``, ``aspect_ratio``, ``image_size``, ``reference_images``, ``extra_body`` and
        ``s3_key``; the output of a task
        that returns such a list; or ``s3://bucket/key`` of a JSON Lines file of either. Items need
        different ids; without one, an item's id is made of its request. (templated)
    :param model: of items that do not say: the model's id. (templated)
    :param size: of items that do not say and whose model takes one: ``WIDTHxHEIGHT`` in pixels. (templated)
    :param aspect_ratio: of items that do not say and whose model takes one, such as ``16:9``. (templated)
    :param image_size: of items that do not say and whose model takes one, such as ``2K``. (templated)
    :param n: of items that do not say and whose model makes several images in a request. (templated)
    :param extra_body: of items that do not say and whose model is of the batch's own family: further fields
        of the request. (templated)
    :param s3_key: as of ``SeedreamGenerateOperator``, and with ``{id}``. The default is
        ``images/<dag_id>/<run_id>/<task_id>[/<map_index>]/{id}/{index}.{ext}``. (templated)
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

    template_fields: Sequence[str] = (
        "requests",
        "size",
        "n",
        "model",
        "aspect_ratio",
        "image_size",
        "extra_body",
        "s3_key",
        "s3_bucket",
        "idempotency_key",
        "on_existing",
        "max_cost_usd",
        "aws_conn_id",
    )

    template_fields_renderers: ClassVar[dict[str, str]] = {"requests": "json", "extra_body": "json"}
    custom_operator_name = "Image batch"
    root_folder = "images"
    #: Whether no child's constructor is around this one. The outermost one checks what is written: Airflow
    #: shows the last frames of an import error, and each constructor is one more.
    is_outermost: ClassVar[bool] = True
    operator_extra_links: Collection[BaseOperatorLink] = (
        GalleryLink(),
        ImagesLink(),
        ManifestLink(),
        JournalLink(),
    )

    def __init__(
        self,
        *,
        requests: Sequence[str | Mapping[str, Any]] | str | XComArg,
        model: str,
        size: str | None = None,
        aspect_ratio: str | None = None,
        image_size: str | None = None,
        n: int | str = 1,
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
            n=n,
            model=model,
            extra_body=extra_body,
            s3_key=s3_key,
            s3_bucket=s3_bucket,
            s3_extra_args=s3_extra_args,
            aisa_conn_id=aisa_conn_id,
            aws_conn_id=aws_conn_id,
            max_cost_usd=max_cost_usd,
            idempotency_key=idempotency_key,
            on_existing=on_existing,
            delivery=delivery,
            on_partial=on_partial,
            **kwargs,
        )
        self.requests = requests
        self.size = size
        self.aspect_ratio = aspect_ratio
        self.image_size = image_size
        self.max_concurrency = max_concurrency
        self.on_item_failure = on_item_failure
        self.max_failures = max_failures
        if self.is_outermost:
            self._check_when_parsed()

    @property
    def map_label(self) -> str:
        """The file of requests, or how many there are and the first of them."""
        return label_of_requests(self.requests)

    def _execute(self, context: Context) -> dict[str, Any]:
        from airflow_provider_aisa.core.threads import in_background

        self._check_literals()
        hook = AisaHook(self.aisa_conn_id)
        settings = hook.settings
        in_background(prepare)
        spec = self._spec(context, settings.prices)
        if self.max_concurrency is not None:
            most = min(settings.max_concurrency, self.max_concurrency)
            settings = replace(settings, max_concurrency=most)
        bucket = self._open_bucket(spec.defaults.target, connections=settings.max_concurrency)
        spec = spec.in_bucket(bucket.name)
        images, layout = spec.defaults.target.folder, spec.layout
        self._note_links(context, bucket, images=images, journal=layout.folder, manifest=layout.manifest)
        result = self._run(spec, settings, bucket, hook.family_of_unknown)
        self._tell(context, result, bucket=bucket.name, folder=images)
        return result

    def _run(
        self,
        spec: BatchSpec,
        settings: ConnectionSettings,
        bucket: Bucket,
        family_of_unknown: Callable[[str], Family | None],
    ) -> dict[str, Any]:
        from airflow_provider_aisa.core.batch.resume import entries_of
        from airflow_provider_aisa.core.batch.runner import run_batch
        from airflow_provider_aisa.core.images.download import open_fetcher
        from airflow_provider_aisa.core.references import References
        from airflow_provider_aisa.core.threads import run_apart

        with tempfile.TemporaryDirectory(prefix="aisa-batch-") as name, open_fetcher(settings) as fetcher:
            folder = Path(name)
            references = References(bucket.client, fetcher, lambda: entries_of(spec, bucket))
            outside = Outside(references.pinned, lambda model: family_of_unknown(model) or SEEDREAM)
            with spec.plan(iter_requests(self.requests, bucket.client), folder, outside) as plan:
                self._warn_of_unknown_models(plan.unknown_models)
                note_batch(
                    folder_uri=bucket.uri(spec.layout.folder),
                    manifest_uri=bucket.uri(spec.layout.manifest),
                    items=plan.total,
                )
                with BatchMetrics(dag_id=self.dag_id, task_id=self.task_id) as report:
                    return run_apart(
                        run_batch(spec, plan, settings=settings, bucket=bucket, folder=folder, report=report)
                    )

    def _models(self) -> Iterable[str]:
        return (self.model,)

    def _spec(self, context: Context, prices: Mapping[str, Decimal]) -> BatchSpec:
        buyer = self._buyer(context)
        target = self._target(self._default_folder(buyer.owner))
        return BatchSpec(
            self._defaults(target),
            buyer,
            policy=self._policy(),
            on_partial=self.on_partial,
            on_item_failure=self.on_item_failure,
            max_failures=parse_max_failures(self.max_failures),
            max_cost_usd=parse_max_cost(self.max_cost_usd),
            idempotency_key=parse_idempotency_key(self.idempotency_key),
            s3_extra_args=self.s3_extra_args or {},
            prices=prices,
        )

    def _defaults(self, target: Target) -> ItemDefaults:
        return ItemDefaults(
            size=self.size,
            n=self.n,
            model=self.model,
            target=target,
            aspect_ratio=self.aspect_ratio,
            image_size=self.image_size,
            extra_body=self.extra_body,
        )

    def _target(self, default_folder: str) -> Target:
        return Target.parse(
            self.s3_key,
            self.s3_bucket,
            default_folder=default_folder,
            has_items=True,
            root=self.root_folder,
        )

    def _check_what_is_written(self) -> None:
        super()._check_what_is_written()
        self._check_literal_items()

    def _check_literals(self) -> None:
        super()._check_literals()
        spec = check_model(self.model) if is_literal(self.model) else None
        if self.size is not None and is_literal(self.size):
            parse_size(self.size, model=self.model, spec=spec if spec and spec.family.has_size else None)
        if is_literal(self.n):
            parse_n(self.n)
        parse_max_concurrency(self.max_concurrency)
        parse_max_failures(self.max_failures)
        check_choice("on_item_failure", self.on_item_failure, get_args(OnItemFailure))

    def _check_literal_items(self) -> None:
        """Check the first items, as far as they are written in the DAG's file."""
        if not is_literal(self.requests):
            return
        check_requests(self.requests)
        if isinstance(self.requests, str):
            return
        written = self._defaults(Target.parse(None, None, has_items=True))
        stand_ins: dict[str, Any] = {
            name: value for name, value in _STAND_INS.items() if not is_plain(getattr(written, name))
        }
        defaults = replace(written, **stand_ins)
        for index, raw in enumerate(islice(cast("Iterable[object]", self.requests), PARSED_ITEMS)):
            values = raw.values() if isinstance(raw, dict) else (raw,)
            if all(map(is_plain, values)):
                try:
                    defaults.read(raw)
                except InvalidRequest as e:
                    raise InvalidRequest(f"requests[{index}]: {e}") from None

    def _warn_of_unknown_models(self, models: Iterable[str]) -> None:
        for model in models:
            self.log.warning("Model %r is not known here: its rules and price cannot be checked.", model)
