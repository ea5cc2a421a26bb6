"""One instrument's order book, kept by Bybit's protocol, with the size that we have taken from its levels.

Protocol: https://bybit-exchange.github.io/docs/v5/websocket/public/orderbook
"""

from __future__ import annotations

from bisect import bisect_left, insort
from decimal import Decimal
from enum import Enum, auto

from messages import EXACT, ZERO, BookData, BookMessage, Levels, TextLevels, decimal_levels

# A stream that goes on for so long with update ids below the book's is not the one that the book came from.
STALLED_MESSAGES = 10
STALLED_MS = 2000


class Level:
    """A price with the size that the exchange last reported for it and what is left of that for us."""

    __slots__ = ("left", "price", "size")

    def __init__(self, price: Decimal, size: Decimal) -> None:
        self.price = price
        self.size = size
        self.left = size


class Outcome(Enum):
    """What a message did to a book."""

    APPLIED = auto()  # the book is now what the exchange says
    REPEATED = auto()  # a copy of what the book holds; nothing changed
    STALE = auto()  # from before the book's state; ignored and counted
    WAITING = auto()  # a delta, while the book waits for a snapshot; ignored
    HOLE = auto()  # updates are missing, or the book contradicts itself: it waits for a snapshot now


class Side:
    """The levels of one side of a book.

    Prices of levels that have something left for us are sorted; a level that we took whole is not among them
    and comes back only when the exchange reports another size for it.
    """

    __slots__ = ("_best", "_levels", "_prices", "_snapshot")

    def __init__(self, *, best_is_highest: bool) -> None:
        self._best = -1 if best_is_highest else 0
        self._levels: dict[Decimal, Level] = {}
        # A plain sorted list: at book sizes moving its tail is several times faster than what a SortedDict
        # does for an insertion (benchmarks/README.md).
        self._prices: list[Decimal] = []
        # The snapshot whose levels these are, each with a price of its own; None after a delta.
        self._snapshot: TextLevels | None = None

    def best(self) -> Level | None:
        """Return the best level that has something left for us."""
        return self._levels[self._prices[self._best]] if self._prices else None

    def update(self, levels: Levels) -> None:
        """Apply a delta's levels: absolute sizes, zero removes; removing what is not there is no error."""
        self._snapshot = None
        known = self._levels
        prices = self._prices
        for price, size in levels:
            level = known.get(price)
            if level is None:
                if size:
                    known[price] = Level(price, size)
                    insort(prices, price)
            elif not size:
                del known[price]
                if level.left:
                    del prices[bisect_left(prices, price)]
            elif level.size != size:
                known[price] = Level(price, size)
                if not level.left:
                    insort(prices, price)

    def difference(self, snapshot: TextLevels) -> Levels:
        """Return a snapshot as the delta that brings this side to it; raises InvalidMessage.

        After another snapshot only the levels whose texts differ are looked at: most messages change a few.
        """
        before = self._snapshot
        if before is not None and len(before) == len(snapshot):
            changed = [(new, old) for new, old in zip(snapshot, before, strict=True) if new != old]
            if all(new[0] == old[0] for new, old in changed):
                return decimal_levels([new for new, _ in changed])
        sizes = dict(snapshot)
        if before is None or len(sizes) != len(snapshot):
            after = dict(decimal_levels(snapshot))
            return [(price, ZERO) for price in self._levels.keys() - after.keys()] + list(after.items())
        known = dict(before)
        levels = decimal_levels([level for level in snapshot if known.get(level[0]) != level[1]])
        stays = {price for price, _ in levels}  # written another way
        gone = decimal_levels([(price, "0") for price in known.keys() - sizes.keys()])
        return [level for level in gone if level[0] not in stays] + levels

    def replace(self, snapshot: TextLevels, difference: Levels) -> None:
        """Put a snapshot in place by its difference; what we took of a level of the same size stays taken."""
        self.update(difference)
        if len(self._levels) == len(snapshot):  # each text is a level of its own
            self._snapshot = snapshot

    def take(self, level: Level, size: Decimal) -> None:
        """Take `size` of `level`; without effect where the exchange has reported another size since."""
        level.left = EXACT.subtract(level.left, size)
        if not level.left and self._levels.get(level.price) is level:
            del self._prices[bisect_left(self._prices, level.price)]

    def reported(self) -> dict[Decimal, Decimal]:
        """Return {price: size} as the exchange has reported it."""
        return {price: level.size for price, level in self._levels.items()}

    def available(self) -> dict[Decimal, Decimal]:
        """Return {price: size} of what is left for us."""
        return {price: self._levels[price].left for price in self._prices}


class OrderBook:
    """The book of one instrument.

    `usable` says whether it may be traded on: a snapshot has come and no hole since. With `consecutive` off,
    update ids may skip and only must not go back.
    """

    __slots__ = (
        "_consecutive",
        "_stale_in_a_row",
        "asks",
        "bids",
        "cts",
        "heard_at",
        "holes",
        "sequence_id",
        "stale",
        "update_id",
        "usable",
        "version",
    )

    def __init__(self, *, consecutive: bool = True) -> None:
        self.bids = Side(best_is_highest=True)
        self.asks = Side(best_is_highest=False)
        self.usable = False
        # Of the last message applied, or of the delta that showed a hole: the snapshot must not be older.
        self.update_id = 0
        self.sequence_id = 0
        self.cts = 0  # matching engine's milliseconds
        self.heard_at = 0  # milliseconds of the last message that agreed with the book
        self.version = 0  # rises with each message applied
        self.stale = 0
        self.holes = 0
        self._consecutive = consecutive
        self._stale_in_a_row = 0

    def apply(self, message: BookMessage, heard_at: int) -> Outcome:
        """Apply a message, published at `heard_at` (milliseconds).

        Raises InvalidMessage on levels that are no prices and sizes; the book is then as before.
        """
        data = message.data
        if message.type == "snapshot":
            bids = self.bids.difference(data.b)
            asks = self.asks.difference(data.a)
            # A copy that was sent again: a new one is published later, whatever its u.
            if (
                heard_at <= self.heard_at
                and message.cts < self.cts
                and data.seq < self.sequence_id
                and data.u < self.update_id
            ):
                self.stale += 1
                return Outcome.STALE
            # Depth 1 repeats its snapshot every 3 s. A snapshot with u = 1 comes after a restart of the
            # exchange's service and is a copy only if it holds what the book holds.
            if self.usable and data.u == self.update_id and (data.u != 1 or self._holds(data)):
                self.heard_at = max(self.heard_at, heard_at)
                return Outcome.REPEATED
            self.bids.replace(data.b, bids)
            self.asks.replace(data.a, asks)
            self.usable = True
        else:
            bids = decimal_levels(data.b)
            asks = decimal_levels(data.a)
            if not self.usable:
                return Outcome.WAITING
            if data.u > self.update_id + 1 and self._consecutive:
                self.update_id = data.u
                self.sequence_id = data.seq
                self.cts = message.cts
                return self._hole()
            if data.u <= self.update_id:
                # A delta with u = 1 belongs to a service that was restarted and whose snapshot we missed.
                if data.u == 1:
                    return self._hole()
                self.stale += 1
                self._stale_in_a_row += 1
                if self._stale_in_a_row >= STALLED_MESSAGES and heard_at > self.heard_at + STALLED_MS:
                    return self._hole()
                return Outcome.STALE
            self.bids.update(bids)
            self.asks.update(asks)
        self.update_id = data.u
        self.sequence_id = data.seq
        self.cts = message.cts
        self.heard_at = heard_at
        self.version += 1
        self._stale_in_a_row = 0
        return self._hole() if self._crossed() else Outcome.APPLIED

    def distrust(self) -> None:
        """Let nobody trade on the book before the next snapshot."""
        self.usable = False

    def _holds(self, snapshot: BookData) -> bool:
        bids, asks = decimal_levels(snapshot.b), decimal_levels(snapshot.a)
        return self.bids.reported() == _present(bids) and self.asks.reported() == _present(asks)

    def _crossed(self) -> bool:
        bid = self.bids.best()
        ask = self.asks.best()
        return bid is not None and ask is not None and bid.price >= ask.price

    def _hole(self) -> Outcome:
        self.usable = False
        self.holes += 1
        return Outcome.HOLE


def _present(levels: Levels) -> dict[Decimal, Decimal]:
    return {price: size for price, size in dict(levels).items() if size}
