"""What the running real trades may still make of the books: it counts before their outcome is known."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import NamedTuple

from blackbird.market.decimals import EXACT, ZERO
from blackbird.market.instrument import Instrument
from blackbird.trading.orders import CLOSE_SPREAD, OPEN_SPREAD, Order


class Reserved(NamedTuple):
    """A running trade: its order, and what its legs may cost and bring at the prices they are limited to."""

    order: Order
    cost: Decimal
    proceeds: Decimal


class Reservations:
    """Running trades by their ids. There are as many as groups trade at once: each sum goes through them."""

    def __init__(self) -> None:
        self.trades: dict[str, Reserved] = {}

    def add(self, trade_id: str, order: Order, buy_limit: Decimal, sell_limit: Decimal) -> None:
        """Reserve what a trade may take until it is released."""
        cost = EXACT.multiply(buy_limit, order.size)
        proceeds = EXACT.multiply(sell_limit, order.size)
        self.trades[trade_id] = Reserved(order, cost, proceeds)

    def release(self, trade_id: str) -> None:
        """Give back what a trade has reserved; one that has reserved nothing is no error."""
        self.trades.pop(trade_id, None)

    def buying(self, instrument: Instrument) -> Decimal:
        """Return the cash that running trades may pay for `instrument`."""
        return _sum(each.cost for each in self.trades.values() if each.order.buy == instrument)

    def selling(self, instrument: Instrument) -> Decimal:
        """Return the cash that running trades may receive for `instrument`."""
        return _sum(each.proceeds for each in self.trades.values() if each.order.sell == instrument)

    def opens(self, spread_id: str) -> bool:
        """Return whether a running trade opens the spread `spread_id`."""
        orders = self._orders(OPEN_SPREAD)
        return any(order.spread_id == spread_id for order in orders)

    def closing(self, spread_id: str) -> Decimal:
        """Return how much of the spread `spread_id` running trades may close."""
        return _sum(order.size for order in self._orders(CLOSE_SPREAD) if order.spread_id == spread_id)

    def orders(self) -> Iterable[Order]:
        """Return the orders of the running trades."""
        return (each.order for each in self.trades.values())

    def _orders(self, action: str) -> Iterable[Order]:
        return (order for order in self.orders() if order.action == action)


def _sum(values: Iterable[Decimal]) -> Decimal:
    total = ZERO
    for value in values:
        total = EXACT.add(total, value)
    return total
