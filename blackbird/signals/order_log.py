"""The orders that were answered: counts, times, and the newest of them."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

from blackbird.runtime.clock import milliseconds
from blackbird.status.histogram import Histogram
from blackbird.status.messages import OrderStatus
from blackbird.trading.orders import Order, Reply
from blackbird.trading.spreads import Pair

KEPT = 30


@dataclass(frozen=True)
class _Answered:
    number: int
    order: Order
    reply: Reply
    sent_ms: int
    seconds: float


class OrderLog:
    """Counts the answers by action and text (`counts`), and how long they took (`times`).

    `last_executed` has the number of the newest execution of each pair of legs, whatever their order. `clock`
    returns milliseconds since 1970.
    """

    def __init__(self, clock: Callable[[], int] = milliseconds) -> None:
        self.counts: dict[str, Counter[str]] = {}
        self.times = Histogram()
        self.number = 0
        self.last_executed: dict[frozenset[object], int] = {}
        self._clock = clock
        self._newest: deque[_Answered] = deque(maxlen=KEPT)

    def add(self, order: Order, reply: Reply, seconds: float) -> None:
        """Count the reply to an order that was sent so many seconds ago."""
        self.number += 1
        self.times.observe(seconds)
        counts = self.counts.get(order.action)
        if counts is None:
            counts = self.counts[order.action] = Counter()
        counts[reply.label] += 1
        if reply.acked:
            self.last_executed[frozenset((order.buy, order.sell))] = self.number
        sent_ms = self._clock() - round(seconds * 1000)
        self._newest.append(_Answered(self.number, order, reply, sent_ms, seconds))

    def newest(self) -> list[OrderStatus]:
        """Return the newest orders, oldest first."""
        return [_status(answered) for answered in self._newest]

    def executed_since(self, pair: Pair, number: int) -> bool:
        """Return whether an order of the pair, either way, was executed after the one with this number."""
        return self.last_executed.get(frozenset(pair), 0) > number


def _status(answered: _Answered) -> OrderStatus:
    order, reply = answered.order, answered.reply
    return OrderStatus(
        number=answered.number,
        answered_ms=answered.sent_ms + round(answered.seconds * 1000),
        action=order.action,
        buy=order.buy,
        sell=order.sell,
        size=order.size,
        buy_price=order.buy_price,
        sell_price=order.sell_price,
        acked=reply.acked,
        info=reply.info,
        decided_seconds=(answered.sent_ms - max(order.ts_buy, order.ts_sell)) / 1000,
        answered_seconds=answered.seconds,
        spread_id=order.spread_id,
    )
