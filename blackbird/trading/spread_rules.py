"""When a spread opens and when it closes: the owner's rules, and the costs that may be taken off."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Literal

from blackbird.market.decimals import EXACT, ZERO
from blackbird.trading.spreads import Pair

CloseRule = Literal["seed", "signed"]

_BASIS_POINTS = Decimal(10_000)


class SpreadRules:
    """Entry and exit rules. Prices are those of the pair's legs, fees fractions of the price.

    An entry needs bid(short) above ask(long). The exit rule `seed` needs |bid(long) - ask(short)| below the
    spread at entry; `signed` needs what is earned, entry + bid(long) - ask(short), above the costs, and so
    takes the exits, too, that earn more than the entry did.

    Costs are the taker fees of all four executions and `min_profit_bps` of the long leg's price. The fees of
    the half that lies ahead (at entry) or behind (at exit) are estimated at the prices of the half at hand.
    """

    def __init__(
        self,
        *,
        close_rule: CloseRule = "seed",
        taker_fees: Mapping[str, Decimal] | None = None,
        min_profit_bps: Decimal = ZERO,
    ) -> None:
        self._signed = close_rule == "signed"
        self._fees = dict(taker_fees or {})
        self._min_profit = EXACT.divide(min_profit_bps, _BASIS_POINTS)
        self._is_free = not self._min_profit and not any(self._fees.values())

    def opens(self, pair: Pair, ask: Decimal, bid: Decimal) -> bool:
        """Return whether to buy the long leg at `ask` and sell the short leg at `bid`."""
        if self._is_free or bid <= ask:
            return bid > ask
        return EXACT.subtract(bid, ask) > self.entry_costs(pair, ask, bid)

    def entry_costs(self, pair: Pair, ask: Decimal, bid: Decimal) -> Decimal:
        """Return what bid(short) - ask(long) has to be above at these prices."""
        if self._is_free:
            return ZERO
        fees = EXACT.multiply(self._both_fees(pair), EXACT.add(ask, bid))
        return EXACT.add(fees, EXACT.multiply(self._min_profit, ask))

    def closes(self, pair: Pair, entry: Decimal, bid: Decimal, ask: Decimal) -> bool:
        """Return whether to sell the long leg at `bid` and buy back the short leg at `ask`."""
        difference = EXACT.subtract(bid, ask)
        if not self._signed:
            return abs(difference) < entry
        earned = EXACT.add(entry, difference)
        if self._is_free:
            return earned > ZERO
        fees = EXACT.multiply(self._both_fees(pair), EXACT.add(bid, ask))
        return earned > EXACT.add(fees, EXACT.multiply(self._min_profit, bid))

    def _both_fees(self, pair: Pair) -> Decimal:
        fees = [self._fees.get(leg.channel, ZERO) for leg in pair]
        return EXACT.add(*fees)
