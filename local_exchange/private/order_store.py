"""All orders and executions of the account, and what was asked of the exchange: the truth of a test."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from local_exchange.private.decimals import total
from local_exchange.private.orders import Execution, Order, execution_row

if TYPE_CHECKING:
    from collections.abc import Iterator

# `/v5/order/realtime` knows the open orders and this many closed ones of each category
# (https://bybit-exchange.github.io/docs/v5/order/open-order).
REALTIME_CLOSED = 500


@dataclass(frozen=True)
class Trade:
    """An execution, and the order that it belongs to."""

    order: Order
    execution: Execution


@dataclass
class Received:
    """A request to create an order, as it came, and what the exchange did with it."""

    number: int
    # When it came by the exchange's clock.
    time_ns: int
    timestamp: int
    recv_window: int
    body: dict[str, Any]
    # `taken`, the retCode of a refusal, or `lost`: nothing was done with it.
    outcome: str = ""

    def describe(self) -> dict[str, Any]:
        """Return it the way the control interface lists it."""
        return {
            "number": self.number,
            "time_ns": self.time_ns,
            "timestamp": self.timestamp,
            "recv_window": self.recv_window,
            "link_id": self.body.get("orderLinkId", ""),
            "outcome": self.outcome,
            "body": self.body,
        }


@dataclass
class OrderStore:
    """Orders in the order of their acceptance."""

    orders: list[Order] = field(default_factory=list)
    open_orders: dict[str, Order] = field(default_factory=dict)
    trades: list[Trade] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)
    _by_link: dict[tuple[str, str], Order] = field(default_factory=dict)

    def add(self, order: Order) -> None:
        """Keep an order; its link id is taken for good."""
        self.orders.append(order)
        self.open_orders[order.order_id] = order
        if order.link_id:
            self._by_link[order.category, order.link_id] = order

    def add_execution(self, order: Order, execution: Execution) -> None:
        """Keep an execution."""
        order.executions.append(execution)
        self.trades.append(Trade(order, execution))

    def close(self, order: Order) -> None:
        """Keep an order as one that trades no more."""
        self.open_orders.pop(order.order_id, None)

    def locked(self) -> dict[str, Decimal]:
        """Return what open orders have set aside, by coin."""
        locked: dict[str, Decimal] = {}
        for order in self.open_orders.values():
            if order.locked_coin:
                locked[order.locked_coin] = total(locked.get(order.locked_coin, Decimal(0)), order.locked)
        return locked

    def is_known(self, category: str, link_id: str) -> bool:
        """Return whether a link id is taken, each category by itself."""
        return (category, link_id) in self._by_link

    def find(self, category: str, order_id: str, link_id: str) -> Order | None:
        """Return an order by its id, or by its link id where that is not given."""
        if not order_id:
            return self._by_link.get((category, link_id))
        for order in self.orders:
            if order.category == category and order.order_id == order_id:
                return order
        return None

    def realtime(self, category: str) -> Iterator[Order]:
        """Return open and recently closed orders, newest first."""
        closed = 0
        for order in reversed(self.orders):
            if order.category != category:
                continue
            if order.is_open:
                yield order
            elif closed < REALTIME_CLOSED and not order.wiped:
                closed += 1
                yield order

    def closed(self, category: str) -> Iterator[Order]:
        """Return all closed orders, newest first."""
        return (one for one in reversed(self.orders) if one.category == category and not one.is_open)

    def wipe(self) -> int:
        """Let `/v5/order/realtime` forget the closed orders, as after a restart; return how many."""
        forgotten = [one for one in self.orders if not one.is_open and not one.wiped]
        for order in forgotten:
            order.wiped = True
        return len(forgotten)

    def fills(self) -> list[dict[str, Any]]:
        """Return every execution with the nanosecond of its match, oldest first."""
        return [
            {
                "category": trade.order.category,
                "time_ns": trade.execution.time_ns,
                **execution_row(trade.order, trade.execution),
            }
            for trade in self.trades
        ]

    def counters(self) -> dict[str, Any]:
        """Return what was received, taken and filled."""
        outcomes = Counter(one.outcome for one in self.received)
        return {
            "orders_received": len(self.received),
            "orders_taken": outcomes["taken"],
            "orders_lost": outcomes["lost"],
            "duplicates_refused": outcomes["110072"] + outcomes["170141"],
            "outcomes": dict(outcomes),
            "received_by_link_id": dict(
                Counter(str(one.body.get("orderLinkId", "")) for one in self.received)
            ),
            "fills_by_link_id": dict(Counter(one.order.link_id for one in self.trades)),
            "filled_orders_by_link_id": dict(Counter(one.link_id for one in self.orders if one.executions)),
        }
