"""A scan in progress: the one place where the generator of orders is driven."""

from __future__ import annotations

from collections.abc import Generator

from blackbird.trading.orders import Order, Reply

Orders = Generator[Order, Reply, None]


class OrderScan:
    """Orders that a scan of the books gives reason for, one at a time, each after the reply to the last.

    `order` is the one that waits for its reply, None when the scan is over.
    """

    __slots__ = ("_orders", "order")

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self.order = next(orders, None)

    def answer(self, reply: Reply) -> Order | None:
        """Book the reply to `order`; return the next one."""
        try:
            self.order = self._orders.send(reply)
        except StopIteration:
            self.order = None
        return self.order
