"""What differs between Airflow's series, in one place: everything else is written as if there were one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

from airflow.providers.common.compat.sdk import AirflowFailException, XCom
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS, AIRFLOW_V_3_3_PLUS

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context, TaskInstanceKey

    from airflow_provider_aisa.exceptions import AisaError

_LINKS: Final = "aisa_links"  # an XCom


class DecoratedOn30:
    """A last base of decorated operators, for Airflow 3.0.

    There ``DecoratedOperator`` asks itself for this attribute once all is done and paid for, although no
    operator has it any more, and passes it on to nothing. Without it the task fails.
    """

    xcom_push: ClassVar[None] = None


def with_retry_policy(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return an operator's arguments with this package's retry policy, unless it has one.

    Airflow 3.2 and below know no retry policies.
    """
    # Not setdefault: a mapped task passes an explicit None.
    if not AIRFLOW_V_3_3_PLUS or arguments.get("retry_policy") is not None:
        return arguments
    from airflow_provider_aisa.retry_policy import AisaRetryPolicy

    return {**arguments, "retry_policy": AisaRetryPolicy()}


def as_failure(error: AisaError) -> AisaError:
    """Return what a task raises for Airflow to treat an error as its kind asks for.

    Where there is no retry policy to say that an error is final, it becomes an AirflowFailException as well.
    Its class keeps its name and its parents: callbacks and logs see no difference.
    """
    if AIRFLOW_V_3_3_PLUS or error.retryable:
        return error
    kind = type(error)
    final = type(kind.__name__, (kind, AirflowFailException), {"__module__": kind.__module__})
    details = error.to_dict()
    del details["error"]
    failure: AisaError = final(details.pop("message"), **details)
    return failure


def store_links(context: Context, links: dict[str, str]) -> None:
    """Keep an operator's links for :func:`stored_links`.

    From Airflow 3 on the worker asks for the links and keeps them itself. Before, the web server asks, which
    knows nothing of what the operator found out.
    """
    if not AIRFLOW_V_3_0_PLUS:
        context["ti"].xcom_push(key=_LINKS, value=links)


def stored_links(ti_key: TaskInstanceKey) -> dict[str, str]:
    """Return the links of a task that has run."""
    if AIRFLOW_V_3_0_PLUS:
        return {}
    links: dict[str, str] | None = XCom.get_value(key=_LINKS, ti_key=ti_key)
    return links or {}
