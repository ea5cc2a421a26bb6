"""What was refused, and what it keeps from being sent."""

from __future__ import annotations

from blackbird.trading.orders import CLOSE_SPREAD, OPEN_SPREAD
from blackbird.trading.refusals import Refusals
from blackbird.trading.spreads import Pair
from tests.support.market import DATED, PERP, SPOT

PAIR = Pair(PERP, SPOT)


def test_refused_open_binds_its_own_direction_and_action_on_the_same_books_alone() -> None:
    refusals = Refusals()
    refusals.add(OPEN_SPREAD, PAIR, (1, 1), "order not placed")
    assert not refusals.may_open(PAIR, (1, 1))
    assert refusals.may_open(PAIR, (1, 2))
    assert refusals.may_open(Pair(SPOT, PERP), (1, 1))
    assert refusals.may_close(PAIR, (1, 1))
    refusals.add(CLOSE_SPREAD, PAIR, (1, 2), "risk limit exceed")
    assert not refusals.may_close(PAIR, (1, 2))
    assert refusals.may_open(PAIR, (1, 2)), "the limit binds opens"


def test_open_beyond_risk_waits_for_an_execution() -> None:
    refusals = Refusals()
    refusals.add(OPEN_SPREAD, PAIR, (1, 1), "risk limit exceed")
    assert not refusals.may_open(PAIR, (7, 7))
    refusals.on_execution()
    assert refusals.may_open(PAIR, (7, 7))
    assert not refusals.may_open(PAIR, (1, 1))


def test_refusals_of_an_instrument_are_forgotten_with_its_book() -> None:
    refusals = Refusals()
    for action in (OPEN_SPREAD, CLOSE_SPREAD):
        refusals.add(action, PAIR, (1, 1), "expired")
        refusals.add(action, Pair(PERP, DATED), (1, 1), "expired")
    refusals.forget(SPOT)
    assert refusals.may_open(PAIR, (1, 1))
    assert refusals.may_close(PAIR, (1, 1))
    assert not refusals.may_open(Pair(PERP, DATED), (1, 1))
    assert not refusals.may_close(Pair(PERP, DATED), (1, 1))
