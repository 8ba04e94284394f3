"""``@task.gemini``: the function says what Gemini draws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import DecoratedOperator, task_decorator_factory

from airflow_provider_aisa.decorators.base import DecoratedGenerateOperator, returnable
from airflow_provider_aisa.operators.gemini import GeminiGenerateOperator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from airflow.sdk.bases.decorator import TaskDecorator


class GeminiDecoratedOperator(DecoratedGenerateOperator, GeminiGenerateOperator):
    """The operator of ``@task.gemini``; parameters as of :class:`DecoratedGenerateOperator`."""

    template_fields: Sequence[str] = (
        *DecoratedOperator.template_fields,
        *GeminiGenerateOperator.template_fields,
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {
        **DecoratedOperator.template_fields_renderers,
        **GeminiGenerateOperator.template_fields_renderers,
    }
    returnable = returnable(GeminiGenerateOperator)
    custom_operator_name = "@task.gemini"


def gemini_task(python_callable: Callable[..., Any] | None = None, **kwargs: Any) -> TaskDecorator:
    """Make a task of a function that returns a prompt, or a dict of the operator's parameters.

    :param python_callable: the function; what it returns is rendered as a template.
    :param kwargs: of ``GeminiGenerateOperator``, but for ``prompt``, and of any Airflow task.
    """
    return task_decorator_factory(
        python_callable=python_callable, decorated_operator_class=GeminiDecoratedOperator, **kwargs
    )
