"""What keeps a pair whose prices ask for an order from being traded, counted by reason and said once."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from blackbird.market.decimals import EXACT, ZERO
from blackbird.market.order_book import OrderBook
from blackbird.trading.spreads import Pair

logger = logging.getLogger(__name__)

# A leg may stand still for so many times `max_book_lag_ms` while its partner moves (10 s by default): a best
# price that merely stands is ordinary, and Bybit repeats it every 3 s; a message that comes late is not.
STANDSTILL_FACTOR = 5
# A reason that was not given for so long begins a new episode, and is logged again; but prices that are too
# far apart stay so, and are logged once.
EPISODE_MS = 60_000


class Reason(StrEnum):
    """Why a pair is not traded though its prices ask for it."""

    OUT_OF_SYNC = "a book waits for its snapshot"
    STALE = "a book has not been heard of"
    LAGGING = "a book is behind the exchange"
    STANDSTILL = "a book stands still while the other moves"
    PRICE_RATIO = "the prices are too far apart to be those of the same thing"
    BACKLOG = "messages are taken up too late"


@dataclass(frozen=True)
class Limits:
    """Bounds on what is traded; 0 is no bound.

    A book not heard of for `stale_after_ms`; a message that waited longer than `max_lag_ms` between its
    publication and being taken from the broker; a book whose last message took `max_book_lag_ms` longer from
    the exchange than its stream's quickest, or that stands still for a multiple of it while the other leg
    moves; best prices of which one is more than `max_price_ratio` times the other.
    """

    stale_after_ms: int = 0
    max_lag_ms: int = 0
    max_book_lag_ms: int = 0
    max_price_ratio: Decimal = ZERO


class PairChecks:
    """Decides whether a pair may be traded on its books as they are.

    `untraded` counts by reason and pair (or group): how often an order was withheld, for
    Reason.BACKLOG how many messages were applied without a scan. `clock` returns milliseconds since 1970.
    """

    def __init__(self, clock: Callable[[], int], limits: Limits) -> None:
        self._clock = clock
        self._limits = limits
        self.untraded: Counter[tuple[Reason, Pair | str]] = Counter()
        self._last: dict[tuple[Reason, Pair | str], int] = {}

    def allow(self, pair: Pair, long: OrderBook, short: OrderBook, bid: Decimal, ask: Decimal) -> bool:
        """Return whether the pair may be traded at these prices; where not, count and log the reason."""
        reason = self.objection(pair, long, short, bid, ask)
        if reason is None:
            return True
        self.count(reason, pair)
        return False

    def count(self, reason: Reason, of: Pair | str) -> None:
        """Count a reason, and log it where it begins an episode."""
        key = reason, of
        now = self._clock()
        last = self._last.get(key)
        self._last[key] = now
        self.untraded[key] += 1
        if last is None or (now > last + EPISODE_MS and reason is not Reason.PRICE_RATIO):
            logger.warning("%s is not traded: %s", of, reason)

    def is_stale(self, book: OrderBook) -> bool:
        """Return whether the book has not been heard of for longer than `stale_after_ms`."""
        limit = self._limits.stale_after_ms
        return limit > 0 and book.received_ms < self._clock() - limit

    def objection(
        self, pair: Pair, long: OrderBook, short: OrderBook, bid: Decimal, ask: Decimal
    ) -> Reason | None:
        """Return the reason why the pair must not be traded at these prices, None where there is none."""
        limits = self._limits
        if not (long.in_sync and short.in_sync):
            return Reason.OUT_OF_SYNC
        if limits.stale_after_ms:
            oldest = self._clock() - limits.stale_after_ms
            if long.received_ms < oldest or short.received_ms < oldest:
                return Reason.STALE
        most = limits.max_book_lag_ms
        if most:
            if long.excess_lag_ms > most or short.excess_lag_ms > most:
                return Reason.LAGGING
            # A quiet option keeps its prices for minutes, and has an old time for good reason.
            if pair.long.channel != "option" and abs(long.cts - short.cts) > most * STANDSTILL_FACTOR:
                return Reason.STANDSTILL
        if limits.max_price_ratio:
            low, high = (ask, bid) if bid > ask else (bid, ask)
            if high > EXACT.multiply(low, limits.max_price_ratio):
                return Reason.PRICE_RATIO
        return None
