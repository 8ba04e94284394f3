"""What may still be spent: every send reserves its cost first, and gives back what was not billed."""

from __future__ import annotations

from decimal import Decimal

from airflow_provider_aisa.core.journal.entry import Buyer, Entry
from airflow_provider_aisa.core.journal.steps import Policy
from airflow_provider_aisa.exceptions import OverBudget


class SpendingStopped(Exception):
    """Nothing more is to be paid for; the request was not sent."""


class Budget:
    """The rest of ``max_cost_usd``. Used on one event loop.

    :param limit: USD for all that the task instance pays, in all its tries; None for no limit.
    :param spent: what it has paid or may have paid already.
    """

    def __init__(self, limit: Decimal | None, spent: Decimal = Decimal(0)) -> None:
        self._limit = limit
        self._is_stopped = False
        self.spent = spent

    @property
    def is_limited(self) -> bool:
        """Whether anybody has to find out what was spent before."""
        return self._limit is not None

    def stop(self) -> None:
        """Let nothing more be sent."""
        self._is_stopped = True

    def check(self, cost: Decimal, *, images: int) -> None:
        """Raise OverBudget when so much more, for so many images, is not allowed. Reserves nothing."""
        if images and self._limit is not None and self.spent + cost > self._limit:
            before = f" Earlier requests cost {self.spent} USD, or may have." if self.spent else ""
            raise OverBudget(
                f"Raise max_cost_usd, or ask for fewer images: it is {self._limit} USD, and {images} "
                f"image(s) to buy cost {cost} USD.{before} Nothing more was sent."
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


def spent_on(entry: Entry, buyer: Buyer, policy: Policy) -> Decimal:
    """Return what a task instance has paid, or may have paid, for an entry of the journal, in USD.

    0 when another task instance has paid, and for what a person has cleared to be bought anew: that opens a
    new account.
    """
    if entry.buyer.owner != buyer.owner or policy.opens_new_account(entry.buyer, buyer):
        return Decimal(0)
    price = entry.price_usd or Decimal(0)
    received = entry.response.billed if entry.response is not None else 0
    asked = entry.request.get("n")
    lost = len(entry.may_be_billed) * (asked if isinstance(asked, int) else 1)
    before = Decimal(0)
    previous = entry.previous
    if previous is not None and previous.buyer == buyer:
        before = (previous.price_usd or Decimal(0)) * previous.response.billed
    return price * (received + lost) + before
