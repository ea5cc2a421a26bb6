"""One instrument's order book, kept by Bybit's protocol, with the size that we have consumed from its levels.

Protocol: https://bybit-exchange.github.io/docs/v5/websocket/public/orderbook
"""

from __future__ import annotations

from bisect import bisect_left, insort
from decimal import Decimal
from enum import Enum, auto
from typing import NamedTuple

import msgspec

from blackbird.market.book_message import BookData, BookMessage
from blackbird.market.decimals import EXACT
from blackbird.market.levels import Levels, best_level, decimal_levels
from blackbird.market.stream_lag import StreamLag

Sizes = dict[Decimal, Decimal]  # by price

# A stream that goes on for so long with update ids below the book's is not the one that the book came from.
STALLED_MESSAGES = 10
STALLED_MS = 2000


class Level:
    """A price with the size that the exchange last reported for it and what is left of that for us."""

    __slots__ = ("price", "remaining", "size")

    def __init__(self, price: Decimal, size: Decimal) -> None:
        self.price = price
        self.size = size
        self.remaining = size


class LevelView(NamedTuple):
    """A level as of now: see Level."""

    price: Decimal
    size: Decimal
    remaining: Decimal


class Outcome(Enum):
    """What a message did to a book."""

    __hash__ = object.__hash__  # Enum's own is Python, and each message is counted by its outcome

    APPLIED = auto()  # the book is now what the exchange says
    DUPLICATE = auto()  # a copy of what the book holds; nothing changed
    STALE = auto()  # from before the book's state; ignored and counted
    AWAITING_SNAPSHOT = auto()  # a delta, while the book waits for a snapshot; ignored
    GAP = auto()  # updates are missing, or the book contradicts itself: it waits for a snapshot now


class Snapshot(msgspec.Struct, gc=False):
    """One side of a snapshot in plain form: its JSON, and the first level, which is the best."""

    json: bytes
    price: Decimal
    size: Decimal


class Side:
    """The levels of one side of a book.

    Prices of levels with a remaining size are sorted; a level that was consumed whole is not among them and
    comes back only when the exchange reports another size for it. A snapshot in plain form is kept as it
    came until more than its best level is asked for: the next one often comes before that.
    """

    __slots__ = ("_best", "_consumed", "_lazy_snapshot", "_prices", "_sizes")

    def __init__(self, *, best_is_highest: bool) -> None:
        self._best = -1 if best_is_highest else 0
        self._sizes: Sizes = {}  # as the exchange has reported them
        # A plain sorted list: at book sizes moving its tail is several times faster than what a SortedDict
        # does for an insertion (benchmarks/README.md).
        self._prices: list[Decimal] = []
        # Levels that somebody has been given and whose size has been the same since.
        self._consumed: dict[Decimal, Level] = {}
        self._lazy_snapshot: Snapshot | None = None  # in place of sizes and prices

    def best_price(self) -> Decimal | None:
        """Return the price of the best level that has something left for us."""
        if self._lazy_snapshot is not None:
            return self._lazy_snapshot.price
        return self._prices[self._best] if self._prices else None

    def best(self) -> Level:
        """Return the best level that has something left for us, to be consumed.

        Raises IndexError where there is none (`best_price` is None).
        """
        lazy = self._lazy_snapshot
        price = self._prices[self._best] if lazy is None else lazy.price
        level = self._consumed.get(price)
        if level is None:
            size = self._sizes[price] if lazy is None else lazy.size
            level = self._consumed[price] = Level(price, size)
        return level

    def best_reported(self) -> tuple[Decimal, Decimal] | None:
        """Return price and size of the best level as the exchange has it, None where there is none."""
        lazy = self._lazy_snapshot
        if lazy is not None:
            return lazy.price, lazy.size
        # Levels that were consumed whole are reported all the same.
        prices = list(self._consumed)
        if self._prices:
            prices.append(self._prices[self._best])
        if not prices:
            return None
        price = max(prices) if self._best else min(prices)
        return price, self._sizes[price]

    def peek(self) -> LevelView | None:
        """Return the best level that has something left for us, None where there is none; changes nothing."""
        price = self.best_price()
        if price is None:
            return None
        level = self._consumed.get(price)
        if level is not None:
            return LevelView(price, level.size, level.remaining)
        size = self._sizes[price] if self._lazy_snapshot is None else self._lazy_snapshot.size
        return LevelView(price, size, size)

    def top(self, count: int) -> list[LevelView]:
        """Return the best levels, best first, those of which nothing is left for us included."""
        lazy = self._lazy_snapshot
        if lazy is not None:
            first = b'"],['.join(lazy.json.split(b'"],[', count)[:count]).removesuffix(b'"]]') + b'"]]'
            return [LevelView(price, size, size) for price, size in decimal_levels(first) if size]
        best = self._prices[: -count - 1 : -1] if self._best else self._prices[:count]
        levels = {price: LevelView(price, self._sizes[price], self._sizes[price]) for price in best}
        for price, level in self._consumed.items():
            if price in levels or not level.remaining:
                levels[price] = LevelView(price, level.size, level.remaining)
        return sorted(levels.values(), reverse=self._best == -1)[:count]

    def update(self, levels: Levels) -> None:
        """Apply a delta's levels: absolute sizes, zero removes; removing what is not there is no error."""
        self._read()
        sizes = self._sizes
        prices = self._prices
        consumed = self._consumed
        for price, size in levels:
            known = sizes.get(price)
            if known is None:
                if size:
                    sizes[price] = size
                    insort(prices, price)
            elif known != size:
                taken = consumed.pop(price, None) if consumed else None
                if not size:
                    del sizes[price]
                    if taken is None or taken.remaining:
                        del prices[bisect_left(prices, price)]
                else:
                    sizes[price] = size
                    if taken is not None and not taken.remaining:
                        insort(prices, price)

    def checked(self, levels: msgspec.Raw | Levels) -> Snapshot | Sizes:
        """Return a snapshot's levels as `replace` takes them; raises InvalidMessage."""
        if isinstance(levels, list):
            return _sizes(levels)
        json = bytes(levels)
        if self._consumed:
            return _sizes(json)
        if self._lazy_snapshot is not None and self._lazy_snapshot.json == json:
            return self._lazy_snapshot
        best = best_level(json, highest=self._best == -1)
        return _sizes(json) if best is None else Snapshot(json, *best)

    def replace(self, snapshot: Snapshot | Sizes) -> None:
        """Put a snapshot in place; what was consumed of a level of the same size stays consumed."""
        if isinstance(snapshot, Snapshot):
            self._lazy_snapshot = snapshot
            return
        self._lazy_snapshot = None
        self._sizes = snapshot
        consumed = self._consumed
        if consumed:
            consumed = {
                price: level for price, level in consumed.items() if snapshot.get(price) == level.size
            }
            self._consumed = consumed
        self._prices = sorted(
            price for price in snapshot if price not in consumed or consumed[price].remaining
        )

    def consume(self, level: Level, size: Decimal) -> None:
        """Take `size` of `level`; without effect where the exchange has reported another size since."""
        self._read()
        level.remaining = EXACT.subtract(level.remaining, size)
        if not level.remaining and self._consumed.get(level.price) is level:
            del self._prices[bisect_left(self._prices, level.price)]

    def reported(self) -> Sizes:
        """Return {price: size} as the exchange has reported it."""
        self._read()
        return dict(self._sizes)

    def available(self) -> Sizes:
        """Return {price: size} of what is left for us."""
        self._read()
        consumed = self._consumed
        return {
            price: consumed[price].remaining if price in consumed else self._sizes[price]
            for price in self._prices
        }

    def _read(self) -> None:
        if self._lazy_snapshot is not None:
            self.replace(_sizes(self._lazy_snapshot.json))


class OrderBook:
    """The book of one instrument.

    `in_sync` says whether it may be traded on: a snapshot has come and no gap since. With `consecutive` off,
    update ids may skip and only must not go back.
    """

    __slots__ = (
        "_consecutive",
        "_stale_in_a_row",
        "asks",
        "bids",
        "cts",
        "gaps",
        "in_sync",
        "lag",
        "lag_ms",
        "received_ms",
        "sequence_id",
        "stale",
        "update_id",
        "version",
    )

    def __init__(self, *, consecutive: bool = True) -> None:
        self.bids = Side(best_is_highest=True)
        self.asks = Side(best_is_highest=False)
        self.in_sync = False
        # Of the last message applied, or of the delta that showed a gap: the snapshot must not be older.
        self.update_id = 0
        self.sequence_id = 0
        self.cts = 0  # matching engine's milliseconds
        self.received_ms = 0  # milliseconds of the last message that agreed with the book
        self.version = 0  # rises with each message applied
        self.lag = StreamLag()
        self.lag_ms = 0  # of the last message applied; see `excess_lag_ms`
        self.stale = 0
        self.gaps = 0
        self._consecutive = consecutive
        self._stale_in_a_row = 0

    def apply(self, message: BookMessage, received_ms: int) -> Outcome:
        """Apply a message, published at `received_ms` (milliseconds).

        Raises InvalidMessage on levels that are no prices and sizes; the book is then as before.
        """
        data = message.data
        if message.type == "snapshot":
            bids = self.bids.checked(data.b)
            asks = self.asks.checked(data.a)
            # A copy that was sent again: a new one is published later, whatever its u.
            if (
                received_ms <= self.received_ms
                and message.cts < self.cts
                and data.seq < self.sequence_id
                and data.u < self.update_id
            ):
                self.stale += 1
                return Outcome.STALE
            # Depth 1 repeats its snapshot every 3 s. A snapshot with u = 1 comes after a restart of the
            # exchange's service and is a copy only if it holds what the book holds.
            if self.in_sync and data.u == self.update_id and (data.u != 1 or self._holds(data)):
                self.received_ms = max(self.received_ms, received_ms)
                return Outcome.DUPLICATE
            self.bids.replace(bids)
            self.asks.replace(asks)
            self.in_sync = True
        else:
            changed_bids = decimal_levels(data.b)
            changed_asks = decimal_levels(data.a)
            if not self.in_sync:
                return Outcome.AWAITING_SNAPSHOT
            if data.u > self.update_id + 1 and self._consecutive:
                self.update_id = data.u
                self.sequence_id = data.seq
                self.cts = message.cts
                return self._gap()
            if data.u <= self.update_id:
                # A delta with u = 1 belongs to a service that was restarted and whose snapshot we missed.
                if data.u == 1:
                    return self._gap()
                self._stale_in_a_row += 1
                if self._stale_in_a_row >= STALLED_MESSAGES and received_ms > self.received_ms + STALLED_MS:
                    return self._gap()
                self.stale += 1
                return Outcome.STALE
            self.bids.update(changed_bids)
            self.asks.update(changed_asks)
        self.update_id = data.u
        self.sequence_id = data.seq
        self.cts = message.cts
        self.received_ms = received_ms
        self.version += 1
        self._stale_in_a_row = 0
        return self._gap() if self._crossed() else Outcome.APPLIED

    @property
    def excess_lag_ms(self) -> int:
        """How much longer the last message applied took from the exchange than the quickest of its stream."""
        return self.lag.excess(self.lag_ms)

    def invalidate(self) -> None:
        """Keep the book from being traded on before its next snapshot."""
        self.in_sync = False

    def _holds(self, snapshot: BookData) -> bool:
        return self.bids.reported() == _sizes(snapshot.b) and self.asks.reported() == _sizes(snapshot.a)

    def _crossed(self) -> bool:
        bid = self.bids.best_price()
        ask = self.asks.best_price()
        return bid is not None and ask is not None and bid >= ask

    def _gap(self) -> Outcome:
        self.in_sync = False
        self.gaps += 1
        return Outcome.GAP


def _sizes(levels: bytes | msgspec.Raw | Levels) -> Sizes:
    return {price: size for price, size in dict(decimal_levels(levels)).items() if size}
