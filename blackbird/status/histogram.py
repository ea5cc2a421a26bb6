"""Latencies counted by how long they took, in buckets that fit a trading system."""

from __future__ import annotations

import operator
from bisect import bisect_left

import msgspec

# Upper bounds in seconds; those of Prometheus' clients begin at 5 ms, where most of what is measured is over.
BUCKETS = (
    0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05,
    0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
# A delay beyond it, or a clock that is behind another, is counted as the nearest of these.
LONGEST_MS = 60_000


class Counts(msgspec.Struct, frozen=True, array_like=True):
    """A histogram as it is published: [sum of all in seconds, [count of each bucket, the last unbounded]]."""

    sum: float = 0.0
    counts: tuple[int, ...] = (0,) * (len(BUCKETS) + 1)

    @property
    def total(self) -> int:
        """Return how many were observed."""
        return sum(self.counts)

    def __add__(self, other: Counts) -> Counts:
        """Return what was observed here and by another process."""
        return Counts(self.sum + other.sum, tuple(map(operator.add, self.counts, other.counts)))

    def since(self, earlier: Counts) -> Counts:
        """Return what was observed after `earlier`, a histogram of the same process."""
        counts = tuple(now - before for now, before in zip(self.counts, earlier.counts, strict=True))
        return Counts(self.sum - earlier.sum, counts)

    def quantile(self, share: float) -> float | None:
        """Return an estimate in seconds of what `share` (0 to 1) stay below; None where nothing was observed.

        Linear within a bucket, as Prometheus' histogram_quantile; beyond the last bound it is that bound.
        """
        rank = share * self.total
        if not self.total:
            return None
        below = 0
        lower = 0.0
        for upper, count in zip(BUCKETS, self.counts, strict=False):
            if count and below + count >= rank:
                return lower + (upper - lower) * max(0.0, rank - below) / count
            below += count
            lower = upper
        return BUCKETS[-1]


class Histogram:
    """Counts durations in seconds."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BUCKETS) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count a duration."""
        self._counts[bisect_left(BUCKETS, seconds)] += 1
        self._sum += seconds

    def add(self, seconds: float, times: int) -> None:
        """Count a duration so many times."""
        self._counts[bisect_left(BUCKETS, seconds)] += times
        self._sum += seconds * times

    def counts(self) -> Counts:
        """Return what was counted so far."""
        return Counts(self._sum, tuple(self._counts))


class MillisecondHistogram:
    """Counts durations that are known in whole milliseconds, at a fifth of the price.

    `tally` is what the hot path counts in: `tally[milliseconds] += 1`. It is sorted into the buckets by
    `counts`, which should be called every few seconds.
    """

    def __init__(self) -> None:
        self.tally: dict[int, int] = _Tally()
        self._histogram = Histogram()

    def counts(self) -> Counts:
        """Return what was counted so far."""
        for milliseconds, times in self.tally.items():
            self._histogram.add(min(max(milliseconds, 0), LONGEST_MS) / 1000, times)
        self.tally.clear()
        return self._histogram.counts()


class _Tally(dict[int, int]):
    def __missing__(self, milliseconds: int) -> int:
        return 0
