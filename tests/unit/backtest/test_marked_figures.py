"""What a report says of the books: open at mark, drawdown, offered and traded spreads, once more.

Books and trading are those of `tests/support/naive_market.py`; sums are fractions.
"""

from __future__ import annotations

import functools
import itertools
import math
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from blackbird.archive.recording import Recording
from blackbird.backtest.parameters import Parameters
from blackbird.backtest.result import Result, result_of
from blackbird.backtest.simulation import Simulation
from tests.support.naive_market import ASKS, BIDS, Leg, NaiveEngine, NaiveMarket, NaiveOrder

LIMIT = Decimal(1_000_000)
Legs = tuple[Leg, Leg]  # long and short
Best = tuple[Decimal, Decimal] | None  # price and size


class Fall(NamedTuple):
    size: Fraction = Fraction(0)
    start_ms: int = 0
    end_ms: int = 0


class MarkedMarket(NaiveMarket):
    """Notes after every message what the spreads are worth, and before its orders what the books offer."""

    def __init__(self) -> None:
        self.engine = NaiveEngine(LIMIT)
        super().__init__(self.engine)
        self.offers: dict[Legs, list[tuple[int, Fraction]]] = {}
        self.executed: dict[str, list[NaiveOrder]] = {"Open Spread": [], "Close Spread": []}
        self.shown: dict[Leg, tuple[Best, Best]] = {}
        self.exits: dict[Legs, Fraction] = {}
        self.value = Fraction(0)
        self.fall = Fall()
        self.peak = Fraction(0), 0

    def play(self, message: dict[str, Any], now_ms: int) -> None:
        self.now = now_ms
        self.on_message(message, now_ms)
        if not self.offers:
            return
        for long, short in self.offers:
            bid, ask = self.books[long].best(BIDS), self.books[short].best(ASKS)
            if bid is not None and ask is not None:  # else it is worth what it was at its last prices
                self.exits[long, short] = Fraction(bid[0]) - Fraction(ask[0])
        values = (self.exits[each.long, each.short] * Fraction(each.remaining) for each in self.spreads)
        self.value = sum(values, Fraction(0))
        total = Fraction(self.engine.pnl) + self.value
        highest, highest_ms = self.peak
        if total > highest or not highest_ms:
            self.peak = max(total, highest), now_ms
        if self.peak[0] - total > self.fall.size:
            self.fall = Fall(self.peak[0] - total, self.peak[1], now_ms)

    def _scan(self, leg: Leg) -> None:
        # A leg offers what it offered after its own last message, before our orders.
        self.shown[leg] = self.books[leg].best(BIDS), self.books[leg].best(ASKS)
        for (long, short), offers in self.offers.items():
            bid, ask = self.shown[short][0], self.shown[long][1]
            if leg in {long, short} and bid is not None and ask is not None:
                offers.append((self.now, Fraction(bid[0]) - Fraction(ask[0])))
        super()._scan(leg)

    def _send(self, order: NaiveOrder, stopped: set[Legs], pair: Legs) -> bool:
        acked = super()._send(order, stopped, pair)
        if acked:
            self.executed[order.action].append(order)
            self.offers.setdefault(pair, [(self.now, Fraction(order.sell_price) - Fraction(order.buy_price))])
        return acked


@functools.cache
def both(path: Path, most: int | None) -> tuple[Result, MarkedMarket]:
    """Run the first messages of a recording by the backtest and by the naive market, once for all tests."""
    simulation = Simulation(Parameters())
    simulation.run(itertools.islice(Recording(path), most))
    market = MarkedMarket()
    for received_ms, message in itertools.islice(Recording(path), most):
        market.play(msgspec.json.decode(msgspec.json.encode(message)), received_ms)
    return result_of(simulation, path.name), market


@pytest.fixture(params=[1000, pytest.param(None, marks=pytest.mark.slow)])
def run(request: pytest.FixtureRequest, recordings: Path) -> tuple[Result, MarkedMarket]:
    return both(recordings / "btc_depth50.ndjson.gz", request.param)


@pytest.fixture
def result(run: tuple[Result, MarkedMarket]) -> Result:
    return run[0]


@pytest.fixture
def market(run: tuple[Result, MarkedMarket]) -> MarkedMarket:
    return run[1]


def nearest(number: Fraction, figure: Decimal | float | None) -> bool:
    return figure is not None and math.isclose(float(number), float(figure), rel_tol=1e-9)


def test_what_is_open_is_valued_at_the_prices_that_would_close_it(
    result: Result, market: MarkedMarket
) -> None:
    assert Fraction(result.pnl.cash) == Fraction(market.engine.pnl)
    assert Fraction(result.pnl.open_at_mark) == market.value + Fraction(result.pnl.credit)
    assert Fraction(result.pnl.total) == market.value + Fraction(market.engine.pnl)


def test_the_drawdown_is_the_largest_fall_of_the_marked_curve(result: Result, market: MarkedMarket) -> None:
    found = result.drawdown
    assert Fall(Fraction(found.largest), found.start_ms, found.end_ms) == market.fall
    assert market.fall.size > 0
    assert market.fall.start_ms < market.fall.end_ms


def test_the_offered_spread_is_weighted_by_the_time_that_it_was_there(
    result: Result, market: MarkedMarket
) -> None:
    assert len(result.pairs) == len(market.offers) > 0
    for pair in result.pairs:
        offers = market.offers[leg_of(pair.long), leg_of(pair.short)]
        ends = [*offers[1:], (result.end_ms, Fraction(0))]
        spans = [
            (spread, end - begin)
            for (begin, spread), (end, _) in zip(offers, ends, strict=True)
            if spread > 0
        ]
        offered_ms = sum(span for _, span in spans)
        assert pair.offered_ms == offered_ms
        assert nearest(
            sum((spread * span for spread, span in spans), Fraction(0)) / offered_ms, pair.offered_mean
        )
        assert nearest(max(spread for _, spread in offers), pair.offered_highest)


def test_the_traded_spread_is_weighted_by_size(result: Result, market: MarkedMarket) -> None:
    for pair in result.pairs:
        long, short = leg_of(pair.long), leg_of(pair.short)
        opens = [
            order for order in market.executed["Open Spread"] if order.buy == long and order.sell == short
        ]
        closes = [
            order for order in market.executed["Close Spread"] if order.buy == short and order.sell == long
        ]
        assert (pair.entries, pair.exits) == (len(opens), len(closes))
        assert nearest(mean(opens), pair.entry_mean)
        assert nearest(-mean(closes), pair.exit_mean)


def leg_of(text: str) -> Leg:
    channel, symbol = text.split(":")
    return channel, symbol


def mean(orders: list[NaiveOrder]) -> Fraction:
    """Return the mean of what was received less what was paid, by size."""
    size = sum((Fraction(order.size) for order in orders), Fraction(0))
    received = (
        (Fraction(order.sell_price) - Fraction(order.buy_price)) * Fraction(order.size) for order in orders
    )
    return sum(received, Fraction(0)) / size
