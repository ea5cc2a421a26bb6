"""What is traded: a symbol on a channel of the exchange, and what its sizes count."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

CHANNELS = ("spot", "linear", "inverse", "option")

# Bybit puts a power of ten from 1000 up before the coin (1000PEPEUSDT, 1000000MOGUSDT), or after it
# (SHIB1000USDT). 1INCHUSDT and SPX6900USDT are names of coins.
_MULTIPLIER_FIRST = re.compile(r"(10{3,})[A-Z]").match
_MULTIPLIER_LAST = re.compile(r"[A-Z][A-Z0-9]*?[A-Z](10{3,})(?:USDT|USDC|USD|PERP)(?![A-Z0-9])").match


class IncompatibleUnits(ValueError):
    """Two instruments whose sizes do not count the same thing; the text says what each counts."""


class Instrument(NamedTuple):
    """What is traded: a symbol on a channel (market) of the exchange."""

    channel: str
    symbol: str

    def __str__(self) -> str:
        return f"{self.channel}:{self.symbol}"


class SizeUnit(NamedTuple):
    """What a size of 1 is: `multiplier` coins of the base, or a contract of a channel of its own."""

    contract: str
    multiplier: int = 1

    def __str__(self) -> str:
        return f"{self.multiplier} {self.contract}{'s' if self.multiplier > 1 else ''}"


_INVERSE = SizeUnit("contract of 1 USD")
_OPTION = SizeUnit("option contract")


@lru_cache(maxsize=10_000)
def size_unit(instrument: Instrument) -> SizeUnit:
    """Return what a size of 1 of `instrument` is, as far as channel and symbol tell.

    Only instruments of the same unit may be traded against each other: buying 2 of one and selling 2 of the
    other would not offset. A symbol without a multiplier counts coins.
    """
    if instrument.channel == "inverse":
        return _INVERSE
    if instrument.channel == "option":
        return _OPTION
    found = _MULTIPLIER_FIRST(instrument.symbol) or _MULTIPLIER_LAST(instrument.symbol)
    return SizeUnit("coin", int(found[1]) if found else 1)


def check_units(instrument: Instrument, other: Instrument) -> None:
    """Raise IncompatibleUnits where the two must not share a group."""
    unit, other_unit = size_unit(instrument), size_unit(other)
    if unit != other_unit:
        raise IncompatibleUnits(
            f"{instrument} can't be traded against {other}: a size of 1 is {unit} of the one"
            f" and {other_unit} of the other"
        )
