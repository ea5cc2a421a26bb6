"""Gives the curves of spreads what was stored before the monitor began, a small slice at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

from blackbird.market.instrument import Instrument
from blackbird.monitor.board import Board
from blackbird.monitor.history import SECONDS, History

# Rows of a slice: read and taken within a few hundredths of a second, however many instruments there are.
SLICE_ROWS = 5_000
# The newest quotes may not be stored yet when they are read first; so much is read again at the end.
AGAIN_SECONDS = 60


class StoredQuote(NamedTuple):
    """An instrument's best prices at a whole second since 1970, None where the side was empty."""

    second: int
    instrument: Instrument
    bid: Decimal | None
    ask: Decimal | None


class Backfill:
    """Goes back from the first moment with pairs on the board, the newest slice first."""

    def __init__(self, board: Board, history: History) -> None:
        self._board = board
        self._history = history
        self._spans: list[tuple[int, int]] | None = None

    def next_span(self, now: int) -> tuple[int, int] | None:
        """Return the seconds (from, before) to read next, None while there are no pairs, and at the end."""
        if self._spans is None:
            if not self._board.directions:
                return None
            self._spans = self._planned(now + 1)
        return self._spans.pop() if self._spans else None

    def take(self, quotes: Sequence[StoredQuote]) -> None:
        """Give the history the spreads of the board's pairs; what it has seen itself stays."""
        seconds: dict[int, dict[Instrument, StoredQuote]] = defaultdict(dict)
        for quote in quotes:
            seconds[quote.second][quote.instrument] = quote
        for second, books in seconds.items():
            for long, short in self._board.directions:
                bought, sold = books.get(long), books.get(short)
                if bought and sold and bought.ask is not None and sold.bid is not None:
                    self._history.fill_spread(second, long, short, float(sold.bid - bought.ask))

    def _planned(self, end: int) -> list[tuple[int, int]]:
        instruments = {leg for legs in self._board.directions for leg in legs}
        length = max(1, SLICE_ROWS // len(instruments))
        again = min(length, AGAIN_SECONDS)
        spans = [(max(begin - length, end - SECONDS), begin) for begin in range(end, end - SECONDS, -length)]
        return [(end - again, end), *reversed(spans)]
