"""What goes wrong with items: which of it ends the batch, and what is told of it in the end."""

from __future__ import annotations

import logging
from typing import Final

from airflow_provider_aisa.core.batch.manifest import error_text
from airflow_provider_aisa.core.batch.progress import Tally
from airflow_provider_aisa.core.batch.spec import BatchSpec
from airflow_provider_aisa.exceptions import (
    AisaError,
    GatewayFailed,
    InvalidConnection,
    ItemsFailed,
    KeyRefused,
    OutcomeUnknown,
    OverBudget,
    RateLimited,
    StorageFailed,
)

log = logging.getLogger(__name__)

#: Items in a row that got no usable answer, or twice those in flight, if these are more, until the gateway,
#: or the way to it, is taken to be down.
GATEWAY_DOWN: Final = 10
#: What the next item would run into as well. Rate limits of up to an hour are waited out and never get here.
_HOPELESS: Final = (KeyRefused, InvalidConnection, StorageFailed, OverBudget, RateLimited)
_MOST_LOGGED: Final = 20
_MOST_NAMED: Final = 5


class Failures:
    """The failures of one batch's items.

    :param tally: counts them.
    :param in_flight: requests that may be lost at once.
    """

    def __init__(self, spec: BatchSpec, tally: Tally, *, in_flight: int) -> None:
        self._most_in_a_row = max(GATEWAY_DOWN, 2 * in_flight)
        self._spec = spec
        self._tally = tally
        self._in_a_row = 0  # without an answer
        self._successes = 0  # of the gateway, when the row began
        self._has_retryable = False
        self._named: list[str] = []

    @staticmethod
    def is_hopeless(error: AisaError) -> bool:
        """Return whether an item's error is not its own: the next item would have it, too."""
        return isinstance(error, _HOPELESS)

    @property
    def are_too_many(self) -> bool:
        """Whether more items have failed than ``max_failures`` allows."""
        return self._tally.failed > self._spec.allowed_failures(self._tally.total)

    def add(self, item_id: str, error: AisaError) -> None:
        """Note that an item failed; the first ones are logged."""
        self._has_retryable |= error.retryable
        if len(self._named) < _MOST_LOGGED:
            self._named.append(f"{item_id!r} ({type(error).__name__})")
            log.warning("Item %r failed: %s: %s", item_id, type(error).__name__, error_text(error))

    def ends_batch(self, error: AisaError, *, was_sent: bool, successes: int) -> bool:
        """Return whether nothing more should be sent after an item's error.

        Lost responses count as well: each may be billed, and is lost like the one before.

        :param was_sent: by this attempt.
        :param successes: of the gateway, so far.
        """
        is_silent = was_sent and isinstance(error, GatewayFailed | OutcomeUnknown)
        if successes != self._successes or not is_silent:
            self._in_a_row, self._successes = 0, successes
        self._in_a_row += is_silent
        return self.is_hopeless(error) or self._in_a_row >= self._most_in_a_row

    def check(self, manifest_uri: str, *, is_stopped: bool, stopped_by: BaseException | None) -> None:
        """Raise when the batch is not what its author accepts.

        :raises ItemsFailed: items failed, and too many or ``on_item_failure`` is ``fail``.
        :raises AisaError: what stopped it.
        """
        tally = self._tally
        state = (
            f"{tally.stored:,} of {tally.total:,} items are stored, {tally.failed:,} failed, "
            f"{tally.total - tally.done:,} were not sent. Manifest: {manifest_uri}."
        )
        if isinstance(stopped_by, AisaError):
            details = stopped_by.to_dict() | {"unknown_outcomes": tally.unknown_outcomes}
            del details["error"], details["message"]
            raise type(stopped_by)(
                f"{error_text(stopped_by)} The batch stopped, and a retry pays only for what is not paid "
                f"yet: {state}",
                **details,
            )
        if stopped_by is not None:
            log.error("The batch stopped: %s", state)
            raise stopped_by
        if is_stopped or (tally.failed and self._spec.on_item_failure == "fail"):
            raise self._items_failed(state, is_stopped=is_stopped)

    def _items_failed(self, state: str, *, is_stopped: bool) -> ItemsFailed:
        tally = self._tally
        kinds = ", ".join(f"{name} {count:,}" for name, count in tally.errors.most_common())
        named = ", ".join(self._named[:_MOST_NAMED])
        more = ", …" if tally.failed > _MOST_NAMED else ""
        why = "more than max_failures allows" if is_stopped else "and on_item_failure is 'fail'"
        items = "item" if tally.failed == 1 else "items"
        return ItemsFailed(
            "Fix the items that say so; a retry pays only for what is not paid yet. "
            f"{tally.failed:,} {items} failed ({kinds}), {why}: {named}{more}. {state}",
            retryable=self._has_retryable,
        )
