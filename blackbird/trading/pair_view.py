"""What can be seen of a pair without trading it: its spread, and what keeps it from being opened."""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple

from blackbird.market.decimals import EXACT
from blackbird.market.instrument import Instrument
from blackbird.market.order_book import OrderBook
from blackbird.status.messages import WhyNot
from blackbird.trading.backlog import Backlog
from blackbird.trading.book_keeper import BookKeeper
from blackbird.trading.orders import COOLING_DOWN
from blackbird.trading.pair_checks import PairChecks, Reason
from blackbird.trading.refusals import Refusals
from blackbird.trading.spread_rules import SpreadRules
from blackbird.trading.spreads import Pair

WHY: dict[Reason, WhyNot] = {
    Reason.OUT_OF_SYNC: WhyNot.WAITS_FOR_SNAPSHOT,
    Reason.STALE: WhyNot.BOOK_TOO_OLD,
    Reason.LAGGING: WhyNot.BEHIND_EXCHANGE,
    Reason.STANDSTILL: WhyNot.STANDS_STILL,
    Reason.PRICE_RATIO: WhyNot.PRICE_RATIO,
    Reason.BACKLOG: WhyNot.BACKLOG,
}


class Objection(NamedTuple):
    """What keeps a pair from being opened, and the leg that is at fault where it is one of them."""

    why: WhyNot
    leg: Instrument | None = None
    info: str = ""  # why an order was refused


class Quote(NamedTuple):
    """What opening a pair would bring at the best prices, and what closing it would cost.

    `spread` is bid(short) - ask(long), `size` what could be executed at it, and `threshold` what the spread
    has to be above; `exit` is ask(short) - bid(long). None where a price is missing.
    """

    spread: Decimal | None
    size: Decimal | None
    threshold: Decimal | None
    exit: Decimal | None

    @property
    def edge(self) -> Decimal | None:
        """How much the spread is above the threshold."""
        if self.spread is None or self.threshold is None:
            return None
        return EXACT.subtract(self.spread, self.threshold)


class PairView:
    """Reads books, rules, checks and refusals, and changes none of them."""

    def __init__(
        self, keeper: BookKeeper, rules: SpreadRules, checks: PairChecks, refusals: Refusals, backlog: Backlog
    ) -> None:
        self._keeper = keeper
        self._rules = rules
        self._checks = checks
        self._refusals = refusals
        self._backlog = backlog

    def quote(self, pair: Pair) -> Quote:
        """Return the pair's spread as of now."""
        long, short = self._keeper.books.get(pair.long), self._keeper.books.get(pair.short)
        if long is None or short is None:
            return Quote(None, None, None, None)
        ask, bid = long.asks.peek(), short.bids.peek()
        out_bid, out_ask = long.bids.best_price(), short.asks.best_price()
        cost = None if out_bid is None or out_ask is None else EXACT.subtract(out_ask, out_bid)
        if ask is None or bid is None:
            return Quote(None, None, None, cost)
        return Quote(
            EXACT.subtract(bid.price, ask.price),
            min(bid.remaining, ask.remaining),
            self._rules.entry_costs(pair, ask.price, bid.price),
            cost,
        )

    def objection(self, pair: Pair) -> Objection | None:
        """Return what keeps the pair from being opened, None where nothing does."""
        for leg in pair:
            book = self._keeper.books.get(leg)
            if book is None or not book.in_sync:
                return Objection(WhyNot.NOT_SUBSCRIBED if book is None else WhyNot.WAITS_FOR_SNAPSHOT, leg)
        long, short = self._keeper.books[pair.long], self._keeper.books[pair.short]
        ask, bid = long.asks.best_price(), short.bids.best_price()
        if ask is None or bid is None:
            return Objection(WhyNot.EMPTY_SIDE, pair.long if ask is None else pair.short)
        reason = self._checks.objection(pair, long, short, bid, ask)
        if reason is not None:
            return Objection(WHY[reason], _leg_at_fault(reason, pair, long, short))
        if self._keeper.key_of(pair.long) in self._backlog.groups:
            return Objection(WhyNot.BACKLOG)
        if not self._rules.opens(pair, ask, bid):
            return Objection(WhyNot.BELOW_COSTS if bid > ask else WhyNot.NO_CROSSING)
        return self._refusal(pair, long, short)

    def _refusal(self, pair: Pair, long: OrderBook, short: OrderBook) -> Objection | None:
        if self._refusals.is_beyond_risk(pair):
            return Objection(WhyNot.RISK_LIMIT)
        if not self._refusals.may_open(pair, (long.version, short.version)):
            info = self._refusals.reasons.get(pair, "")
            return Objection(WhyNot.COOLING_DOWN if info == COOLING_DOWN else WhyNot.REFUSED, info=info)
        return None


def _leg_at_fault(reason: Reason, pair: Pair, long: OrderBook, short: OrderBook) -> Instrument | None:
    if reason is Reason.STALE:
        return pair.long if long.received_ms < short.received_ms else pair.short
    if reason is Reason.LAGGING:
        return pair.long if long.excess_lag_ms > short.excess_lag_ms else pair.short
    if reason is Reason.STANDSTILL:
        return pair.long if long.cts < short.cts else pair.short
    return None
