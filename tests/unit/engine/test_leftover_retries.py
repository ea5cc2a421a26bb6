"""When leftovers are tried again."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, cast

from blackbird.engine.leftover_retries import LeftoverRetries
from blackbird.trading.leftovers import LeftoverKey
from blackbird.trading.records import Leftover
from tests.support.trade_model import PERP


class Desk:
    def __init__(self) -> None:
        self.tried: list[LeftoverKey] = []

    def trade_away(self, leftover: Leftover) -> None:
        self.tried.append(leftover.key)


def leftover(number: int, since: int) -> Leftover:
    return Leftover("trade", number, PERP, Decimal("0.1"), Decimal(-6400), None, "bought", since)


def test_leftover_is_tried_a_minute_after_it_was_left_over_and_each_minute_from_then_on() -> None:
    desk, now = Desk(), [0]
    retries = LeftoverRetries(cast("Any", None), desk, lambda: now[0])
    one, other = leftover(1, since=0), leftover(2, since=30_000)
    there = {one.key: one, other.key: other}
    tried_at: dict[int, list[int]] = {1: [], 2: []}
    for second in range(200):
        now[0] = second * 1000
        desk.tried.clear()
        retries.try_due(there)
        for _, number in desk.tried:
            tried_at[number].append(second)
    assert tried_at == {1: [60, 120, 180], 2: [90, 150]}
