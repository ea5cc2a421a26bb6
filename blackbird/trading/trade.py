"""A trade of two legs: given what the exchange reports it says what to do next, until both legs are equal.

Without network and clock. Both legs go out at once. When both are over and unequal an open goes back and a
close goes on (unwinding.py), in bounded tries at bounded prices; what cannot be made equal is left over. A
trade that an earlier process began is resumed from its state and goes the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import msgspec

from blackbird.market.decimals import ZERO
from blackbird.trading.leg_order import BUY, LegOrder
from blackbird.trading.order_sequence import WINDOW_MS, Action, OrderSequence, Reducible
from blackbird.trading.orders import (
    BUY_LEG_FAILED,
    CLOSE_SPREAD,
    NOT_FILLED,
    NOT_PLACED,
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
)

# A close whose lagging leg was refused this often in a row, with a code that says why, does not go on.
MOST_REFUSED = 2


class TradeState(msgspec.Struct, tag=True):
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


class Trade(OrderSequence):
    """The state machine of one trade."""

    def __init__(self, state: TradeState, reducible: Reducible) -> None:
        super().__init__(state, (state.buy, state.sell), reducible)
        self.state = state

    def start(self, now: int) -> list[Action]:
        """Plan both first orders and return how to begin."""
        state = self.state
        expires_at = state.order.expires_at
        deadline = now + WINDOW_MS if expires_at is None else min(expires_at, now + WINDOW_MS)
        for leg, quantity in (
            (state.buy, state.sizes.buy_quantity),
            (state.sell, state.sizes.sell_quantity),
        ):
            order = LegOrder(
                f"{state.link_prefix}-{'b' if leg.side == BUY else 's'}1",
                leg.rules.instrument,
                leg.side,
                quantity,
                limit=leg.limit,
                reduce_only=self._is_close and self._only_reduces(leg, leg.side, quantity),
            )
            state.orders.append(SentOrder(order, deadline, may_repeat=True))
        return self._advance(now)

    # --- what is known ---------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Return whether all orders are over and nothing more is to be traded."""
        return self._are_orders_over and not self._needs()

    @property
    def wake_at(self) -> int | None:
        """When `tick` has something to do, None where only an event has."""
        if self._are_orders_over:
            return min((self._next_try_at(need) for need in self._needs()), default=None)
        return super().wake_at

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

    # --- what to do ------------------------------------------------------------------------------

    @property
    def _is_close(self) -> bool:
        return self.state.order.action == CLOSE_SPREAD

    def _next_step(self, now: int) -> None:
        for need in self._needs():
            if self._next_try_at(need) <= now:
                number = 1 + sum(1 for sent in self.orders if not sent.may_repeat)
                self._plan(need, number, len(self._tries(need)), now)

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
        sent_for = self.sent_for(need.leg.rules.instrument, need.side)[-MOST_REFUSED:]
        refused = [sent for sent in sent_for if sent.refusal is not None and sent.refusal.code]
        return len(refused) < MOST_REFUSED

    def _next_try_at(self, need: Need) -> int:
        tries = len(self._tries(need))
        ended = max((sent.ended_at or 0 for sent in self.state.orders), default=0)
        return ended + PAUSES_MS[min(tries, TRIES - 1)]

    def _tries(self, need: Need) -> Sequence[SentOrder]:
        return [sent for sent in self.sent_for(need.leg.rules.instrument, need.side) if not sent.may_repeat]

    def _filled(self, leg: LegTerms) -> bool:
        return any(sent.fills for sent in self.sent_for(leg.rules.instrument, leg.side))

    def _why_not_filled(self) -> str:
        refusals = [sent.refusal for sent in self.state.orders]
        if all(refusal is not None and not refusal.code for refusal in refusals):
            return NOT_PLACED
        for refusal, failed in zip(refusals, (BUY_LEG_FAILED, SELL_LEG_FAILED), strict=False):
            if refusal is not None and refusal.code:
                return failed
        return NOT_FILLED
