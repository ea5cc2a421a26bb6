"""What has to be traded so that both legs of a trade come out equal.

An open that comes out unequal goes back: what one leg has more than the other is sold or bought back. A close
goes on: the leg that lags trades more, so that the spread is closed. Where it cannot go on it goes back too,
so that what stays open stays hedged.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

import msgspec

from blackbird.market.decimals import EXACT, ZERO
from blackbird.trading.instrument_rules import InstrumentRules, common_step, divide, round_down
from blackbird.trading.leg_order import BUY, SELL, Fill, Side
from blackbird.trading.sizing import gross_up

ONE = Decimal(1)
HUNDRED = Decimal(100)
# Shares of the largest slippage that one try after the other may have, and what is waited before each, so
# that the book can fill up again.
SLIPPAGE_SHARES = (Decimal("0.1"), Decimal("0.2"), Decimal("0.5"), ONE, ONE)
PAUSES_MS = (0, 100, 400, 1500, 4000)
TRIES = len(SLIPPAGE_SHARES)
# Two decimals, and at least this: https://bybit-exchange.github.io/docs/v5/order/create-order
LEAST_SLIPPAGE_PERCENT = Decimal("0.01")


class LegTerms(msgspec.Struct, frozen=True):
    """A leg of a trade: its rules and limit, and the fraction of a buy that is kept as the fee."""

    rules: InstrumentRules
    side: Side
    limit: Decimal
    base_fee: Decimal

    @property
    def is_linear(self) -> bool:
        """Return whether it is a derivative, of which a position is held."""
        return self.rules.instrument.channel == "linear"


class Need(msgspec.Struct, frozen=True):
    """A quantity of a leg's instrument that is to be bought or sold besides, in base coin."""

    leg: LegTerms
    side: Side
    quantity: Decimal

    @property
    def goes_on(self) -> bool:
        """Return whether it is in the direction of the leg, and not back."""
        return self.side == self.leg.side


class Held(msgspec.Struct, frozen=True):
    """What the fills of a trade come to: bought of one leg and sold of the other, net of base-coin fees."""

    buy: Decimal
    sell: Decimal

    @classmethod
    def of(cls, buy: LegTerms, sell: LegTerms, fills: Iterable[Fill]) -> Held:
        """Return what `fills`, those of going on and going back included, have left of both legs."""
        changes = {buy.rules.instrument: ZERO, sell.rules.instrument: ZERO}
        for fill in fills:
            rules = buy.rules if fill.instrument == buy.rules.instrument else sell.rules
            changes[fill.instrument] = EXACT.add(changes[fill.instrument], change_of(fill, rules.base))
        sold = changes[sell.rules.instrument]
        return cls(changes[buy.rules.instrument], EXACT.subtract(ZERO, sold))

    def matched(self, buy: LegTerms, sell: LegTerms, size: Decimal) -> Decimal:
        """Return how much both legs have, at most `size`, on the steps of both so that it can be closed."""
        both = min(self.buy, self.sell, size)
        return round_down(max(both, ZERO), common_step(buy.rules.step, sell.rules.step))


def change_of(fill: Fill, base: str) -> Decimal:
    """Return what a fill changes of the account's base coin, or of its position, fees included."""
    change = fill.quantity if fill.side == BUY else EXACT.subtract(ZERO, fill.quantity)
    return EXACT.subtract(change, fill.fee) if fill.fee_coin == base else change


def is_closable(matched: Decimal, buy: LegTerms, sell: LegTerms) -> bool:
    """Return whether a spread of this size reaches the minimums of both legs, so that it can be closed."""
    return all(leg.rules.is_enough(matched, leg.limit) for leg in (buy, sell))


def need_to_go_back(leg: LegTerms, held: Decimal, matched: Decimal) -> Need | None:
    """Return what takes a leg back to `matched`, None where that is too small for an order."""
    surplus = EXACT.subtract(held, matched)
    if surplus <= ZERO:
        return None
    side: Side = SELL if leg.side == BUY else BUY
    quantity = surplus
    if side == BUY:
        # Not more than the surplus may arrive: what both legs have in common would no longer be whole.
        quantity = surplus if not leg.base_fee else divide(surplus, EXACT.subtract(ONE, leg.base_fee))
    return _need(leg, side, leg.rules.round_down(quantity))


def need_to_go_on(leg: LegTerms, held: Decimal, target: Decimal) -> Need | None:
    """Return what takes a leg up to `target`, None where that is too small for an order."""
    missing = EXACT.subtract(target, held)
    if missing <= ZERO:
        return None
    quantity = leg.rules.round_down(missing)
    if leg.side == BUY and leg.base_fee:
        quantity = gross_up(missing, leg.rules.step, leg.base_fee)
    return _need(leg, leg.side, quantity)


def slippage_percent(most: Decimal, tries: int) -> Decimal:
    """Return the slippage of the next try, after `tries` of them, where the last may have `most` percent."""
    share = EXACT.multiply(most, SLIPPAGE_SHARES[min(tries, TRIES - 1)])
    return max(round_down(share, LEAST_SLIPPAGE_PERCENT), LEAST_SLIPPAGE_PERCENT)


def _need(leg: LegTerms, side: Side, quantity: Decimal) -> Need | None:
    quantity = min(quantity, leg.rules.round_down(leg.rules.most_market_quantity))
    return Need(leg, side, quantity) if leg.rules.is_enough(quantity, leg.limit) else None
