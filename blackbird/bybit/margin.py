"""What of the account's margin is free, and what an order of a linear instrument needs of it.

https://bybit-exchange.github.io/docs/v5/account/wallet-balance, .../position. A unified account has one
margin for all, in USD; an order that enlarges a position needs its value by the leverage, and its fee.
"""

from __future__ import annotations

from decimal import Decimal

from blackbird.bybit.account_rows import Position
from blackbird.market.decimals import EXACT, ZERO
from blackbird.market.instrument import Instrument
from blackbird.trading.instrument_rules import divide
from blackbird.trading.leg_order import BUY, Side
from blackbird.trading.sizing import MarginTerms

ONE = Decimal(1)
# https://www.bybit.com/en/help-center/article/Trading-Fee-Structure, a taker at the lowest level, in and out.
ROUND_TRIP_FEE = Decimal("0.0011")


class Margin:
    """Positions in base coin by symbol, their leverage, and what is free for more of them."""

    def __init__(self) -> None:
        # USD; None where the exchange does not say it, as in isolated margin mode.
        self.free: Decimal | None = None
        self.positions: dict[str, Decimal] = {}
        self._leverages: dict[str, Decimal] = {}

    def take(self, position: Position) -> None:
        """Take note of a position as it is now."""
        self.positions[position.symbol] = position.size
        if position.leverage is None:
            self._leverages.pop(position.symbol, None)
        else:
            self._leverages[position.symbol] = position.leverage

    def forget(self, symbol: str) -> None:
        """Have a position asked for again."""
        self.positions.pop(symbol, None)

    def terms(self, instrument: Instrument, side: Side) -> MarginTerms | None:
        """Return what an order needs, None where that is not known, as for spot, which needs none."""
        leverage = self._leverages.get(instrument.symbol)
        if instrument.channel != "linear" or leverage is None or self.free is None:
            return None
        held = self.positions.get(instrument.symbol, ZERO)
        reducing = max(held.copy_negate() if side == BUY else held, ZERO)
        return MarginTerms(reducing, EXACT.add(divide(ONE, leverage), ROUND_TRIP_FEE))
