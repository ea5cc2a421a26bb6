"""Curves over time, thinned while they are made: of each stretch of time only the extremes are kept."""

from __future__ import annotations

from typing import NamedTuple


class Point(NamedTuple):
    """A value at a time, in milliseconds since 1970."""

    ms: int
    value: float


class _Stretch:
    """First, lowest, highest and last value of a stretch of time."""

    __slots__ = ("first", "highest", "last", "lowest")

    def __init__(self, point: Point) -> None:
        self.first = self.lowest = self.highest = self.last = point

    def add(self, point: Point) -> None:
        self.last = point
        if point.value < self.lowest.value:
            self.lowest = point
        elif point.value > self.highest.value:
            self.highest = point

    def join(self, other: _Stretch) -> None:
        """Take in the stretch that follows."""
        self.last = other.last
        if other.lowest.value < self.lowest.value:
            self.lowest = other.lowest
        if other.highest.value > self.highest.value:
            self.highest = other.highest


class ThinnedSeries:
    """A curve of at most `columns` stretches of equal length; the length doubles when they do not suffice.

    Drawn on no more pixel columns than that, it looks as the whole curve does.
    """

    def __init__(self, columns: int = 1200) -> None:
        self._columns = columns
        self._begin_ms = 0
        self._length_ms = 1
        self._stretches: dict[int, _Stretch] = {}  # by number, rising

    def add(self, ms: int, value: float) -> None:
        """Add a value; times do not fall."""
        if not self._stretches:
            self._begin_ms = ms
        number = (ms - self._begin_ms) // self._length_ms
        while number >= self._columns:
            self._double()
            number = (ms - self._begin_ms) // self._length_ms
        stretch = self._stretches.get(number)
        point = Point(ms, value)
        if stretch is None:
            self._stretches[number] = _Stretch(point)
        else:
            stretch.add(point)

    def points(self) -> list[Point]:
        """Return what is kept, in order of time."""
        return [
            point
            for stretch in self._stretches.values()
            for point in sorted({stretch.first, stretch.lowest, stretch.highest, stretch.last})
        ]

    def _double(self) -> None:
        self._length_ms *= 2
        halves, self._stretches = self._stretches, {}
        for number, stretch in halves.items():
            known = self._stretches.get(number // 2)
            if known is None:
                self._stretches[number // 2] = stretch
            else:
                known.join(stretch)
