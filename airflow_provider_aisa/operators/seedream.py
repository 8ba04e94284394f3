"""What a DAG author asks for is checked as early as it is known.

Literals are checked when the DAG is parsed, templates before anything is paid.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast, get_args

from airflow.providers.common.compat.sdk import AirflowFailException, BaseOperator, conf
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_3_PLUS

from airflow_provider_aisa.core.job import Job, OnPartial
from airflow_provider_aisa.core.journal import Action, Attempt, Delivery, OnExisting, Policy
from airflow_provider_aisa.core.keys import Owner, Target, safe_name
from airflow_provider_aisa.core.models import DEFAULT_MODEL, DEFAULT_SIZE
from airflow_provider_aisa.core.request import (
    ImageRequest,
    check_model,
    parse_max_cost,
    parse_n,
    parse_prompt,
    parse_size,
)
from airflow_provider_aisa.core.storage import Bucket, check_extra_args
from airflow_provider_aisa.core.threads import in_background, run_apart
from airflow_provider_aisa.exceptions import AisaError, InvalidRequest, error_from_dict
from airflow_provider_aisa.hooks.aisa import AisaHook
from airflow_provider_aisa.hooks.storage import open_s3

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.providers.common.compat.sdk import Context

MAX_IDEMPOTENCY_KEY: Final = 200


class SeedreamGenerateOperator(BaseOperator):
    """Generate images with ByteDance Seedream through AIsa and store them in S3.

    Each image is billed. Before the request is sent, the size, the number of images, the model, the
    budget, the connection and the bucket are checked, and a wrong one fails the task (a wrong literal
    already fails the DAG's import).

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
    :param aws_conn_id: the AWS connection.
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
    :return: model, created, request_id, reused, cost_usd, usage (the gateway's own), unknown_outcomes,
        journal_uri, and images: index, uri, bucket, key, width, height, size, content_type, bytes, sha256.
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
    )
    template_ext: Sequence[str] = ()  # A prompt that ends in .json stays a prompt.
    ui_color = "#e9e4ff"

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
        # Not setdefault: a mapped task passes an explicit None.
        if AIRFLOW_V_3_3_PLUS and kwargs.get("retry_policy") is None:
            from airflow_provider_aisa.retry_policy import AisaRetryPolicy

            kwargs["retry_policy"] = AisaRetryPolicy()
        super().__init__(**kwargs)
        self.prompt = prompt
        self.size = size
        self.n = n
        self.model = model
        self.s3_key = s3_key
        self.s3_bucket = s3_bucket
        self.s3_extra_args = s3_extra_args
        self.aisa_conn_id = aisa_conn_id
        self.aws_conn_id = aws_conn_id
        self.max_cost_usd = max_cost_usd
        self.idempotency_key = idempotency_key
        self.on_existing = on_existing
        self.delivery = delivery
        self.on_partial = on_partial
        self.deferrable = deferrable
        # An instance of a mapped task is made while its templates are rendered. Its retry policy is not
        # asked about what goes wrong there, so `execute` checks it.
        if not getattr(self, "_BaseOperator__from_mapped", False):
            self._check_literals()

    def execute(self, context: Context) -> dict[str, Any]:
        """Check, pay, store; return what is in S3 and what it cost."""
        try:
            return self._execute(context)
        except AisaError as e:
            self._fail(e)

    def execute_complete(self, context: Context, event: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the trigger stored, or raise its error as if it had happened here."""
        if event["status"] == "error":
            self._fail(error_from_dict(event["error"]))
        result: dict[str, Any] = event["result"]
        return result

    def on_kill(self) -> None:
        """Say what a person who stops the task has to know; the request itself cannot be called back."""
        self.log.warning(
            "Stopped. Whatever was paid for is in the journal, and a later run goes on from there."
        )

    def _execute(self, context: Context) -> dict[str, Any]:
        self._check_literals()
        job = self._job(context)
        settings = AisaHook(self.aisa_conn_id).settings
        price = job.request.price_usd(settings.prices)
        job.request.check_budget(self.max_cost_usd, price)
        if not job.request.is_known_model:
            self.log.warning("Model %r is not known here: its rules and price cannot be checked.", self.model)
        in_background(_prepare)
        client, default_bucket = open_s3(self.aws_conn_id)
        bucket = Bucket(client, self._bucket_name(job.target, default_bucket), job.s3_extra_args)
        bucket.check_args()
        job = replace(job, price_usd=price, target=replace(job.target, bucket=bucket.name))
        if self.deferrable and not _is_finished(job, bucket):
            self._defer(job)

        from airflow_provider_aisa.core.pipeline import generate

        return run_apart(generate(job, settings=settings, bucket=bucket)).to_dict()

    def _job(self, context: Context) -> Job:
        """Check everything that can be checked without a connection."""
        request = ImageRequest.parse(prompt=self.prompt, size=self.size, n=self.n, model=self.model)
        ti = context["ti"]
        owner = Owner(ti.dag_id, ti.run_id, ti.task_id, -1 if ti.map_index is None else ti.map_index)
        key = _parse_idempotency_key(self.idempotency_key)
        folder = owner.path() if key is None else safe_name(key)
        return Job(
            request,
            Target.parse(self.s3_key, self.s3_bucket, default_folder=folder),
            Attempt(owner, ti.max_tries),
            policy=Policy(_parse_on_existing(self.on_existing), self.delivery),
            on_partial=self.on_partial,
            idempotency_key=key,
            s3_extra_args=self.s3_extra_args or {},
            is_first_try=ti.try_number == 1 and not self.deferrable,
        )

    def _defer(self, job: Job) -> NoReturn:
        from airflow_provider_aisa.triggers.seedream import SeedreamTrigger

        self.defer(
            trigger=SeedreamTrigger(
                job=job.to_dict(), aisa_conn_id=self.aisa_conn_id, aws_conn_id=self.aws_conn_id
            ),
            method_name="execute_complete",
            timeout=self.execution_timeout,
        )

    def _fail(self, error: AisaError) -> NoReturn:
        if not AIRFLOW_V_3_3_PLUS and not error.retryable:
            raise AirflowFailException(str(error)) from error
        raise error

    def _check_literals(self) -> None:
        """Fail the DAG's import when something is wrong that no template can mend."""
        spec = check_model(self.model) if _is_literal(self.model) else None
        if _is_literal(self.size):
            parse_size(self.size, model=self.model, spec=spec)
        if _is_literal(self.prompt):
            parse_prompt(self.prompt)
        if _is_literal(self.n):
            parse_n(self.n)
        if _is_literal(self.max_cost_usd):
            parse_max_cost(self.max_cost_usd)
        if _is_literal(self.s3_key) and _is_literal(self.s3_bucket):
            Target.parse(self.s3_key, self.s3_bucket)
        if _is_literal(self.idempotency_key):
            _parse_idempotency_key(self.idempotency_key)
        if _is_literal(self.on_existing):
            _parse_on_existing(self.on_existing)
        _check_choice("delivery", self.delivery, get_args(Delivery))
        _check_choice("on_partial", self.on_partial, get_args(OnPartial))
        check_extra_args(self.s3_extra_args)

    def _bucket_name(self, target: Target, default: str | None) -> str:
        if name := target.bucket or default:
            return name
        raise InvalidRequest(
            "no bucket: set s3_bucket, write s3_key as s3://bucket/key, or give the AWS connection "
            f'{self.aws_conn_id!r} the extra {{"service_config": {{"s3": {{"bucket_name": "…"}}}}}}'
        )


def _prepare() -> None:
    """Do what takes tens of milliseconds and will be needed, while S3's client is being made."""
    from airflow_provider_aisa.core.client import ssl_context

    ssl_context()


def _is_finished(job: Job, bucket: Bucket) -> bool:
    """Return whether an earlier attempt has left nothing to wait for.

    A trigger that ends at once can outrun its own deferral, which Airflow takes for a killed task.
    """
    from airflow_provider_aisa.core.pipeline import look_up

    return look_up(job, bucket).action is Action.RETURN


def _is_literal(value: object) -> bool:
    """Return whether a value is what it will be when the task runs: no template, no XComArg."""
    if isinstance(value, str):
        return not any(mark in value for mark in ("{{", "{%", "{#"))
    return not hasattr(value, "resolve")


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InvalidRequest(f"{name} {value!r} is unknown: use {' or '.join(map(repr, choices))}")


def _parse_on_existing(value: str) -> OnExisting:
    _check_choice("on_existing", value, get_args(OnExisting))
    return cast("OnExisting", value)


def _parse_idempotency_key(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_IDEMPOTENCY_KEY:
        raise InvalidRequest(
            f"idempotency_key {value!r} is no key: use 1 to {MAX_IDEMPOTENCY_KEY} characters that stand for "
            "what is bought, such as a SKU, or None. If it is a template, check what it renders to"
        )
    return value
