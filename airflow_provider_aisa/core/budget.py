"""What a batch may still spend: every send reserves its cost first, and gives back what was not billed."""

from __future__ import annotations

from decimal import Decimal

from airflow_provider_aisa.exceptions import OverBudget


class SpendingStopped(Exception):
    """Nothing more is to be paid for; the request was not sent."""


class Budget:
    """The rest of ``max_cost_usd``. Used on one event loop.

    :param limit: USD for the whole batch, all its attempts included; None for no limit.
    :param spent: what earlier attempts have or may have paid.
    """

    def __init__(self, limit: Decimal | None, spent: Decimal = Decimal(0)) -> None:
        self._limit = limit
        self._is_stopped = False
        self.spent = spent

    def stop(self) -> None:
        """Let nothing more be sent."""
        self._is_stopped = True

    def check(self, cost: Decimal, *, images: int) -> None:
        """Raise OverBudget when so much more, for so many images, is not allowed. Reserves nothing."""
        if images and self._limit is not None and self.spent + cost > self._limit:
            before = f" Earlier requests cost {self.spent} USD, or may have." if self.spent else ""
            raise OverBudget(
                f"{images} image(s) to buy cost {cost} USD.{before} That is more than max_cost_usd of "
                f"{self._limit} USD for the whole batch: ask for fewer images or raise the limit. "
                "Nothing of it was sent."
            )

    def reserve(self, cost: Decimal, *, images: int) -> None:
        """Take the cost of a request that is about to be sent.

        :raises OverBudget: it is not allowed.
        :raises SpendingStopped: nothing is any more.
        """
        if self._is_stopped:
            raise SpendingStopped
        self.check(cost, images=images)
        self.spent += cost

    def settle(self, reserved: Decimal, actual: Decimal) -> None:
        """Replace what was reserved for a request by what it cost."""
        self.spent += actual - reserved
