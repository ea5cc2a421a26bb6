"""What the signal engine says of itself: books, pairs and why they are not traded, orders."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from itertools import combinations, islice
from typing import Literal, TypeVar

from blackbird.market.decimals import ZERO
from blackbird.market.instrument import Instrument
from blackbird.market.order_book import Outcome
from blackbird.runtime.clock import milliseconds
from blackbird.runtime.failure_log import FailureLog
from blackbird.signals.group_lane import GroupLanes
from blackbird.signals.order_log import OrderLog
from blackbird.status.histogram import MillisecondHistogram
from blackbird.status.messages import BookStatus, Direction, PairStatus, SignalStatus, WhyNot
from blackbird.trading.matching_group import MatchingGroup
from blackbird.trading.pair_view import WHY, Objection, Quote
from blackbird.trading.signal import Signal
from blackbird.trading.spreads import Pair

LEVELS = 5
# Books whose levels are in one message; with more they take turns.
BOOKS_WITH_LEVELS = 20
# Of a group with more members than this only the pairs that matter are described.
MANY_MEMBERS = 5
MOST_PAIRS = 500
# So many books or pairs are described at a time, about a third of a millisecond; updates come in between.
SLICE = 25

# These last until another order may be sent, which something else may stand in the way of.
OF_ORDERS = {WhyNot.RISK_LIMIT, WhyNot.REFUSED, WhyNot.COOLING_DOWN}

T = TypeVar("T")
BookState = Literal["in sync", "waits for snapshot", "too old"]


class SignalStatusSource:
    """Describes a signal engine made of these parts. `snapshots_requested` counts the requests."""

    def __init__(
        self,
        signal: Signal,
        lanes: GroupLanes,
        order_log: OrderLog,
        failures: FailureLog,
        *,
        is_connected: Callable[[], bool],
        snapshots_requested: Callable[[], int],
        clock: Callable[[], int] = milliseconds,
    ) -> None:
        # Counted by the service, message by message: from the exchange's `ts` to being taken from the broker.
        self.tick_age = MillisecondHistogram()
        self._signal = signal
        self._lanes = lanes
        self._order_log = order_log
        self._failures = failures
        self._is_connected = is_connected
        self._snapshots_requested = snapshots_requested
        self._clock = clock
        self._first_with_levels = 0
        self._seen_orders = 0
        self._since: dict[tuple[Instrument, Instrument], tuple[WhyNot, int]] = {}

    @property
    def is_connected(self) -> bool:
        """Whether there is a session to work on."""
        return self._is_connected()

    @property
    def failure_counts(self) -> Mapping[str, int]:
        """How often which programming error was survived."""
        return self._failures.counts

    async def describe(self) -> SignalStatus:
        """Return what the signal engine does, letting it work in between."""
        signal, lanes, log = self._signal, self._lanes, self._order_log
        books = [book async for book in _in_slices(self._books())]
        listed, left_out = self._listed_pairs()
        pairs = [pair async for pair in _in_slices(self._pairs(listed))]
        self._seen_orders = log.number
        untraded: Counter[str] = Counter()
        for (reason, _), count in list(signal.checks.untraded.items()):
            untraded[WHY[reason]] += count
        return SignalStatus(
            books=books,
            pairs=pairs,
            pairs_left_out=left_out,
            orders=log.newest(),
            orders_in_flight=lanes.orders_in_flight,
            may_trade=lanes.may_trade,
            updates={outcome.name.lower(): signal.keeper.outcomes[outcome] for outcome in Outcome},
            untraded=untraded,
            answers={action: dict(counts) for action, counts in log.counts.items()},
            snapshots_requested=self._snapshots_requested(),
            waiting=lanes.waiting,
            tick_age=self.tick_age.counts(),
            answer_time=log.times.counts(),
            book_age=signal.traded_ages.counts(),
            spreads_open=len(signal.spreads),
        )

    # --- books -----------------------------------------------------------------------------------

    def _books(self) -> Iterator[BookStatus]:
        known = list(self._signal.keeper.books)
        if len(known) <= BOOKS_WITH_LEVELS:
            with_levels = set(known)
        else:
            first = self._first_with_levels = self._first_with_levels % len(known)
            with_levels = set(islice(known + known, first, first + BOOKS_WITH_LEVELS))
            self._first_with_levels += BOOKS_WITH_LEVELS
        for instrument in known:
            status = self._book(instrument, with_levels=instrument in with_levels)
            if status is not None:
                yield status

    def _book(self, instrument: Instrument, *, with_levels: bool) -> BookStatus | None:
        keeper = self._signal.keeper
        book = keeper.books.get(instrument)
        if book is None:  # removed since the last slice
            return None
        bid, ask = book.bids.peek(), book.asks.peek()
        state: BookState = "in sync" if book.in_sync else "waits for snapshot"
        if book.in_sync and self._signal.checks.is_stale(book):
            state = "too old"
        return BookStatus(
            channel=instrument.channel,
            symbol=instrument.symbol,
            state=state,
            received_ms=book.received_ms,
            cts_ms=book.cts,
            group=keeper.key_of(instrument),
            bid=None if bid is None else bid.price,
            bid_size=None if bid is None else bid.remaining,
            ask=None if ask is None else ask.price,
            ask_size=None if ask is None else ask.remaining,
            bids=book.bids.top(LEVELS) if with_levels else None,
            asks=book.asks.top(LEVELS) if with_levels else None,
            gaps=book.gaps,
            lag_ms=max(0, book.excess_lag_ms),
        )

    # --- pairs -----------------------------------------------------------------------------------

    def _listed_pairs(self) -> tuple[list[tuple[str, Pair]], int]:
        """Return the pairs to describe, each with its group's key and once, and how many are left out."""
        listed: dict[frozenset[Instrument], tuple[str, Pair]] = {}
        total = 0
        for key, group in self._signal.keeper.groups.items():
            total += len(group) * (len(group) - 1) // 2
            for pair in self._pairs_that_matter(group):
                listed[frozenset(pair)] = key, pair
        for pair in self._signal.spreads.holdings:
            key = self._signal.keeper.key_of(pair.long) or self._signal.keeper.key_of(pair.short) or ""
            listed.setdefault(frozenset(pair), (key, pair))
        chosen = list(listed.values())[:MOST_PAIRS]
        return chosen, max(0, total - len(chosen))

    def _pairs_that_matter(self, group: MatchingGroup) -> Iterable[Pair]:
        if len(group) <= MANY_MEMBERS:
            pairs = (Pair(*members) for members in combinations(group, 2))
            return [pair for pair in pairs if group.are_peers(pair)]
        best = group.best_pair()
        held = (pair for pair in self._signal.spreads.holdings if group.are_peers(pair))
        return [*held, *(() if best is None else (best,))]

    def _pairs(self, listed: Iterable[tuple[str, Pair]]) -> Iterator[PairStatus]:
        before, self._since = self._since, {}
        for key, pair in listed:
            yield self._pair(key, pair, before)

    def _pair(
        self, key: str, pair: Pair, before: Mapping[tuple[Instrument, Instrument], tuple[WhyNot, int]]
    ) -> PairStatus:
        view = self._signal.view
        quotes = {each: view.quote(each) for each in (pair, Pair(pair.short, pair.long))}
        better = max(quotes, key=lambda each: _rank(quotes[each]))
        other = Pair(better.short, better.long)
        why, leg, info = self._objection(key, better)
        identity = min(pair), max(pair)
        was, since_ms = before.get(identity, (None, 0))
        if was is not why:
            since_ms = self._clock()
        self._since[identity] = why, since_ms
        return PairStatus(
            group=key,
            directions=(self._direction(better, quotes[better]), self._direction(other, quotes[other])),
            why=why,
            since_ms=since_ms,
            leg=leg,
            info=info,
        )

    def _objection(self, key: str, pair: Pair) -> Objection:
        if self._order_log.executed_since(pair, self._seen_orders):
            return Objection(WhyNot.TRADING)
        if self._signal.keeper.key_of(pair.long) != self._signal.keeper.key_of(pair.short):
            return Objection(WhyNot.NOT_SUBSCRIBED)
        objection = self._signal.view.objection(pair)
        if objection is not None and objection.why not in OF_ORDERS:
            return objection
        if not self._lanes.gate(self._lanes.partition_of(key)).is_open:
            return Objection(WhyNot.STOPPING if self._lanes.is_stopping else WhyNot.SPREADS_UNKNOWN)
        lane = self._lanes.get(key)
        if lane is not None and lane.has_order_in_flight:
            return Objection(WhyNot.NO_ANSWER if lane.is_late else WhyNot.ORDER_IN_FLIGHT)
        return objection or Objection(WhyNot.TRADING)

    def _direction(self, pair: Pair, quote: Quote) -> Direction:
        holding = self._signal.spreads.holdings.get(pair)
        return Direction(
            long=pair.long,
            short=pair.short,
            spread=quote.spread,
            size=quote.size,
            threshold=quote.threshold,
            exit=quote.exit,
            open_spreads=0 if holding is None else len(holding.spreads),
            quantity=ZERO if holding is None else holding.quantity,
            credit=ZERO if holding is None else holding.credit,
            widest=self._signal.spreads.widest(pair),
        )


def _rank(quote: Quote) -> tuple[bool, object]:
    """Return what orders the two directions of a pair: by edge, one without a price last."""
    edge = quote.edge
    return edge is not None, edge


async def _in_slices(items: Iterator[T]) -> AsyncIterator[T]:
    """Give items, and way to other work after each slice of them."""
    for number, item in enumerate(items, 1):
        yield item
        if number % SLICE == 0:
            await asyncio.sleep(0)
