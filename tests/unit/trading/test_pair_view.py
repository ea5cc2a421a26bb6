"""What is shown of a pair: its spread both ways, and what keeps it from being opened."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from blackbird.status.messages import WhyNot
from blackbird.trading.pair_checks import Limits
from blackbird.trading.pair_view import Objection
from blackbird.trading.spread_rules import SpreadRules
from blackbird.trading.spreads import Pair
from tests.support.market import BEYOND_RISK, DATED, PERP, REFUSED, SPOT, Market

PAIR = Pair(PERP, SPOT)


def crossing(market: Market, bid: str = "105") -> None:
    market.snapshot(PERP, [("99", "1")], [("100", "2")])
    market.snapshot(SPOT, [(bid, "3")], [("207", "4")])


def why(market: Market) -> WhyNot | None:
    objection = market.signal.view.objection(PAIR)
    return None if objection is None else objection.why


def test_a_quote_is_the_spread_at_the_best_prices_with_the_smaller_size() -> None:
    market = Market()
    crossing(market, bid="99.5")
    quote: Any = market.signal.view.quote(PAIR)
    assert (quote.spread, quote.size, quote.threshold, quote.exit) == (Decimal("-0.5"), 2, 0, 108)
    other: Any = market.signal.view.quote(Pair(SPOT, PERP))
    assert (other.spread, other.size, other.exit) == (Decimal(-108), 1, Decimal("0.5"))


def test_the_threshold_of_a_quote_is_what_the_rules_open_above() -> None:
    rules = SpreadRules(taker_fees={"spot": Decimal("0.01")}, min_profit_bps=Decimal(10))
    market = Market(rules=rules)
    crossing(market, bid="101")
    threshold = market.signal.view.quote(PAIR).threshold
    assert threshold == Decimal("0.01") * 201 + Decimal("0.001") * 100
    at, above = 100 + threshold, 100 + threshold + Decimal("1E-9")
    assert not rules.opens(PAIR, Decimal(100), Decimal(at))
    assert rules.opens(PAIR, Decimal(100), Decimal(above) * Decimal("1.02"))


def test_looking_changes_nothing() -> None:
    market = Market()
    crossing(market)
    before = (
        market.bids(SPOT),
        market.asks(PERP),
        market.open_spreads(),
        dict(market.signal.checks.untraded),
    )
    for _ in range(3):
        market.signal.view.quote(PAIR)
        market.signal.view.objection(PAIR)
    assert before == (
        market.bids(SPOT),
        market.asks(PERP),
        market.open_spreads(),
        dict(market.signal.checks.untraded),
    )


def stale(market: Market) -> None:
    no_crossing(market)
    market.now += 10_001


def out_of_sync(market: Market) -> None:
    no_crossing(market)
    market.signal.keeper.invalidate(SPOT)


def below_costs(market: Market) -> None:
    crossing(market, bid="100.5")


def refused(market: Market) -> None:
    market.answer = lambda _: REFUSED
    crossing(market)


def beyond_risk(market: Market) -> None:
    market.answer = lambda _: BEYOND_RISK
    crossing(market)
    market.snapshot(SPOT, [("106", "3")], [("107", "4")])


def too_far_apart(market: Market) -> None:
    crossing(market, bid="200")


def no_crossing(market: Market) -> None:
    crossing(market, bid="100")


def consumed(market: Market) -> None:
    crossing(market)  # opens 2, which is all that is asked


@pytest.mark.parametrize(
    ("happens", "expected"),
    [
        (stale, WhyNot.BOOK_TOO_OLD),
        (out_of_sync, WhyNot.WAITS_FOR_SNAPSHOT),
        (below_costs, WhyNot.BELOW_COSTS),
        (refused, WhyNot.REFUSED),
        (beyond_risk, WhyNot.RISK_LIMIT),
        (too_far_apart, WhyNot.PRICE_RATIO),
        (no_crossing, WhyNot.NO_CROSSING),
        (consumed, WhyNot.EMPTY_SIDE),
    ],
)
def test_the_reason_is_named(happens: Callable[[Market], None], expected: WhyNot) -> None:
    market = Market(
        limits=Limits(stale_after_ms=10_000, max_price_ratio=Decimal("1.5")),
        rules=SpreadRules(min_profit_bps=Decimal(100)),
    )
    happens(market)
    assert why(market) == expected


def test_a_pair_that_may_be_opened_has_no_objection_and_gets_one_when_a_leg_goes() -> None:
    market = Market()
    market.answer = lambda _: REFUSED
    crossing(market)
    market.delta(SPOT, [("104", "1")])
    assert why(market) == WhyNot.REFUSED, "the delta was tried and refused too"
    market.signal.on_subscriptions([PERP])
    objection = market.signal.view.objection(PAIR)
    assert objection is not None
    assert objection == Objection(WhyNot.NOT_SUBSCRIBED, SPOT)


def test_the_leg_at_fault_is_named() -> None:
    market = Market(limits=Limits(stale_after_ms=10_000))
    market.snapshot(SPOT, [("105", "3")], [("107", "4")])
    market.now += 10_001
    market.snapshot(PERP, [("99", "1")], [("100", "2")])
    assert market.signal.view.objection(PAIR) == Objection(WhyNot.BOOK_TOO_OLD, SPOT)


def test_the_best_pair_of_a_large_group_is_the_one_with_the_largest_spread() -> None:
    market = Market()
    market.snapshot(SPOT, [("100", "1")], [("101", "1")])
    group = market.signal.keeper.groups["a"]
    assert group.best_pair() is None
    market.snapshot(PERP, [("98", "1")], [("99.5", "1")])
    market.snapshot(DATED, [("97", "1")], [("99.9", "1")])
    assert group.best_pair() == Pair(PERP, SPOT)
