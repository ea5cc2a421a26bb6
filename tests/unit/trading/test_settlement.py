"""What fills come to: nothing of their sizes, cash and fees is lost or made up."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackbird.market.instrument import Instrument
from blackbird.trading.leg_order import BUY, SELL, Fill
from blackbird.trading.orders import CLOSE_SPREAD, OPEN_SPREAD, Order
from blackbird.trading.records import DUST, Leftover, Part, Traded, Unwound
from blackbird.trading.settlement import (
    BOUGHT_NOT_SOLD,
    FILLED_LATE,
    SOLD_NOT_BOUGHT,
    Settlement,
    by_hand,
    late_fills,
    settle,
    trade_away,
)
from blackbird.trading.spreads import Pair
from tests.support.real_trades import NOW, RULES, Chance, fill, net_cash, net_sizes, new_engine
from tests.support.trade_model import PERP, SPOT

D = Decimal


def open_order(buy: Instrument = SPOT, sell: Instrument = PERP, size: str = "0.1") -> Order:
    return Order(OPEN_SPREAD, buy, D(64000), sell, D(64200), D(size), 1, 2, order_id="o", spread_id="s")


def settled(matched: str, *fills: Fill, order: Order | None = None) -> Settlement:
    return settle(order or open_order(), "trade", D(matched), fills, RULES, NOW)


def test_equal_legs_are_one_execution() -> None:
    there = settled("0.1", fill(SPOT, BUY, "0.1", fee="1"), fill(PERP, SELL, "0.1", "64200", fee="2"))
    assert there == Settlement(
        Traded("trade", D("0.1"), Part(SPOT, D(-6400), D(1)), Part(PERP, D(6420), D(2))), (), ()
    )
    assert there.traded is not None
    assert (there.traded.buy_price, there.traded.sell_price) == (D(64000), D(64200))
    assert there.traded.fee == D(3)


def test_price_is_the_average_and_cash_is_exact() -> None:
    there = settled(
        "0.003",
        fill(SPOT, BUY, "0.001", "64000", number=1),
        fill(SPOT, BUY, "0.002", "64001", number=2),
        fill(PERP, SELL, "0.003", "64200"),
    )
    assert there.traded is not None
    assert there.traded.buy.flux == D("-192.002")
    assert there.traded.buy_price == D("64000.666666666667")


def test_fee_in_base_coin_is_valued_at_the_price_of_its_fill_and_what_it_leaves_is_dust() -> None:
    there = settled(
        "0.1",
        fill(SPOT, BUY, "0.100101", "64000", fee="0.000100101", fee_coin="BTC"),
        fill(PERP, SELL, "0.1", "64200"),
    )
    # 0.100101 bought less the fee is 0.100000899: what is above 0.1 cannot be sold.
    share = D("0.000000899") / D("0.100000899")
    assert there.traded is not None
    assert there.traded.buy.flux == D(-6400)
    assert there.traded.buy.fee is not None
    assert abs(there.traded.buy.fee - D("6.406464") * (1 - share)) < D("1E-15")
    (dust,) = there.leftovers
    assert (dust.size, dust.flux, dust.reason, dust.blocks) == (
        D("0.000000899"),
        D("-0.057536"),
        DUST,
        False,
    )
    assert dust.fee is not None
    assert there.traded.buy.fee + dust.fee == D("6.406464")


def test_surplus_that_was_taken_back_is_unwound_at_the_prices_of_its_fills() -> None:
    there = settled(
        "0.04",
        fill(SPOT, BUY, "0.04", "64000", number=1, fee="1"),
        fill(SPOT, BUY, "0.06", "64010", number=2, fee="3"),
        fill(SPOT, SELL, "0.06", "63990", number=5, fee="4"),
        fill(PERP, SELL, "0.04", "64200", number=3, fee="2"),
    )
    assert there.traded is not None
    assert there.traded.buy == Part(SPOT, D(-2560), D(1))
    assert there.unwound == (
        Unwound(
            "trade",
            D("0.06"),
            Part(SPOT, D("-3840.60"), D(3)),
            Part(SPOT, D("3839.40"), D(4)),
            NOW + 2,
            NOW + 5,
        ),
    )
    assert there.leftovers == ()


def test_leg_that_stands_alone_is_left_over_and_blocks_its_pair() -> None:
    there = settled("0", fill(PERP, SELL, "0.1", "64200", fee="2"))
    assert there == Settlement(
        None,
        (),
        (
            Leftover(
                "trade",
                1,
                PERP,
                D("-0.1"),
                D(6420),
                D(2),
                SOLD_NOT_BOUGHT,
                NOW,
                Pair(long=SPOT, short=PERP),
            ),
        ),
    )


def test_leftover_of_a_close_is_of_the_pair_that_was_to_be_closed() -> None:
    order = Order(CLOSE_SPREAD, PERP, D(64000), SPOT, D(64000), D("0.1"), 1, 2, spread_id="s")
    (left,) = settled("0", fill(PERP, BUY, "0.1"), order=order).leftovers
    assert (left.size, left.reason, left.pair) == (
        D("0.1"),
        BOUGHT_NOT_SOLD,
        Pair(long=SPOT, short=PERP),
    )


def test_fee_in_a_coin_without_a_price_here_is_not_known() -> None:
    there = settled(
        "0.1",
        fill(SPOT, BUY, "0.1", fee="0.5", fee_coin="MNT"),
        fill(PERP, SELL, "0.1", fee="2", fee_coin=""),  # as the exchange leaves out the coin of settlement
    )
    assert there.traded is not None
    assert (there.traded.buy.fee, there.traded.sell.fee, there.traded.fee) == (None, D(2), None)


def test_more_than_a_leg_has_cannot_be_booked() -> None:
    with pytest.raises(ValueError, match=r"expected at most 0\.1"):
        settled("0.2", fill(SPOT, BUY, "0.1"), fill(PERP, SELL, "0.2"))


@given(st.integers(0, 10**9))
def test_sizes_cash_and_fees_of_any_fills_are_in_what_they_come_to(seed: int) -> None:
    chance = Chance(seed)
    outcome = chance.outcome(chance.order(new_engine()))
    traded, leftovers = outcome.traded, outcome.leftovers
    sizes = {leg: Fraction(0) for leg in (SPOT, PERP)}
    cash = dict(sizes)
    fees: list[Decimal | None] = [leftover.fee for leftover in leftovers]
    parts = [part for each in outcome.unwound for part in (each.bought, each.sold)]
    if traded is not None:
        parts += [traded.buy, traded.sell]
        sizes[outcome.order.buy] += Fraction(traded.size)
        sizes[outcome.order.sell] -= Fraction(traded.size)
    for part in parts:
        cash[part.instrument] += Fraction(part.flux)
        fees.append(part.fee)
    for leftover in leftovers:
        sizes[leftover.instrument] += Fraction(leftover.size)
        cash[leftover.instrument] += Fraction(leftover.flux)
    for leg in (SPOT, PERP):
        assert sizes[leg] == net_sizes(outcome.fills).get(leg, 0)
        assert cash[leg] == net_cash(outcome.fills).get(leg, 0)
    if all(each.fee_coin != "MNT" for each in outcome.fills):
        paid = sum(
            Fraction(each.fee) * (Fraction(each.price) if each.fee_coin == "BTC" else 1)
            for each in outcome.fills
        )
        assert sum(Fraction(fee) for fee in fees if fee is not None) == paid
    else:
        assert None in fees


@given(st.integers(0, 10**9))
def test_order_of_the_fills_does_not_matter(seed: int) -> None:
    chance = Chance(seed)
    outcome = chance.outcome(chance.order(new_engine()))
    matched = outcome.traded.size if outcome.traded else D(0)
    backwards = settle(outcome.order, outcome.trade_id, matched, outcome.fills[::-1], RULES, NOW)
    assert backwards == Settlement(outcome.traded, outcome.unwound, outcome.leftovers)


# --- after the trade was booked ------------------------------------------------------------------


def a_leftover(size: str = "0.1", flux: str = "-6400", fee: str | None = "3") -> Leftover:
    pair = Pair(long=SPOT, short=PERP)
    return Leftover(
        "trade", 2, SPOT, D(size), D(flux), None if fee is None else D(fee), BOUGHT_NOT_SOLD, NOW, pair
    )


def test_leftover_that_is_traded_away_becomes_an_unwound_part() -> None:
    sold = fill(SPOT, SELL, "0.1", "63000", fee="6.3", number=9)
    there = trade_away(a_leftover(), [sold], RULES[SPOT], 3, NOW + 60_000)
    assert [(each.number, each.resolution) for each in there.resolved] == [(2, "traded away")]
    assert there.unwound == (
        Unwound(
            "trade",
            D("0.1"),
            Part(SPOT, D(-6400), D(3)),
            Part(SPOT, D(6300), D("6.3")),
            NOW,
            NOW + 9,
        ),
    )
    assert (there.leftovers, there.fills) == ((), (sold,))


def test_what_is_still_left_is_another_leftover_as_old_as_the_first() -> None:
    there = trade_away(a_leftover(), [fill(SPOT, SELL, "0.03", "63000")], RULES[SPOT], 3, NOW + 60_000)
    (rest,) = there.leftovers
    assert (rest.number, rest.size, rest.flux, rest.fee) == (3, D("0.07"), D(-4480), D("2.1"))
    assert (rest.since, rest.pair, rest.reason) == (NOW, a_leftover().pair, BOUGHT_NOT_SOLD)
    assert there.unwound[0].bought == Part(SPOT, D(-1920), D("0.9"))


def test_cash_that_does_not_divide_is_not_lost() -> None:
    odd = a_leftover("0.000003", "-0.1", "0.00000000000000000001")
    there = trade_away(odd, [fill(SPOT, SELL, "0.000001")], RULES[SPOT], 3, NOW)
    (unwound,), (rest,) = there.unwound, there.leftovers
    assert unwound.bought.flux + rest.flux == D("-0.1")
    assert unwound.bought.fee is not None
    assert rest.fee is not None
    assert unwound.bought.fee + rest.fee == D("0.00000000000000000001")


def test_more_than_the_leftover_is_a_leftover_on_the_other_side() -> None:
    there = trade_away(a_leftover("0.1"), [fill(SPOT, SELL, "0.15", "63000")], RULES[SPOT], 3, NOW)
    (left,) = there.leftovers
    assert (left.size, left.flux, left.reason) == (D("-0.05"), D(3150), SOLD_NOT_BOUGHT)


def test_try_that_was_not_filled_changes_nothing() -> None:
    there = trade_away(a_leftover(), [], RULES[SPOT], 3, NOW)
    assert (there.resolved, there.unwound, there.leftovers, there.fills) == ((), (), (), ())


def test_leftover_that_a_person_traded_is_unwound_at_his_price() -> None:
    there = by_hand(a_leftover(), D(63500), NOW + 5)
    (unwound,) = there.unwound
    assert (unwound.bought.flux, unwound.sold) == (D(-6400), Part(SPOT, D(6350), None))
    assert [each.resolution for each in there.resolved] == ["traded away"]
    assert there.leftovers == ()


def test_leftover_that_a_person_keeps_is_resolved_and_nothing_else() -> None:
    there = by_hand(a_leftover(), None, NOW + 5)
    assert [(each.key, each.resolution) for each in there.resolved] == [(("trade", 2), "accepted")]
    assert (there.unwound, there.leftovers, there.fills) == ((), (), ())


def test_fills_that_come_late_are_leftovers() -> None:
    pair = Pair(long=SPOT, short=PERP)
    late = [
        fill(PERP, SELL, "0.1", "64200", number=1),
        fill(SPOT, BUY, "0.1", "64000", fee="0.0001", fee_coin="BTC", number=2),
    ]
    there = late_fills("trade", late, RULES, pair, 4, NOW)
    assert [(each.number, each.instrument, each.size, each.flux) for each in there.leftovers] == [
        (4, PERP, D("-0.1"), D(6420)),
        (5, SPOT, D("0.0999"), D("-6393.6")),
    ]
    assert {each.reason for each in there.leftovers} == {FILLED_LATE}
    assert {each.pair for each in there.leftovers} == {pair}
    assert there.fills == tuple(late)
