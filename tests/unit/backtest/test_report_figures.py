"""Every figure of a report that follows from the orders, computed a second time from them, as fractions."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest

from blackbird.archive.recording import Recording
from blackbird.backtest.entry_buckets import MOST_BUCKETS, entry_buckets
from blackbird.backtest.ledger import ClosedSpread, Entry
from blackbird.backtest.parameters import Parameters
from blackbird.backtest.result import Result, result_of
from blackbird.backtest.sheets import sheets_of
from blackbird.backtest.simulation import Simulation
from blackbird.trading.orders import Order, Reply
from blackbird.trading.spreads import Pair
from tests.support.market import PERP, SPOT

FEES = {"spot": Decimal("0.0000013"), "linear": Decimal("0.0000007")}


@dataclass
class Trade:
    """A spread as the orders tell of it."""

    entry: Fraction
    price: Fraction
    size: Fraction
    opened_ms: int
    pnl: Fraction = Fraction(0)  # after fees
    closed_ms: int = 0
    left: Fraction = Fraction(0)


class Orders:
    """The orders of a run in a list, and what became of the spreads."""

    def __init__(self, path: Path) -> None:
        self.answered: list[tuple[int, Order, Reply]] = []
        simulation = Simulation(
            Parameters(taker_fees=FEES),
            on_order=lambda order, reply: self.answered.append((simulation.clock.ms, order, reply)),
        )
        simulation.run(Recording(path))
        self.result: Result = result_of(simulation, path.name)
        self.executed = [(ms, order) for ms, order, reply in self.answered if reply.acked]
        self.trades = list(self._trades().values())
        self.closed = [trade for trade in self.trades if not trade.left]

    def _trades(self) -> dict[str | None, Trade]:
        trades: dict[str | None, Trade] = {}
        for ms, order in self.executed:
            bought, sold = Fraction(order.buy_price), Fraction(order.sell_price)
            size = Fraction(order.size)
            if order.action == "Open Spread":
                trades[order.spread_id] = Trade(sold - bought, bought, size, ms, left=size)
            trade = trades[order.spread_id]
            trade.pnl -= fees_of(order)
            if order.action == "Close Spread":
                trade.left -= size
                trade.closed_ms = ms
                trade.pnl += (trade.entry - (bought - sold)) * size
        return trades


def fees_of(order: Order) -> Fraction:
    legs = ((order.buy, order.buy_price), (order.sell, order.sell_price))
    return sum(
        (Fraction(price) * Fraction(order.size) * Fraction(FEES[leg.channel]) for leg, price in legs),
        Fraction(0),
    )


def nearest(number: Fraction, figure: Decimal | float | None) -> bool:
    return figure is not None and math.isclose(float(number), float(figure), rel_tol=1e-10, abs_tol=1e-10)


@functools.cache
def orders_of(path: Path) -> Orders:
    """Run a recording once for all tests; they only read what it gave."""
    return Orders(path)


@pytest.fixture(params=["btc_depth50.ndjson.gz", "btc_depth1.ndjson.gz"])
def orders(request: pytest.FixtureRequest, recordings: Path) -> Orders:
    return orders_of(recordings / request.param)


def test_spreads_their_holding_times_and_hits_follow_from_the_orders(orders: Orders) -> None:
    spreads, closed = orders.result.spreads, orders.closed
    assert (spreads.opened, spreads.closed) == (len(orders.trades), len(closed))
    assert spreads.left == len(orders.trades) - len(closed) > 0
    assert spreads.profitable == sum(trade.pnl > 0 for trade in closed)
    assert 0 < spreads.profitable < len(closed)  # the fees are high enough to tell
    assert spreads.hit_rate == spreads.profitable / len(closed)
    held = sorted(trade.closed_ms - trade.opened_ms for trade in closed)
    assert spreads.holding_p50_ms == held[len(held) // 2]
    assert spreads.holding_p90_ms == held[len(held) * 9 // 10]
    assert spreads.holding_max_ms == held[-1]
    earned = sum((trade.pnl for trade in closed), Fraction(0))
    paid = sum((trade.price * trade.size for trade in closed), Fraction(0))
    assert nearest(earned / len(closed), spreads.mean_pnl)
    assert nearest(earned / paid * 10_000, spreads.mean_bps)


def test_fees_turnover_and_the_break_even_fee_follow_from_the_orders(orders: Orders) -> None:
    result = orders.result
    cash, turnover = Fraction(0), {"spot": Fraction(0), "linear": Fraction(0)}
    for _, order in orders.executed:
        cash += (Fraction(order.sell_price) - Fraction(order.buy_price)) * Fraction(order.size)
        turnover[order.buy.channel] += Fraction(order.buy_price) * Fraction(order.size)
        turnover[order.sell.channel] += Fraction(order.sell_price) * Fraction(order.size)
    whole = sum(turnover.values(), Fraction(0))
    fees = sum((fees_of(order) for _, order in orders.executed), Fraction(0))
    pnl, even = result.pnl, result.break_even
    assert (Fraction(pnl.cash), Fraction(result.turnover), Fraction(pnl.fees)) == (cash, whole, fees)
    assert Fraction(pnl.total) == Fraction(pnl.closed) + Fraction(pnl.open_at_mark) - fees
    for figure, earned in (
        (even.closed_bps, Fraction(pnl.closed)),
        (even.total_bps, Fraction(pnl.total) + fees),
        (even.cash_bps, cash),
    ):
        assert nearest(earned / whole * 10_000, figure)
    charged = {
        "no fees": Fraction(0),
        "maker": (turnover["spot"] * 10 + turnover["linear"] * 2) / 10_000,
        "taker": (turnover["spot"] * 10 + turnover["linear"] * Fraction("5.5")) / 10_000,
        "as set": fees,
    }
    assert [line.name for line in result.fee_table] == list(charged)
    for line in result.fee_table:
        due = charged[line.name]
        assert Fraction(line.fees) == due
        assert Fraction(line.closed) == Fraction(pnl.closed) - due
        assert Fraction(line.total) == Fraction(pnl.total) + fees - due


def test_the_time_at_the_limit_is_from_a_refusal_to_the_next_execution(orders: Orders) -> None:
    total, since = 0, None
    for ms, _, reply in orders.answered:
        if reply.acked:
            total += 0 if since is None else ms - since
            since = None
        elif since is None:
            since = ms
    total += 0 if since is None else orders.result.end_ms - since
    assert orders.result.at_limit_ms == total > 0


def test_pnl_by_entry_spread_follows_from_the_orders(orders: Orders) -> None:
    buckets = orders.result.by_entry
    assert 3 < len(buckets) <= MOST_BUCKETS
    assert sum(bucket.closed for bucket in buckets) == len(orders.closed)
    assert sum(bucket.left for bucket in buckets) == orders.result.spreads.left
    for bucket in buckets:
        inside = [
            trade
            for trade in orders.trades
            if bucket.low_bps <= trade.entry / trade.price * 10_000 < bucket.high_bps
        ]
        closed = [trade for trade in inside if not trade.left]
        assert (bucket.closed, bucket.left) == (len(closed), len(inside) - len(closed))
        assert Fraction(bucket.pnl) == sum((trade.pnl for trade in closed), Fraction(0))
        held = sorted(trade.closed_ms - trade.opened_ms for trade in closed)
        assert bucket.holding_p50_ms == (held[len(held) // 2] if held else None)
        hits = sum(trade.pnl > 0 for trade in closed)
        assert bucket.hit_rate == (hits / len(closed) if closed else None)


def test_the_table_of_entry_spreads_is_shown(orders: Orders) -> None:
    sheet = next(sheet for sheet in sheets_of(orders.result) if sheet.title.startswith("PnL by entry spread"))
    assert len(sheet.lines) == len(orders.result.by_entry)
    assert sum(int(line[1].replace(",", "")) for line in sheet.lines) == len(orders.closed)


def spread(entry: str) -> ClosedSpread:
    zero = Decimal(0)
    return ClosedSpread(Pair(SPOT, PERP), 0, 5, zero, zero, Decimal(100), Entry(Decimal(entry), Decimal(100)))


@pytest.mark.parametrize(
    "entries",
    [["-0.5", "0.01", "0.02"], ["7"], ["3", "3"], ["0", "0.0000001"], ["1E+20", "-1E+20"], ["-0.07", "0.93"]],
)
def test_every_entry_is_in_one_bucket_of_equal_width(entries: Sequence[str]) -> None:
    buckets = entry_buckets([spread(entry) for entry in entries], [])
    assert sum(bucket.closed for bucket in buckets) == len(entries)
    assert len(buckets) <= MOST_BUCKETS
    assert len({bucket.high_bps - bucket.low_bps for bucket in buckets}) == 1
    assert all(one.high_bps <= two.low_bps for one, two in itertools.pairwise(buckets))
    for entry in entries:
        assert sum(bucket.low_bps <= Decimal(entry) * 100 < bucket.high_bps for bucket in buckets) == 1


def test_a_run_without_spreads_has_no_buckets() -> None:
    assert entry_buckets([], []) == []
