"""Pairs whose prices ask for an order, and what keeps them from being traded."""

from __future__ import annotations

import logging
from decimal import Decimal

import pytest

from blackbird.market.instrument import Instrument
from blackbird.trading.orders import OpenSpread, Order
from blackbird.trading.pair_checks import Limits, Reason
from blackbird.trading.spreads import Pair
from tests.support.market import PERP, REFUSED, SPOT, Market, book_message

PAIR = Pair(PERP, SPOT)
CALL = Instrument("option", "BTC-27DEC24-100000-C")
PUT = Instrument("option", "BTC-27DEC24-100000-P")
INVERSE = Instrument("inverse", "BTCUSD")
INVERSE_DATED = Instrument("inverse", "BTCUSDH27")
PEPE = Instrument("spot", "PEPEUSDT")
PEPE_1000 = Instrument("linear", "1000PEPEUSDT")
LAG = Limits(max_book_lag_ms=2000)


class Legs:
    """Two books fed with times of their own; spot's bid of 105 stands above the perpetual's ask of 100."""

    def __init__(self, limits: Limits, long: Instrument = PERP, short: Instrument = SPOT) -> None:
        self.market = Market(limits=limits)
        self.legs = {long: ([("99", "1")], [("100", "1")]), short: ([("105", "1")], [("107", "1")])}
        self.u = 100

    def move(
        self, instrument: Instrument, *, cts: int, ts: int | None = None, kind: str = "snapshot"
    ) -> list[Order]:
        """Bring the next message of a leg, received now; `cts` and `ts` are relative to now."""
        self.u += 1
        message = book_message(
            kind,
            self.u if kind == "snapshot" else self.market.signal.keeper.books[instrument].update_id + 1,
            *self.legs[instrument],
            instrument=instrument,
            cts=self.market.now + cts,
            ts=None if ts is None else self.market.now + ts,
            seq=self.u,
        )
        return self.market.apply(message)

    @property
    def untraded(self) -> dict[Reason, int]:
        return {reason: count for (reason, _), count in self.market.signal.checks.untraded.items()}


# --- behind the exchange -------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0, -3_600_000, 3_600_000])
def test_book_that_comes_later_than_it_used_to_is_not_traded_whatever_the_clocks_say(offset: int) -> None:
    legs = Legs(LAG)
    legs.move(PERP, cts=offset - 40)
    legs.market.now += 15_000
    legs.move(PERP, cts=offset - 15_000)
    assert legs.move(SPOT, cts=offset - 6000) == []
    assert legs.untraded == {Reason.LAGGING: 1}
    assert len(legs.move(PERP, cts=offset - 2040)) == 1


def test_lag_up_to_the_limit_is_traded_and_none_without_a_limit() -> None:
    for limits, lag, orders in ((LAG, 2000, 1), (LAG, 2001, 0), (Limits(), 10_000, 1)):
        legs = Legs(limits)
        legs.move(PERP, cts=0)
        legs.market.now += lag
        legs.move(PERP, cts=-lag)
        assert len(legs.move(SPOT, cts=-lag)) == orders


def test_message_that_waited_for_the_engine_does_not_count_as_the_quickest() -> None:
    market = Market(limits=LAG)
    old = book_message("snapshot", 1, [("99", "1")], [("100", "1")], instrument=PERP, cts=market.now)
    market.apply(old, received_ms=market.now - 180_000)
    fresh = book_message("snapshot", 2, [("99", "1")], [("100", "2")], instrument=PERP, cts=market.now)
    market.apply(fresh)
    assert len(market.apply(book_message("snapshot", 1, [("105", "1")], cts=market.now))) == 1


# --- standing still ------------------------------------------------------------------------------


def test_halted_leg_whose_snapshot_is_repeated_is_not_traded_against_one_that_moves() -> None:
    legs = Legs(LAG)
    halted = book_message("snapshot", 50, *legs.legs[SPOT], cts=legs.market.now, ts=legs.market.now)
    legs.market.apply(halted)
    for _ in range(20):  # repeated every 3 s: received now, matched long ago
        legs.market.now += 3000
        legs.market.apply(halted)
    assert legs.move(PERP, cts=0) == []
    assert legs.untraded == {Reason.STANDSTILL: 1}
    legs.move(SPOT, cts=0)
    assert len(legs.market.sent) == 1


@pytest.mark.parametrize(("behind_ms", "orders"), [(10_000, 1), (10_001, 0)])
def test_leg_may_stand_still_for_five_times_the_limit(behind_ms: int, orders: int) -> None:
    for first, second in ((PERP, SPOT), (SPOT, PERP)):
        legs = Legs(LAG)
        legs.move(first, cts=-behind_ms)
        assert len(legs.move(second, cts=0)) == orders


def test_leg_that_lags_from_its_first_message_on_is_not_traded_either() -> None:
    legs = Legs(LAG)
    for _ in range(5):
        legs.market.now += 100
        legs.move(PERP, cts=-15_000)
        legs.move(SPOT, cts=-20)
    assert legs.market.sent == []
    assert legs.untraded == {Reason.STANDSTILL: 9}


def test_quiet_option_has_an_old_time_for_good_reason() -> None:
    legs = Legs(LAG, CALL, PUT)
    legs.move(CALL, cts=-600_000, ts=0)
    assert len(legs.move(PUT, cts=0)) == 1


def test_snapshot_of_a_quiet_option_does_not_make_it_lag() -> None:
    legs = Legs(LAG, CALL, PUT)
    legs.move(CALL, cts=-20, ts=-20)
    legs.market.now += 60_000
    legs.move(CALL, cts=-60_020, ts=-20)
    assert len(legs.move(PUT, cts=-20, ts=-20)) == 1


def test_option_whose_changes_come_late_is_not_traded() -> None:
    legs = Legs(LAG, CALL, PUT)
    legs.legs[PUT] = [("105", "9")], [("107", "1")]
    legs.move(CALL, cts=-20)
    legs.move(PUT, cts=-20)
    legs.market.sent.clear()
    legs.market.now += 15_000
    legs.legs[CALL] = [], [("100.5", "7")]
    legs.move(CALL, cts=-15_000, kind="delta")
    assert legs.market.sent == []
    assert legs.untraded == {Reason.LAGGING: 1}


# --- prices and units ----------------------------------------------------------------------------


def test_prices_further_apart_than_the_ratio_are_not_traded_and_this_is_said_once_a_pair(
    caplog: pytest.LogCaptureFixture,
) -> None:
    market = Market(limits=Limits(max_price_ratio=Decimal("1.5")))
    market.snapshot(SPOT, [("150.01", "1")], [("200", "1")])
    with caplog.at_level(logging.WARNING):
        for size in ("1", "2", "3"):
            market.now += 3_600_000
            assert market.snapshot(PERP, [("99", "1")], [("100", size)]) == []
    assert len(caplog.records) == 1
    assert market.signal.checks.untraded == {(Reason.PRICE_RATIO, PAIR): 3}
    assert len(market.delta(SPOT, [("150.01", "0"), ("150", "1")])) == 1


def test_prices_too_far_apart_are_not_traded_to_close_either() -> None:
    market = Market(limits=Limits(max_price_ratio=Decimal("1.5")))
    market.signal.restore([OpenSpread("s", PERP, SPOT, Decimal(90), Decimal(1))])
    market.snapshot(SPOT, [("100", "1")], [("151", "1")])
    assert market.snapshot(PERP, [("100", "1")], [("101", "1")]) == []
    assert [order.action for order in market.snapshot(SPOT, [("100", "1")], [("150", "1")])] == [
        "Close Spread"
    ]


def test_instrument_of_another_unit_is_not_traded_with_its_group_and_this_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    market = Market()
    market.snapshot(PEPE, [("0.001", "5")], [("0.002", "5")])
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert market.snapshot(PEPE_1000, [("1", "5")], [("2", "5")]) == []
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "spot:PEPEUSDT" in caplog.text
    assert "1000 coins" in caplog.text


def test_those_of_one_unit_in_a_mixed_group_are_traded_with_each_other() -> None:
    market = Market()
    for instrument, bid, ask in ((SPOT, "105", "107"), (INVERSE, "1", "2"), (PERP, "99", "100")):
        market.snapshot(instrument, [(bid, "1")], [(ask, "1")])
    assert [(order.buy, order.sell) for order in market.sent] == [(PERP, SPOT)]
    (order,) = market.snapshot(INVERSE_DATED, [("3", "1")], [("4", "1")])
    assert (order.buy, order.sell) == (INVERSE, INVERSE_DATED)


def test_spread_between_two_units_is_not_closed() -> None:
    market = Market()
    market.signal.restore([OpenSpread("s", PEPE, PEPE_1000, Decimal(5), Decimal(1))])
    market.snapshot(PEPE, [("1", "5")], [("2", "5")])
    assert market.snapshot(PEPE_1000, [("1", "5")], [("2", "5")]) == []
    assert market.signal.all_pairs("a") == []


# --- counting and logging ------------------------------------------------------------------------


def test_each_episode_of_a_reason_is_said_once_and_every_refusal_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    market = Market(limits=Limits(stale_after_ms=1000))
    market.snapshot(SPOT, [("105", "1")], [("107", "1")])
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            market.now += 30_000
            market.snapshot(PERP, [("99", "1")], [("100", "1")])
        assert len(caplog.records) == 1
        market.now += 60_001
        market.snapshot(PERP, [("99", "1")], [("100", "1")])
        assert len(caplog.records) == 2
    assert market.signal.checks.untraded == {(Reason.STALE, PAIR): 4}


def test_pair_whose_prices_ask_for_nothing_is_not_counted() -> None:
    market = Market(limits=Limits(stale_after_ms=1000))
    market.snapshot(SPOT, [("95", "1")], [("107", "1")])
    market.now += 5000
    market.snapshot(PERP, [("99", "1")], [("100", "1")])
    assert market.signal.checks.untraded == {}


def test_pair_with_a_book_out_of_sync_is_counted() -> None:
    market = Market()
    market.answer = lambda _: REFUSED
    market.snapshot(SPOT, [("105", "1")], [("107", "1")])
    market.snapshot(PERP, [("99", "1")], [("100", "1")])
    market.signal.keeper.invalidate(PERP)
    market.delta(SPOT)
    assert market.signal.checks.untraded == {(Reason.OUT_OF_SYNC, PAIR): 1}


def test_age_of_the_older_book_is_noted_for_each_order() -> None:
    market = Market()
    for age in range(1, 101):
        market.snapshot(SPOT, [("105", str(age))], [("107", "1")])
        market.now += age
        market.snapshot(PERP, [("90", "1")], [("100", str(age))])
        market.snapshot(PERP, [("90", "1")], [("106", "1")])
    ages = market.signal.traded_ages.counts()
    assert ages.total == 100
    assert round(ages.sum * 1000) == sum(range(1, 101))
