"""The signal engine's core: books in groups, spreads that open and close. Without broker, clock or database.

`Signal.on_book` applies a message and says which pairs to look at; `Signal.look` is a generator that yields
the orders to send, one at a time, and is sent the reply to each. Whoever drives it decides how an order
travels: over the broker (signal_service.py), or to an engine in the same process (backtests, tests).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from decimal import Decimal

from blackbird.market.book_message import BookMessage
from blackbird.market.decimals import EXACT
from blackbird.market.instrument import Instrument
from blackbird.market.order_book import OrderBook, Outcome
from blackbird.trading.matching_group import NO_ASK, NO_BID, MatchingGroup
from blackbird.trading.orders import CLOSE_SPREAD, OPEN_SPREAD, OpenSpread, Order, Reply
from blackbird.trading.spreads import OpenSpreads, Pair, Spread, new_id

logger = logging.getLogger(__name__)

RISK_LIMIT_EXCEED = "risk limit exceed"

OrderScan = Generator[Order, Reply, None]


class Signal:
    """Books, groups and open spreads, and the rules by which spreads open and close.

    `clock` returns milliseconds since 1970; a book not heard of for `stale_after_ms` is not traded on (0: no
    limit); an order expires `order_timeout_ms` after it is made; `consecutive` see OrderBook.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], int],
        stale_after_ms: int = 0,
        order_timeout_ms: int = 2000,
        consecutive: bool = True,
    ) -> None:
        self._clock = clock
        self._stale_after_ms = stale_after_ms
        self._order_timeout_ms = order_timeout_ms
        self._consecutive = consecutive
        self.books: dict[Instrument, OrderBook] = {}
        self.groups: dict[str, MatchingGroup] = {}
        self.spreads = OpenSpreads()
        # Instruments whose book waits for a snapshot that the collector should be asked for.
        self.needs_snapshot: set[Instrument] = set()
        self.outcomes: Counter[Outcome] = Counter()
        self._group_of: dict[Instrument, MatchingGroup] = {}
        self.subscribed: set[Instrument] = set()  # by the newest subscription map
        self._removed: set[Instrument] = set()
        # A refused order's pair, with the versions of its books (long, short) that it was made on.
        self._opens_refused: dict[Pair, tuple[int, int]] = {}
        self._closes_refused: dict[Pair, tuple[int, int]] = {}
        self._beyond_risk: set[Pair] = set()

    # --- subscriptions and books -----------------------------------------------------------------

    def on_subscriptions(self, instruments: Iterable[Instrument]) -> None:
        """Take the full map of what is subscribed: instruments that it does not name any more are put out."""
        named = set(instruments)
        for instrument in (self.subscribed | set(self.books)) - named:
            self._forget(instrument)
            self._removed.add(instrument)
            logger.info("%s is no longer subscribed: removed", instrument)
        self._removed -= named
        self.subscribed = named

    def on_book(self, message: BookMessage, received_ms: int) -> Sequence[Pair]:
        """Apply a message received at `received_ms` and return the pairs worth scanning.

        Raises InvalidMessage on levels that are no prices and sizes; nothing has changed then.
        """
        instrument = message.instrument
        if instrument in self._removed:
            return ()
        book = self.books.get(instrument)
        if book is None:
            book = OrderBook(consecutive=self._consecutive)
            outcome = book.apply(message, received_ms)
            self.books[instrument] = book
        else:
            outcome = book.apply(message, received_ms)
        group = self._group_of.get(instrument)
        # An old copy does not bring an old key back.
        if group is None or (
            group.key != message.matching_key and outcome in {Outcome.APPLIED, Outcome.DUPLICATE}
        ):
            group = self._join(instrument, message.matching_key)
        self.outcomes[outcome] += 1
        if outcome is Outcome.APPLIED:
            if self.needs_snapshot:
                self.needs_snapshot.discard(instrument)
            _quote(group, instrument, book)
            crossing = group.crossing(instrument)
            if self.spreads.pairs_of(instrument):
                return _union(crossing, self._with_spreads(instrument, group))
            return crossing
        if outcome is Outcome.GAP or outcome is Outcome.AWAITING_SNAPSHOT:
            self.needs_snapshot.add(instrument)
        return ()

    def invalidate(self, instrument: Instrument) -> None:
        """Let nobody trade on the instrument's book, if it has one, before the next snapshot."""
        book = self.books.get(instrument)
        if book is not None:
            book.invalidate()
            self.needs_snapshot.add(instrument)

    def key_of(self, instrument: Instrument) -> str | None:
        """Return the matching key of the instrument's group, None where it is in none."""
        group = self._group_of.get(instrument)
        return None if group is None else group.key

    def all_pairs(self, key: str) -> list[Pair]:
        """Return the pairs of a group that can have something to trade, in order of joining."""
        group = self.groups.get(key)
        if group is None:
            return []
        open_ones = [pair for member in group for pair in self._with_spreads(member, group)]
        return _union(group.all_crossing(), open_ones)

    def restore(self, spreads: Iterable[OpenSpread]) -> None:
        """Take the trading engine's list of what is open, oldest first, in place of what is known here."""
        self.spreads = OpenSpreads.of(spreads)

    def _join(self, instrument: Instrument, key: str) -> MatchingGroup:
        self._leave(instrument)
        group = self.groups.get(key)
        if group is None:
            group = self.groups[key] = MatchingGroup(key)
        group.join(instrument)
        self._group_of[instrument] = group
        _quote(group, instrument, self.books[instrument])
        return group

    def _leave(self, instrument: Instrument) -> None:
        group = self._group_of.pop(instrument, None)
        if group is None:
            return
        group.leave(instrument)
        if not group:
            del self.groups[group.key]

    def _with_spreads(self, instrument: Instrument, group: MatchingGroup) -> list[Pair]:
        """Return the pairs of `instrument` in `group` that have spreads open."""
        return [
            pair for pair in self.spreads.pairs_of(instrument) if pair.long in group and pair.short in group
        ]

    def _forget(self, instrument: Instrument) -> None:
        self.books.pop(instrument, None)
        self.needs_snapshot.discard(instrument)
        # The versions of its next book begin anew.
        for refused in (self._opens_refused, self._closes_refused):
            for pair in [pair for pair in refused if instrument in pair]:
                del refused[pair]
        self._leave(instrument)

    # --- spreads ---------------------------------------------------------------------------------

    def scan(self, pairs: Sequence[Pair]) -> OrderScan:
        """Yield the orders that the books of `pairs` give reason for; to be sent the reply to each.

        First the opens of each pair, then the closes, oldest spread first. Nothing here changes before an
        order's ACK. To be dropped (`close`) at any order without consequence.
        """
        for pair in pairs:
            if self._entry(pair) is not None:
                yield from self._open(pair)
        if any(self._may_close(pair) for pair in pairs):
            for spread in self.spreads.of_pairs(pairs):
                yield from self._close(spread)

    def _open(self, pair: Pair) -> OrderScan:
        while (entry := self._entry(pair)) is not None:
            long, short = entry
            versions = long.version, short.version
            if pair in self._beyond_risk or self._opens_refused.get(pair) == versions:
                return
            ask = long.asks.best()
            bid = short.bids.best()
            order = Order(
                action=OPEN_SPREAD,
                buy=pair.long,
                buy_price=ask.price,
                sell=pair.short,
                sell_price=bid.price,
                size=min(bid.remaining, ask.remaining),
                ts_buy=long.cts,
                ts_sell=short.cts,
                order_id=new_id(),
                spread_id=new_id(),
                expires_at=self._clock() + self._order_timeout_ms,
            )
            reply = yield order
            if not reply.acked:
                self._opens_refused[pair] = versions
                if reply.info == RISK_LIMIT_EXCEED:
                    self._beyond_risk.add(pair)
                return
            self._beyond_risk.clear()
            long.asks.consume(ask, order.size)
            short.bids.consume(bid, order.size)
            self.spreads.add(Spread.opened_by(order))

    def _close(self, spread: Spread) -> OrderScan:
        pair = spread.pair
        while spread.quantity and (exits := self._exit(pair, spread.spread)) is not None:
            long, short = exits
            versions = long.version, short.version
            if self._closes_refused.get(pair) == versions:
                return
            bid = long.bids.best()
            ask = short.asks.best()
            order = Order(
                action=CLOSE_SPREAD,
                buy=pair.short,
                buy_price=ask.price,
                sell=pair.long,
                sell_price=bid.price,
                size=min(bid.remaining, ask.remaining, spread.quantity),
                ts_buy=short.cts,
                ts_sell=long.cts,
                order_id=new_id(),
                spread_id=spread.spread_id,
                expires_at=self._clock() + self._order_timeout_ms,
            )
            reply = yield order
            if not reply.acked:
                self._closes_refused[pair] = versions
                return
            self._beyond_risk.clear()
            long.bids.consume(bid, order.size)
            short.asks.consume(ask, order.size)
            self.spreads.reduce(spread, order.size)

    def _entry(self, pair: Pair) -> tuple[OrderBook, OrderBook] | None:
        """Return the books (long, short) where bid(short) > ask(long), else None."""
        books = self._tradable(pair)
        if books is None:
            return None
        ask = books[0].asks.best_price()
        bid = books[1].bids.best_price()
        return books if ask is not None and bid is not None and bid > ask else None

    def _may_close(self, pair: Pair) -> bool:
        widest = self.spreads.widest(pair)
        return widest is not None and self._exit(pair, widest) is not None

    def _exit(self, pair: Pair, entry: Decimal) -> tuple[OrderBook, OrderBook] | None:
        """Return the books (long, short) where |bid(long) - ask(short)| < entry, else None."""
        books = self._tradable(pair)
        if books is None:
            return None
        bid = books[0].bids.best_price()
        ask = books[1].asks.best_price()
        if bid is None or ask is None or abs(EXACT.subtract(bid, ask)) >= entry:
            return None
        return books

    def _tradable(self, pair: Pair) -> tuple[OrderBook, OrderBook] | None:
        """Return the books of `pair` (long, short), None where one must not be traded on."""
        long = self.books.get(pair.long)
        short = self.books.get(pair.short)
        if long is None or short is None or not (long.in_sync and short.in_sync):
            return None
        if (
            self._stale_after_ms
            and min(long.received_ms, short.received_ms) < self._clock() - self._stale_after_ms
        ):
            return None
        return long, short


def _quote(group: MatchingGroup, instrument: Instrument, book: OrderBook) -> None:
    bid = book.bids.best_price()
    ask = book.asks.best_price()
    group.quote(instrument, NO_BID if bid is None else bid, NO_ASK if ask is None else ask)


def _union(pairs: list[Pair], more: list[Pair]) -> list[Pair]:
    return list(dict.fromkeys(pairs + more)) if more else pairs
