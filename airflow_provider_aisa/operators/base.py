"""What the operators have in common: where images go, what is done about earlier purchases, how they fail."""

from __future__ import annotations

import logging
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast, get_args

from airflow.providers.common.compat.sdk import SET_DURING_EXECUTION, BaseOperator

from airflow_provider_aisa.airflow_compat import as_failure, store_links, with_retry_policy
from airflow_provider_aisa.assets import asset_uri, publish
from airflow_provider_aisa.core.gateway.request import parse_max_cost
from airflow_provider_aisa.core.job import OnPartial
from airflow_provider_aisa.core.journal.entry import Buyer
from airflow_provider_aisa.core.journal.steps import Delivery, OnExisting, Policy
from airflow_provider_aisa.core.layout import Owner, safe_name
from airflow_provider_aisa.core.s3.arguments import check_extra_args
from airflow_provider_aisa.exceptions import AisaError, InvalidRequest
from airflow_provider_aisa.hooks.s3 import open_s3
from airflow_provider_aisa.labels import MAP_INDEX_TEMPLATE
from airflow_provider_aisa.lineage import collect, lineage_of, usage_facts
from airflow_provider_aisa.links import GalleryLink, ImagesLink, JournalLink, browser_url
from airflow_provider_aisa.ui.notes import note_failure

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from airflow.providers.common.compat.sdk import BaseOperatorLink, Context
    from airflow.providers.openlineage.extractors import OperatorLineage
    from jinja2 import Environment
    from openlineage.client.generated.base import Dataset, RunFacet

    from airflow_provider_aisa.core.layout import Target
    from airflow_provider_aisa.core.s3.bucket import Bucket

log = logging.getLogger(__name__)

MAX_IDEMPOTENCY_KEY: Final = 200


class AisaOperator(BaseOperator):
    """An operator that pays for images and stores them.

    Each operator spells these parameters out again, with their defaults and what they mean to it: editors,
    type checkers and readers look there.
    """

    #: Where images go whose author does not say.
    root_folder: ClassVar[str]
    template_ext = ()  # A prompt that ends in .json stays a prompt.
    ui_color = "#e9e4ff"
    ui_fgcolor = "#2b1a66"
    operator_extra_links: Collection[BaseOperatorLink] = (GalleryLink(), ImagesLink(), JournalLink())

    def __init__(
        self,
        *,
        n: int | str,
        model: str,
        extra_body: Mapping[str, Any] | str | None,
        s3_key: str | None,
        s3_bucket: str | None,
        s3_extra_args: Mapping[str, Any] | None,
        aisa_conn_id: str,
        aws_conn_id: str | None,
        max_cost_usd: float | str | None,
        idempotency_key: str | None,
        on_existing: OnExisting | str,
        delivery: Delivery,
        on_partial: OnPartial,
        **kwargs: Any,
    ) -> None:
        super().__init__(**with_retry_policy(kwargs))
        self.n = n
        self.model = model
        self.extra_body = extra_body
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
        #: Where to look, by what there is to see: what the extra links show.
        self.aisa_links: dict[str, str] = {}
        self._place: tuple[str, str] | None = None
        self._facts: dict[str, Any] | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        """Check, pay, store; return what is in S3 and what it cost."""
        try:
            return self._execute(context)
        except AisaError as e:
            failure = self._failure(e)
        raise failure from None

    def on_kill(self) -> None:
        """Say what a person who stops the task has to know; the request itself cannot be called back."""
        self.log.warning(
            "Stopped. Whatever was paid for is in the journal, and a later run goes on from there."
        )

    def get_openlineage_facets_on_start(self) -> OperatorLineage[Dataset, RunFacet]:
        """Tell OpenLineage which models are about to be asked."""
        return self._lineage(None)

    def get_openlineage_facets_on_complete(self, _: object) -> OperatorLineage[Dataset, RunFacet]:
        """Tell OpenLineage where the images are, what was used, and what it cost."""
        return self._lineage(self._facts)

    def get_openlineage_facets_on_failure(self, ti: object) -> OperatorLineage[Dataset, RunFacet]:
        """Tell OpenLineage what is known of a task that failed."""
        return self.get_openlineage_facets_on_complete(ti)

    def _lineage(self, facts: dict[str, Any] | None) -> OperatorLineage[Dataset, RunFacet]:
        return lineage_of(
            models=self._models(), references=self._references(), place=self._place, facts=facts
        )

    @abstractmethod
    def _models(self) -> Iterable[str]:
        """Return the ids of the models that are asked."""

    def _references(self) -> Iterable[str]:
        """Return the URIs of the images that the models look at, as far as they are known."""
        return ()

    @abstractmethod
    def _execute(self, context: Context) -> dict[str, Any]:
        """Do what `execute` promises; an AisaError ends the task as its kind asks for."""

    def _note_links(self, context: Context, bucket: Bucket, **keys: str) -> None:
        """Note where a person can look, by the name of a link's place and an object's or a folder's key."""
        self.aisa_links = {place: browser_url(bucket, key) for place, key in keys.items()}
        store_links(context, self.aisa_links)

    def _tell(self, context: Context, result: dict[str, Any], *, bucket: str, folder: str) -> None:
        """Tell assets and lineage what has become of the task."""
        self._place, self._facts = (bucket, folder), usage_facts(result)
        publish(context, self.outlets, result, bucket=bucket, folder=self._lasting_folder(folder))
        collect(self, read=self._references(), written=(asset_uri(bucket, folder),))

    def _lasting_folder(self, folder: str) -> str:
        """Return the part of a folder that is the same in each run, where this package chose the folder."""
        if self.s3_key is not None:
            return folder
        root = self.root_folder
        return root if self.idempotency_key is not None else f"{root}/{safe_name(self.dag_id)}"

    def _failure(self, error: AisaError) -> AisaError:
        """Return what the task raises for an error: its message, without the way it came.

        Airflow prints every frame of a traceback, and the log's page opens at its end: the message would be
        off the screen.
        """
        log.debug("Where the error comes from:", exc_info=error)
        note_failure(error)
        return as_failure(error).with_traceback(None)

    @property
    @abstractmethod
    def map_label(self) -> str:
        """What Airflow's pages call this among its mapped siblings: see ``labels.py``."""

    def _do_render_template_fields(
        self,
        parent: object,
        template_fields: Iterable[str],
        context: Context,
        jinja_env: Environment,
        seen_oids: set[int],
    ) -> None:
        # This is the one call that a mapped instance gets before Airflow looks for the template. An argument
        # of the constructor would not do: mapping passes its own default.
        if self._is_mapped_instance and context.get("map_index_template") is None:
            context["map_index_template"] = MAP_INDEX_TEMPLATE
        super()._do_render_template_fields(parent, template_fields, context, jinja_env, seen_oids)

    @property
    def _is_mapped_instance(self) -> bool:
        """Whether this is being made from a mapped task, while its templates are rendered.

        Its retry policy is not asked about what goes wrong there, so `execute` checks it.
        """
        return bool(getattr(self, "_BaseOperator__from_mapped", False))

    def _check_when_parsed(self) -> None:
        """Fail the DAG's import when something is wrong that no template can fix."""
        if self._is_mapped_instance:
            return
        try:
            self._check_what_is_written()
        except AisaError as e:
            # Airflow shows the last two frames of an import error, and neither is the DAG's own line.
            mistake = e.extended(f"(Task {self.task_id!r}.)").with_traceback(None)
        else:
            return
        raise mistake from None

    def _check_what_is_written(self) -> None:
        """Check all that stands in the DAG's file."""
        self._check_literals()

    def _check_literals(self) -> None:
        """Check each parameter that is no template."""
        if is_literal(self.max_cost_usd):
            parse_max_cost(self.max_cost_usd)
        if is_literal(self.s3_key) and is_literal(self.s3_bucket):
            self._target("")
        if is_literal(self.idempotency_key):
            parse_idempotency_key(self.idempotency_key)
        if is_literal(self.on_existing):
            parse_on_existing(self.on_existing)
        check_choice("delivery", self.delivery, get_args(Delivery))
        check_choice("on_partial", self.on_partial, get_args(OnPartial))
        check_extra_args(self.s3_extra_args)

    @abstractmethod
    def _target(self, default_folder: str) -> Target:
        """Read ``s3_key`` and ``s3_bucket``."""

    def _buyer(self, context: Context) -> Buyer:
        ti = context["ti"]
        map_index = -1 if ti.map_index is None else ti.map_index
        return Buyer(Owner(ti.dag_id, ti.run_id, ti.task_id, map_index), ti.max_tries)

    def _policy(self) -> Policy:
        return Policy(parse_on_existing(self.on_existing), self.delivery)

    def _default_folder(self, owner: Owner) -> str:
        key = parse_idempotency_key(self.idempotency_key)
        return owner.path() if key is None else safe_name(key)

    def _open_bucket(self, target: Target, *, connections: int = 0) -> Bucket:
        """Return the bucket of a target, or the AWS connection's own, once its arguments are checked.

        :param connections: how many more are used at once than one request's images need.
        """
        from airflow_provider_aisa.core.s3.bucket import Bucket

        client, default_bucket = open_s3(self.aws_conn_id, connections=connections)
        name = target.bucket or default_bucket
        if not name:
            raise InvalidRequest(
                "no bucket: set s3_bucket, write s3_key as s3://bucket/key, or give the AWS connection "
                f'{self.aws_conn_id!r} the extra {{"service_config": {{"s3": {{"bucket_name": "…"}}}}}}'
            )
        bucket = Bucket(client, name, self.s3_extra_args or {})
        bucket.check_args()
        return bucket


def prepare() -> None:
    """Do what takes tens of milliseconds and will be needed, while S3's client is being made."""
    from airflow_provider_aisa.core.net.tls import ssl_context

    ssl_context()


def is_literal(value: object) -> bool:
    """Return whether a value is what it will be when the task runs: no template, no XComArg, not to come."""
    if isinstance(value, str):
        return not any(mark in value for mark in ("{{", "{%", "{#"))
    return value is not SET_DURING_EXECUTION and not hasattr(value, "resolve")


def is_plain(value: object) -> bool:
    """Return whether a value, and all that is in it, is what it will be when the task runs."""
    if isinstance(value, dict):
        return all(is_plain(each) for pair in value.items() for each in pair)
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return is_literal(value)


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise InvalidRequest when a value is none of the choices."""
    if value not in choices:
        raise InvalidRequest(f"{name} {value!r} is unknown: use {' or '.join(map(repr, choices))}")


def parse_on_existing(value: str) -> OnExisting:
    """Return the choice."""
    check_choice("on_existing", value, get_args(OnExisting))
    return cast("OnExisting", value)


def parse_idempotency_key(value: object) -> str | None:
    """Return the author's own key, or None for one that belongs to the task instance."""
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_IDEMPOTENCY_KEY:
        raise InvalidRequest(
            f"idempotency_key {value!r} is no key: use 1 to {MAX_IDEMPOTENCY_KEY} characters that stand for "
            "what is bought, such as a SKU, or None. If it is a template, check what it renders to"
        )
    return value
