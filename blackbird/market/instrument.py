"""What is traded: a symbol on a channel of the exchange."""

from __future__ import annotations

from typing import NamedTuple

CHANNELS = ("spot", "linear", "inverse", "option")


class Instrument(NamedTuple):
    """What is traded: a symbol on a channel (market) of the exchange."""

    channel: str
    symbol: str

    def __str__(self) -> str:
        return f"{self.channel}:{self.symbol}"
