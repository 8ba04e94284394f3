"""What happened. A billed image stays in the ledger whatever became of the response that carried it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime


@dataclass(frozen=True, kw_only=True)
class LedgerEntry:
    """One billed request: `images` is at least 1. `status` None: no complete answer reached the client."""

    request_id: str
    model: str
    prompt: str
    n: int
    size: str
    images: int
    cost_usd: Decimal
    status: int | None
    time: datetime


@dataclass(frozen=True, kw_only=True)
class GatewayRequest:
    """One request to the gateway, refused ones included. Header names are lower-case.

    `status` is None while it is served, and stays None when the connection was cut. `billed` counts images.
    """

    request_id: str
    method: str
    path: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    time: datetime
    status: int | None = None
    billed: int = 0
    cost_usd: Decimal = Decimal(0)


@dataclass(frozen=True, kw_only=True)
class CdnRequest:
    """One request to the CDN. `credentials` names what should never have arrived here; empty is good."""

    method: str
    path: str
    headers: Mapping[str, str] = field(repr=False)
    status: int
    credentials: tuple[str, ...]
    time: datetime


@dataclass
class Records:
    """Everything that happened since the last reset. Written by the server's thread, read from any."""

    listener: Callable[[GatewayRequest | CdnRequest], None] | None = None
    _ledger: list[LedgerEntry] = field(default_factory=list)
    _gateway: dict[str, GatewayRequest] = field(default_factory=dict)
    _cdn: list[CdnRequest] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def open(self, request: GatewayRequest) -> None:
        """Note that a request arrived."""
        with self._lock:
            self._gateway[request.request_id] = request

    def bill(self, entry: LedgerEntry) -> None:
        """Charge for images that were generated."""
        with self._lock:
            self._ledger.append(entry)
            # A reset may have come in between: the money is spent, the request is forgotten.
            if request := self._gateway.get(entry.request_id):
                self._gateway[entry.request_id] = replace(
                    request, billed=request.billed + entry.images, cost_usd=request.cost_usd + entry.cost_usd
                )

    def close(self, request_id: str, status: int | None) -> None:
        """Note how a request was answered; None: it was not."""
        with self._lock:
            request = self._gateway.get(request_id)
            if request is None:
                return
            request = self._gateway[request_id] = replace(request, status=status)
        self._tell(request)

    def add_download(self, request: CdnRequest) -> None:
        """Note a request to the CDN."""
        with self._lock:
            self._cdn.append(request)
        self._tell(request)

    def _tell(self, request: GatewayRequest | CdnRequest) -> None:
        if self.listener:
            self.listener(request)

    @property
    def ledger(self) -> list[LedgerEntry]:
        """What was billed, oldest first."""
        with self._lock:
            return list(self._ledger)

    @property
    def gateway(self) -> list[GatewayRequest]:
        """The requests to the gateway, oldest first."""
        with self._lock:
            return list(self._gateway.values())

    @property
    def cdn(self) -> list[CdnRequest]:
        """The requests to the CDN, oldest first."""
        with self._lock:
            return list(self._cdn)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._ledger.clear()
            self._gateway.clear()
            self._cdn.clear()


def total(ledger: list[LedgerEntry]) -> tuple[int, Decimal]:
    """Return the number of images billed and their price in USD."""
    return sum(entry.images for entry in ledger), sum((entry.cost_usd for entry in ledger), Decimal(0))
