"""What streams share: the budget of connections, and the depths that channels have."""

from __future__ import annotations

import pytest

from blackbird.bybit.connection_budget import (
    FAILURES_IN_A_ROW,
    MOST_AT_ONCE,
    PACE_WHILE_FAILING,
    ConnectionBudget,
)
from blackbird.bybit.stream import depth
from config import Config


def test_connections_stay_within_the_budget_of_every_window() -> None:
    budget = ConnectionBudget(most=3, window=10)
    for now in (0.0, 1.0, 2.0):
        assert budget.wait(now) == 0
        budget.take(now)
        budget.succeeded()
    assert budget.wait(2.5) == 7.5
    assert budget.wait(10.0) == 0
    budget.take(10.0)
    assert budget.wait(10.0) == 1.0


def test_what_never_reached_the_exchange_costs_nothing() -> None:
    budget = ConnectionBudget(most=1, window=10)
    for now in range(100):
        assert budget.wait(now / 10) == 0
        budget.take(now / 10)
        budget.failed(reached=False)


def test_tries_share_one_pace_while_none_works() -> None:
    budget = ConnectionBudget()
    for _ in range(FAILURES_IN_A_ROW):
        assert budget.wait(5.0) == 0
        budget.take(5.0)
        budget.failed(reached=True)
    assert budget.wait(5.0) == PACE_WHILE_FAILING
    budget.take(7.0)
    budget.succeeded()
    assert budget.wait(7.0) == 0


def test_only_so_many_are_made_at_once() -> None:
    budget = ConnectionBudget()
    for _ in range(MOST_AT_ONCE):
        assert budget.wait(0.0) == 0
        budget.take(0.0)
    assert budget.wait(0.0) > 0
    budget.failed(reached=True)
    assert budget.wait(0.0) == 0


@pytest.mark.parametrize(
    ("channel", "asked", "served"),
    [("spot", 1, 1), ("linear", 50, 50), ("inverse", 1000, 1000), ("option", 1, 25), ("option", 200, 100)],
)
def test_the_depth_is_the_nearest_that_the_channel_has(
    monkeypatch: pytest.MonkeyPatch, channel: str, asked: int, served: int
) -> None:
    monkeypatch.setattr(Config, "ORDERBOOK_DEPTH", asked)
    assert depth(channel) == served
