"""When a spread opens and closes, with and without costs."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackbird.trading.orders import OpenSpread
from blackbird.trading.spread_rules import SpreadRules
from blackbird.trading.spreads import Pair
from tests.support.market import PERP, PLACED, REFUSED, SPOT, Market

D = Decimal
PAIR = Pair(PERP, SPOT)
FEES = {"spot": D("0.001"), "linear": D("0.00055")}
SIGNED = SpreadRules(close_rule="signed")

prices = st.decimals("0.01", "100", places=2)


@given(prices, prices, st.decimals("0.01", "10", places=2))
def test_without_costs_the_rules_are_the_owners(bid: Decimal, ask: Decimal, entry: Decimal) -> None:
    rules = SpreadRules(taker_fees={"spot": D(0), "linear": D(0)})
    assert rules.opens(PAIR, ask, bid) == (bid > ask)
    assert rules.closes(PAIR, entry, bid, ask) == (abs(bid - ask) < entry)
    assert SIGNED.opens(PAIR, ask, bid) == (bid > ask)
    assert SIGNED.closes(PAIR, entry, bid, ask) == (entry + bid - ask > 0)


@pytest.mark.parametrize(("rule", "actions"), [("seed", []), ("signed", ["Close Spread"])])
def test_close_that_would_earn_more_than_the_entry_did_is_made_by_the_signed_rule_alone(
    rule: str, actions: list[str]
) -> None:
    market = Market(rules=SpreadRules(close_rule="signed" if rule == "signed" else "seed"))
    market.answer = lambda order: REFUSED if order.action == "Open Spread" else PLACED
    market.signal.restore([OpenSpread("s", PERP, SPOT, D(5), D(1))])
    market.snapshot(PERP, [("157", "1")], [("158", "1")])
    market.snapshot(SPOT, [("106", "1")], [("107", "1")])
    assert [order.action for order in market.sent if order.action == "Close Spread"] == actions


def test_signed_rule_does_not_close_at_a_loss() -> None:
    assert not SIGNED.closes(PAIR, D(5), D(100), D(105))
    assert SIGNED.closes(PAIR, D(5), D(100), D("104.99"))


def test_entry_must_earn_the_fees_of_both_halves_and_the_profit_asked_for() -> None:
    rules = SpreadRules(taker_fees=FEES)
    # (f + f') * (ask + bid) = 198.70799 at an ask of 64000
    assert not rules.opens(PAIR, D(64_000), D("64198.70"))
    assert rules.opens(PAIR, D(64_000), D("64198.71"))
    choosy = SpreadRules(taker_fees=FEES, min_profit_bps=D(1))
    assert not choosy.opens(PAIR, D(64_000), D("64205.11"))
    assert choosy.opens(PAIR, D(64_000), D("64205.12"))


def test_signed_exit_must_leave_something_after_the_fees_and_the_seeds_rule_asks_for_none() -> None:
    rules = SpreadRules(close_rule="signed", taker_fees=FEES)
    # fees (f + f') * (bid + ask) of about 198.4
    assert not rules.closes(PAIR, D(198), D(64_000), D(64_000))
    assert rules.closes(PAIR, D(199), D(64_000), D(64_000))
    assert SpreadRules(taker_fees=FEES).closes(PAIR, D(1), D(64_000), D(64_000))


def test_profit_asked_for_counts_without_fees() -> None:
    rules = SpreadRules(close_rule="signed", min_profit_bps=D(10))
    assert not rules.opens(PAIR, D(1000), D(1001))
    assert rules.opens(PAIR, D(1000), D("1001.01"))
    assert not rules.closes(PAIR, D(1), D(1000), D(1000))
    assert rules.closes(PAIR, D("1.01"), D(1000), D(1000))
