"""What the signal engine makes of the replies to real orders: what was executed, and reasons that last."""

from __future__ import annotations

from decimal import Decimal

import pytest

from blackbird.trading.orders import ACK, NOT_ACK, ORDER_PLACED, Order, Reply
from tests.support.market import PERP, PLACED, SPOT, Market, decimals

D = Decimal


def executed(size: str, buy_price: str, sell_price: str) -> Reply:
    return Reply(
        ACK,
        ORDER_PLACED,
        size=D(size),
        buy_price=D(buy_price),
        sell_price=D(sell_price),
        fee=D("0.1"),
    )


def crossing(market: Market) -> list[Order]:
    """Bring spot bids 105 x 3 above the perpetual's asks 100 x 2."""
    market.snapshot(SPOT, [("105", "3")], [("107", "5")])
    return market.snapshot(PERP, [("99", "5")], [("100", "2"), ("106", "5")])


def test_spread_has_the_size_and_prices_of_the_reply() -> None:
    market = Market()
    market.answer = lambda _: executed("1.5", "100.5", "104.75")
    (order,) = crossing(market)
    assert order.size == 2
    assert market.open_spreads() == [(PERP, SPOT, D("4.25"), D("1.5"))]


def test_asked_size_is_consumed_where_less_was_executed() -> None:
    market = Market()
    market.answer = lambda _: executed("0.5", "100", "105")
    crossing(market)
    assert market.asks(PERP) == decimals({"106": "5"})
    assert market.bids(SPOT) == decimals({"105": "1"})


def test_close_takes_from_its_spread_what_was_executed() -> None:
    market = Market()
    crossing(market)
    market.answer = lambda _: executed("0.75", "103", "99")
    (order,) = market.delta(SPOT, [("105", "0")], [("103", "2")])
    assert order.size == 2
    assert market.open_spreads() == [(PERP, SPOT, D(5), D("1.25"))]
    assert market.asks(SPOT) == decimals({"107": "5"})


def test_simulated_reply_is_an_execution_as_asked() -> None:
    market = Market()
    market.answer = lambda _: PLACED
    crossing(market)
    assert market.open_spreads() == [(PERP, SPOT, D(5), D(2))]


def test_open_that_was_refused_for_a_lasting_reason_is_not_asked_for_on_each_book() -> None:
    market = Market()
    market.answer = lambda _: Reply(NOT_ACK, "leftover of an earlier trade")
    assert len(crossing(market)) == 1
    for _ in range(5):
        market.now += 150
        assert market.delta(PERP, [("98", "1")]) == []
    market.now += 250
    assert len(market.delta(PERP, [("98", "2")])) == 1


@pytest.mark.parametrize("info", ["not filled", "buy leg failed"])
def test_open_that_was_not_filled_is_tried_on_the_next_book(info: str) -> None:
    market = Market()
    market.answer = lambda _: Reply(NOT_ACK, info)
    crossing(market)
    assert len(market.delta(PERP, [("98", "1")])) == 1
