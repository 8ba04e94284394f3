"""What the decorators of all families share: the function says what to draw, the operator does the rest.

The function runs anew at each try, and what it returns identifies the purchase: a retry pays nothing as long
as the function returns the same.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, cast

from airflow.providers.common.compat.sdk import (
    SET_DURING_EXECUTION,
    DecoratedOperator,
    context_merge,
    determine_kwargs,
)

from airflow_provider_aisa.airflow_compat import DecoratedOn30
from airflow_provider_aisa.exceptions import InvalidRequest
from airflow_provider_aisa.labels import label_of
from airflow_provider_aisa.operators.generate import GenerateOperator

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from airflow.providers.common.compat.sdk import Context

#: Decided when the DAG is parsed: a function that runs in the task comes too late for them.
_DECIDED_BEFORE: Final = frozenset({"deferrable", "kwargs", "self"})


def returnable(operator: type[GenerateOperator]) -> frozenset[str]:
    """Return what the function may return in a dict: the operator's own parameters."""
    return frozenset(inspect.signature(operator.__init__).parameters) - _DECIDED_BEFORE


class DecoratedGenerateOperator(DecoratedOperator, GenerateOperator, DecoratedOn30):
    """An operator whose prompt, or whose parameters, a function returns.

    :param python_callable: returns a prompt, or a dict of the operator's parameters with a ``prompt``.
    :param op_args: its positional arguments. (templated)
    :param op_kwargs: its keyword arguments. (templated)
    :param kwargs: of the family's operator, but for ``prompt``.
    """

    #: What the function may return in a dict.
    returnable: frozenset[str]
    overwrite_rtif_after_execution = True  # The page shows what was drawn.

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        op_args: Collection[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        # Airflow infers it from a function that returns a dict, which is what is asked for, not the result.
        kwargs["multiple_outputs"] = False
        if "prompt" in kwargs:
            raise InvalidRequest("leave prompt out: the function that is decorated returns it")
        super().__init__(
            python_callable=python_callable,
            op_args=op_args,
            op_kwargs=op_kwargs,
            prompt=SET_DURING_EXECUTION,
            **kwargs,
        )

    @property
    def map_label(self) -> str:
        """The prompt's first words; the function's own arguments while there is no prompt."""
        if isinstance(self.prompt, str):
            return label_of(self.prompt)
        return label_of(", ".join(str(value) for value in (*self.op_args, *self.op_kwargs.values())))

    def _execute(self, context: Context) -> dict[str, Any]:
        for name, value in self._asked(context).items():
            # Only what the function returned: all else is rendered already, and must not be rendered twice.
            rendered = self.render_template(value, context) if name in self.template_fields else value
            setattr(self, name, rendered)
        return super()._execute(context)

    def _asked(self, context: Context) -> Mapping[str, Any]:
        """Call the function, and return what it asks for by the names of the operator's parameters."""
        context_merge(context, self.op_kwargs)
        kwargs = determine_kwargs(self.python_callable, self.op_args, context)
        returned = self.python_callable(*self.op_args, **kwargs)
        if inspect.iscoroutine(returned):
            returned = asyncio.run(returned)
        return self._read(returned)

    def _read(self, returned: object) -> Mapping[str, Any]:
        name = getattr(self.python_callable, "__name__", "the function")
        if not isinstance(returned, Mapping):
            if isinstance(returned, str) or hasattr(returned, "resolve"):  # a text, or one in `literal`
                return {"prompt": returned}
            raise InvalidRequest(
                f"return a prompt, or a dict with one, from {name}: it returned a {type(returned).__name__}. "
                "For many prompts, map the task over them, or use a batch operator. Nothing was sent."
            )
        if unknown := sorted(set(map(str, returned)) - self.returnable):
            raise InvalidRequest(
                f"return only {', '.join(sorted(self.returnable))} from {name}: it returned {unknown[0]!r}. "
                "Nothing was sent."
            )
        if "prompt" not in returned:
            raise InvalidRequest(f"return a dict with a 'prompt' from {name}. Nothing was sent.")
        return cast("Mapping[str, Any]", returned)
