"""Google's Gemini: one image in one request, and in the answer itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import conf

from airflow_provider_aisa.core.gateway.models import DEFAULT_GEMINI_MODEL, GEMINI
from airflow_provider_aisa.hooks.aisa import AisaHook
from airflow_provider_aisa.operators.generate import GenerateOperator

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_provider_aisa.core.job import OnPartial
    from airflow_provider_aisa.core.journal.steps import Delivery, OnExisting


class GeminiGenerateOperator(GenerateOperator):
    """Generate images with Google's Gemini through AIsa and store them in S3.

    Each image is billed. Before the request is sent, the number of images, the model, the
    budget, the connection and the bucket are checked, and a wrong one fails the task (a wrong literal
    already fails the DAG's import).

    The task returns model, created, request_id, reused, cost_usd, usage (the gateway's own),
    unknown_outcomes, journal_uri, and images: index, uri, bucket, key, width, height, size, content_type,
    bytes, sha256.

    :param prompt: the text to draw. (templated)
    :param aspect_ratio: ``1:1``, ``2:3``, ``3:2``, ``3:4``, ``4:3``, ``4:5``, ``5:4``, ``9:16``, ``16:9`` or
        ``21:9``; None for the model's own choice. (templated)
    :param image_size: ``1K``, ``2K`` or ``4K``; None for the model's own choice. (templated)
    :param n: how many images, from 1. Each is a request of its own and a purchase of its own: one that fails
        takes no other along, and a larger ``n`` pays only for what is new. (templated)
    :param model: the model's id. (templated)
    :param reference_images: what the model is to look at: S3 URIs, which are read through the AWS connection,
        or https URLs that anybody may read; at most 14, of 14 MB together. They are looked at before
        anything is paid; what identifies the purchase is the URI, and the object's ETag. (templated)
    :param extra_body: further fields of the request, such as ``{"generationConfig": {"temperature": 0.4}}``:
        part of what identifies the purchase, and refused where they would change what is billed. (templated)
    :param s3_key: a key, a prefix that ends in ``/``, or ``s3://bucket/key``. ``{index}``, ``{ext}`` and
        ``{sha256}`` are filled in per image, and ``-{index}`` is added when there are several images and
        no placeholder that tells them apart. The default is
        ``gemini/<dag_id>/<run_id>/<task_id>[/<map_index>]/{index}.{ext}``. (templated)
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
        "aspect_ratio",
        "image_size",
        "n",
        "model",
        "reference_images",
        "extra_body",
        "s3_key",
        "s3_bucket",
        "idempotency_key",
        "on_existing",
        "max_cost_usd",
        "aws_conn_id",
    )

    custom_operator_name = "Gemini"
    family = GEMINI
    any_model = DEFAULT_GEMINI_MODEL
    root_folder = "gemini"

    def __init__(
        self,
        *,
        prompt: str,
        aspect_ratio: str | None = None,
        image_size: str | None = None,
        n: int | str = 1,
        model: str = DEFAULT_GEMINI_MODEL,
        reference_images: Sequence[str] | str | None = None,
        extra_body: Mapping[str, Any] | str | None = None,
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
            prompt=prompt,
            deferrable=deferrable,
            extra_body=extra_body,
            n=n,
            model=model,
            reference_images=reference_images,
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
        self.aspect_ratio = aspect_ratio
        self.image_size = image_size
        self._check_when_parsed()

    def _fields(self) -> Mapping[str, object]:
        return {"aspect_ratio": self.aspect_ratio, "image_size": self.image_size}
