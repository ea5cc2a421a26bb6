"""What has to be traded so that both legs come out equal, and how far it may trade."""

from __future__ import annotations

from decimal import Decimal

import pytest

from blackbird.trading.leg_order import BUY, SELL, Fill, Side
from blackbird.trading.unwinding import (
    TRIES,
    Held,
    LegTerms,
    is_closable,
    need_to_go_back,
    need_to_go_on,
    slippage_percent,
)
from tests.support.trade_model import PERP, SPOT, rules

D = Decimal
BUYS_SPOT = LegTerms(rules(SPOT), BUY, D(64_000), D("0.001"))
SELLS_SPOT = LegTerms(rules(SPOT), SELL, D(64_000), D("0.001"))
BUYS_PERP = LegTerms(rules(PERP), BUY, D(64_000), D(0))
SELLS_PERP = LegTerms(rules(PERP), SELL, D(64_200), D(0))


def fill(leg: LegTerms, quantity: str, side: Side | None = None, fee: str = "0") -> Fill:
    instrument = leg.rules.instrument
    coin = "BTC" if instrument == SPOT else "USDC"
    return Fill(
        f"{instrument}{side}{quantity}",
        "link",
        instrument,
        side or leg.side,
        D(64_000),
        D(quantity),
        D(fee),
        coin,
        1,
    )


def test_base_coin_fees_are_not_held() -> None:
    fills = [fill(BUYS_SPOT, "0.1", fee="0.0001"), fill(SELLS_PERP, "0.1", fee="3.5")]
    held = Held.of(BUYS_SPOT, SELLS_PERP, fills)
    assert held == Held(D("0.0999"), D("0.1"))
    assert held.matched(BUYS_SPOT, SELLS_PERP, D("0.1")) == D("0.099"), "on the steps of both"


def test_what_went_back_is_not_held() -> None:
    fills = [
        fill(BUYS_SPOT, "0.1"),
        fill(SELLS_PERP, "0.1"),
        fill(BUYS_SPOT, "0.04", SELL),
        fill(SELLS_PERP, "0.03", BUY),
    ]
    assert Held.of(BUYS_SPOT, SELLS_PERP, fills) == Held(D("0.06"), D("0.07"))


def test_no_more_than_the_size_is_matched() -> None:
    assert Held(D("0.3"), D("0.2")).matched(BUYS_SPOT, SELLS_PERP, D("0.1")) == D("0.1")
    assert Held(D("-0.1"), D("0.2")).matched(BUYS_SPOT, SELLS_PERP, D("0.1")) == 0


def test_surplus_goes_back_on_the_step() -> None:
    need = need_to_go_back(BUYS_SPOT, D("0.0999"), D("0.099"))
    assert need is not None
    assert (need.side, need.quantity, need.goes_on) == (SELL, D("0.0009"), False)
    need = need_to_go_back(SELLS_PERP, D("0.1"), D("0.099"))
    assert need is not None
    assert (need.side, need.quantity) == (BUY, D("0.001"))


def test_no_more_than_the_surplus_arrives_of_spot_that_is_bought_back() -> None:
    need = need_to_go_back(SELLS_SPOT, D("0.1"), D("0.06"))
    assert need is not None
    arrives = need.quantity * (1 - SELLS_SPOT.base_fee)
    assert D("0.04") - SELLS_SPOT.rules.step < arrives <= D("0.04")


def test_no_less_than_what_is_missing_arrives_of_spot_that_goes_on() -> None:
    need = need_to_go_on(BUYS_SPOT, D("0.06"), D("0.1"))
    assert need is not None
    arrives = need.quantity * (1 - BUYS_SPOT.base_fee)
    assert D("0.04") <= arrives < D("0.04") + BUYS_SPOT.rules.step


@pytest.mark.parametrize(
    ("leg", "held"),
    [
        (BUYS_PERP, "0.1"),  # nothing
        (BUYS_PERP, "0.1009"),  # less than a step
        (BUYS_SPOT, "0.100010"),  # less than the least quantity
        (BUYS_SPOT, "0.100070"),  # less than the least value: 4.48 USDT
    ],
)
def test_what_is_too_small_for_an_order_stays(leg: LegTerms, held: str) -> None:
    assert need_to_go_back(leg, D(held), D("0.1")) is None
    assert need_to_go_on(leg, D("0.1"), D(held)) is None


def test_one_order_takes_no_more_than_the_exchange_allows() -> None:
    need = need_to_go_back(BUYS_SPOT, D(100), D(0))
    assert need is not None
    assert need.quantity == BUYS_SPOT.rules.most_market_quantity


def test_spread_that_could_not_be_closed_is_none() -> None:
    assert is_closable(D("0.001"), BUYS_SPOT, SELLS_PERP)
    assert not is_closable(D("0.00007"), BUYS_SPOT, BUYS_SPOT)
    assert not is_closable(D(0), BUYS_SPOT, SELLS_PERP)


def test_each_try_may_trade_further_up_to_the_bound() -> None:
    shares = [slippage_percent(D(1), tries) for tries in range(TRIES + 1)]
    assert shares == [D("0.1"), D("0.2"), D("0.5"), D(1), D(1), D(1)]
    assert slippage_percent(D("0.1"), 0) == D("0.01")
    assert slippage_percent(D("0.25"), 0) == D("0.02"), "two decimals"
    assert slippage_percent(D("0.05"), 0) == D("0.01"), "and no less"
