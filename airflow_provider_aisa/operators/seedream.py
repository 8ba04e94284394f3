"""What a DAG author asks for is checked as early as it is known.

Literals are checked when the DAG is parsed, templates before anything is paid.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Literal, get_args

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_aisa.core.keys import Owner, Target
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
from airflow_provider_aisa.exceptions import InvalidRequest
from airflow_provider_aisa.hooks.aisa import AisaHook

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_aisa.core.pipeline import GenerationResult, Job
    from airflow_provider_aisa.core.settings import Settings

OnPartial = Literal["fail", "keep"]


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
    :param on_partial: what fewer images than asked do to the task: ``fail`` it, or ``keep`` them.
        Either way the images that came are stored.
    :return: model, created, request_id, reused, cost_usd, usage (the gateway's own), and images: index,
        uri, bucket, key, width, height, size, content_type, bytes, sha256.
    """

    template_fields: Sequence[str] = (
        "prompt",
        "size",
        "n",
        "model",
        "s3_key",
        "s3_bucket",
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
        on_partial: OnPartial = "fail",
        **kwargs: Any,
    ) -> None:
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
        self.on_partial = on_partial
        self._check_literals()

    def execute(self, context: Context) -> dict[str, Any]:
        """Check, pay, store; return what is in S3 and what it cost."""
        request = ImageRequest.parse(prompt=self.prompt, size=self.size, n=self.n, model=self.model)
        ti = context["ti"]
        owner = Owner(ti.dag_id, ti.run_id, ti.task_id, ti.map_index if ti.map_index is not None else -1)
        target = Target.parse(self.s3_key, self.s3_bucket, owner=owner)
        settings = AisaHook(self.aisa_conn_id).settings
        price = request.price_usd(settings.prices)
        request.check_budget(self.max_cost_usd, price)
        if not request.is_known_model:
            self.log.warning("Model %r is not known here: its rules and price cannot be checked.", self.model)
        bucket = self._open_bucket(target, owner, request.model)

        from airflow_provider_aisa.core.pipeline import Job

        job = Job(request, target, price_usd=price, on_partial=self.on_partial)
        return asyncio.run(_generate(job, settings, bucket)).to_dict()

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
        check_extra_args(self.s3_extra_args)
        if self.on_partial not in get_args(OnPartial):
            raise InvalidRequest(f"on_partial {self.on_partial!r} is unknown: use 'fail' or 'keep'")

    def _open_bucket(self, target: Target, owner: Owner, model: str) -> Bucket:
        from airflow.providers.amazon.aws.hooks.s3 import S3Hook

        hook = S3Hook(aws_conn_id=self.aws_conn_id)
        name = target.bucket or hook.service_config.get("bucket_name")
        if not name:
            raise InvalidRequest(
                "no bucket: set s3_bucket, write s3_key as s3://bucket/key, or give the AWS connection "
                f'{self.aws_conn_id!r} the extra {{"service_config": {{"s3": {{"bucket_name": "…"}}}}}}'
            )
        return Bucket(hook.get_conn(), name, self.s3_extra_args or {}, metadata=_metadata(owner, model))


async def _generate(job: Job, settings: Settings, bucket: Bucket) -> GenerationResult:
    from airflow_provider_aisa.core.client import AisaClient
    from airflow_provider_aisa.core.fetch import open_fetcher
    from airflow_provider_aisa.core.pipeline import generate

    async with AisaClient(settings) as client, open_fetcher(settings) as fetcher:
        return await generate(job, client=client, fetcher=fetcher, bucket=bucket)


def _metadata(owner: Owner, model: str) -> dict[str, str]:
    return {
        "ai-generated": "true",
        "model": model,
        "dag-id": owner.dag_id,
        "task-id": owner.task_id,
        "run-id": owner.run_id,
    }


def _is_literal(value: object) -> bool:
    """Return whether a value is what it will be when the task runs: no template, no XComArg."""
    if isinstance(value, str):
        return not any(mark in value for mark in ("{{", "{%", "{#"))
    return not hasattr(value, "resolve")
