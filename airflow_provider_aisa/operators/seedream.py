"""What a DAG author asks for is checked as early as it is known.

Literals are checked when the DAG is parsed, templates before anything is paid.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.common.compat.sdk import conf

from airflow_provider_aisa.assets import folder_of
from airflow_provider_aisa.core.gateway.models import DEFAULT_MODEL, DEFAULT_SIZE
from airflow_provider_aisa.core.gateway.request import ImageRequest, parse_max_cost, parse_prompt
from airflow_provider_aisa.core.job import Job, OnPartial
from airflow_provider_aisa.core.journal.steps import Action, Delivery, OnExisting
from airflow_provider_aisa.core.layout import Target
from airflow_provider_aisa.core.threads import in_background, run_apart
from airflow_provider_aisa.exceptions import error_from_dict
from airflow_provider_aisa.hooks.aisa import AisaHook
from airflow_provider_aisa.labels import label_of
from airflow_provider_aisa.operators.base import AisaOperator, is_literal, parse_idempotency_key, prepare

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_aisa.core.s3.bucket import Bucket


class SeedreamGenerateOperator(AisaOperator):
    """Generate images with ByteDance Seedream through AIsa and store them in S3.

    Each image is billed. Before the request is sent, the size, the number of images, the model, the
    budget, the connection and the bucket are checked, and a wrong one fails the task (a wrong literal
    already fails the DAG's import).

    The task returns model, created, request_id, reused, cost_usd, usage (the gateway's own),
    unknown_outcomes, journal_uri, and images: index, uri, bucket, key, width, height, size, content_type,
    bytes, sha256.

    :param prompt: the text to draw. (templated)
    :param size: ``WIDTHxHEIGHT`` in pixels; Seedream needs at least 3,686,400 pixels. (templated)
    :param n: how many images, from 1. (templated)
    :param model: the model's id. (templated)
    :param s3_key: a key, a prefix that ends in ``/``, or ``s3://bucket/key``. ``{index}``, ``{ext}`` and
        ``{sha256}`` are filled in per image, and ``-{index}`` is added when there are several images and
        no placeholder that tells them apart. The default is
        ``seedream/<dag_id>/<run_id>/<task_id>[/<map_index>]/{index}.{ext}``. (templated)
    :param s3_bucket: the bucket; by default the ``bucket_name`` of the AWS connection. (templated)
    :param s3_extra_args: further arguments of S3's PutObject: encryption, storage class, ACL, tags.
    :param aisa_conn_id: the AIsa connection.
    :param aws_conn_id: the AWS connection. (templated)
    :param max_cost_usd: fail before paying when the request costs more. (templated)
    :param idempotency_key: pay once per key instead of once per task instance: also across runs and DAGs
        that use the bucket. (templated)
    :param on_existing: what to do when an earlier run (not an earlier try) has finished these images:
        ``reuse`` them, ``regenerate`` and pay anew, or ``fail``. (templated)
    :param delivery: what to do about a request that may have been billed without its response being
        received: send it again (``at-least-once``), or fail for good (``at-most-once``).
    :param on_partial: what fewer images than asked do to the task: ``fail`` it, or ``keep`` them.
        Either way the images that came are stored.
    :param deferrable: wait in the triggerer instead of occupying a worker.
    """

    template_fields: Sequence[str] = (
        "prompt",
        "size",
        "n",
        "model",
        "s3_key",
        "s3_bucket",
        "idempotency_key",
        "on_existing",
        "max_cost_usd",
        "aws_conn_id",
    )

    custom_operator_name = "Seedream"

    def __init__(
        self,
        *,
        prompt: str,
        size: str = DEFAULT_SIZE,
        n: int | str = 1,
        model: str = DEFAULT_MODEL,
        s3_key: str | None = None,
        s3_bucket: str | None = None,
        s3_extra_args: Mapping[str, Any] | None = None,
        aisa_conn_id: str = AisaHook.default_conn_name,
        aws_conn_id: str | None = "aws_default",
        max_cost_usd: float | str | None = None,
        idempotency_key: str | None = None,
        on_existing: OnExisting | str = "reuse",
        delivery: Delivery = "at-least-once",
        on_partial: OnPartial = "fail",
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            size=size,
            n=n,
            model=model,
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
        self.prompt = prompt
        self.deferrable = deferrable
        self._check_when_parsed()

    @property
    def map_label(self) -> str:
        """The prompt's first words."""
        return label_of(self.prompt)

    def execute_complete(
        self, context: Context, event: Mapping[str, Any], links: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """Return what the trigger stored, or raise its error as if it had happened here."""
        self.aisa_links = links or {}
        if "error" in event:
            raise self._failure(error_from_dict(event["error"])) from None
        return self._told(context, event["result"])

    def _execute(self, context: Context) -> dict[str, Any]:
        self._check_literals()
        job = self._job(context)
        settings = AisaHook(self.aisa_conn_id).settings
        price = job.request.price_usd(settings.prices)
        job.request.check_budget(self.max_cost_usd, price)
        if not job.request.is_known_model:
            self.log.warning("Model %r is not known here: its rules and price cannot be checked.", self.model)
        in_background(prepare)
        bucket = self._open_bucket(job.target)
        job = replace(job, price_usd=price, target=replace(job.target, bucket=bucket.name))
        self._note_links(context, bucket, images=job.target.folder, journal=job.journal_key)
        if self.deferrable and not _is_finished(job, bucket):
            self._defer(job)

        from airflow_provider_aisa.core.alone import generate_alone

        return self._told(context, run_apart(generate_alone(job, settings=settings, bucket=bucket)).result)

    def _told(self, context: Context, result: dict[str, Any]) -> dict[str, Any]:
        """Return a result that assets and lineage have been told of."""
        if images := result["images"]:
            self._tell(context, result, bucket=images[0]["bucket"], folder=folder_of(result))
        return result

    def _models(self) -> Iterable[str]:
        return (self.model,)

    def _job(self, context: Context) -> Job:
        """Check everything that can be checked without a connection."""
        request = ImageRequest.parse(prompt=self.prompt, size=self.size, n=self.n, model=self.model)
        buyer = self._buyer(context)
        return Job(
            request,
            self._target(self._default_folder(buyer.owner)),
            buyer,
            max_cost_usd=parse_max_cost(self.max_cost_usd),
            policy=self._policy(),
            on_partial=self.on_partial,
            idempotency_key=parse_idempotency_key(self.idempotency_key),
            s3_extra_args=self.s3_extra_args or {},
        )

    def _target(self, default_folder: str) -> Target:
        return Target.parse(self.s3_key, self.s3_bucket, default_folder=default_folder)

    def _defer(self, job: Job) -> NoReturn:
        from airflow_provider_aisa.triggers.seedream import SeedreamTrigger

        self.defer(
            trigger=SeedreamTrigger(
                job=job.to_dict(), aisa_conn_id=self.aisa_conn_id, aws_conn_id=self.aws_conn_id
            ),
            method_name="execute_complete",
            kwargs={"links": self.aisa_links},
            timeout=self.execution_timeout,
        )

    def _check_literals(self) -> None:
        super()._check_literals()
        if is_literal(self.prompt):
            parse_prompt(self.prompt)


def _is_finished(job: Job, bucket: Bucket) -> bool:
    """Return whether an earlier attempt has left nothing to wait for.

    A trigger that ends at once can outrun its own deferral, which Airflow takes for a killed task.
    """
    from airflow_provider_aisa.core.generate import look_up

    return look_up(job, bucket).action is Action.RETURN
