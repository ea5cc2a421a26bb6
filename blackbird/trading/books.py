"""What executions and refusals add up to at one moment: what a checkpoint keeps."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from blackbird.market.decimals import EXACT, ZERO
from blackbird.market.instrument import Instrument
from blackbird.trading.known_orders import Mark
from blackbird.trading.orders import OpenSpread


class LegBooks(msgspec.Struct, frozen=True):
    """Cash exposure (quote coin) and position (base coin) of an instrument: above zero long, below short."""

    instrument: Instrument
    exposure: Decimal
    position: Decimal


class SpreadBooks(msgspec.Struct, frozen=True):
    """An open spread, the quantity that it was opened with, and when (ms)."""

    listed: OpenSpread
    opened: Decimal
    opened_ms: int


class PairBooks(msgspec.Struct, frozen=True):
    """What was traded of a pair, see Traded."""

    long: Instrument
    short: Instrument
    cash: Decimal
    cash_without_spread: Decimal
    long_value: Decimal
    short_value: Decimal
    opened: int
    closed: int


class Books(msgspec.Struct, frozen=True):
    """The books after the record `execution_id`, which was answered at `newest_ms`.

    Spreads are those that are open, oldest first. Leftovers are not part of it. The last mark is of these
    books; a version before made none.
    """

    execution_id: int
    newest_ms: int
    pnl: Decimal
    legs: list[LegBooks]
    spreads: list[SpreadBooks]
    pairs: list[PairBooks]
    fees: Decimal
    marks: list[Mark] = []

    def adds_up_to(self, sums: dict[Instrument, tuple[Decimal, Decimal]]) -> bool:
        """Return whether these are the books of executions with these sums, (exposure, position) each."""
        earned = ZERO
        for exposure, _ in sums.values():
            earned = EXACT.subtract(earned, exposure)
        legs = {leg.instrument: (leg.exposure, leg.position) for leg in self.legs}
        return legs == sums and self.pnl == earned
