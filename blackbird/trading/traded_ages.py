"""How old the books are that orders are made on."""

from __future__ import annotations

from typing import NamedTuple


class AgeSummary(NamedTuple):
    """Number of orders, and the median and 95th percentile of their books' ages in milliseconds."""

    orders: int
    p50: int
    p95: int


class TradedAges:
    """Ages of the books traded on, one for each order: milliseconds since its older book was heard of."""

    def __init__(self) -> None:
        self.total = 0
        self._ages: list[int] = []

    def note(self, age_ms: int) -> None:
        """Count an order."""
        self.total += 1
        self._ages.append(age_ms)

    def take(self) -> AgeSummary | None:
        """Return the summary of the orders since the last call, None where there was no order."""
        ages, self._ages = sorted(self._ages), []
        if not ages:
            return None
        return AgeSummary(len(ages), ages[len(ages) // 2], ages[len(ages) * 95 // 100])
