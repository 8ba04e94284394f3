"""What follows an outcome: decided once, for sync and async alike. Only the waiting differs.

What may be sent again: a request that never left (no connection), 429 after its Retry-After, and 5xx, which
is an answer without images. A connection that dies after the body was sent, or a read timeout, is
OutcomeUnknown. Any other 4xx, and a spend cap that is reached, are final.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from airflow_provider_aisa.core.gateway.response import read_code, read_error
from airflow_provider_aisa.core.gateway.settings import ConnectionSettings
from airflow_provider_aisa.exceptions import AisaError, GatewayFailed, OutcomeUnknown, RateLimited

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

Outcome = httpx.Response | httpx.HTTPError


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request to the gateway, before it is sent.

    :param at_most_once: do not send again after an answer that may hide a finished job.
    """

    method: str
    endpoint: str
    json: Any = None
    params: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    at_most_once: bool = False

    @property
    def may_be_repeated(self) -> bool:
        """Whether sending it twice does no more than sending it once."""
        return self.method.upper() in _IDEMPOTENT


def backoff(attempt: int, randomness: Callable[[], float] = random.random) -> float:
    """Return the seconds to wait after failed attempt number ``attempt`` (from 0): 1 s, doubling, ±25 %."""
    return min(30.0, 2.0 ** min(attempt, 10) * (0.75 + 0.5 * randomness()))


def may_be_billed(outcome: Outcome) -> bool:
    """Return whether a request that got no images may have been billed all the same."""
    if not isinstance(outcome, httpx.Response):
        return not isinstance(outcome, _NOT_SENT)
    code = read_code(outcome)
    if outcome.status_code in {502, 503}:
        return code not in {"upstream_unavailable", "gateway_error"}
    return outcome.status_code not in {400, 401, 403, 404, 422, 429} or code is None


class Retries:
    """Decides what follows an outcome. The only thing that sync and async do not share is the waiting."""

    def __init__(
        self, call: Call, settings: ConnectionSettings, *, max_wait: float, randomness: Callable[[], float]
    ) -> None:
        """Decide for one call.

        :param max_wait: seconds that it may wait in all. Infinite: it waits out each rate limit, and these
            do not count as retries.
        """
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
            delay = max(error.retry_after, 0.0)
        if self._failed > self._settings.max_retries or delay > self._left:
            raise error
        self._left -= delay
        return delay

    def _read(self, outcome: Outcome) -> AisaError:
        if isinstance(outcome, httpx.Response):
            error = read_error(outcome, api_key=self._settings.api_key)
            if self._call.at_most_once and may_be_billed(outcome):
                return OutcomeUnknown(
                    f"{error} Upstream may have finished the job all the same, so it may have been billed.",
                    status=error.status,
                    code=error.code,
                    request_id=error.request_id,
                )
            return error
        where = urlsplit(self._settings.base_url).netloc
        what = type(outcome).__name__  # Not its text, which a proxy or a peer may have written.
        if isinstance(outcome, _NOT_SENT):
            return GatewayFailed(
                f"AIsa at {where} could not be reached ({what}); nothing was sent. Check the host of "
                f"connection {self._settings.conn_id!r}, the network and the proxy, then try again."
            )
        if self._call.may_be_repeated:
            return GatewayFailed(f"AIsa at {where} did not answer ({what}). Try again.")
        return OutcomeUnknown(
            f"the request was sent to {where} and no response came back ({what}): what it asked for may have "
            "been done and billed. Look at the usage page of the AIsa console before paying again."
        )
