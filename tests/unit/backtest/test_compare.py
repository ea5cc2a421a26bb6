"""Orders of a backtest against live ones: the first that differs, group by group."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import Literal

from blackbird.backtest.compare import Comparison, StoredOrders
from blackbird.market.instrument import Instrument
from blackbird.market.order_book import OrderBook
from blackbird.trading.orders import Order, Reply
from tests.support.market import PERP, PLACED, REFUSED, SPOT, book_message

A, B = Instrument("spot", "ETHUSDT"), Instrument("linear", "ETHPERP")


def order(
    buy: Instrument,
    sell: Instrument,
    spread: str,
    size: str = "1",
    action: Literal["Open Spread", "Close Spread"] = "Open Spread",
) -> Order:
    return Order(action, buy, Decimal(9), sell, Decimal("10.0"), Decimal(size), 1, 2, spread_id=spread)


def books() -> dict[Instrument, OrderBook]:
    made = {}
    for instrument in (SPOT, PERP, A, B):
        book = OrderBook()
        book.apply(book_message("snapshot", 7, [("9", "1"), ("8", "2")], [("10", "3")]), 7)
        made[instrument] = book
    return made


def compare(
    live: list[Order], found: list[Order | str], refusals: dict[str, int] | None = None
) -> Comparison:
    stored = StoredOrders([(each, each.spread_id or "") for each in live], Counter(refusals or {}))
    comparison = Comparison(stored)
    for each in found:
        if isinstance(each, str):
            comparison.on_order(order(PERP, SPOT, "r"), Reply(REFUSED.status, each), books())
        else:
            comparison.on_order(each, PLACED, books())
    return comparison


def test_ids_differ_and_are_compared_by_the_order_of_their_appearance() -> None:
    live = [order(PERP, SPOT, "x"), order(PERP, SPOT, "y"), order(SPOT, PERP, "x", action="Close Spread")]
    same = [order(PERP, SPOT, "1"), order(PERP, SPOT, "2"), order(SPOT, PERP, "1", action="Close Spread")]
    assert compare(live, [*same]).finish() == []
    other = [*same[:2], order(SPOT, PERP, "2", action="Close Spread")]
    lines = compare(live, [*other]).finish()
    assert lines[0] == "execution 3 of its instruments differs"
    assert lines[1].endswith("spread 1")
    assert lines[2].endswith("spread 2")


def test_groups_are_compared_each_by_itself() -> None:
    live = [order(PERP, SPOT, "x"), order(B, A, "y"), order(PERP, SPOT, "z")]
    assert compare(live, [live[1], live[0], live[2]]).finish() == []


def test_the_first_difference_comes_with_both_books() -> None:
    comparison = compare(
        [order(PERP, SPOT, "x"), order(PERP, SPOT, "y")],
        [order(PERP, SPOT, "1", "1.0"), order(PERP, SPOT, "2", "3")],
    )
    lines = comparison.finish()
    assert lines == [
        "execution 2 of its instruments differs",
        "live:     Open Spread 1: buy linear:BTCPERP at 9, sell spot:BTCUSDT at 10.0, spread 2",
        "backtest: Open Spread 3: buy linear:BTCPERP at 9, sell spot:BTCUSDT at 10.0, spread 2",
    ]
    assert comparison.difference is not None
    perp, spot = comparison.difference.books
    assert (perp.title, spot.title) == ("linear:BTCPERP, update 7", "spot:BTCUSDT, update 7")
    assert perp.lines[:2] == [("1", "9", "10", "3"), ("2", "8", "", "")]


def test_more_or_fewer_orders_are_a_difference() -> None:
    one = order(PERP, SPOT, "x")
    assert "live:     none" in compare([], [one]).finish()
    assert "backtest: none" in compare([one], []).finish()


def test_refusals_are_compared_by_reason() -> None:
    assert compare([], ["expired", "expired"], {"expired": 2}).finish() == []
    assert compare([], ["expired"], {"risk limit exceed": 1}).finish() == [
        "refused with 'expired': 0 live, 1 here",
        "refused with 'risk limit exceed': 1 live, 0 here",
    ]
