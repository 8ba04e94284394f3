"""What follows an outcome, decided once. Whoever sends waits, and asks again.

What may be sent again: a request that never left (no connection), 429 after its Retry-After, and 5xx. A
connection that dies after the body was sent, or a read timeout, is OutcomeUnknown, and so is, at most once,
every answer that may hide a finished job. Any other 4xx, and a spend cap that is reached, are final.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from airflow_provider_aisa.core.gateway.answers import ANSWER_LIMIT, UnreadableAnswer
from airflow_provider_aisa.core.gateway.errors import is_refusal, read_error
from airflow_provider_aisa.core.gateway.pacing import LONGEST_PAUSE
from airflow_provider_aisa.core.gateway.settings import ConnectionSettings
from airflow_provider_aisa.core.net.transport import CannotConnect
from airflow_provider_aisa.exceptions import (
    AisaError,
    GatewayFailed,
    InvalidConnection,
    OutcomeUnknown,
    RateLimited,
)

_IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS"})
#: The request did not leave. A write error is none of them: what the network was handed may still arrive.
_NOT_SENT: Final = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.LocalProtocolError,
    httpx.UnsupportedProtocol,
)
_LOOK: Final = "Look at the usage page of the AIsa console before paying again."
_MAY_BE_BILLED: Final = f"It may have been done and billed all the same. {_LOOK}"

Outcome = httpx.Response | httpx.HTTPError


class Unattached(Enum):
    """Stands for a body whose reference images are not in it yet: it is no JSON, so it cannot be sent."""

    UNATTACHED = "unattached"


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request to the gateway, before it is sent.

    :param json: the body; it may hold links that are secrets.
    :param at_most_once: do not send again after an answer that may hide a finished job.
    :param answer_limit: bytes that a successful answer may have.
    :param own_rate: a model and its requests per minute, where it has a limit besides the key's.
    """

    method: str
    endpoint: str
    json: Any = field(default=None, repr=False)
    params: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    at_most_once: bool = False
    answer_limit: int = ANSWER_LIMIT
    own_rate: tuple[str, int] | None = None

    @property
    def may_be_repeated(self) -> bool:
        """Whether sending it twice does no more than sending it once."""
        return self.method.upper() in _IDEMPOTENT


def backoff(attempt: int, randomness: Callable[[], float] = random.random) -> float:
    """Return the seconds to wait after failed attempt number ``attempt`` (from 0): 1 s, doubling, ±25 %."""
    return min(30.0, 2.0 ** min(attempt, 10) * (0.75 + 0.5 * randomness()))


def may_be_billed(outcome: Outcome) -> bool:
    """Return whether a POST may have been billed: False only if that is certain.

    Certain are a request that never left, and the gateway's own refusal (see
    :func:`~airflow_provider_aisa.core.gateway.errors.is_refusal`). A success is billed.
    """
    if isinstance(outcome, httpx.Response):
        return outcome.is_success or not is_refusal(outcome)
    return not isinstance(outcome, _NOT_SENT)


class Retries:
    """Decides for one call what follows each of its outcomes.

    :param max_wait: seconds that it may wait in all. Infinite: it waits out each rate limit that is not
        longer than :data:`~airflow_provider_aisa.core.gateway.pacing.LONGEST_PAUSE`, and these do not count
        as retries.
    """

    def __init__(
        self, call: Call, settings: ConnectionSettings, *, max_wait: float, randomness: Callable[[], float]
    ) -> None:
        self._call = call
        self._settings = settings
        self._left = max_wait
        self._randomness = randomness
        self._failed = 0  # of `max_retries` + 1
        self._limited = 0

    @property
    def patience(self) -> float:
        """Seconds that this call may still wait."""
        return self._left

    def next_delay(self, outcome: Outcome) -> float:
        """Return the seconds to wait before sending again after an outcome that is no success.

        :raises AisaError: sending again is useless, could pay twice, or would take too long.
        """
        error = self._read(outcome)
        if isinstance(error, RateLimited) and self._left == math.inf:
            self._limited += 1
        elif isinstance(error, RateLimited | GatewayFailed):
            self._failed += 1
        else:
            raise error
        delay = backoff(self._failed + self._limited - 1, self._randomness)
        if error.retry_after is not None:
            delay = error.retry_after
        if self._failed > self._settings.max_retries or delay > min(self._left, LONGEST_PAUSE):
            raise error
        self._left -= delay
        return delay

    def _read(self, outcome: Outcome) -> AisaError:
        if isinstance(outcome, httpx.Response):
            return self._read_answer(outcome)
        if isinstance(outcome, _NOT_SENT):
            return self._read_unsent(outcome)
        where = urlsplit(self._settings.base_url).netloc
        # Not an error's own text, which a proxy or a peer may have written, unless it is ours.
        what, status = f"did not answer ({type(outcome).__name__})", None
        if isinstance(outcome, UnreadableAnswer):
            what, status = f"answered {outcome.status} with {outcome}", outcome.status
        if self._call.may_be_repeated:
            return GatewayFailed(f"Try again: AIsa at {where} {what}.", status=status)
        return OutcomeUnknown(
            f"{_LOOK} The request was sent and may have been billed, and AIsa at {where} {what}.",
            status=status,
        )

    def _read_answer(self, response: httpx.Response) -> AisaError:
        is_safe = self._call.may_be_repeated or not may_be_billed(response)
        error = read_error(response, api_key=self._settings.api_key, note="" if is_safe else _MAY_BE_BILLED)
        if is_safe or not self._call.at_most_once:
            return error
        return OutcomeUnknown(str(error), status=error.status, code=error.code, request_id=error.request_id)

    def _read_unsent(self, outcome: httpx.HTTPError) -> AisaError:
        where = urlsplit(self._settings.base_url).netloc
        is_ours = isinstance(outcome, CannotConnect)
        why = str(outcome) if is_ours else type(outcome).__name__
        if isinstance(outcome, CannotConnect) and outcome.is_final:
            return InvalidConnection(f"AIsa at {where} cannot be reached: {why}. Nothing was sent.")
        return GatewayFailed(
            f"Check the host of connection {self._settings.conn_id!r}, the network and the proxy, then try "
            f"again: AIsa at {where} could not be reached ({why}). Nothing was sent."
        )
