"""What was refused, and what it keeps from being sent."""

from __future__ import annotations

import pytest

from blackbird.trading.orders import CLOSE_SPREAD, OPEN_SPREAD
from blackbird.trading.refusals import REST_MS, Refusals
from blackbird.trading.spreads import Pair
from tests.support.market import DATED, PERP, SPOT

PAIR = Pair(PERP, SPOT)


def test_refused_open_binds_its_own_direction_and_action_on_the_same_books_alone() -> None:
    refusals = Refusals(lambda: 0)
    refusals.add(OPEN_SPREAD, PAIR, (1, 1), "order not placed")
    assert not refusals.may_open(PAIR, (1, 1))
    assert refusals.may_open(PAIR, (1, 2))
    assert refusals.may_open(Pair(SPOT, PERP), (1, 1))
    assert refusals.may_close(PAIR, (1, 1))
    refusals.add(CLOSE_SPREAD, PAIR, (1, 2), "risk limit exceed")
    assert not refusals.may_close(PAIR, (1, 2))
    assert refusals.may_open(PAIR, (1, 2)), "the limit binds opens"


def test_open_beyond_risk_waits_for_an_execution() -> None:
    refusals = Refusals(lambda: 0)
    refusals.add(OPEN_SPREAD, PAIR, (1, 1), "risk limit exceed")
    assert not refusals.may_open(PAIR, (7, 7))
    refusals.on_execution()
    assert refusals.may_open(PAIR, (7, 7))
    assert not refusals.may_open(PAIR, (1, 1))


def test_refusals_of_an_instrument_are_forgotten_with_its_book() -> None:
    refusals = Refusals(lambda: 0)
    for action in (OPEN_SPREAD, CLOSE_SPREAD):
        refusals.add(action, PAIR, (1, 1), "expired")
        refusals.add(action, Pair(PERP, DATED), (1, 1), "expired")
    refusals.forget(SPOT)
    assert refusals.may_open(PAIR, (1, 1))
    assert refusals.may_close(PAIR, (1, 1))
    assert not refusals.may_open(Pair(PERP, DATED), (1, 1))
    assert not refusals.may_close(Pair(PERP, DATED), (1, 1))


@pytest.mark.parametrize(
    "info",
    [
        "cooling down",
        "leftover of an earlier trade",
        "not connected to the exchange",
        "rate limit",
        "not enough USDT",
        "instrument not tradable: spot:BTCUSDT: its status is PreLaunch",
    ],
)
def test_open_refused_for_a_reason_that_outlasts_the_books_rests_for_a_second(info: str) -> None:
    now = [1_000_000]
    refusals = Refusals(lambda: now[0])
    refusals.add(OPEN_SPREAD, PAIR, (1, 1), info)
    now[0] += REST_MS - 1
    assert not refusals.may_open(PAIR, (2, 2))
    assert refusals.may_open(Pair(SPOT, PERP), (2, 2))
    assert refusals.may_close(PAIR, (2, 2)), "a close is not kept back"
    now[0] += 1
    assert refusals.may_open(PAIR, (2, 2))
    assert not refusals.may_open(PAIR, (1, 1))


@pytest.mark.parametrize(
    "info", ["not filled", "sell leg failed", "size below minimum: 0.0001 of spot:BTCUSDT"]
)
def test_open_refused_for_what_the_books_had_is_tried_on_the_next_ones(info: str) -> None:
    refusals = Refusals(lambda: 0)
    refusals.add(OPEN_SPREAD, PAIR, (1, 1), info)
    assert refusals.may_open(PAIR, (2, 1))


def test_clock_that_is_set_back_ends_the_rest() -> None:
    now = [1_000_000]
    refusals = Refusals(lambda: now[0])
    refusals.add(OPEN_SPREAD, PAIR, (1, 1), "cooling down")
    now[0] -= 600_000
    assert refusals.may_open(PAIR, (2, 2))
