"""One prompt becomes images: what the operators of all families share. They differ in what they take.

Literals are checked when the DAG is parsed, templates before anything is paid.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from airflow_provider_aisa.assets import folder_of
from airflow_provider_aisa.core.gateway.references import parse_references
from airflow_provider_aisa.core.gateway.request import ImageRequest, parse_max_cost
from airflow_provider_aisa.core.job import Job
from airflow_provider_aisa.core.journal.steps import Action
from airflow_provider_aisa.core.layout import Target
from airflow_provider_aisa.exceptions import InvalidRequest, ModelNotRouted, error_from_dict
from airflow_provider_aisa.hooks.aisa import AisaHook
from airflow_provider_aisa.labels import label_of
from airflow_provider_aisa.operators.base import (
    AisaOperator,
    is_plain,
    parse_idempotency_key,
    prepare,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_aisa.core.gateway.models import Family
    from airflow_provider_aisa.core.gateway.settings import ConnectionSettings
    from airflow_provider_aisa.core.s3.bucket import Bucket


class GenerateOperator(AisaOperator):
    """An operator that generates the images of one prompt with the models of one family."""

    #: The only family whose models it takes, and one of its models, for checks while the model is a template.
    family: ClassVar[Family]
    any_model: ClassVar[str]
    template_fields_renderers: ClassVar[dict[str, str]] = {"extra_body": "json", "reference_images": "json"}

    def __init__(
        self,
        *,
        prompt: str,
        deferrable: bool,
        reference_images: Sequence[str] | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.prompt = prompt
        self.reference_images = reference_images
        self.deferrable = deferrable

    @abstractmethod
    def _fields(self) -> Mapping[str, object]:
        """Return what the family's requests are made of, besides the prompt, the model and ``n``."""

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
        from airflow_provider_aisa.core.threads import in_background, run_apart

        self._check_literals()
        job = self._job(context)
        hook = AisaHook(self.aisa_conn_id)
        settings = hook.settings
        price = job.request.price_usd(settings.prices)
        job.request.check_budget(self.max_cost_usd, price)
        if not job.request.is_known_model:
            self._check_unknown_model(hook)
        in_background(prepare)
        bucket = self._open_bucket(job.target)
        job = replace(job, price_usd=price, target=replace(job.target, bucket=bucket.name))
        if job.request.reference_images:
            job = _with_known_references(job, settings, bucket)
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

    def _references(self) -> Iterable[str]:
        try:
            return [one.uri for one in parse_references(self.reference_images, self.family, model=self.model)]
        except InvalidRequest:  # It is what the task fails with.
            return []

    def _job(self, context: Context) -> Job:
        """Check everything that can be checked without a connection."""
        request = self._request(self._written())
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

    def _request(self, fields: Mapping[str, Any]) -> ImageRequest:
        return ImageRequest.parse(family=self.family, extra_body=self.extra_body, **fields)

    def _written(self) -> dict[str, Any]:
        """Return what the request is made of, as it stands in the DAG."""
        return {
            "prompt": self.prompt,
            "model": self.model,
            "n": self.n,
            "reference_images": self.reference_images,
            **self._fields(),
        }

    def _check_unknown_model(self, hook: AisaHook) -> None:
        """Ask the gateway, which is free, whether a model that is not known here is of another family."""
        served_by = hook.family_of_unknown(self.model)
        if served_by is not None and served_by != self.family:
            raise ModelNotRouted(
                f"Use {served_by.operator}: {self.model!r} is not known here, and AIsa's list of models says "
                f"that it is asked like those of {served_by.name}. Nothing was sent"
            )
        self.log.warning("Model %r is not known here: its rules and price cannot be checked.", self.model)

    def _target(self, default_folder: str) -> Target:
        return Target.parse(self.s3_key, self.s3_bucket, default_folder=default_folder, root=self.root_folder)

    def _defer(self, job: Job) -> NoReturn:
        from airflow_provider_aisa.triggers.generate import GenerateTrigger

        self.defer(
            trigger=GenerateTrigger(
                job=job.to_dict(), aisa_conn_id=self.aisa_conn_id, aws_conn_id=self.aws_conn_id
            ),
            method_name="execute_complete",
            kwargs={"links": self.aisa_links},
            timeout=self.execution_timeout,
        )

    def _check_literals(self) -> None:
        """Check each parameter that is no template, as a request in which templates have a valid value."""
        stand_ins = {"prompt": "…", "model": self.any_model, "n": 1}
        literals = {name: value for name, value in self._written().items() if is_plain(value)}
        request = {**stand_ins, **literals}
        extra_body = self.extra_body if is_plain(self.extra_body) else None
        ImageRequest.parse(family=self.family, extra_body=extra_body, **request)
        super()._check_literals()


def _with_known_references(job: Job, settings: ConnectionSettings, bucket: Bucket) -> Job:
    """Return the job once its reference images have been looked at: they are part of the purchase."""
    from airflow_provider_aisa.core.account import purchases
    from airflow_provider_aisa.core.images.download import open_fetcher
    from airflow_provider_aisa.core.references import References

    with open_fetcher(settings) as fetcher:
        references = References(
            bucket.client, fetcher, lambda: [found.entry for _, found in purchases(job, bucket)]
        )
        return replace(job, request=references.pinned(job.request))


def _is_finished(job: Job, bucket: Bucket) -> bool:
    """Return whether an earlier attempt has left nothing to wait for.

    A trigger that ends at once can outrun its own deferral, which Airflow takes for a killed task.
    """
    from airflow_provider_aisa.core.generate import look_up

    return all(look_up(part, bucket).action is Action.RETURN for part in job.parts())
