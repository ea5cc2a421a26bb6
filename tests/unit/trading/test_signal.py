"""The rules by which spreads open and close, with the trading engine's answers made by hand."""

from __future__ import annotations

from decimal import Decimal

import pytest
from msgspec import structs

from blackbird.market.fields import InvalidMessage
from blackbird.market.instrument import Instrument
from blackbird.market.order_book import Outcome
from blackbird.trading.orders import OpenSpread, Order, Reply
from blackbird.trading.pair_checks import Limits
from blackbird.trading.signal import Signal
from blackbird.trading.spreads import OpenSpreads, Pair, Spread
from tests.support.market import (
    BEYOND_RISK,
    DATED,
    PERP,
    PLACED,
    REFUSED,
    SPOT,
    Market,
    book_message,
    brief,
    decimals,
)

D = Decimal


def crossed_market() -> Market:
    """Return a market where spot bids 105 x 3 stand above the perpetual's asks 100 x 2; one spread is open.

    What is left: spot bid 105 x 1, perpetual asks 106 x 5 and bid 99 x 5, spot ask 107 x 5.
    """
    market = Market()
    market.snapshot(SPOT, [("105", "3")], [("107", "5")])
    market.snapshot(PERP, [("99", "5")], [("100", "2"), ("106", "5")])
    assert market.open_spreads() == [(PERP, SPOT, D(5), D(2))]
    market.sent.clear()
    return market


# --- opening -------------------------------------------------------------------------------------


def test_spread_opens_when_a_bid_stands_above_the_other_ask() -> None:
    market = Market()
    assert market.snapshot(SPOT, [("105", "3")], [("107", "5")]) == []
    (order,) = market.snapshot(PERP, [("99", "5")], [("100", "2")])
    assert brief(order) == ("Open", "BTCPERP", D(100), "BTCUSDT", D(105), D(2))
    assert order.buy == PERP
    assert order.sell == SPOT
    assert market.open_spreads() == [(PERP, SPOT, D(5), D(2))]


@pytest.mark.parametrize("ask", ["105", "105.0", "105.00000001", "200"])
def test_spread_does_not_open_at_the_same_price_or_below(ask: str) -> None:
    market = Market()
    market.snapshot(SPOT, [("105", "3")], [])
    assert market.snapshot(PERP, [], [(ask, "2")]) == []


def test_spread_opens_on_the_smallest_difference() -> None:
    market = Market()
    market.snapshot(SPOT, [("105.00000001", "3")], [])
    assert len(market.snapshot(PERP, [], [("105", "2")])) == 1


def test_open_consumes_its_size_from_both_levels() -> None:
    market = crossed_market()
    assert market.bids(SPOT) == decimals({"105": "1"})
    assert market.asks(PERP) == decimals({"106": "5"})
    assert market.asks(SPOT) == decimals({"107": "5"})
    assert market.bids(PERP) == decimals({"99": "5"})


def test_opens_go_on_through_deeper_levels_while_prices_cross() -> None:
    market = Market()
    market.snapshot(SPOT, [("105", "1"), ("104", "2"), ("101", "9")])
    sent = market.snapshot(PERP, [], [("100", "2"), ("102", "4"), ("103.5", "1")])
    assert [brief(order)[2:] for order in sent] == [
        (D(100), "BTCUSDT", D(105), D(1)),
        (D(100), "BTCUSDT", D(104), D(1)),
        (D(102), "BTCUSDT", D(104), D(1)),
    ]
    assert [spread[2:] for spread in market.open_spreads()] == [(D(5), D(1)), (D(4), D(1)), (D(2), D(1))]
    assert market.bids(SPOT) == decimals({"101": "9"})
    assert market.asks(PERP) == decimals({"102": "3", "103.5": "1"})


def groups(market: Market) -> dict[str, list[Instrument]]:
    return {key: list(group) for key, group in market.signal.keeper.groups.items()}


def test_both_directions_are_scanned() -> None:
    market = Market()
    market.snapshot(SPOT, [("99", "1")], [("100", "1")])
    (order,) = market.snapshot(PERP, [("105", "1")], [("106", "1")])
    assert (order.buy, order.sell) == (SPOT, PERP)


def test_nothing_is_traded_within_one_instrument_or_between_groups() -> None:
    market = Market()
    market.snapshot(SPOT, [("105", "1")], [("106", "1")], key="a")
    market.snapshot(PERP, [("90", "1")], [("91", "1")], key="b")
    assert market.sent == []
    assert groups(market) == {"a": [SPOT], "b": [PERP]}


def test_order_carries_what_the_engine_must_know() -> None:
    market = Market(order_timeout_ms=1234)
    market.apply(book_message("snapshot", 10, [("105", "3")], cts=111))
    (order,) = market.apply(book_message("snapshot", 10, [], [("100", "2")], instrument=PERP, cts=222))
    assert (order.ts_buy, order.ts_sell) == (222, 111)
    assert order.expires_at == market.now + 1234
    assert order.order_id
    assert order.spread_id
    assert order.order_id != order.spread_id


def test_close_carries_the_times_of_its_own_legs() -> None:
    market = Market()
    market.apply(book_message("snapshot", 10, [("105", "2")], [("107", "5")], cts=111))
    market.apply(book_message("snapshot", 10, [("99", "5")], [("100", "2")], instrument=PERP, cts=222))
    (order,) = market.apply(book_message("delta", 11, [], [("99.5", "2")], cts=333, seq=11))
    assert (order.action, order.buy, order.ts_buy, order.ts_sell) == ("Close Spread", SPOT, 333, 222)


def test_ids_of_orders_are_never_the_same() -> None:
    market = Market()
    market.snapshot(SPOT, [("105", "1"), ("104", "1"), ("103", "1")])
    sent = market.snapshot(PERP, [], [("100", "3")])
    assert len({order.order_id for order in sent}) == 3
    assert len({order.spread_id for order in sent}) == 3


def test_opens_of_all_pairs_come_in_order_of_joining() -> None:
    market = Market()
    market.snapshot(DATED, [("1", "1")], [("100", "9")])
    market.snapshot(SPOT, [("1", "1")], [("101", "9")])
    sent = market.snapshot(PERP, [("110", "30")], [("111", "1")])
    assert [(order.buy, order.sell) for order in sent] == [(DATED, PERP), (SPOT, PERP)]


def test_pairs_to_scan_are_in_order_of_joining_long_first() -> None:
    market = Market()
    market.answer = lambda _: REFUSED
    for instrument, bid, ask in ((PERP, "100", "103"), (DATED, "99", "101"), (SPOT, "102", "104")):
        market.snapshot(instrument, [(bid, "1")], [(ask, "1")])
    market.snapshot(PERP, [("105", "1")], [("106", "1")])
    assert market.signal.all_pairs("a") == [Pair(DATED, PERP), Pair(DATED, SPOT), Pair(SPOT, PERP)]
    message = book_message("snapshot", 500, [("98", "1")], [("101", "1")], instrument=DATED)
    assert market.signal.on_book(message, 0) == [Pair(DATED, PERP), Pair(DATED, SPOT)]
    message = book_message("snapshot", 501, [("107", "1")], [("108", "1")], instrument=DATED)
    assert market.signal.on_book(message, 0) == [Pair(PERP, DATED), Pair(SPOT, DATED)]


def test_pair_is_not_scanned_any_more_when_its_last_spread_is_closed() -> None:
    market = crossed_market()
    market.delta(SPOT, [("105", "0")], [("99.5", "2")])
    assert market.open_spreads() == []
    assert market.signal.on_book(book_message("snapshot", 500, [("98", "1")]), 0) == []


def test_instrument_that_changes_its_group_without_news_is_traded_on_in_the_new_one() -> None:
    market = Market()
    market.snapshot(PERP, [("90", "1")], [("91", "1")], key="b")
    message = book_message("snapshot", 10, [("105", "1")], [("106", "1")])
    market.apply(message)
    assert market.apply(structs.replace(message, matching_key="b")) == []
    assert market.signal.keeper.outcomes[Outcome.DUPLICATE] == 1
    (order,) = market.snapshot(PERP, [("90", "1")], [("91", "2")], key="b")
    assert (order.buy, order.sell) == (PERP, SPOT)


def test_pairs_that_neither_cross_nor_have_a_spread_open_are_not_scanned() -> None:
    market = Market()
    market.snapshot(PERP, [("100", "1")], [("101", "1")])
    market.snapshot(DATED, [("100", "1")], [("101", "1")])
    assert market.signal.on_book(book_message("snapshot", 500, [("102", "1")]), 0) == [
        Pair(PERP, SPOT),
        Pair(DATED, SPOT),
    ]
    assert market.signal.on_book(book_message("snapshot", 501, [("101", "1")]), 0) == []
    market.signal.restore([OpenSpread("s", SPOT, PERP, Decimal(1), Decimal(1))])
    assert market.signal.on_book(book_message("snapshot", 502, [("101", "2")]), 0) == [Pair(SPOT, PERP)]
    assert market.signal.all_pairs("a") == [Pair(SPOT, PERP)]
    # An instrument in another group is nothing to trade against.
    assert market.signal.on_book(book_message("snapshot", 503, [("101", "3")], key="b"), 0) == []
    assert market.signal.all_pairs("a") == []


def test_pairs_without_the_updated_instrument_are_not_scanned() -> None:
    market = Market()
    market.answer = lambda _: REFUSED
    market.snapshot(SPOT, [("105", "1")], [("106", "1")])
    market.snapshot(PERP, [("99", "1")], [("100", "1")])
    market.answer = lambda _: PLACED
    # A new scan of the pair of the other two would open.
    assert market.snapshot(DATED, [("90", "1")], [("200", "1")]) == []


# --- closing -------------------------------------------------------------------------------------


def test_spread_closes_when_the_way_out_is_nearer_than_the_entry() -> None:
    market = crossed_market()
    (order,) = market.delta(SPOT, [("105", "0")], [("103", "9")])
    assert brief(order) == ("Close", "BTCUSDT", D(103), "BTCPERP", D(99), D(2))
    assert market.open_spreads() == []


@pytest.mark.parametrize(
    ("ask", "closes"),
    [
        ("104", False),
        ("103.99999999", True),
        ("99", True),
        ("95", True),
        ("94.00000001", True),
        ("94", False),
    ],
)
def test_spread_closes_while_the_distance_is_smaller_in_either_direction(ask: str, closes: bool) -> None:
    """The perpetual is bid 99, the entry was 5: |99 - ask| must be below 5."""
    market = crossed_market()
    market.answer = lambda order: PLACED if order.action == "Close Spread" else REFUSED
    market.snapshot(SPOT, [("93", "1")], [(ask, "2")])
    assert [order.action for order in market.sent if order.action == "Close Spread"] == (
        ["Close Spread"] if closes else []
    )


def test_close_consumes_its_size_from_both_levels_and_from_the_spread() -> None:
    market = crossed_market()
    market.delta(SPOT, [("105", "0")], [("103", "0.5"), ("103.5", "9")])
    assert [brief(order)[2:] for order in market.sent] == [
        (D(103), "BTCPERP", D(99), D("0.5")),
        (D("103.5"), "BTCPERP", D(99), D("1.5")),
    ]
    assert market.asks(SPOT) == decimals({"103.5": "7.5", "107": "5"})
    assert market.bids(PERP) == decimals({"99": "3"})


def test_close_in_part_leaves_the_rest_of_the_spread_open() -> None:
    market = crossed_market()
    market.delta(SPOT, [("105", "0")], [("103", "0.5")])
    assert market.open_spreads() == [(PERP, SPOT, D(5), D("1.5"))]
    spread_ids = {order.spread_id for order in market.sent}
    market.delta(SPOT, [("105", "0")], [("103", "0.25")])
    assert market.open_spreads() == [(PERP, SPOT, D(5), D("1.25"))]
    assert {order.spread_id for order in market.sent} == spread_ids


def test_close_is_as_large_as_the_smaller_level() -> None:
    market = crossed_market()
    market.delta(PERP, [("99", "0.4")])
    market.delta(SPOT, [("105", "0")], [("103", "9")])
    assert [order.size for order in market.sent] == [D("0.4")]


def test_spread_closed_in_tenths_is_gone_without_crumbs() -> None:
    market = Market()
    market.snapshot(SPOT, [("105", "0.3")], [("200", "1")])
    market.snapshot(PERP, [("99", "5")], [("100", "0.3")])
    for size in ("0.1", "0.10", "0.100"):
        market.delta(SPOT, [("105", "0")], [("103", "0")])
        market.delta(SPOT, [("105", "0")], [("103", size)])
    assert market.open_spreads() == []
    assert [order.size for order in market.sent] == [D("0.3"), D("0.1"), D("0.1"), D("0.1")]


def test_oldest_spread_is_closed_first_across_pairs() -> None:
    market = Market()
    # Two pairs with the perpetual short: dated is opened first, spot second, dated again third.
    market.snapshot(PERP, [("110", "2")], [("200", "1")])
    market.snapshot(DATED, [("90", "9")], [("100", "2")])
    market.delta(PERP, [("110", "1")])
    market.snapshot(SPOT, [("90", "9")], [("100", "1")])
    market.delta(PERP, [("110", "3")])
    market.delta(DATED, [], [("100", "3")])
    opened = [(spread[0], spread[3]) for spread in market.open_spreads()]
    assert opened == [(DATED, D(2)), (SPOT, D(1)), (DATED, D(3))]
    market.sent.clear()
    market.delta(PERP, [], [("95", "3.5")])
    assert [(order.sell, order.size) for order in market.sent] == [
        (DATED, D(2)),
        (SPOT, D(1)),
        (DATED, D("0.5")),
    ]


def test_wider_younger_spread_is_closed_though_the_oldest_can_not_be() -> None:
    market = Market()
    market.snapshot(SPOT, [("102", "1"), ("101", "0")], [("200", "1")])
    market.snapshot(PERP, [("95", "9")], [("100", "1")])
    market.delta(SPOT, [("102", "0"), ("109", "1")])
    market.delta(PERP, [], [("100", "3")])
    assert [spread[2] for spread in market.open_spreads()] == [D(2), D(9)]
    market.sent.clear()
    market.delta(SPOT, [("109", "0")], [("101", "5")])
    assert [order.action for order in market.sent] == ["Close Spread"]
    assert [spread[2] for spread in market.open_spreads()] == [D(2)]


def test_opens_come_before_closes() -> None:
    market = crossed_market()
    # The perpetual's ask of 95 opens, its bid of 94 lets nothing close; then spot's ask lets both close.
    sent = market.snapshot(PERP, [("104", "9")], [("104.5", "0.5")])
    assert [order.action for order in sent] == ["Open Spread", "Close Spread"]
    assert brief(sent[0])[1:5] == ("BTCPERP", D("104.5"), "BTCUSDT", D(105))


def test_spread_just_opened_is_not_closed_by_the_books_that_opened_it() -> None:
    """The way out, over both books' own gaps, is always further than the way in."""
    market = Market()
    market.snapshot(SPOT, [("105", "1")], [("105.01", "1")])
    sent = market.snapshot(PERP, [("99.99", "1")], [("100", "1")])
    assert [order.action for order in sent] == ["Open Spread"]


def test_spread_of_other_pairs_stays_open() -> None:
    market = crossed_market()
    market.snapshot(DATED, [("99", "9")], [("99.5", "9")], key="b")
    assert market.open_spreads() == [(PERP, SPOT, D(5), D(2))]


# --- consumed size -------------------------------------------------------------------------------


def test_consumed_size_is_not_traded_again_on_a_repeated_report() -> None:
    market = crossed_market()
    assert market.delta(PERP, [], [("100", "2")]) == []
    assert market.snapshot(PERP, [("99", "5")], [("100", "2.0"), ("106", "5")]) == []


def test_consumed_size_is_traded_again_when_another_size_is_reported() -> None:
    market = crossed_market()
    (order,) = market.delta(PERP, [], [("100", "0.75")])
    assert order.size == D("0.75")


def test_consumed_size_is_traded_again_after_removal() -> None:
    market = crossed_market()
    assert market.delta(PERP, [], [("100", "0")]) == []
    (order,) = market.delta(PERP, [], [("100", "2")])
    assert order.size == 1  # all that is left of spot's bid


def test_consumed_size_is_not_traded_again_after_a_gap() -> None:
    market = crossed_market()
    market.skip_update(PERP)
    assert market.delta(PERP, [], [("100", "9")]) == []
    assert market.snapshot(PERP, [("99", "5")], [("100", "2"), ("106", "5")]) == []


def test_rest_of_a_level_is_traded_in_later_scans() -> None:
    market = crossed_market()
    (order,) = market.delta(PERP, [], [("101", "9")])
    assert brief(order)[2:] == (D(101), "BTCUSDT", D(105), D(1))


# --- refusals ------------------------------------------------------------------------------------


def test_refused_open_changes_nothing_and_ends_the_opens_of_its_pair() -> None:
    market = Market()
    market.answer = lambda _: REFUSED
    market.snapshot(SPOT, [("105", "1"), ("104", "1")])
    sent = market.snapshot(PERP, [], [("100", "2"), ("101", "2")])
    assert len(sent) == 1
    assert market.open_spreads() == []
    assert market.bids(SPOT) == decimals({"105": "1", "104": "1"})
    assert market.asks(PERP) == decimals({"100": "2", "101": "2"})


def test_refused_close_changes_nothing_and_ends_the_closes_of_its_pair() -> None:
    market = Market()
    market.snapshot(SPOT, [("105", "1"), ("104", "1")], [("200", "1")])
    market.snapshot(PERP, [("99", "5")], [("100", "2")])
    market.sent.clear()
    market.answer = lambda _: REFUSED
    sent = market.delta(SPOT, [], [("101", "5")])
    assert [order.action for order in sent] == ["Close Spread"]
    assert [spread[3] for spread in market.open_spreads()] == [D(1), D(1)]
    assert market.bids(PERP) == decimals({"99": "5"})
    assert market.asks(SPOT) == decimals({"101": "5", "200": "1"})


@pytest.mark.parametrize("instrument", [SPOT, PERP])
@pytest.mark.parametrize("info", ["order not placed", "order already placed", "expired", "internal error"])
def test_refused_open_is_tried_again_when_either_book_changes(instrument: Instrument, info: str) -> None:
    market = Market()
    market.answer = lambda _: Reply("NOT ACK", info)
    market.snapshot(SPOT, [("105", "1")])
    market.snapshot(PERP, [], [("100", "2")])
    assert len(market.sent) == 1
    assert len(market.delta(instrument)) == 1


def test_refused_open_is_not_tried_again_when_another_book_changes() -> None:
    market = Market()
    market.snapshot(DATED, [("50", "1")], [("200", "1")])
    market.snapshot(SPOT, [("105", "1")])
    market.answer = lambda _: REFUSED
    market.snapshot(PERP, [], [("100", "2")])
    assert len(market.sent) == 1
    assert market.scan(market.signal.all_pairs("a")) == []
    assert market.delta(DATED, [("49", "1")]) == []


def test_refused_close_is_not_tried_again_when_another_book_changes() -> None:
    market = crossed_market()
    market.answer = lambda _: REFUSED
    assert len(market.delta(SPOT, [("105", "0")], [("103", "1")])) == 1
    assert market.scan(market.signal.all_pairs("a")) == []
    market.sent.clear()
    market.snapshot(DATED, [("1", "1")], [("500", "1")])
    assert market.sent == []
    assert len(market.delta(PERP)) == 1


def test_repeated_and_stale_messages_are_no_change() -> None:
    market = Market()
    market.answer = lambda _: REFUSED
    market.apply(book_message("snapshot", 10, [("105", "1")]))
    perp = book_message("snapshot", 10, [], [("100", "2")], instrument=PERP)
    market.apply(perp)
    assert market.apply(perp) == []
    assert market.apply(book_message("delta", 9, instrument=PERP)) == []
    assert len(market.sent) == 1
    assert market.scan(market.signal.all_pairs("a")) == []


def test_refused_open_of_one_pair_does_not_end_those_of_another() -> None:
    market = Market()
    market.answer = lambda order: REFUSED if order.buy == DATED else PLACED
    market.snapshot(DATED, [], [("100", "9")])
    market.snapshot(SPOT, [], [("101", "9")])
    sent = market.snapshot(PERP, [("110", "3")])
    assert [(order.buy, order.sell) for order in sent] == [(DATED, PERP), (SPOT, PERP)]
    assert market.open_spreads() == [(SPOT, PERP, D(9), D(3))]


def test_closes_are_scanned_after_a_refused_open() -> None:
    market = crossed_market()
    market.answer = lambda order: REFUSED if order.action == "Open Spread" else PLACED
    sent = market.snapshot(PERP, [("104", "9")], [("104.5", "0.5")])
    assert [order.action for order in sent] == ["Open Spread", "Close Spread"]
    # Spot offers at 107: |104 - 107| is below the entry of 5.
    assert market.open_spreads() == []


def test_opens_are_scanned_after_a_refused_close() -> None:
    market = crossed_market()
    market.answer = lambda order: REFUSED if order.action == "Close Spread" else PLACED
    market.delta(SPOT, [("105", "0"), ("102", "1")], [("103", "1")])
    assert [order.action for order in market.sent] == ["Close Spread"]
    market.delta(PERP, [], [("101", "1")])
    assert [order.action for order in market.sent[1:]] == ["Open Spread", "Close Spread"]


def test_refused_close_ends_those_of_younger_spreads_of_the_pair_too() -> None:
    market = Market()
    market.snapshot(SPOT, [("105", "1"), ("104", "1")], [("200", "1")])
    market.snapshot(PERP, [("99", "5")], [("100", "2")])
    first = next(iter(market.signal.spreads)).spread_id
    market.answer = lambda order: REFUSED if order.spread_id == first else PLACED
    sent = market.delta(SPOT, [], [("101", "5")])
    assert [order.spread_id for order in sent] == [first]


def test_refused_close_of_one_pair_does_not_end_those_of_another() -> None:
    market = Market()
    market.snapshot(PERP, [("110", "2")], [("200", "1")])
    market.snapshot(DATED, [("90", "9")], [("100", "1")])
    market.snapshot(SPOT, [("90", "9")], [("100", "1")])
    market.answer = lambda order: REFUSED if order.sell == DATED else PLACED
    sent = market.delta(PERP, [], [("95", "9")])
    assert [order.sell for order in sent] == [DATED, SPOT]
    assert [spread[0] for spread in market.open_spreads()] == [DATED]


def test_refusal_before_an_instrument_was_removed_does_not_bind_its_new_book() -> None:
    market = Market()
    market.answer = lambda _: REFUSED
    market.signal.on_subscriptions([SPOT, PERP])
    market.snapshot(SPOT, [("105", "1")])
    market.snapshot(PERP, [], [("100", "2")])
    market.signal.on_subscriptions([SPOT])
    market.signal.on_subscriptions([SPOT, PERP])
    assert len(market.snapshot(PERP, [], [("100", "2")])) == 1


def test_refused_close_before_an_instrument_was_removed_does_not_bind_its_new_book() -> None:
    market = Market()
    market.signal.restore([OpenSpread("s", PERP, SPOT, D(5), D(2))])
    market.answer = lambda _: REFUSED
    market.snapshot(SPOT, [], [("103", "1")])
    assert len(market.snapshot(PERP, [("99", "2")])) == 1
    market.signal.on_subscriptions([SPOT])
    market.signal.on_subscriptions([SPOT, PERP])
    assert len(market.snapshot(PERP, [("99", "2")])) == 1


# --- risk limit ----------------------------------------------------------------------------------


def limited_market() -> Market:
    """Return a market where an Open of (perpetual, spot) was refused by the risk limit."""
    market = Market()
    market.answer = lambda _: BEYOND_RISK
    market.snapshot(SPOT, [("105", "1")], [("500", "1")])
    assert len(market.snapshot(PERP, [("80", "1")], [("100", "2")])) == 1
    market.answer = lambda _: PLACED
    return market


@pytest.mark.parametrize("instrument", [SPOT, PERP])
def test_beyond_the_risk_limit_no_open_is_sent_though_books_change(instrument: Instrument) -> None:
    market = limited_market()
    assert market.delta(instrument) == []
    assert market.snapshot(PERP, [("80", "1")], [("90", "2")]) == []


def test_beyond_the_risk_limit_opens_come_back_after_an_ack_for_an_open_of_another_pair() -> None:
    market = limited_market()
    assert len(market.snapshot(DATED, [("130", "0.5")], [("200", "1")])) == 1
    assert [order.sell for order in market.delta(PERP)] == [SPOT]


def test_beyond_the_risk_limit_opens_come_back_after_an_ack_for_a_close() -> None:
    market = limited_market()
    market.signal.restore([OpenSpread("s", PERP, SPOT, D(500), D("0.5"))])
    assert [order.action for order in market.delta(SPOT)] == ["Close Spread"]
    assert [order.action for order in market.delta(SPOT)] == ["Open Spread"]


def test_beyond_the_risk_limit_other_refusals_bring_no_opens_back() -> None:
    market = limited_market()
    market.answer = lambda _: REFUSED
    market.snapshot(DATED, [("130", "0.5")], [("200", "1")])
    assert (market.sent[-1].buy, market.sent[-1].sell) == (PERP, DATED)
    market.answer = lambda _: PLACED
    assert market.delta(SPOT) == []


def test_beyond_the_risk_limit_other_pairs_go_on() -> None:
    market = limited_market()
    market.snapshot(DATED, [("130", "0.5")], [("200", "1")])
    assert market.open_spreads() == [(PERP, DATED, D(30), D("0.5"))]


def test_beyond_the_risk_limit_closes_of_the_pair_go_on() -> None:
    market = limited_market()
    market.signal.restore([OpenSpread("s", PERP, SPOT, D(500), D("0.5"))])
    assert [order.action for order in market.delta(SPOT)] == ["Close Spread"]


def test_ack_does_not_lift_a_refusal_by_the_limit_before_a_book_changes() -> None:
    market = limited_market()
    market.signal.restore([OpenSpread("s", PERP, SPOT, D(500), D(1))])
    assert len(market.scan(market.signal.all_pairs("a"))) == 1
    assert market.scan(market.signal.all_pairs("a")) == []
    assert [order.action for order in market.delta(SPOT)] == ["Open Spread"]


def test_close_refused_by_the_limit_is_a_refusal_like_another() -> None:
    market = crossed_market()
    market.answer = lambda _: BEYOND_RISK
    market.delta(SPOT, [("105", "0")], [("103", "1")])
    market.answer = lambda _: PLACED
    sent = market.delta(SPOT, [("102", "1")])
    assert [order.action for order in sent] == ["Close Spread"]
    assert [order.action for order in market.delta(PERP, [], [("100", "7")])] == ["Open Spread"]


# --- books that must not be traded on ------------------------------------------------------------


def test_nothing_is_traded_before_both_books_are_there() -> None:
    market = Market()
    assert market.delta(PERP, [], [("100", "2")]) == []
    assert market.snapshot(SPOT, [("105", "3")], [("107", "5")]) == []
    assert market.signal.keeper.needs_snapshot == {PERP}
    assert groups(market) == {"a": [PERP, SPOT]}  # joined with its first message


def test_nothing_is_traded_while_a_book_waits_for_a_snapshot() -> None:
    market = Market()
    market.snapshot(PERP, [("99", "1")], [("104", "2")])
    market.snapshot(SPOT, [("103", "3")], [("107", "5")])
    market.skip_update(PERP)
    assert market.delta(PERP, [], [("100", "2")]) == []
    assert market.signal.keeper.needs_snapshot == {PERP}
    assert market.delta(SPOT, [("105", "3")]) == []
    assert market.delta(PERP, [], [("100", "2")]) == []
    (order,) = market.snapshot(PERP, [("99", "1")], [("100", "2")])
    assert order.size == 2
    assert market.signal.keeper.needs_snapshot == set()


def test_spread_is_not_closed_while_a_book_waits_for_a_snapshot() -> None:
    market = crossed_market()
    market.skip_update(PERP)
    market.delta(PERP)
    assert market.delta(SPOT, [("105", "0")], [("103", "9")]) == []
    assert len(market.snapshot(PERP, [("99", "5")], [("100", "2")])) == 1
    assert market.open_spreads() == []


def test_message_that_is_not_applied_gives_no_scan() -> None:
    market = Market()
    market.answer = lambda _: REFUSED
    market.apply(book_message("snapshot", 10, [("105", "1")]))
    market.apply(book_message("snapshot", 10, [], [("100", "1")], instrument=PERP))
    for message, outcome in (
        (book_message("snapshot", 10, instrument=PERP), Outcome.DUPLICATE),
        (book_message("delta", 9, instrument=PERP), Outcome.STALE),
        (book_message("delta", 12, instrument=PERP), Outcome.GAP),
        (book_message("delta", 13, instrument=PERP), Outcome.AWAITING_SNAPSHOT),
    ):
        before = market.signal.keeper.outcomes[outcome]
        assert list(market.signal.on_book(message, 0)) == []
        assert market.signal.keeper.outcomes[outcome] == before + 1


def test_crossed_book_is_not_traded_on_and_a_snapshot_is_wanted() -> None:
    market = Market()
    market.snapshot(PERP, [("99", "1")], [("100", "2")])
    assert market.snapshot(SPOT, [("105", "3")], [("104", "5")]) == []
    assert market.signal.keeper.needs_snapshot == {SPOT}


def test_invalidated_book_is_not_traded_on_before_its_snapshot() -> None:
    market = crossed_market()
    market.signal.keeper.invalidate(PERP)
    market.signal.keeper.invalidate(DATED)
    assert market.signal.keeper.needs_snapshot == {PERP}
    assert market.delta(SPOT, [("105", "0")], [("103", "9")]) == []


def test_refused_levels_leave_no_trace() -> None:
    market = Market()
    with pytest.raises(InvalidMessage):
        market.snapshot(SPOT, [("105", "-3")])
    assert market.signal.keeper.books == {}
    assert groups(market) == {}


def test_book_is_tradable_up_to_its_age_and_not_after() -> None:
    market = Market(limits=Limits(stale_after_ms=1000))
    market.snapshot(SPOT, [("105", "1")], [("107", "5")])
    market.now += 1000
    assert len(market.snapshot(PERP, [("99", "1")], [("100", "0.5")])) == 1
    market.now += 1
    assert market.delta(PERP, [], [("100", "0.25")]) == []
    assert len(market.delta(SPOT)) == 1


def test_old_book_lets_nothing_close() -> None:
    market = Market(limits=Limits(stale_after_ms=1000))
    market.snapshot(SPOT, [("105", "1")], [("103.5", "0"), ("107", "5")])
    market.snapshot(PERP, [("99", "1")], [("100", "1")])
    market.now += 1001
    assert market.delta(SPOT, [("105", "0")], [("103", "1")]) == []
    assert [order.action for order in market.delta(PERP)] == ["Close Spread"]


def test_age_counts_from_publication_not_from_arrival() -> None:
    market = Market(limits=Limits(stale_after_ms=1000))
    market.apply(book_message("snapshot", 10, [("105", "1")]), received_ms=market.now - 1001)
    perp = book_message("snapshot", 10, [], [("100", "1")], instrument=PERP)
    assert market.apply(perp) == []
    market.apply(book_message("delta", 11), received_ms=market.now - 1000)
    assert len(market.sent) == 1


def test_repeated_snapshot_keeps_a_quiet_book_young() -> None:
    market = Market(limits=Limits(stale_after_ms=1000))
    quiet = book_message("snapshot", 10, [("105", "1")])
    market.apply(quiet)
    market.now += 900
    market.apply(quiet)
    market.now += 900
    assert len(market.snapshot(PERP, [], [("100", "1")])) == 1


def test_book_that_grows_old_during_a_scan_ends_it() -> None:
    market = Market(limits=Limits(stale_after_ms=1000))

    def slow(_: Order) -> Reply:
        market.now += 1001
        return PLACED

    market.answer = slow
    market.snapshot(SPOT, [("105", "1"), ("104", "1")])
    assert len(market.snapshot(PERP, [], [("100", "2")])) == 1


def test_age_does_not_matter_where_it_is_off() -> None:
    market = Market(limits=Limits(stale_after_ms=0))
    market.snapshot(SPOT, [("105", "1")])
    market.now += 10**12
    assert len(market.snapshot(PERP, [], [("100", "1")])) == 1


# --- subscriptions -------------------------------------------------------------------------------


def test_instrument_that_no_map_named_is_known_from_its_first_message_on() -> None:
    market = Market()
    market.signal.on_subscriptions([SPOT])
    market.snapshot(PERP, [("99", "1")], [("100", "1")])
    assert PERP in market.signal.keeper.books
    assert groups(market) == {"a": [PERP]}


def test_map_without_a_known_instrument_removes_it_with_its_book_and_place() -> None:
    market = crossed_market()
    market.signal.on_subscriptions([SPOT])
    assert set(market.signal.keeper.books) == {SPOT}
    assert groups(market) == {"a": [SPOT]}
    assert market.delta(PERP, [], [("90", "1")]) == []
    assert market.snapshot(PERP, [("99", "1")], [("90", "1")]) == []
    assert PERP not in market.signal.keeper.books
    assert market.delta(SPOT, [("105", "0")], [("103", "9")]) == []
    assert market.open_spreads() == [(PERP, SPOT, D(5), D(2))]


def test_instrument_named_before_its_first_message_is_removed_too() -> None:
    market = Market()
    market.signal.on_subscriptions([SPOT, PERP])
    market.signal.on_subscriptions([SPOT])
    market.snapshot(PERP, [("99", "1")], [("90", "1")])
    assert market.signal.keeper.books == {}


def test_instrument_that_a_map_names_again_trades_from_its_snapshot_on() -> None:
    market = crossed_market()
    market.signal.on_subscriptions([SPOT])
    market.signal.on_subscriptions([SPOT, PERP])
    assert market.delta(PERP, [], [("100", "2")]) == []
    assert market.signal.keeper.needs_snapshot == {PERP}
    assert len(market.snapshot(PERP, [("99", "5")], [("100", "2")])) == 1


def test_instrument_that_comes_back_joins_its_group_at_the_end() -> None:
    market = Market()
    for instrument in (SPOT, PERP, DATED):
        market.snapshot(instrument)
    market.signal.on_subscriptions([PERP, DATED])
    market.signal.on_subscriptions([SPOT, PERP, DATED])
    market.snapshot(SPOT)
    assert groups(market) == {"a": [PERP, DATED, SPOT]}


def test_instrument_that_is_removed_is_not_waited_for() -> None:
    market = Market()
    market.delta(PERP)
    assert market.signal.keeper.needs_snapshot == {PERP}
    market.signal.on_subscriptions([])
    assert market.signal.keeper.needs_snapshot == set()


def test_last_instrument_of_a_group_leaves_no_group_behind() -> None:
    market = Market()
    market.snapshot(SPOT)
    market.signal.on_subscriptions([])
    assert groups(market) == {}
    assert market.signal.all_pairs("a") == []


def test_map_with_all_instruments_changes_nothing() -> None:
    market = crossed_market()
    market.signal.on_subscriptions([PERP, SPOT])
    assert market.bids(SPOT) == decimals({"105": "1"})
    assert groups(market) == {"a": [SPOT, PERP]}


# --- groups --------------------------------------------------------------------------------------


def test_another_matching_key_moves_the_instrument_to_the_other_group() -> None:
    market = Market()
    market.snapshot(DATED, [("50", "1")], [("100", "1")], key="b")
    market.snapshot(SPOT, [("50", "1")], [("100", "1")], key="a")
    market.snapshot(PERP, [("90", "1")], [("200", "1")], key="a")
    sent = market.delta(PERP, [("105", "2")], key="b")
    assert [(order.buy, order.sell) for order in sent] == [(DATED, PERP)]
    assert groups(market) == {"b": [DATED, PERP], "a": [SPOT]}


def test_instrument_that_moved_is_not_traded_with_the_group_that_it_left() -> None:
    market = Market()
    market.snapshot(SPOT, [("50", "1")], [("100", "1")], key="a")
    market.snapshot(PERP, [("90", "1")], [("200", "1")], key="a")
    market.delta(PERP, [("105", "2")], [("50", "0")], key="b")
    market.delta(SPOT, [], [("99", "1")], key="a")
    assert market.sent == []


def test_key_change_keeps_the_book_and_what_was_consumed_of_it() -> None:
    market = crossed_market()
    market.delta(PERP, key="b")
    market.delta(SPOT, key="b")
    assert market.asks(PERP) == decimals({"106": "5"})
    assert market.sent == []
    assert groups(market) == {"b": [PERP, SPOT]}


def test_repeated_snapshot_brings_the_new_key() -> None:
    market = Market()
    market.apply(book_message("snapshot", 10))
    market.apply(book_message("snapshot", 10, key="b"))
    assert groups(market) == {"b": [SPOT]}


def test_old_copy_does_not_bring_an_old_key_back() -> None:
    market = Market()
    market.apply(book_message("snapshot", 10, key="a"))
    market.apply(book_message("delta", 11, key="b"))
    market.apply(book_message("delta", 11, key="a"))
    market.apply(book_message("snapshot", 10, key="a"))
    assert groups(market) == {"b": [SPOT]}


def test_spread_of_a_pair_that_the_groups_part_is_not_closed() -> None:
    market = crossed_market()
    market.delta(SPOT, key="b")
    assert market.delta(SPOT, [("105", "0")], [("103", "9")], key="b") == []
    assert market.open_spreads() == [(PERP, SPOT, D(5), D(2))]
    assert [order.action for order in market.delta(SPOT, key="a")] == ["Close Spread"]


def test_three_instruments_trade_in_all_their_pairs() -> None:
    market = Market()
    market.snapshot(SPOT, [("105", "1")], [("200", "1")])
    market.snapshot(PERP, [("103", "1")], [("200", "1")])
    sent = market.snapshot(DATED, [("50", "1")], [("100", "1.5")])
    assert [(order.buy, order.sell, order.size) for order in sent] == [
        (DATED, SPOT, D(1)),
        (DATED, PERP, D("0.5")),
    ]
    assert len(market.open_spreads()) == 2


def test_symbols_of_the_same_name_on_two_channels_are_two_instruments() -> None:
    market = Market()
    linear = Instrument("linear", "BTCUSDT")
    market.snapshot(SPOT, [("105", "1")])
    (order,) = market.snapshot(linear, [], [("100", "1")])
    assert (order.buy, order.sell) == (linear, SPOT)


def test_depths_of_one_instrument_are_one_book() -> None:
    market = Market()
    market.apply(book_message("snapshot", 10, [("105", "1")], depth=50))
    market.apply(book_message("snapshot", 11, [("104", "1")], depth=1))
    assert market.bids(SPOT) == decimals({"104": "1"})


# --- scans in progress, and the engine's list ----------------------------------------------------


def test_scan_dropped_at_an_order_changes_nothing() -> None:
    market = Market()
    market.signal.on_book(book_message("snapshot", 10, [("105", "1")]), 0)
    pairs = market.signal.on_book(book_message("snapshot", 10, [], [("100", "1")], instrument=PERP), 0)
    scan = market.signal.scan(pairs)
    assert scan.order
    del scan
    assert market.open_spreads() == []
    assert market.bids(SPOT) == decimals({"105": "1"})
    assert len(market.scan(pairs)) == 1


def test_ack_that_comes_after_the_book_moved_consumes_nothing_of_the_new_level() -> None:
    market = Market()
    market.snapshot(SPOT, [("105", "3")])
    pairs = market.signal.on_book(book_message("snapshot", 10, [], [("100", "2")], instrument=PERP), 0)
    scan = market.signal.scan(pairs)
    market.signal.on_book(book_message("delta", 11, [], [("100", "7")], instrument=PERP), 0)
    scan.answer(PLACED)
    assert market.asks(PERP) == decimals({"100": "7"})
    assert market.bids(SPOT) == decimals({"105": "1"})
    assert market.open_spreads() == [(PERP, SPOT, D(5), D(2))]


def test_refusal_that_comes_after_the_book_moved_does_not_bind_the_new_book() -> None:
    market = Market()
    market.snapshot(SPOT, [("105", "3")])
    pairs = market.signal.on_book(book_message("snapshot", 10, [], [("100", "2")], instrument=PERP), 0)
    scan = market.signal.scan(pairs)
    market.signal.on_book(book_message("delta", 11, [], [("99", "7")], instrument=PERP), 0)
    assert scan.answer(REFUSED) is None
    assert len(market.scan(pairs)) > 0


def test_restored_spreads_replace_what_is_known_and_are_closed_oldest_first() -> None:
    market = crossed_market()
    market.signal.restore(
        [OpenSpread("one", PERP, SPOT, D(6), D("0.5")), OpenSpread("two", PERP, SPOT, D(7), D("0.25"))]
    )
    market.delta(SPOT, [("105", "0")], [("104", "9")])
    assert [(order.spread_id, order.size) for order in market.sent] == [("one", D("0.5")), ("two", D("0.25"))]
    assert market.open_spreads() == []


# --- the collection of open spreads --------------------------------------------------------------


def spread(name: str, entry: str, quantity: str, pair: Pair = Pair(PERP, SPOT)) -> Spread:  # noqa: B008 - immutable
    return Spread(name, pair, D(entry), D(quantity))


def test_widest_entry_follows_opens_and_closes() -> None:
    spreads = OpenSpreads()
    first, second, third = spread("1", "5", "1"), spread("2", "9", "1"), spread("3", "7", "1")
    for opened in (first, second, third):
        spreads.add(opened)
    assert spreads.widest(Pair(PERP, SPOT)) == 9
    assert spreads.widest(Pair(SPOT, PERP)) is None
    spreads.reduce(second, D("0.5"))
    assert spreads.widest(Pair(PERP, SPOT)) == 9
    spreads.reduce(second, D("0.5"))
    assert spreads.widest(Pair(PERP, SPOT)) == 7
    spreads.reduce(first, D(1))
    assert spreads.widest(Pair(PERP, SPOT)) == 7
    spreads.reduce(third, D(1))
    assert spreads.widest(Pair(PERP, SPOT)) is None
    assert len(spreads) == 0
    spreads.add(spread("4", "2", "1"))
    assert spreads.widest(Pair(PERP, SPOT)) == 2


def test_spreads_are_listed_oldest_first_and_come_back_from_the_list() -> None:
    spreads = OpenSpreads()
    spreads.add(spread("b", "5", "1.5"))
    spreads.add(spread("a", "9", "1", Pair(SPOT, PERP)))
    spreads.add(spread("c", "1", "1"))
    listed = spreads.listed()
    assert listed == [
        OpenSpread("b", PERP, SPOT, D(5), D("1.5")),
        OpenSpread("a", SPOT, PERP, D(9), D(1)),
        OpenSpread("c", PERP, SPOT, D(1), D(1)),
    ]
    again = OpenSpreads.of(listed)
    assert again.listed() == listed
    of_pairs = again.of_pairs([Pair(SPOT, PERP), Pair(PERP, SPOT)])
    assert [found.spread_id for found in of_pairs] == ["b", "a", "c"]
    assert [found.spread_id for found in again.of_pairs([Pair(PERP, SPOT)])] == ["b", "c"]


def test_signal_of_defaults_waits_for_the_update_that_is_missing() -> None:
    signal = Signal(clock=lambda: 0)
    signal.on_book(book_message("snapshot", 10), 0)
    signal.on_book(book_message("delta", 12), 0)
    assert signal.keeper.outcomes == {Outcome.APPLIED: 1, Outcome.GAP: 1}
    lenient = Signal(clock=lambda: 0, consecutive=False)
    lenient.on_book(book_message("snapshot", 10), 0)
    lenient.on_book(book_message("delta", 12), 0)
    assert lenient.keeper.outcomes == {Outcome.APPLIED: 2}
