"""``@task.wan``: the function says what Wan draws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import DecoratedOperator, task_decorator_factory

from airflow_provider_aisa.decorators.base import DecoratedGenerateOperator, returnable
from airflow_provider_aisa.operators.wan import WanGenerateOperator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from airflow.sdk.bases.decorator import TaskDecorator


class WanDecoratedOperator(DecoratedGenerateOperator, WanGenerateOperator):
    """The operator of ``@task.wan``; parameters as of :class:`DecoratedGenerateOperator`."""

    template_fields: Sequence[str] = (
        *DecoratedOperator.template_fields,
        *WanGenerateOperator.template_fields,
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {
        **DecoratedOperator.template_fields_renderers,
        **WanGenerateOperator.template_fields_renderers,
    }
    returnable = returnable(WanGenerateOperator)
    custom_operator_name = "@task.wan"


def wan_task(python_callable: Callable[..., Any] | None = None, **kwargs: Any) -> TaskDecorator:
    """Make a task of a function that returns a prompt, or a dict of the operator's parameters.

    :param python_callable: the function; what it returns is rendered as a template.
    :param kwargs: of ``WanGenerateOperator``, but for ``prompt``, and of any Airflow task.
    """
    return task_decorator_factory(
        python_callable=python_callable, decorated_operator_class=WanDecoratedOperator, **kwargs
    )
