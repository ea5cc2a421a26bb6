"""A trade of two legs: given what the exchange reports it says what to do next, until both legs are equal.

Without network and clock. Both legs go out at once. When both are over and unequal an open goes back and a
close goes on (unwinding.py), in bounded tries at bounded prices; what cannot be made equal is left over. A
trade that an earlier process began is resumed from its state and goes the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal

import msgspec

from blackbird.market.decimals import EXACT, ZERO
from blackbird.market.instrument import Instrument
from blackbird.trading.leg_order import BUY, Fill, LegEvent, LegOrder, Side
from blackbird.trading.orders import (
    BUY_LEG_FAILED,
    CLOSE_SPREAD,
    SELL_LEG_FAILED,
    Order,
)
from blackbird.trading.sent_order import SentOrder
from blackbird.trading.sizing import Sizes
from blackbird.trading.unwinding import (
    PAUSES_MS,
    TRIES,
    Held,
    LegTerms,
    Need,
    is_closable,
    need_to_go_back,
    need_to_go_on,
    slippage_percent,
)

NOT_FILLED = "not filled"
ORDER_NOT_PLACED = "order not placed"

# The exchange takes no request that is older.
WINDOW_MS = 2_000
# A close whose lagging leg was refused this often in a row, with a code that says why, does not go on.
MOST_REFUSED = 2

# How much of an instrument may be traded on a side and only reduce what the account has of it.
Reducible = Callable[[Instrument, Side], Decimal]


class Send(msgspec.Struct, frozen=True):
    """Send an order that the exchange must not take after `deadline`; one `is_new` is journaled before."""

    order: LegOrder
    deadline: int
    is_new: bool


class LookUp(msgspec.Struct, frozen=True):
    """Ask the exchange what it knows of an order, and tell `Trade.looked_up` or `look_up_failed`."""

    link_id: str
    instrument: Instrument


Action = Send | LookUp


class TradeState(msgspec.Struct):
    """All that is known of a trade, as it is journaled.

    `order` is the order as it was asked, `sizes` what is sent of it; link ids begin with `link_prefix`.
    `most_slippage_percent` is how far unwinding may trade from the best price of then.
    """

    trade_id: str
    link_prefix: str
    order: Order
    request_key: str | None
    sizes: Sizes
    buy: LegTerms
    sell: LegTerms
    most_slippage_percent: Decimal
    intended_at: int
    orders: list[SentOrder] = []


class Trade:
    """The state machine of one trade; `reducible` tells what may be traded with `reduce_only`."""

    def __init__(self, state: TradeState, reducible: Reducible) -> None:
        self.state = state
        self._reducible = reducible

    # --- what happens ----------------------------------------------------------------------------

    def start(self, now: int) -> list[Action]:
        """Plan both first orders and return how to begin."""
        state = self.state
        expires_at = state.order.expires_at
        deadline = now + WINDOW_MS if expires_at is None else min(expires_at, now + WINDOW_MS)
        for leg, quantity in (
            (state.buy, state.sizes.buy_quantity),
            (state.sell, state.sizes.sell_quantity),
        ):
            instrument = leg.rules.instrument
            order = LegOrder(
                f"{state.link_prefix}-{'b' if leg.side == BUY else 's'}1",
                instrument,
                leg.side,
                quantity,
                limit=leg.limit,
                reduce_only=self._is_close and self._only_reduces(leg, leg.side, quantity),
            )
            state.orders.append(SentOrder(order, deadline, may_repeat=True))
        return self._advance(now)

    def resume(self, now: int) -> list[Action]:
        """Go on with a trade that an earlier process began: ask about every order that is not over."""
        for sent in self.state.orders:
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
    def is_over(self) -> bool:
        """Return whether all orders are over and nothing more is to be traded."""
        return self._are_orders_over and not self._needs()

    @property
    def wake_at(self) -> int | None:
        """When `tick` has something to do, None where only an event has."""
        times = [sent.look_up_at for sent in self.state.orders if sent.look_up_at is not None]
        if self._are_orders_over:
            times.extend(self._next_try_at(need) for need in self._needs())
        return min(times, default=None)

    @property
    def fills(self) -> tuple[Fill, ...]:
        """All fills so far."""
        return tuple(fill for sent in self.state.orders for fill in sent.fills.values())

    @property
    def held(self) -> Held:
        """What the fills so far come to."""
        return Held.of(self.state.buy, self.state.sell, self.fills)

    @property
    def matched(self) -> Decimal:
        """The size that both legs have, and that the trade is booked with."""
        state = self.state
        matched = self.held.matched(state.buy, state.sell, state.sizes.size)
        if not self._is_close and not is_closable(matched, state.buy, state.sell):
            return ZERO
        return matched

    @property
    def refusal(self) -> str | None:
        """The reply's `info` where nothing is matched, None where something is."""
        if self.matched:
            return None
        bought, sold = self._filled(self.state.buy), self._filled(self.state.sell)
        if bought and not sold:
            return SELL_LEG_FAILED
        if sold and not bought:
            return BUY_LEG_FAILED
        if bought:
            return NOT_FILLED
        return self._why_not_filled()

    def sent_at(self, link_id: str) -> int:
        """Return when an order was sent at the earliest."""
        sent = self._find(link_id)
        return self.state.intended_at if sent is None else sent.deadline - WINDOW_MS

    def outstanding(self, instrument: Instrument, side: Side) -> Decimal:
        """Return how much of an instrument the orders that are not over may still trade on a side."""
        total = ZERO
        for sent in self.state.orders:
            if not sent.is_over and (sent.order.instrument, sent.order.side) == (instrument, side):
                left = EXACT.subtract(sent.order.quantity, sent.filled)
                total = EXACT.add(total, max(left, ZERO))
        return total

    # --- what to do ------------------------------------------------------------------------------

    @property
    def _is_close(self) -> bool:
        return self.state.order.action == CLOSE_SPREAD

    @property
    def _are_orders_over(self) -> bool:
        return all(sent.is_over for sent in self.state.orders)

    def _advance(self, now: int) -> list[Action]:
        if self._are_orders_over:
            for need in self._needs():
                if self._next_try_at(need) <= now:
                    self._plan(need, now)
        actions: list[Action] = []
        for sent in self.state.orders:
            if sent.phase == "planned":
                is_new = sent.sendings == 0
                sent.send()
                actions.append(Send(sent.order, sent.deadline, is_new))
            elif sent.begin_look_up(now):
                actions.append(LookUp(sent.link_id, sent.order.instrument))
        return actions

    def _needs(self) -> list[Need]:
        """Return what has to be traded besides, now that all orders are over."""
        state, held = self.state, self.held
        if self._is_close:
            target = min(max(held.buy, held.sell), state.sizes.size)
            on = [
                need_to_go_on(leg, has, target)
                for leg, has in ((state.buy, held.buy), (state.sell, held.sell))
            ]
            going_on = [need for need in on if need is not None and self._may_try(need)]
            if going_on:
                return going_on
        matched = self.matched
        back = [
            need_to_go_back(leg, has, matched)
            for leg, has in ((state.buy, held.buy), (state.sell, held.sell))
        ]
        return [need for need in back if need is not None and self._may_try(need)]

    def _may_try(self, need: Need) -> bool:
        if len(self._tries(need)) >= TRIES:
            return False
        if not need.goes_on:
            return True
        sent_for = self._sent(need.leg.rules.instrument, need.side)[-MOST_REFUSED:]
        refused = [sent for sent in sent_for if sent.refusal is not None and sent.refusal.code]
        return len(refused) < MOST_REFUSED

    def _next_try_at(self, need: Need) -> int:
        tries = len(self._tries(need))
        ended = max((sent.ended_at or 0 for sent in self.state.orders), default=0)
        return ended + PAUSES_MS[min(tries, TRIES - 1)]

    def _plan(self, need: Need, now: int) -> None:
        state = self.state
        number = 1 + sum(1 for sent in state.orders if not sent.may_repeat)
        order = LegOrder(
            f"{state.link_prefix}-u{number}",
            need.leg.rules.instrument,
            need.side,
            need.quantity,
            slippage_percent=slippage_percent(state.most_slippage_percent, len(self._tries(need))),
            reduce_only=self._only_reduces(need.leg, need.side, need.quantity),
        )
        state.orders.append(SentOrder(order, now + WINDOW_MS))

    def _only_reduces(self, leg: LegTerms, side: Side, quantity: Decimal) -> bool:
        """Return whether the account holds so much that the order can do nothing but reduce it.

        The account has one net position for all spreads: of one that others keep on the other side the
        exchange would refuse to reduce anything.
        """
        return leg.is_linear and self._reducible(leg.rules.instrument, side) >= quantity

    def _tries(self, need: Need) -> Sequence[SentOrder]:
        return [sent for sent in self._sent(need.leg.rules.instrument, need.side) if not sent.may_repeat]

    def _sent(self, instrument: Instrument, side: Side) -> list[SentOrder]:
        return [
            sent
            for sent in self.state.orders
            if (sent.order.instrument, sent.order.side) == (instrument, side)
        ]

    def _find(self, link_id: str) -> SentOrder | None:
        return next((sent for sent in self.state.orders if sent.link_id == link_id), None)

    def _filled(self, leg: LegTerms) -> bool:
        return any(sent.fills for sent in self._sent(leg.rules.instrument, leg.side))

    def _why_not_filled(self) -> str:
        refusals = [sent.refusal for sent in self.state.orders]
        if all(refusal is not None and not refusal.code for refusal in refusals):
            return ORDER_NOT_PLACED
        for refusal, failed in zip(refusals, (BUY_LEG_FAILED, SELL_LEG_FAILED), strict=False):
            if refusal is not None and refusal.code:
                return failed
        return NOT_FILLED
