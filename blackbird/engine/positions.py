"""What orders may do to the account's positions, with the trades that run."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from blackbird.market.decimals import EXACT, ZERO
from blackbird.market.instrument import Instrument
from blackbird.trading.engine import TradingEngine
from blackbird.trading.leg_order import SELL, Side
from blackbird.trading.order_sequence import OrderSequence


def reducible(
    engine: TradingEngine, running: Iterable[OrderSequence], instrument: Instrument, side: Side
) -> Decimal:
    """Return how much may be traded on a side and does nothing but reduce what spreads have of it.

    What trades have left over counts where it makes that less: a close that is tried again must not open a
    position on the other side.
    """
    there = (engine.positions.get(instrument, ZERO), engine.held(instrument))
    return _reducible(there, running, instrument, side)


def reducible_with_leftovers(
    engine: TradingEngine, running: Iterable[OrderSequence], instrument: Instrument, side: Side
) -> Decimal:
    """Return how much may be traded on a side and does nothing but reduce what the account has of it."""
    return _reducible((engine.held(instrument),), running, instrument, side)


def _reducible(
    there: tuple[Decimal, ...], running: Iterable[OrderSequence], instrument: Instrument, side: Side
) -> Decimal:
    change = outstanding = ZERO
    for trade in running:
        change = EXACT.add(change, trade.change(instrument))
        outstanding = EXACT.add(outstanding, trade.outstanding(instrument, side))
    nets = [EXACT.add(position, change) for position in there]
    left = min(nets) if side == SELL else EXACT.subtract(ZERO, max(nets))
    return max(EXACT.subtract(left, outstanding), ZERO)
