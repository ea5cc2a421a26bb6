"""The instruments of a matching group and their best prices: which pairs can be worth a look.

A group of n instruments has n * (n - 1) pairs, and next to none of them crosses. The best prices are kept in
order, so that a message whose group does not cross costs the same whether the group has 2 members or 400.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from decimal import Decimal

from blackbird.market.instrument import Instrument
from blackbird.trading.spreads import Pair

# The best prices of a side without levels: nothing is above the one or below the other.
NO_BID = Decimal("-Infinity")
NO_ASK = Decimal("Infinity")


class Quote:
    """An instrument's best prices."""

    __slots__ = ("ask", "bid")

    def __init__(self) -> None:
        self.bid = NO_BID
        self.ask = NO_ASK


class MatchingGroup:
    """Instruments of one matching key, that are traded against each other, in order of joining.

    The prices may be better than what the books have by now, never worse: a pair that is not found here has
    nothing to open.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self._quotes: dict[Instrument, Quote] = {}
        self._bids: list[Decimal] = []  # sorted, one of each member
        self._asks: list[Decimal] = []

    def __iter__(self) -> Iterator[Instrument]:
        return iter(self._quotes)

    def __len__(self) -> int:
        return len(self._quotes)

    def __contains__(self, instrument: Instrument) -> bool:
        return instrument in self._quotes

    def join(self, instrument: Instrument) -> None:
        """Take an instrument in, as the last one and without prices."""
        self._quotes[instrument] = Quote()
        insort(self._bids, NO_BID)
        insort(self._asks, NO_ASK)

    def leave(self, instrument: Instrument) -> None:
        """Let a member go."""
        quote = self._quotes.pop(instrument)
        del self._bids[bisect_left(self._bids, quote.bid)]
        del self._asks[bisect_left(self._asks, quote.ask)]

    def quote(self, instrument: Instrument, bid: Decimal, ask: Decimal) -> None:
        """Note the best prices of a member."""
        quote = self._quotes[instrument]
        if bid != quote.bid:
            del self._bids[bisect_left(self._bids, quote.bid)]
            insort(self._bids, bid)
            quote.bid = bid
        if ask != quote.ask:
            del self._asks[bisect_left(self._asks, quote.ask)]
            insort(self._asks, ask)
            quote.ask = ask

    def crossing(self, instrument: Instrument) -> list[Pair]:
        """Return the pairs of `instrument` with bid(short) > ask(long), in order of joining, long first."""
        if self._bids[-1] <= self._asks[0]:
            return []
        own = self._quotes[instrument]
        before: list[Pair] = []
        as_long: list[Pair] = []
        after: list[Pair] = []
        as_short = before
        for other, quote in self._quotes.items():
            if quote is own:
                as_short = after
                continue
            if own.bid > quote.ask:
                as_short.append(Pair(other, instrument))
            if quote.bid > own.ask:
                as_long.append(Pair(instrument, other))
        return before + as_long + after

    def all_crossing(self) -> list[Pair]:
        """Return all pairs with bid(short) > ask(long), in order of joining, long first."""
        return [pair for long in self._quotes for pair in self.crossing(long) if pair.long == long]
