"""What Airflow's retries are good for: an error that a person has to fix is not tried again."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_3_PLUS

from airflow_provider_aisa.exceptions import AisaError

if not AIRFLOW_V_3_3_PLUS:
    raise ImportError(
        "AisaRetryPolicy needs Airflow 3.3 or later. Earlier ones do without: there the operators fail "
        "a task at once when its error is final. Remove this import"
    )

from airflow.providers.common.compat.sdk import RetryDecision, RetryPolicy

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


#: Seconds. A gateway that asks for more is not taken at its word: 'Retry-After: 999999999' is 31 years.
_LONGEST_DELAY: Final = 86_400.0


class AisaRetryPolicy(RetryPolicy):
    """The default ``retry_policy`` of this package's operators, on Airflow 3.3 and above.

    Fails a task at once when the request, the key, the connection or the budget has to be fixed, waits as
    long as the gateway asked, a day at most, before trying a rate-limited one again, and leaves all else to
    the task.
    """

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Context | None = None
    ) -> RetryDecision:
        """Decide by the error's own ``retryable`` and ``retry_after``."""
        if not isinstance(exception, AisaError):
            return RetryDecision.default()
        if not exception.retryable:
            return RetryDecision.fail(reason=f"{type(exception).__name__}: a person has to act first")
        if exception.retry_after is not None:
            delay = timedelta(seconds=min(exception.retry_after, _LONGEST_DELAY))
            return RetryDecision.retry(delay=delay, reason=f"the gateway asked to wait {delay}")
        return RetryDecision.default()

    def serialize(self) -> dict[str, Any]:
        """Return nothing: the policy has no settings."""
        return {}

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> AisaRetryPolicy:
        """Rebuild the policy."""
        return cls()
