"""Small markets made by hand, whose figures can be worked out on paper."""

from __future__ import annotations

from decimal import Decimal

import pytest

from blackbird.archive.source import Timed
from blackbird.backtest.marks import Drawdown
from blackbird.backtest.parameters import Parameters
from blackbird.backtest.percentiles import percentile
from blackbird.backtest.result import Result, result_of, to_json
from blackbird.backtest.simulation import Simulation
from blackbird.market.instrument import Instrument
from blackbird.trading.orders import Order, Reply
from blackbird.trading.pair_checks import Limits
from tests.support.market import PERP, SPOT, TextLevels, book_message


def book(
    ms: int, instrument: Instrument, bid: tuple[str, str], ask: tuple[str, str], u: int | None = None
) -> Timed:
    bids: TextLevels = [bid]
    asks: TextLevels = [ask]
    return ms, book_message("snapshot", u or ms, bids, asks, instrument=instrument, time=ms)


# Spot stands 10 above the perpetual at 1,000; half of the spread is closed at 3,000, the rest at 9,000.
MARKET = [
    book(1000, PERP, ("99", "2"), ("100", "2")),
    book(1000, SPOT, ("110", "2"), ("111", "2")),
    book(3000, PERP, ("101", "1"), ("107", "1")),
    book(3000, SPOT, ("102", "1"), ("103", "5")),
    book(5000, PERP, ("80", "5"), ("107", "5")),
    book(9000, PERP, ("102", "5"), ("109", "5")),
]


def run(market: list[Timed], parameters: Parameters | None = None) -> Result:
    simulation = Simulation(parameters or Parameters())
    simulation.run(market)
    return result_of(simulation, "a market")


def test_figures_of_one_spread_closed_in_two_parts() -> None:
    result = run(MARKET)
    assert [(each.action, each.answer, each.count) for each in result.orders] == [
        ("Open Spread", "ACK", 1),
        ("Close Spread", "ACK", 2),
    ]
    spreads = result.spreads
    assert (spreads.opened, spreads.closed, spreads.left, spreads.hit_rate) == (1, 1, 0, 1.0)
    assert spreads.holding_p50_ms == spreads.holding_max_ms == 8000
    # 10 x 2 at entry; the exits cost 103 - 101 for 1 and 103 - 102 for 1.
    assert result.pnl.closed == result.pnl.cash == result.pnl.total == 17
    assert result.pnl.credit == result.pnl.open_at_mark == 0
    assert spreads.mean_pnl == 17
    assert spreads.mean_bps == Decimal(17) / 200 * 10_000
    assert result.turnover == 2 * (100 + 110) + (103 + 101) + (103 + 102)
    (pair,) = result.pairs
    assert (pair.entries, pair.entry_mean, pair.entry_bps) == (1, Decimal(10), Decimal(1000))
    assert (pair.exits, pair.exit_mean) == (2, Decimal("1.5"))


def test_the_drawdown_is_that_of_the_marked_curve() -> None:
    result = run(MARKET)
    # At 3,000 one of two has earned 8, and nothing is left to sell the other at, which stays marked at
    # 10 - (111 - 101); at 5,000 it is marked at 10 - (103 - 80).
    assert result.drawdown.start_ms == 3000
    assert result.drawdown.end_ms == 5000
    assert result.drawdown.largest == 13


def test_a_drawdown_is_the_largest_fall_from_the_peak_before_it() -> None:
    drawdown = Drawdown()
    for ms, value in enumerate([1, 4, 2, 6, 3, 5, 1, 9, 5], 100):
        drawdown.add(ms, Decimal(value))
    assert (drawdown.largest, drawdown.start_ms, drawdown.end_ms) == (Decimal(5), 103, 106)


def test_a_curve_that_only_falls_draws_down_from_zero() -> None:
    drawdown = Drawdown()
    for ms, value in ((100, -1), (200, -3), (300, -2)):
        drawdown.add(ms, Decimal(value))
    assert (drawdown.largest, drawdown.start_ms, drawdown.end_ms) == (Decimal(3), 100, 200)


def test_entries_wait_at_the_limit_from_a_refusal_to_the_next_execution() -> None:
    market = [
        book(1000, PERP, ("99", "2"), ("100", "2")),
        book(1000, SPOT, ("110", "2"), ("111", "2")),
        book(4000, SPOT, ("110", "3"), ("111", "2")),
        book(4000, PERP, ("99", "3"), ("100", "3")),
        book(6000, PERP, ("109", "1"), ("112", "1")),
        book(10_000, PERP, ("108", "1"), ("112", "1")),
    ]
    result = run(market, Parameters(limit=Decimal(230)))
    assert result.refusals == {"risk limit exceed": 1}
    assert result.at_limit_ms == 2000
    assert result.at_limit_share == 2000 / 9000


def test_fees_are_a_fraction_of_each_legs_value_and_counted_by_spread() -> None:
    fees = {"spot": Decimal("0.01"), "linear": Decimal("0.001")}
    result = run(MARKET, Parameters(taker_fees=fees, min_profit_bps=Decimal(0)))
    spot, perp = Decimal(2 * 110 + 2 * 103), Decimal(2 * 100 + 101 + 102)
    assert result.pnl.fees == spot * fees["spot"] + perp * fees["linear"]
    assert result.pnl.total == 17 - result.pnl.fees
    assert result.spreads.mean_pnl == result.pnl.total
    assert result.break_even.total_bps is not None
    assert abs(result.break_even.total_bps * result.turnover - 17 * 10_000) < Decimal("0.0001")


def test_what_is_withheld_is_counted_by_its_reason() -> None:
    late = [*MARKET[:1], book(20_000, SPOT, ("110", "2"), ("111", "2"))]
    result = run(late, Parameters(limits=Limits(stale_after_ms=5000)))
    assert result.orders == []
    assert result.withheld == {"a book has not been heard of": 1}


def test_a_spread_is_offered_for_as_long_as_the_books_say() -> None:
    market = [
        book(1000, PERP, ("99", "1"), ("100", "9")),
        book(1000, SPOT, ("110", "1"), ("111", "9")),
        book(2000, SPOT, ("120", "1"), ("121", "9"), u=2000),
        book(4000, SPOT, ("90", "1"), ("91", "9"), u=4000),
        book(9000, SPOT, ("91", "1"), ("92", "9"), u=9000),
    ]
    (pair,) = (pair for pair in run(market).pairs if pair.long == "linear:BTCPERP")
    assert pair.offered_ms == 3000
    assert pair.offered_mean == pytest.approx((1 * 10 + 2 * 20) / 3)
    assert pair.offered_highest == 20


def test_each_order_is_reported_with_its_answer() -> None:
    seen: list[tuple[Order, Reply]] = []
    simulation = Simulation(Parameters(), on_order=lambda order, reply: seen.append((order, reply)))
    simulation.run(MARKET)
    assert [(order.action, order.size, reply.info) for order, reply in seen] == [
        ("Open Spread", Decimal(2), "order placed"),
        ("Close Spread", Decimal(1), "order placed"),
        ("Close Spread", Decimal(1), "order placed"),
    ]
    assert [order.expires_at for order, _ in seen] == [3000, 5000, 11_000]


def test_a_message_that_cannot_be_read_is_counted_and_changes_nothing() -> None:
    simulation = Simulation(Parameters())
    simulation.run([*MARKET[:2], (2000, book_message("delta", 1001, [("x", "1")], instrument=PERP))])
    assert (simulation.messages, simulation.invalid) == (3, 1)


def test_json_has_exact_numbers() -> None:
    assert b'"closed": 17' in to_json(run(MARKET))


@pytest.mark.parametrize(("percent", "expected"), [(0, 1), (50, 6), (90, 10), (100, 10)])
def test_percentiles_are_values_that_occurred(percent: int, expected: int) -> None:
    assert percentile(range(1, 11), percent) == expected
    assert percentile([], percent) is None
