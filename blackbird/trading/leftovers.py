"""What real trades have left over: what it adds up to, and which spreads it keeps from being opened."""

from __future__ import annotations

from decimal import Decimal

from blackbird.market.decimals import EXACT, ZERO
from blackbird.market.instrument import Instrument
from blackbird.trading.orders import Refused, invalid_leftover
from blackbird.trading.records import TRADED_AWAY, Leftover, Resolved
from blackbird.trading.spreads import Pair

LeftoverKey = tuple[str, int]


class Leftovers:
    """Leftovers by instrument. Those that were traded away are part of an Unwind and not counted any more."""

    def __init__(self) -> None:
        self.open: dict[LeftoverKey, Leftover] = {}
        self.resolved: set[LeftoverKey] = set()
        # Those of which an order is at the exchange just now.
        self.in_trade: set[LeftoverKey] = set()
        # Dust and what was accepted included: sizes in base coin, and the cash paid less the cash received.
        self.sizes: dict[Instrument, Decimal] = {}
        self._paid: dict[Instrument, Decimal] = {}
        self._last_numbers: dict[str, int] = {}

    def add(self, leftover: Leftover) -> None:
        """Count a leftover, and let it block its pair unless it is dust."""
        self._count(leftover.instrument, leftover.size, leftover.flux)
        self._last_numbers[leftover.trade_id] = max(
            leftover.number, self._last_numbers.get(leftover.trade_id, 0)
        )
        if leftover.blocks:
            self.open[leftover.key] = leftover

    def resolve(self, resolved: Resolved) -> None:
        """Let a leftover block no longer; one that is not open stays as it is."""
        self.in_trade.discard(resolved.key)
        leftover = self.open.pop(resolved.key, None)
        if leftover is None:
            return
        self.resolved.add(resolved.key)
        if resolved.resolution == TRADED_AWAY:
            self._count(leftover.instrument, leftover.size.copy_negate(), leftover.flux.copy_negate())

    def find(self, trade_id: str, number: int) -> Leftover | None:
        """Return an open leftover at rest, None for a resolved one; raises Refused for any other."""
        key = (trade_id, number)
        if key in self.in_trade:
            raise Refused(invalid_leftover("expected one at rest, an order of it is at the exchange"))
        leftover = self.open.get(key)
        if leftover is None and key not in self.resolved:
            raise Refused(invalid_leftover("expected an open one, was unknown"))
        return leftover

    def next_number(self, trade_id: str) -> int:
        """Return the number of the next leftover of a trade."""
        return self._last_numbers.get(trade_id, 0) + 1

    def size(self, instrument: Instrument) -> Decimal:
        """Return what is left over of `instrument`: above zero bought, below zero sold."""
        return self.sizes.get(instrument, ZERO)

    def paid(self, instrument: Instrument) -> Decimal:
        """Return the cash paid less the cash received for what is left over of `instrument`."""
        return self._paid.get(instrument, ZERO)

    def blocks(self, pair: Pair) -> bool:
        """Return whether a spread of `pair`, in either direction, must not be opened."""
        legs = set(pair)
        return any(
            leftover.instrument in legs if leftover.pair is None else legs == set(leftover.pair)
            for leftover in self.open.values()
        )

    def _count(self, instrument: Instrument, size: Decimal, flux: Decimal) -> None:
        self.sizes[instrument] = EXACT.add(self.size(instrument), size)
        self._paid[instrument] = EXACT.subtract(self.paid(instrument), flux)
