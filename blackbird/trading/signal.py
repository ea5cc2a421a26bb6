"""The signal engine's core: books in groups, spreads that open and close. Without broker, clock or database.

`Signal.on_book` applies a message and says which pairs to scan; `Signal.scan` gives the orders to send, one
at a time, and takes the reply to each. How an order travels is its driver's business: over the broker
(signal_service.py), or to an engine in the same process (backtests, tests).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal

from blackbird.market.book_message import BookMessage
from blackbird.market.instrument import Instrument
from blackbird.market.order_book import OrderBook
from blackbird.status.histogram import MillisecondHistogram
from blackbird.trading.backlog import Backlog
from blackbird.trading.book_keeper import BookKeeper
from blackbird.trading.order_scan import Orders, OrderScan
from blackbird.trading.orders import CLOSE_SPREAD, OPEN_SPREAD, OpenSpread, Order
from blackbird.trading.pair_checks import Limits, PairChecks, Reason
from blackbird.trading.pair_view import PairView
from blackbird.trading.refusals import Refusals
from blackbird.trading.spread_rules import SpreadRules
from blackbird.trading.spreads import OpenSpreads, Pair, Spread, new_id


class Signal:
    """Books, groups and open spreads, and the rules by which orders are made of them.

    `clock` returns milliseconds since 1970; an order expires `order_timeout_ms` after it is made; `limits`
    bounds what is traded (default: nothing), `rules` say when a spread opens and closes (default: the
    owner's); `consecutive` see OrderBook.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], int],
        order_timeout_ms: int = 2000,
        limits: Limits | None = None,
        rules: SpreadRules | None = None,
        consecutive: bool = True,
    ) -> None:
        self._clock = clock
        self._order_timeout_ms = order_timeout_ms
        self._rules = rules or SpreadRules()
        limits = limits or Limits()
        self._backlog = Backlog(limits.max_lag_ms)
        self._refusals = Refusals(clock)
        self.keeper = BookKeeper(consecutive=consecutive)
        self.spreads = OpenSpreads()
        self.checks = PairChecks(clock, limits)
        self.view = PairView(self.keeper, self._rules, self.checks, self._refusals, self._backlog)
        self.traded_ages = MillisecondHistogram()  # of an order, how long ago its older book was heard of

    # --- books -----------------------------------------------------------------------------------

    def on_subscriptions(self, instruments: Iterable[Instrument]) -> None:
        """Take the full map of what is subscribed: known instruments that it does not name are removed."""
        for instrument in self.keeper.on_subscriptions(instruments):
            self._refusals.forget(instrument)

    def on_book(self, message: BookMessage, received_ms: int, taken_ms: int | None = None) -> Sequence[Pair]:
        """Apply a message received at `received_ms` and return the pairs worth scanning.

        `taken_ms` is when it was taken from the broker (default: when it was received): a backlog is applied,
        and its group not scanned before it has caught up. Raises InvalidMessage on levels that are no prices
        and sizes; nothing has changed then.
        """
        instrument = message.instrument
        waited_ms = 0 if taken_ms is None else taken_ms - received_ms
        crossing = self.keeper.on_book(instrument, message, received_ms, waited_ms)
        if waited_ms > self._backlog.max_lag_ms:
            self._note_late(instrument)
            return ()
        if self._backlog.groups:
            key = self.keeper.key_of(instrument)
            if key is not None and self._backlog.end(key, waited_ms):
                return self.all_pairs(key)
        if crossing is None:
            return ()
        with_spreads = self.spreads.pairs_of(instrument)
        if not with_spreads:
            return crossing
        group = self.keeper.group_of(instrument)
        return crossing if group is None else _union(crossing, filter(group.are_peers, with_spreads))

    def is_late(self, received_ms: int) -> bool:
        """Return whether a message received at `received_ms` has waited too long to be traded on by now."""
        return self._clock() - received_ms > self._backlog.max_lag_ms

    def all_pairs(self, key: str) -> list[Pair]:
        """Return the pairs of a group that can have something to trade, in order of joining."""
        group = self.keeper.groups.get(key)
        if group is None or key in self._backlog.groups:
            return []
        open_ones = (pair for member in group for pair in self.spreads.pairs_of(member))
        return _union(group.all_crossing(), filter(group.are_peers, open_ones))

    def _note_late(self, instrument: Instrument) -> None:
        key = self.keeper.key_of(instrument)
        if key is not None:
            self._backlog.add(key)
            self.checks.count(Reason.BACKLOG, f"group {key}")

    # --- spreads ---------------------------------------------------------------------------------

    def restore(self, spreads: Iterable[OpenSpread]) -> None:
        """Take the trading engine's list of what is open, oldest first, in place of what is known here."""
        self.spreads = OpenSpreads.of(spreads)

    def restore_some(self, spreads: Iterable[OpenSpread], is_restored: Callable[[Pair], bool]) -> None:
        """Take from the trading engine's list what it has open of some pairs; the others stay as they are."""
        self.spreads = self.spreads.replaced(spreads, is_restored)

    def scan(self, pairs: Sequence[Pair]) -> OrderScan:
        """Return the orders that the books of `pairs` give reason for, each after the reply to the last.

        First the opens of each pair, then the closes, oldest spread first. Nothing here changes before an
        order's ACK. To be dropped at any order without consequence.
        """
        return OrderScan(self._orders(pairs))

    def _orders(self, pairs: Sequence[Pair]) -> Orders:
        for pair in pairs:
            if self._entry(pair) is not None:
                yield from self._open(pair)
        if any(self._may_close(pair) for pair in pairs):
            for spread in self.spreads.of_pairs(pairs):
                yield from self._close(spread)

    def _open(self, pair: Pair) -> Orders:
        while (entry := self._entry(pair)) is not None:
            long, short = entry
            versions = long.version, short.version
            if not self._refusals.may_open(pair, versions):
                return
            ask = long.asks.best()
            bid = short.bids.best()
            self._note_age(long, short)
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
                self._refusals.add(OPEN_SPREAD, pair, versions, reply.info)
                return
            self._refusals.on_execution()
            # What was asked: where less was executed the rest was not there, and would be ordered again.
            long.asks.consume(ask, order.size)
            short.bids.consume(bid, order.size)
            self.spreads.add(Spread.opened_by(order, reply.executed(order)))

    def _close(self, spread: Spread) -> Orders:
        pair = spread.pair
        while spread.quantity and (exits := self._exit(pair, spread.spread)) is not None:
            long, short = exits
            versions = long.version, short.version
            if not self._refusals.may_close(pair, versions):
                return
            bid = long.bids.best()
            ask = short.asks.best()
            self._note_age(long, short)
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
                self._refusals.add(CLOSE_SPREAD, pair, versions, reply.info)
                return
            self._refusals.on_execution()
            long.bids.consume(bid, order.size)
            short.asks.consume(ask, order.size)
            self.spreads.reduce(spread, reply.executed(order).size)

    def _entry(self, pair: Pair) -> tuple[OrderBook, OrderBook] | None:
        """Return the books (long, short) where the pair may be opened at their best prices, else None."""
        long, short = self.keeper.books.get(pair.long), self.keeper.books.get(pair.short)
        if long is None or short is None:
            return None
        ask, bid = long.asks.best_price(), short.bids.best_price()
        if ask is None or bid is None or not self._rules.opens(pair, ask, bid):
            return None
        return (long, short) if self.checks.allow(pair, long, short, bid, ask) else None

    def _may_close(self, pair: Pair) -> bool:
        widest = self.spreads.widest(pair)
        return widest is not None and self._exit(pair, widest) is not None

    def _exit(self, pair: Pair, entry: Decimal) -> tuple[OrderBook, OrderBook] | None:
        """Return the books (long, short) where a spread of `entry` may be closed, else None."""
        long, short = self.keeper.books.get(pair.long), self.keeper.books.get(pair.short)
        if long is None or short is None:
            return None
        bid, ask = long.bids.best_price(), short.asks.best_price()
        if bid is None or ask is None or not self._rules.closes(pair, entry, bid, ask):
            return None
        return (long, short) if self.checks.allow(pair, long, short, bid, ask) else None

    def _note_age(self, long: OrderBook, short: OrderBook) -> None:
        self.traded_ages.tally[self._clock() - min(long.received_ms, short.received_ms)] += 1


def _union(pairs: list[Pair], more: Iterable[Pair]) -> list[Pair]:
    return list(dict.fromkeys([*pairs, *more]))
