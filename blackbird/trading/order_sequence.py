"""Orders at the exchange one step after the other: what all that trade have in common.

Without network and clock: given what the exchange reports it says what to do next.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Protocol

import msgspec

from blackbird.market.decimals import EXACT, ZERO
from blackbird.market.instrument import Instrument
from blackbird.trading.leg_order import Fill, LegEvent, LegOrder, Side
from blackbird.trading.sent_order import SentOrder
from blackbird.trading.unwinding import LegTerms, Need, change_of, slippage_percent

# The exchange takes no request that is older.
WINDOW_MS = 2_000

# How much of an instrument may be traded on a side and only reduce what the account has of it.
Reducible = Callable[[Instrument, Side], Decimal]


class Send(msgspec.Struct, frozen=True):
    """Send an order that the exchange must not take after `deadline`; one `is_new` is journaled before."""

    order: LegOrder
    deadline: int
    is_new: bool


class LookUp(msgspec.Struct, frozen=True):
    """Ask the exchange what it knows of an order, and tell `looked_up` or `look_up_failed`."""

    link_id: str
    instrument: Instrument


Action = Send | LookUp


class SequenceState(Protocol):
    """What is known of orders, as it is journaled; link ids begin with `link_prefix`.

    `most_slippage_percent` is how far a market order may trade from the best price of then.
    """

    trade_id: str
    link_prefix: str
    most_slippage_percent: Decimal
    intended_at: int
    orders: list[SentOrder]


class OrderSequence(ABC):
    """Orders, of which the next step begins when those of the last one are over.

    `reducible` tells what may be traded with `reduce_only`.
    """

    def __init__(self, state: SequenceState, legs: tuple[LegTerms, ...], reducible: Reducible) -> None:
        self._state = state
        self.legs = legs
        self._reducible = reducible

    # --- what happens ----------------------------------------------------------------------------

    @abstractmethod
    def start(self, now: int) -> list[Action]:
        """Return how to begin."""

    @abstractmethod
    def _next_step(self, now: int) -> None:
        """Plan what is due, now that all orders are over."""

    def resume(self, now: int) -> list[Action]:
        """Go on with what an earlier process began: ask about every order that is not over."""
        for sent in self.orders:
            sent.resume(now)
        return self._advance(now)

    def take(self, event: LegEvent, now: int, *, pushes_missed: bool = False) -> list[Action]:
        """Take note of what the exchange answered or pushed, and return what to do."""
        sent = self._find(event.link_id)
        if sent is not None:
            sent.take(event, now, pushes_missed=pushes_missed)
        return self._advance(now)

    def looked_up(
        self, link_id: str, events: Iterable[LegEvent], now: int, *, pushes_missed: bool
    ) -> list[Action]:
        """Take note of what a look-up found, and return what to do."""
        sent = self._find(link_id)
        if sent is not None:
            sent.looked_up(events, now, pushes_missed=pushes_missed)
        return self._advance(now)

    def look_up_failed(self, link_id: str, now: int) -> list[Action]:
        """Take note that the exchange did not say what it knows of an order, and return what to do."""
        sent = self._find(link_id)
        if sent is not None:
            sent.look_up_failed(now)
        return self._advance(now)

    def tick(self, now: int) -> list[Action]:
        """Return what to do now that time has passed."""
        return self._advance(now)

    # --- what is known ---------------------------------------------------------------------------

    @property
    def trade_id(self) -> str:
        """What the link ids of the orders have in common."""
        return self._state.trade_id

    @property
    def orders(self) -> list[SentOrder]:
        """The orders in the order in which they were planned."""
        return self._state.orders

    @property
    @abstractmethod
    def is_over(self) -> bool:
        """Return whether all orders are over and nothing more is to be traded."""

    @property
    def wake_at(self) -> int | None:
        """When `tick` has something to do, None where only an event has."""
        return min((sent.look_up_at for sent in self.orders if sent.look_up_at is not None), default=None)

    @property
    def fills(self) -> tuple[Fill, ...]:
        """All fills so far."""
        return tuple(fill for sent in self.orders for fill in sent.fills.values())

    def change(self, instrument: Instrument) -> Decimal:
        """Return what the fills so far have changed of what the account has of an instrument."""
        total = ZERO
        for leg in self.legs:
            if leg.rules.instrument == instrument:
                for fill in self.fills:
                    if fill.instrument == instrument:
                        total = EXACT.add(total, change_of(fill, leg.rules.base))
        return total

    def outstanding(self, instrument: Instrument, side: Side) -> Decimal:
        """Return how much of an instrument the orders that are not over may still trade on a side."""
        total = ZERO
        for sent in self.sent_for(instrument, side):
            if not sent.is_over:
                left = EXACT.subtract(sent.order.quantity, sent.filled)
                total = EXACT.add(total, max(left, ZERO))
        return total

    def sent_at(self, link_id: str) -> int:
        """Return when an order was sent at the earliest."""
        sent = self._find(link_id)
        return self._state.intended_at if sent is None else sent.deadline - WINDOW_MS

    def sent_for(self, instrument: Instrument, side: Side) -> list[SentOrder]:
        """Return the orders of an instrument on a side."""
        return [
            sent for sent in self.orders if (sent.order.instrument, sent.order.side) == (instrument, side)
        ]

    @property
    def _are_orders_over(self) -> bool:
        return all(sent.is_over for sent in self.orders)

    # --- what to do ------------------------------------------------------------------------------

    def _advance(self, now: int) -> list[Action]:
        if self._are_orders_over:
            self._next_step(now)
        actions: list[Action] = []
        for sent in self.orders:
            if sent.phase == "planned":
                is_new = sent.sendings == 0
                sent.send()
                actions.append(Send(sent.order, sent.deadline, is_new))
            elif sent.begin_look_up(now):
                actions.append(LookUp(sent.link_id, sent.order.instrument))
        return actions

    def _plan(self, need: Need, number: int, tries: int, now: int) -> None:
        """Plan the market order for what has to be traded, after so many `tries`."""
        order = LegOrder(
            f"{self._state.link_prefix}-u{number}",
            need.leg.rules.instrument,
            need.side,
            need.quantity,
            slippage_percent=slippage_percent(self._state.most_slippage_percent, tries),
            reduce_only=self._only_reduces(need.leg, need.side, need.quantity),
        )
        self.orders.append(SentOrder(order, now + WINDOW_MS))

    def _only_reduces(self, leg: LegTerms, side: Side, quantity: Decimal) -> bool:
        """Return whether the account holds so much that the order can do nothing but reduce it.

        The account has one net position for all spreads: of one that others keep on the other side the
        exchange would refuse to reduce anything.
        """
        return leg.is_linear and self._reducible(leg.rules.instrument, side) >= quantity

    def _find(self, link_id: str) -> SentOrder | None:
        return next((sent for sent in self.orders if sent.link_id == link_id), None)
