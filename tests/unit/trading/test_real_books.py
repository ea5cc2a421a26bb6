"""Real trades in the engine's books: what is reserved, checked, booked and recovered."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blackbird.trading.engine import TradingEngine
from blackbird.trading.leg_order import BUY, SELL, Fill
from blackbird.trading.orders import (
    CLOSE_SPREAD,
    OPEN_SPREAD,
    SELL_LEG_FAILED,
    LeftoverRequest,
    Order,
    Refused,
    Reply,
    encode_reply,
)
from blackbird.trading.records import Booking, Execution, Record, Refusal, TradeOutcome
from blackbird.trading.settlement import by_hand, late_fills, settle, trade_away
from blackbird.trading.spreads import Pair
from tests.support.real_trades import (
    NOW,
    RULES,
    Chance,
    all_fills,
    fill,
    net_cash,
    net_sizes,
    new_engine,
    outcomes,
)
from tests.support.trade_model import PERP, SPOT

D = Decimal


def open_order(number: int = 1, size: str = "0.1", order_id: str | None = "order") -> Order:
    order_id = None if order_id is None else f"{order_id} {number}"
    return Order(OPEN_SPREAD, SPOT, D(64000), PERP, D(64200), D(size), 1, 2, order_id, f"spread {number}")


def close_order(number: int = 1, size: str = "0.1", spread_id: str | None = None) -> Order:
    spread_id = spread_id or f"spread {number}"
    return Order(CLOSE_SPREAD, PERP, D(64000), SPOT, D(64000), D(size), 1, 2, f"close {number}", spread_id)


def outcome(
    order: Order, *fills: Fill, matched: str = "0", trade_id: str = "trade", request_key: str | None = None
) -> TradeOutcome:
    settled = settle(order, trade_id, D(matched), fills, RULES, NOW)
    return TradeOutcome(
        trade_id,
        order,
        request_key,
        settled.traded,
        None if settled.traded else SELL_LEG_FAILED,
        settled.unwound,
        settled.leftovers,
        tuple(fills),
        NOW + 5,
    )


def both(size: str, buy_price: str = "64000", sell_price: str = "64200", fee: str = "1") -> list[Fill]:
    return [fill(SPOT, BUY, size, buy_price, fee=fee), fill(PERP, SELL, size, sell_price, fee=fee)]


def refusal(engine: TradingEngine, order: Order, *limits: Decimal) -> str | None:
    try:
        engine.check(order, *limits)
    except Refused as refused:
        return str(refused)
    return None


# --- answers -------------------------------------------------------------------------------------


def test_answer_has_what_was_executed_and_is_the_same_ever_after() -> None:
    engine = new_engine()
    booking = engine.book(outcome(open_order(), *both("0.04", "63990", "64210"), matched="0.04"))
    answer = engine.answer_of(booking)
    assert encode_reply(answer) == (
        b'{"status":"ACK","info":"order placed","size":0.04,"buy_price":63990,"sell_price":64210,"fee":2}'
    )
    assert engine.first_answer("order 1") == answer
    again = new_engine()
    again.recover([booking])
    assert again.first_answer("order 1") == answer


def test_answer_without_a_known_fee_does_not_name_one() -> None:
    engine = new_engine()
    fills = [fill(SPOT, BUY, "0.1", fee="1", fee_coin="MNT"), fill(PERP, SELL, "0.1")]
    answer = engine.answer_of(engine.book(outcome(open_order(), *fills, matched="0.1")))
    assert b"fee" not in encode_reply(answer)


def test_simulated_answer_has_two_fields() -> None:
    engine = new_engine()
    assert encode_reply(engine.answer_of(engine.execute(open_order()))) == (
        b'{"status":"ACK","info":"order placed"}'
    )


def test_trade_of_which_nothing_is_left_is_refused_with_its_reason() -> None:
    engine = new_engine()
    fills = [fill(SPOT, BUY, "0.1", number=1), fill(SPOT, SELL, "0.1", "63990", number=2)]
    booking = engine.book(outcome(open_order(), *fills))
    assert engine.answer_of(booking) == Reply("NOT ACK", "sell leg failed")
    assert engine.first_answer("order 1") == Reply("NOT ACK", "sell leg failed")
    assert engine.pnl == engine.risks[SPOT] * -1 == D(-1)
    assert engine.positions[SPOT] == 0
    assert len(engine.spreads) == 0


def test_request_without_an_order_id_is_known_by_its_key() -> None:
    engine = new_engine()
    order = open_order(order_id=None)
    engine.book(outcome(order, *both("0.1"), matched="0.1", request_key="request"))
    found = engine.first_answer("request")
    assert found is not None
    assert found.size == D("0.1")
    assert refusal(engine, order) == "order already placed"


# --- spreads -------------------------------------------------------------------------------------


def test_spread_has_the_size_and_prices_of_the_fills() -> None:
    engine = new_engine()
    engine.book(outcome(open_order(), *both("0.04", "63990", "64210"), matched="0.04"))
    (spread,) = engine.spreads
    assert (spread.spread_id, spread.quantity, spread.spread, spread.long_price) == (
        "spread 1",
        D("0.04"),
        D(220),
        D(63990),
    )


def test_close_takes_from_its_spread_what_was_executed() -> None:
    engine = new_engine()
    engine.book(outcome(open_order(), *both("0.1"), matched="0.1"))
    fills = [fill(PERP, BUY, "0.03"), fill(SPOT, SELL, "0.03")]
    engine.book(outcome(close_order(), *fills, matched="0.03", trade_id="closing"))
    (spread,) = engine.spreads
    assert spread.quantity == D("0.07")


def test_spread_without_an_id_is_named_by_its_order_or_its_trade() -> None:
    for order_id, expected in (("mine", "mine"), (None, "trade")):
        order = msgspec.structs.replace(open_order(), order_id=order_id, spread_id=None)
        engine = new_engine()
        engine.reserve("trade", order, D(64000), D(64200))
        engine.book(outcome(order, *both("0.1"), matched="0.1"))
        assert [spread.spread_id for spread in engine.spreads] == [expected]


# --- reservations --------------------------------------------------------------------------------


def test_running_trade_counts_against_the_limit_at_the_prices_it_may_come_to() -> None:
    engine = new_engine(limit="12810")
    assert refusal(engine, open_order(2)) is None
    engine.reserve("trade", open_order(), D(64050), D(64100))
    assert refusal(engine, open_order(2)) == "risk limit exceed"  # 6405 + 6400 bought, but 6410 + 6420 sold
    assert refusal(engine, open_order(2), D(64000), D(64000)) is None
    assert refusal(engine, open_order(2), D(64051), D(64000)) == "risk limit exceed"
    engine.release("trade")
    assert refusal(engine, open_order(2), D(64051), D(64000)) is None


def test_running_close_does_not_make_room_before_it_is_booked() -> None:
    engine = new_engine(limit="6500")
    engine.book(outcome(open_order(), *both("0.1"), matched="0.1"))
    engine.reserve("closing", close_order(), D(64000), D(64000))
    assert refusal(engine, open_order(2)) == "risk limit exceed"


def test_what_is_booked_is_reserved_no_longer() -> None:
    engine = new_engine(limit="13000")
    engine.reserve("trade", open_order(), D(64000), D(64200))
    engine.book(outcome(open_order()))
    assert refusal(engine, open_order(2, size="0.2")) is None


def test_copy_of_a_running_order_is_already_placed() -> None:
    engine = new_engine()
    order = open_order(order_id=None)
    engine.reserve("trade", order, D(64000), D(64200))
    assert refusal(engine, order) == "order already placed"


def test_spread_that_a_running_trade_opens_cannot_be_opened_again() -> None:
    engine = new_engine()
    engine.reserve("trade", open_order(1), D(64000), D(64200))
    again = msgspec.structs.replace(open_order(2), spread_id="spread 1")
    assert refusal(engine, again) == "invalid order: spread_id: expected a new spread, was an open one"


def test_two_closes_at_once_cannot_close_more_than_is_open() -> None:
    engine = new_engine()
    engine.book(outcome(open_order(), *both("0.1"), matched="0.1"))
    engine.reserve("closing", close_order(size="0.06"), D(64000), D(64000))
    assert refusal(engine, close_order(2, "0.04", "spread 1")) is None
    assert refusal(engine, close_order(2, "0.05", "spread 1")) == (
        "invalid order: spread_id: expected at most 0.04, was 0.05"
    )


# --- leftovers -----------------------------------------------------------------------------------


def with_leftover(*, cooldown_ms: int = 0, limit: str = "1e9") -> tuple[TradingEngine, Booking]:
    engine = new_engine(cooldown_ms=cooldown_ms, limit=limit)
    return engine, engine.book(outcome(open_order(), fill(SPOT, BUY, "0.1", fee="1")))


def test_leftover_blocks_opens_of_its_pair_in_both_directions_and_no_closes() -> None:
    engine = new_engine()
    engine.book(outcome(open_order(1), *both("0.1"), matched="0.1"))
    engine.book(outcome(open_order(2), fill(SPOT, BUY, "0.1"), trade_id="failed"))
    assert refusal(engine, open_order(3)) == "leftover of an earlier trade"
    backwards = msgspec.structs.replace(open_order(3), buy=PERP, sell=SPOT)
    assert refusal(engine, backwards) == "leftover of an earlier trade"
    assert refusal(engine, close_order(1)) is None
    other = msgspec.structs.replace(open_order(3), sell=PERP._replace(symbol="BTCUSDT"))
    assert refusal(engine, other) is None


def test_leftover_counts_as_held_and_against_the_limit_and_not_in_risks() -> None:
    engine, _ = with_leftover(limit="6500")
    assert not any((engine.risks.get(SPOT), engine.positions.get(SPOT), engine.pnl))
    assert engine.held(SPOT) == D("0.1")
    engine.amend(by_hand(next(iter(engine.leftovers.open.values())), None, NOW))
    assert engine.held(SPOT) == D("0.1")
    assert refusal(engine, open_order(2)) == "risk limit exceed"


def test_leftover_that_was_traded_away_blocks_nothing_and_its_cash_is_in_the_pnl() -> None:
    engine, _ = with_leftover()
    (leftover,) = engine.leftovers.open.values()
    sold = fill(SPOT, SELL, "0.1", "63000", number=9)
    number = engine.leftovers.next_number("trade")
    engine.amend(trade_away(leftover, [sold], RULES[SPOT], number, NOW + 60_000))
    assert refusal(engine, open_order(2)) is None
    assert (engine.pnl, engine.risks[SPOT], engine.held(SPOT)) == (D(-100), D(100), D(0))


def test_rest_of_a_leftover_blocks_on() -> None:
    engine, _ = with_leftover()
    (leftover,) = engine.leftovers.open.values()
    sold = fill(SPOT, SELL, "0.04", "63000", number=9)
    engine.amend(trade_away(leftover, [sold], RULES[SPOT], engine.leftovers.next_number("trade"), NOW))
    assert refusal(engine, open_order(2)) == "leftover of an earlier trade"
    assert list(engine.leftovers.open) == [("trade", 2)]
    assert engine.held(SPOT) == D("0.06")


def test_fill_that_comes_late_blocks_its_pair() -> None:
    engine = new_engine()
    engine.book(outcome(open_order()))
    late = [fill(PERP, SELL, "0.1")]
    pair = Pair(long=SPOT, short=PERP)
    engine.amend(late_fills("trade", late, RULES, pair, engine.leftovers.next_number("trade"), NOW))
    assert refusal(engine, open_order(2)) == "leftover of an earlier trade"
    assert engine.held(PERP) == D("-0.1")


def test_dust_blocks_nothing_and_is_held() -> None:
    engine = new_engine()
    bought = fill(SPOT, BUY, "0.100101", fee="0.000100101", fee_coin="BTC")
    engine.book(outcome(open_order(), bought, fill(PERP, SELL, "0.1"), matched="0.1"))
    assert refusal(engine, open_order(2)) is None
    assert not engine.leftovers.open
    assert engine.held(SPOT) == D("0.100000899")


# --- cool-down -----------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> int:
        return self.now


def cooling(clock: Clock) -> TradingEngine:
    return TradingEngine(limit=D("1e9"), unique_order=True, clock=clock, pair_cooldown_ms=1000)


def test_pair_of_which_a_leg_failed_is_not_opened_for_a_while() -> None:
    clock = Clock()
    engine = cooling(clock)
    unwound = [fill(SPOT, BUY, "0.1", number=1), fill(SPOT, SELL, "0.1", number=2)]
    engine.book(outcome(open_order(), *unwound))
    backwards = msgspec.structs.replace(open_order(2), buy=PERP, sell=SPOT)
    assert refusal(engine, open_order(2)) == refusal(engine, backwards) == "cooling down"
    clock.now += 999
    assert refusal(engine, open_order(2)) == "cooling down"
    clock.now += 1
    assert refusal(engine, open_order(2)) is None


def test_whole_execution_cools_nothing_down() -> None:
    engine = cooling(Clock())
    engine.book(outcome(open_order(), *both("0.1"), matched="0.1"))
    assert refusal(engine, open_order(2)) is None


def test_failed_open_does_not_keep_closes_and_a_failed_close_does() -> None:
    clock = Clock()
    engine = cooling(clock)
    engine.book(outcome(open_order(), *both("0.1"), matched="0.1"))
    engine.book(outcome(open_order(2), trade_id="failed"))
    assert refusal(engine, close_order(1)) is None
    engine.book(outcome(close_order(1), trade_id="failed close"))
    assert refusal(engine, close_order(2, spread_id="spread 1")) == "cooling down"
    clock.now += 1000
    assert refusal(engine, close_order(2, spread_id="spread 1")) is None


def test_close_that_left_something_over_is_not_tried_again_for_a_minute() -> None:
    clock = Clock()
    engine = cooling(clock)
    engine.book(outcome(open_order(), *both("0.1"), matched="0.1"))
    engine.book(outcome(close_order(), fill(PERP, BUY, "0.1"), trade_id="failed"))
    clock.now += 59_999
    assert refusal(engine, close_order(2, spread_id="spread 1")) == "cooling down"
    clock.now += 1
    assert refusal(engine, close_order(2, spread_id="spread 1")) is None


def test_clock_that_is_set_back_ends_the_rest() -> None:
    clock = Clock()
    engine = cooling(clock)
    engine.book(outcome(open_order()))
    clock.now -= 3_600_000
    assert refusal(engine, open_order(2)) is None


# --- fees of simulated orders --------------------------------------------------------------------


def test_simulated_order_has_fees_where_there_are_rates() -> None:
    rates = {"spot": D("0.001"), "linear": D(0)}
    engine = TradingEngine(limit=D("1e9"), unique_order=True, clock=lambda: NOW, fee_rates=rates)
    record = engine.execute(open_order())
    assert isinstance(record, Execution)
    assert record.fees == (D("6.4"), D(0))
    assert engine.pnl == D(20)


def test_simulated_order_has_no_fees_without_rates() -> None:
    record = new_engine().execute(open_order())
    assert isinstance(record, Execution)
    assert record.fees is None


# --- any trades ----------------------------------------------------------------------------------


def state(engine: TradingEngine) -> tuple[object, ...]:
    spreads = [(each.spread_id, each.pair, each.spread, each.quantity) for each in engine.spreads]
    held = {leg: engine.held(leg) for leg in (SPOT, PERP)}
    return engine.risks, engine.positions, engine.pnl, engine.orders, spreads, engine.leftovers.open, held


@pytest.mark.parametrize("amends", [False, True])
@settings(max_examples=40)
@given(seed=st.integers(0, 10**9))
def test_books_of_any_trades_are_the_sums_of_their_fills(seed: int, *, amends: bool) -> None:
    engine = new_engine(limit="1e12")
    records: list[Record] = []
    fills: list[Fill] = []
    chance = Chance(seed + 1)
    for each in outcomes(seed, 12, engine):
        records.append(engine.book(each))
        fills += each.fills
        if amends and (open_ones := list(engine.leftovers.open.values())):
            leftover = open_ones[0]
            number = engine.leftovers.next_number(leftover.trade_id)
            tried = chance.retry(leftover)
            records.append(engine.amend(trade_away(leftover, tried, RULES[leftover.instrument], number, NOW)))
            fills += tried
    flux = {leg: Fraction(-engine.risks.get(leg, 0)) for leg in (SPOT, PERP)}
    for leg in (SPOT, PERP):
        assert engine.held(leg) == net_sizes(fills).get(leg, 0)
        assert flux[leg] - Fraction(engine.leftovers.paid(leg)) == net_cash(fills).get(leg, 0)
        assert engine.positions.get(leg, 0) == sum(
            each.quantity * (1 if each.pair.long == leg else -1) for each in engine.spreads
        )
    assert engine.pnl == sum(flux.values())
    again = new_engine(limit="1e12")
    again.recover(msgspec.json.decode(msgspec.json.encode(each), type=Record) for each in records)
    assert state(again) == state(engine)


def test_refusal_of_a_trade_names_it() -> None:
    booking = new_engine().book(outcome(open_order(), trade_id="failed"))
    assert booking.refusal == Refusal(1, SELL_LEG_FAILED, NOW + 5, "order 1", None, "failed")


def test_ids_rise_over_bookings() -> None:
    engine = new_engine()
    there = [engine.book(each) for each in outcomes(5, 20, engine)]
    ids = [each.answer.execution_id for each in there if each.answer is not None]
    ids += [unwind.execution_id for each in there for unwind in each.unwinds]
    assert sorted(ids) == list(range(1, len(ids) + 1))
    assert [each.execution_id for each in there] == sorted(each.execution_id for each in there)
    assert len(all_fills(outcomes(5, 20, new_engine()))) > 0


# --- leftovers by the word of a person -----------------------------------------------------------


def test_leftover_that_was_traded_by_hand_is_booked_at_its_price() -> None:
    engine, _ = with_leftover()
    booking = engine.resolve_leftover(LeftoverRequest("trade", 1, D(63500)))
    assert booking is not None
    assert booking.answer is None
    assert (engine.pnl, engine.held(SPOT)) == (D(-50), D(0))
    assert refusal(engine, open_order(2)) is None


def test_leftover_that_is_kept_still_counts() -> None:
    engine, _ = with_leftover()
    engine.resolve_leftover(LeftoverRequest("trade", 1))
    assert (engine.pnl, engine.held(SPOT)) == (D(0), D("0.1"))
    assert refusal(engine, open_order(2)) is None


def test_leftover_is_resolved_once_however_often_it_is_asked_for() -> None:
    engine, first = with_leftover()
    second = engine.resolve_leftover(LeftoverRequest("trade", 1, D(63500)))
    assert second is not None
    assert engine.resolve_leftover(LeftoverRequest("trade", 1, D(63500))) is None
    again = new_engine()
    again.recover([first, second])
    assert again.resolve_leftover(LeftoverRequest("trade", 1, D(63500))) is None
    assert again.pnl == D(-50)


def test_leftover_that_is_unknown_or_at_the_exchange_is_not_resolved() -> None:
    engine, _ = with_leftover()
    with pytest.raises(Refused, match=r"^invalid order: leftover: expected an open one, was unknown$"):
        engine.resolve_leftover(LeftoverRequest("trade", 2))
    engine.leftovers.in_trade.add(("trade", 1))
    with pytest.raises(Refused, match=r"^invalid order: leftover: expected one at rest"):
        engine.resolve_leftover(LeftoverRequest("trade", 1))


def test_retry_that_has_ended_leaves_the_leftover_at_rest() -> None:
    engine, _ = with_leftover()
    (leftover,) = engine.leftovers.open.values()
    engine.leftovers.in_trade.add(leftover.key)
    sold = fill(SPOT, SELL, "0.04", "63000", number=9)
    engine.amend(trade_away(leftover, [sold], RULES[SPOT], engine.leftovers.next_number("trade"), NOW))
    assert not engine.leftovers.in_trade
    assert engine.resolve_leftover(LeftoverRequest("trade", 2)) is not None
