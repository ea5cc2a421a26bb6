"""What the charts show: the last fifteen minutes, one point per second, in memory."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from typing import NamedTuple

from blackbird.market.instrument import Instrument

SECONDS = 900
# Pairs of which a history is kept; the one that was not seen for longest gives way.
MOST_PAIRS = 500

Legs = tuple[Instrument, Instrument]


def legs_of(first: Instrument, second: Instrument) -> Legs:
    """Return a pair's legs in an order that does not depend on the direction."""
    return (first, second) if first <= second else (second, first)


class _Series:
    """A value per second, NaN where there was none."""

    __slots__ = ("last", "values")

    def __init__(self) -> None:
        self.values = array("d", [math.nan]) * SECONDS
        self.last = 0

    def put(self, second: int, value: float) -> None:
        """Set the value of a second; those that were left out since the last one are NaN."""
        for missed in range(max(self.last + 1, second - SECONDS + 1), second):
            self.values[missed % SECONDS] = math.nan
        self.values[second % SECONDS] = value
        self.last = second

    def fill(self, second: int, value: float) -> None:
        """Set the value of a second that has none."""
        if second > self.last:
            self.put(second, value)
        elif second > self.last - SECONDS and math.isnan(self.values[second % SECONDS]):
            self.values[second % SECONDS] = value

    def read(self, seconds: Sequence[int]) -> list[float | None]:
        """Return the values of some seconds, None where there is none."""
        oldest = self.last - SECONDS
        values = self.values
        return [
            None
            if not oldest < second <= self.last or (value := values[second % SECONDS]) != value
            else value
            for second in seconds
        ]

    def mean(self) -> float:
        """Return the mean of what is there, minus infinity where nothing is."""
        there = [value for value in self.values if not math.isnan(value)]
        return sum(there) / len(there) if there else -math.inf


class Mark(NamedTuple):
    """Executions of one second: how many, and their mean spread."""

    second: int
    value: float
    opens: bool
    times: int


class _Marks:
    """Executions of a pair by second and kind, as (count, sum of spreads)."""

    __slots__ = ("sums",)

    def __init__(self) -> None:
        self.sums: dict[tuple[int, bool], tuple[int, float]] = {}

    def add(self, second: int, value: float, *, opens: bool) -> None:
        """Count an execution, and drop those of seconds that have left the chart."""
        count, total = self.sums.get((second, opens), (0, 0.0))
        self.sums[second, opens] = count + 1, total + value
        if len(self.sums) > 3 * SECONDS:
            self.sums = {key: value for key, value in self.sums.items() if key[0] > second - SECONDS}


class Points(NamedTuple):
    """A chart's data: seconds since 1970, and two series that belong to them."""

    seconds: list[int]
    first: list[float | None]
    second: list[float | None]


class History:
    """Spreads of pairs in both directions, and the PnL."""

    def __init__(self) -> None:
        self._spreads: dict[Legs, tuple[_Series, _Series]] = {}
        self._marks: dict[Legs, _Marks] = {}
        self._total = _Series()
        self._closed = _Series()
        self._first: int | None = None
        self._last = 0

    def add_spread(self, second: int, long: Instrument, short: Instrument, spread: float) -> None:
        """Note bid(short) - ask(long) of a direction."""
        legs = legs_of(long, short)
        series = self._spreads.pop(legs, None) or (_Series(), _Series())
        self._spreads[legs] = series
        if len(self._spreads) > MOST_PAIRS:
            del self._spreads[next(iter(self._spreads))]
        series[legs[0] != long].put(second, spread)
        self._span(second)

    def fill_spread(self, second: int, long: Instrument, short: Instrument, spread: float) -> None:
        """Note what a spread was, unless that second is known, or there is no room for the pair."""
        legs = legs_of(long, short)
        if legs not in self._spreads and len(self._spreads) >= MOST_PAIRS:
            return
        series = self._spreads.setdefault(legs, (_Series(), _Series()))
        series[legs[0] != long].fill(second, spread)
        self._span(second)

    def add_pnl(self, second: int, total: float, closed: float) -> None:
        """Note the PnL at mark and that of what is closed, after fees."""
        self._total.put(second, total)
        self._closed.put(second, closed)
        self._span(second)

    def add_trade(
        self, second: int, first: Instrument, second_leg: Instrument, value: float, *, opens: bool
    ) -> None:
        """Note an execution; `value` is price(second leg) - price(first leg), of legs in sorted order."""
        self._marks.setdefault((first, second_leg), _Marks()).add(second, value, opens=opens)

    def forget_trades(self) -> None:
        """Drop all executions: they belong to a history that is no more."""
        self._marks.clear()

    def marks(self, long: Instrument, short: Instrument) -> list[Mark]:
        """Return the executions of a pair, as the spread of the direction `long`, `short`."""
        legs = legs_of(long, short)
        sign = 1 if legs[0] == long else -1
        marks = self._marks.get(legs)
        if marks is None:
            return []
        return [
            Mark(second, sign * total / count, opens, count)
            for (second, opens), (count, total) in marks.sums.items()
            if second > self._last - SECONDS
        ]

    def _span(self, second: int) -> None:
        self._first = second if self._first is None else min(self._first, second)
        self._last = max(self._last, second)

    def main_direction(self, first: Instrument, second: Instrument) -> Legs:
        """Return (long, short) of the direction that was the better one on average."""
        legs = legs_of(first, second)
        series = self._spreads.get(legs)
        if series is None or series[0].mean() >= series[1].mean():
            return legs
        return legs[1], legs[0]

    def spread(self, long: Instrument, short: Instrument) -> Points:
        """Return what closing costs and what opening pays, each second: -spread(reverse), spread."""
        legs = legs_of(long, short)
        series = self._spreads.get(legs)
        if series is None:
            return Points([], [], [])
        seconds = self._seconds()
        reverse = legs[0] != long
        costs = [None if value is None else -value for value in series[not reverse].read(seconds)]
        return Points(seconds, costs, series[reverse].read(seconds))

    def pnl(self) -> Points:
        """Return the PnL at mark and that of what is closed."""
        seconds = self._seconds()
        return Points(seconds, self._total.read(seconds), self._closed.read(seconds))

    def deepest_fall(self) -> float:
        """Return the largest fall of the PnL at mark from an earlier high, as a negative number."""
        high, fall = -math.inf, 0.0
        for value in self._total.read(self._seconds()):
            if value is not None:
                high = max(high, value)
                fall = min(fall, value - high)
        return fall

    def _seconds(self) -> list[int]:
        if self._first is None:
            return []
        return list(range(max(self._first, self._last - SECONDS + 1), self._last + 1))
