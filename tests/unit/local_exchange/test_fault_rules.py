"""Faults that stand: what they meet, and when they end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from local_exchange.fault_rules import FaultError, FaultRules, Rule


def test_rule_meets_what_fits_it_as_often_as_told() -> None:
    rules = FaultRules()
    rules.add(Rule("refuse", "spot", "BTCUSDT", only={"link": "-s1"}), count=2)
    assert rules.meet("refuse", "linear", "BTCUSDT", facts={"link": "a-s1"}) is None
    assert rules.meet("refuse", "spot", "BTCUSDT", facts={"link": "a-b1"}) is None
    assert rules.meet("refuse", "spot", "BTCUSDT") is None
    assert rules.meet("lost", "spot", "BTCUSDT", facts={"link": "a-s1"}) is None
    for left in (1, 0):
        rule = rules.meet("refuse", "spot", "BTCUSDT", facts={"link": "a-s1"})
        assert rule is not None
        assert rule.left == left
    assert rules.meet("refuse", "spot", "BTCUSDT", facts={"link": "a-s1"}) is None
    assert rules.standing() == []


def test_same_seed_meets_the_same_share() -> None:
    def met(seed: int) -> list[bool]:
        rules = FaultRules(seed)
        rules.add(Rule("slow", share=0.25))
        return [rules.meet("slow", "spot") is not None for _ in range(400)]

    assert met(1) == met(1) != met(2)
    assert 60 < sum(met(1)) < 140


def test_rule_ends_with_its_time_and_wakes_what_it_held() -> None:
    async def work() -> None:
        rules = FaultRules()
        rule = Rule("hang")
        rules.add(rule, seconds=0.01)
        assert rules.has("hang")
        await asyncio.wait_for(rule.ended.wait(), 5)
        assert not rules.has("hang")

    asyncio.run(work())


@pytest.mark.parametrize("given", [{"count": -1}, {"seconds": "long"}, {"count": True, "seconds": -2}])
def test_numbers_that_do_not_fit_are_refused(given: dict[str, Any]) -> None:
    rules = FaultRules()
    with pytest.raises(FaultError, match="expected"):
        rules.add(Rule("gap"), **given)
    assert rules.standing() == []
