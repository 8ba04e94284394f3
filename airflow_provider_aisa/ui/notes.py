"""What a task leaves in XCom for the gallery besides its result: where a batch writes, and why it failed.

A note is never worth a paid task: whatever goes wrong with it is only logged.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from airflow_provider_aisa.exceptions import AisaError

log = logging.getLogger(__name__)

#: Keys of the XComs. Airflow drops them when the task instance is tried again.
BATCH_KEY: Final = "aisa_batch"
FAILURE_KEY: Final = "aisa_failure"
_LONGEST_MESSAGE: Final = 4_000  # characters


def note_batch(*, folder_uri: str, manifest_uri: str, items: int) -> None:
    """Say where the running batch keeps its journal, and where its manifest will be.

    :param folder_uri: of the batch's journal, with its ``/``.
    :param items: how many the batch has.
    """
    _leave(BATCH_KEY, {"folder_uri": folder_uri, "manifest_uri": manifest_uri, "items": items})


def note_failure(error: AisaError) -> None:
    """Say why the running task fails: Airflow itself keeps that in the log only."""
    _leave(
        FAILURE_KEY,
        {
            "error": type(error).__name__,
            "message": str(error)[:_LONGEST_MESSAGE],
            "code": error.code,
            "request_id": error.request_id,
            "unknown_outcomes": getattr(error, "unknown_outcomes", 0),
        },
    )


def _leave(key: str, value: dict[str, Any]) -> None:
    from airflow.providers.common.compat.sdk import get_current_context
    from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_1_PLUS

    if not AIRFLOW_V_3_1_PLUS:
        return  # There is no gallery.
    try:
        get_current_context()["ti"].xcom_push(key=key, value=value)
    except Exception as e:  # whatever the database, the API server or an XCom backend raises
        log.debug("The gallery will not know of this (%s): %s", key, e)
