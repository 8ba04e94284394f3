"""``@task.seedream``: the function says what Seedream draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, overload

from airflow.providers.common.compat.sdk import DecoratedOperator, task_decorator_factory

from airflow_provider_aisa.decorators.base import DecoratedGenerateOperator, returnable
from airflow_provider_aisa.operators.seedream import SeedreamGenerateOperator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import ParamSpec

    from airflow.sdk.bases.decorator import Task

    from airflow_provider_aisa.core.job import OnPartial
    from airflow_provider_aisa.core.journal.steps import Delivery, OnExisting

    FParams = ParamSpec("FParams")
    #: What the function may return.
    Asked = TypeVar("Asked", str, dict[str, Any], Mapping[str, Any])


class SeedreamDecoratedOperator(DecoratedGenerateOperator, SeedreamGenerateOperator):
    """The operator of ``@task.seedream``; parameters as of :class:`DecoratedGenerateOperator`."""

    template_fields: Sequence[str] = (
        *DecoratedOperator.template_fields,
        *SeedreamGenerateOperator.template_fields,
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {
        **DecoratedOperator.template_fields_renderers,
        **SeedreamGenerateOperator.template_fields_renderers,
    }
    returnable = returnable(SeedreamGenerateOperator)
    custom_operator_name = "@task.seedream"


@overload
def seedream_task(python_callable: Callable[FParams, Asked]) -> Task[FParams, Asked]: ...


@overload
def seedream_task(
    *,
    size: str = ...,
    n: int | str = ...,
    model: str = ...,
    extra_body: Mapping[str, Any] | str | None = ...,
    s3_key: str | None = ...,
    s3_bucket: str | None = ...,
    s3_extra_args: Mapping[str, Any] | None = ...,
    aisa_conn_id: str = ...,
    aws_conn_id: str | None = ...,
    max_cost_usd: float | str | None = ...,
    idempotency_key: str | None = ...,
    on_existing: OnExisting | str = ...,
    delivery: Delivery = ...,
    on_partial: OnPartial = ...,
    deferrable: bool = ...,
    task_id: str = ...,
    **kwargs: Any,
) -> Callable[[Callable[FParams, Asked]], Task[FParams, Asked]]: ...


def seedream_task(python_callable: Callable[..., Any] | None = None, **kwargs: Any) -> Any:
    """Make a task of a function that returns a prompt, or a dict of the operator's parameters.

    ``task.seedream`` of ``airflow.sdk`` is the same; type checkers know this one's parameters::

        @task.seedream(size="2560x1440", n=2)
        def hero(season: str) -> str:
            return f"A red panda in {season}, watercolour"

    :param python_callable: the function; what it returns is rendered as a template.
    :param kwargs: of ``SeedreamGenerateOperator``, but for ``prompt``, and of any Airflow task.
    """
    return task_decorator_factory(
        python_callable=python_callable, decorated_operator_class=SeedreamDecoratedOperator, **kwargs
    )
