"""The instruments of a matching group and their best prices: which pairs can be worth a scan.

A group of n instruments has n * (n - 1) pairs, and next to none of them crosses. The best prices are kept in
order, so that a message whose group does not cross costs the same whether the group has 2 members or 400.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from decimal import Decimal

from blackbird.market.instrument import Instrument, SizeUnit, size_unit
from blackbird.market.order_book import OrderBook
from blackbird.trading.spreads import Pair

# The best prices of a side without levels: nothing is above the one or below the other.
NO_BID = Decimal("-Infinity")
NO_ASK = Decimal("Infinity")


class _Peers:
    """Members whose sizes are of one unit, in order of joining; only they are traded against each other."""

    __slots__ = ("asks", "bids", "quotes")

    def __init__(self) -> None:
        self.quotes: dict[Instrument, _Quote] = {}
        # Plain sorted lists, one price of each member: see DESIGN.md for what a SortedList costs here.
        self.bids: list[Decimal] = []
        self.asks: list[Decimal] = []


class _Quote:
    """A member's best prices."""

    __slots__ = ("ask", "bid", "peers")

    def __init__(self, peers: _Peers) -> None:
        self.peers = peers
        self.bid = NO_BID
        self.ask = NO_ASK


class MatchingGroup:
    """Instruments of one matching key, that are traded against each other, in order of joining.

    The prices may be better than what the books have by now, never worse: a pair that is not found here has
    nothing to open.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self._quotes: dict[Instrument, _Quote] = {}
        self._peers: dict[SizeUnit, _Peers] = {}

    def __iter__(self) -> Iterator[Instrument]:
        return iter(self._quotes)

    def __len__(self) -> int:
        return len(self._quotes)

    def __contains__(self, instrument: Instrument) -> bool:
        return instrument in self._quotes

    def join(self, instrument: Instrument) -> None:
        """Take an instrument in, as the last one and without prices."""
        peers = self._peers.setdefault(size_unit(instrument), _Peers())
        self._quotes[instrument] = peers.quotes[instrument] = _Quote(peers)
        insort(peers.bids, NO_BID)
        insort(peers.asks, NO_ASK)

    def leave(self, instrument: Instrument) -> None:
        """Remove a member."""
        quote = self._quotes.pop(instrument)
        peers = quote.peers
        del peers.quotes[instrument]
        del peers.bids[bisect_left(peers.bids, quote.bid)]
        del peers.asks[bisect_left(peers.asks, quote.ask)]

    def misfit(self, instrument: Instrument) -> Instrument | None:
        """Return a member that `instrument` is not traded against, for their sizes are of two units."""
        peers = self._quotes[instrument].peers
        return next((other for other in self._quotes if other not in peers.quotes), None)

    def are_peers(self, pair: Pair) -> bool:
        """Return whether both legs are members that are traded against each other."""
        long = self._quotes.get(pair.long)
        return long is not None and pair.short in long.peers.quotes

    def update(self, instrument: Instrument, book: OrderBook) -> list[Pair]:
        """Take the best prices of a member's book; return its pairs with bid(short) > ask(long).

        They are in order of joining, long first.
        """
        quote = self._quotes[instrument]
        peers = quote.peers
        bid = book.bids.best_price()
        if bid is None:
            bid = NO_BID
        if bid is not quote.bid and bid != quote.bid:
            bids = peers.bids
            del bids[bisect_left(bids, quote.bid)]
            insort(bids, bid)
            quote.bid = bid
        ask = book.asks.best_price()
        if ask is None:
            ask = NO_ASK
        if ask is not quote.ask and ask != quote.ask:
            asks = peers.asks
            del asks[bisect_left(asks, quote.ask)]
            insort(asks, ask)
            quote.ask = ask
        return [] if peers.bids[-1] <= peers.asks[0] else _crossing(instrument, quote)

    def best_pair(self) -> Pair | None:
        """Return the pair with the largest bid(short) - ask(long); None where there are no two prices."""
        best: tuple[Decimal, Pair] | None = None
        for peers in self._peers.values():
            longs = sorted(peers.quotes, key=lambda member: peers.quotes[member].ask)[:2]
            shorts = sorted(peers.quotes, key=lambda member: -peers.quotes[member].bid)[:2]
            for pair in (Pair(long, short) for long in longs for short in shorts if long != short):
                spread = peers.quotes[pair.short].bid - peers.quotes[pair.long].ask
                if best is None or spread > best[0]:
                    best = spread, pair
        return None if best is None else best[1]

    def all_crossing(self) -> list[Pair]:
        """Return all pairs with bid(short) > ask(long), in order of joining, long first."""
        return [
            pair
            for long, quote in self._quotes.items()
            for pair in _crossing(long, quote)
            if pair.long == long
        ]


def _crossing(instrument: Instrument, own: _Quote) -> list[Pair]:
    before: list[Pair] = []
    as_long: list[Pair] = []
    after: list[Pair] = []
    as_short = before
    for other, quote in own.peers.quotes.items():
        if quote is own:
            as_short = after
            continue
        if own.bid > quote.ask:
            as_short.append(Pair(other, instrument))
        if quote.bid > own.ask:
            as_long.append(Pair(instrument, other))
    return before + as_long + after
