"""Positions and wallets of the local exchange: exact sums, whatever is traded."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_exchange.private.accounts import Position
from local_exchange.private.decimals import ceil_to, floor_to, padded, plain

TRADES = st.lists(
    st.tuples(st.integers(-500, 500).filter(bool), st.integers(1, 900_000)), min_size=1, max_size=40
)


@given(TRADES)
def test_results_of_a_position_that_ends_flat_are_its_cash_to_the_last_digit(
    trades: list[tuple[int, int]],
) -> None:
    position = Position("BTCPERP")
    cash = profit = Decimal(0)
    steps = [(Decimal(size) / 1000, Decimal(ticks) / 10) for size, ticks in trades]
    for size, price in steps:
        cash -= size * price
        profit += position.trade(size, price)
    assert position.size == sum(size for size, _ in steps)
    # Open at cost, what was paid is either a result or still in the position.
    assert profit == cash + position.cost
    if position.size:
        price = Decimal("64000.1")
        cash += position.size * price
        profit += position.trade(-position.size, price)
    assert position.size == 0
    assert position.cost == 0
    assert profit == cash


def test_turning_a_position_realises_the_old_one_and_opens_at_the_new_price() -> None:
    position = Position("BTCPERP")
    assert position.trade(Decimal("0.3"), Decimal(100)) == 0
    assert position.trade(Decimal("-0.5"), Decimal(110)) == Decimal("3.0")
    assert (position.side, position.size, position.average) == ("Sell", Decimal("-0.2"), Decimal(110))
    assert position.trade(Decimal("0.1"), Decimal(100)) == Decimal("1.0")
    assert position.average == Decimal(110)


def test_settled_results_are_not_realised_again() -> None:
    position = Position("BTCPERP")
    position.trade(Decimal(1), Decimal(100))
    position.settled = Decimal(10)  # paid out at 110
    assert position.trade(Decimal("-0.5"), Decimal(112)) == Decimal("1.0")
    assert position.trade(Decimal("-0.5"), Decimal(108)) == Decimal("-1.0")
    assert position.settled == 0


@pytest.mark.parametrize(
    ("number", "text"),
    [("0", "0"), ("-0.00", "0"), ("1E+3", "1000"), ("1E-8", "0.00000001"), ("10", "10"), ("0.50", "0.5")],
)
def test_numbers_are_written_without_exponent_and_trailing_zeros(number: str, text: str) -> None:
    assert plain(Decimal(number)) == text


def test_steps_round_down_up_and_pad() -> None:
    step = Decimal("0.05")
    assert (floor_to(Decimal("0.14"), step), ceil_to(Decimal("0.11"), step)) == (
        Decimal("0.10"),
        Decimal("0.15"),
    )
    assert padded(Decimal("0.1"), Decimal("0.000001")) == "0.100000"
