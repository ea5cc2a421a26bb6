"""Trades a leftover away: one market order, bounded like the last try of an unwinding."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from blackbird.market.decimals import ZERO
from blackbird.trading.instrument_rules import InstrumentRules
from blackbird.trading.leg_order import BUY, SELL
from blackbird.trading.order_sequence import Action, OrderSequence, Reducible
from blackbird.trading.records import Leftover, average_price
from blackbird.trading.sent_order import SentOrder
from blackbird.trading.trade import Trade, TradeState
from blackbird.trading.unwinding import TRIES, LegTerms, need_to_go_back


class LeftoverState(msgspec.Struct, tag=True):
    """All that is known of a leftover that is being traded away, as it is journaled.

    `trade_id` is in the link ids of its orders; that of the trade which left it over is the `leftover`'s.
    """

    trade_id: str
    link_prefix: str
    leftover: Leftover
    leg: LegTerms
    most_slippage_percent: Decimal
    intended_at: int
    orders: list[SentOrder] = []


class LeftoverTrade(OrderSequence):
    """The state machine of one try to trade a leftover away."""

    def __init__(self, state: LeftoverState, reducible: Reducible) -> None:
        super().__init__(state, (state.leg,), reducible)
        self.state = state

    def start(self, now: int) -> list[Action]:
        """Plan the order, unless the leftover is too small for one by now, and return how to begin."""
        need = need_to_go_back(self.state.leg, self.state.leftover.size.copy_abs(), ZERO)
        if need is not None:
            self._plan(need, 1, TRIES, now)
        return self._advance(now)

    @property
    def is_over(self) -> bool:
        """Return whether the order is over: the next try is a trade of its own."""
        return self._are_orders_over

    def _next_step(self, now: int) -> None:
        del now


AnyTrade = Trade | LeftoverTrade
OpenTrade = TradeState | LeftoverState


def terms_of(leftover: Leftover, rules: InstrumentRules, base_fee: Decimal) -> LegTerms:
    """Return the leg that a leftover is what remains of; its limit is what it was traded at."""
    side = BUY if leftover.size > ZERO else SELL
    return LegTerms(rules, side, average_price(leftover.flux, leftover.size.copy_abs()), base_fee)
