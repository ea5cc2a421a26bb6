"""What orders may do to the account's positions, with the trades that run."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from blackbird.market.decimals import EXACT, ZERO
from blackbird.market.instrument import Instrument
from blackbird.trading.engine import TradingEngine
from blackbird.trading.leg_order import SELL, Side
from blackbird.trading.trade import Trade
from blackbird.trading.unwinding import change_of


def reducible(engine: TradingEngine, running: Iterable[Trade], instrument: Instrument, side: Side) -> Decimal:
    """Return how much may be traded on a side and does nothing but reduce what the account has.

    What trades have left over counts where it makes that less: a close that is tried again must not open a
    position on the other side.
    """
    change = outstanding = ZERO
    for trade in running:
        change = EXACT.add(change, _change(trade, instrument))
        outstanding = EXACT.add(outstanding, trade.outstanding(instrument, side))
    nets = [
        EXACT.add(position, change)
        for position in (engine.positions.get(instrument, ZERO), engine.held(instrument))
    ]
    there = min(nets) if side == SELL else EXACT.subtract(ZERO, max(nets))
    return max(EXACT.subtract(there, outstanding), ZERO)


def _change(trade: Trade, instrument: Instrument) -> Decimal:
    """Return what the fills of a trade have changed of an instrument so far."""
    total = ZERO
    for leg in (trade.state.buy, trade.state.sell):
        if leg.rules.instrument == instrument:
            for fill in trade.fills:
                if fill.instrument == instrument:
                    total = EXACT.add(total, change_of(fill, leg.rules.base))
    return total
