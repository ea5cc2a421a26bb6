"""Which orders the engine executes, and what they make of exposure, PnL and open spreads."""

from __future__ import annotations

import itertools
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from blackbird.market.instrument import Instrument
from blackbird.trading.engine import TradingEngine, request_key
from blackbird.trading.orders import CLOSE_SPREAD, OPEN_SPREAD, OpenSpread, Order, Reply
from blackbird.trading.records import Execution, Record, Refusal
from tests.support.market import DATED, PERP, SPOT

D = Decimal
NOW = 1_723_161_256_298


def new_engine(limit: str = "1000000", **settings: Any) -> TradingEngine:
    options: dict[str, Any] = {"unique_order": True, "clock": lambda: NOW, **settings}
    return TradingEngine(limit=D(limit), **options)


_serial = itertools.count()


def make_order(**changes: Any) -> Order:
    """Return an Open of 0.25, bought at 61800.3 and sold at 61837.63, unlike any other by its times."""
    order = Order(
        action=OPEN_SPREAD,
        buy=PERP,
        buy_price=D("61800.3"),
        sell=SPOT,
        sell_price=D("61837.63"),
        size=D("0.25"),
        ts_buy=next(_serial),
        ts_sell=0,
    )
    numbers = {
        name: D(value) if isinstance(value, str) and name in _NUMBERS else value
        for name, value in changes.items()
    }
    return msgspec.structs.replace(order, **numbers)


_NUMBERS = {"buy_price", "sell_price", "size"}


def close_of(spread_id: str | None, size: str = "0.25", **changes: Any) -> Order:
    """Return a Close of (perpetual, spot) that sells at 61810 and buys back at 61820."""
    legs: dict[str, Any] = {"buy": SPOT, "buy_price": "61820", "sell": PERP, "sell_price": "61810"}
    return make_order(action=CLOSE_SPREAD, size=size, spread_id=spread_id, **{**legs, **changes})


def answer(engine: TradingEngine, order: Order, key: str | None = None) -> str:
    reply = engine.answer_of(engine.execute(order, key))
    assert reply.acked == (reply.info == "order placed")
    return reply.info


def left(engine: TradingEngine) -> dict[str, Decimal]:
    return {spread.spread_id: spread.quantity for spread in engine.spreads}


# --- execution and sums --------------------------------------------------------------------------


def test_order_is_acked_and_accounted_for() -> None:
    engine = new_engine()
    record = engine.execute(make_order(order_id="o", spread_id="s"))
    assert engine.answer_of(record) == Reply("ACK", "order placed")
    assert engine.risks == {PERP: D("15450.075"), SPOT: D("-15459.4075")}
    assert engine.pnl == D("9.3325")
    assert engine.spreads.listed() == [
        OpenSpread("s", PERP, SPOT, D("37.33"), D("0.25"), D("61800.3"), D("61837.63"))
    ]


def test_record_holds_the_order_the_time_and_a_rising_id() -> None:
    engine = new_engine(limit="20000")
    first = engine.execute(make_order(order_id="o", spread_id="s"), None)
    second = engine.execute(make_order(spread_id="t"), "request 1")
    assert isinstance(first, Execution)
    assert (first.execution_id, first.placed_at, first.request_key) == (1, NOW, None)
    assert (first.order.order_id, first.order.size) == ("o", D("0.25"))
    assert second == Refusal(2, "risk limit exceed", NOW, None, "request 1")


def test_close_brings_the_exposures_back_and_realizes_the_pnl() -> None:
    engine = new_engine()
    answer(engine, make_order(spread_id="s"))
    assert answer(engine, close_of("s")) == "order placed"
    assert engine.risks == {PERP: D("15450.075") - D("15452.5"), SPOT: D("-15459.4075") + D(15455)}
    assert engine.pnl == D("9.3325") - D("2.5")
    assert engine.pnl == -sum(engine.risks.values())
    assert engine.spreads.listed() == []


def test_sums_are_exact_over_many_digits() -> None:
    engine = new_engine(limit="1E+19")
    price = "0.1000000000000000000001"
    for _ in range(3):
        answer(engine, make_order(buy_price=price, sell_price="12345678901234567.1", size="0.3"))
    assert engine.risks[PERP] == D("0.09000000000000000000009")
    assert engine.risks[SPOT] == -D("11111111011111110.39")
    assert engine.pnl == D("11111111011111110.29999999999999999999991")


def test_tenths_leave_no_crumbs() -> None:
    engine = new_engine()
    answer(engine, make_order(size="0.3", spread_id="s"))
    for _ in range(3):
        assert (
            answer(engine, close_of("s", "0.1", buy_price="61837.63", sell_price="61800.3")) == "order placed"
        )
    assert engine.pnl == 0
    assert set(engine.risks.values()) == {D(0)}
    assert len(engine.spreads) == 0


# --- the same order ------------------------------------------------------------------------------


def test_order_id_keeps_its_first_answer() -> None:
    engine = new_engine(limit="20000")
    assert engine.first_answer("o") is None
    assert engine.first_answer(None) is None
    answer(engine, make_order(order_id="o"))
    answer(engine, make_order(order_id="p"))
    assert engine.first_answer("o") == Reply("ACK", "order placed")
    assert engine.first_answer("p") == Reply("NOT ACK", "risk limit exceed")


def test_request_without_an_order_id_keeps_its_first_answer() -> None:
    engine = new_engine()
    answer(engine, make_order(), "request 1")
    assert engine.first_answer("request 1") == Reply("ACK", "order placed")
    assert engine.first_answer("request 2") is None


def test_order_id_alone_identifies_an_order_that_has_one() -> None:
    engine = new_engine()
    order = make_order(order_id="o")
    answer(engine, order, "request 1")
    assert engine.first_answer("request 1") is None
    assert answer(engine, msgspec.structs.replace(order, order_id="p")) == "order placed"


def test_copy_without_an_order_id_is_already_placed() -> None:
    engine = new_engine()
    order = make_order()
    assert answer(engine, order) == "order placed"
    assert answer(engine, order) == "order already placed"
    assert engine.pnl == D("9.3325")


def test_copy_of_an_order_with_an_id_is_already_placed() -> None:
    engine = new_engine()
    order = make_order(order_id="o")
    answer(engine, order)
    assert answer(engine, msgspec.structs.replace(order, order_id=None)) == "order already placed"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", "0.250"),
        ("size", "25E-2"),
        ("buy_price", "61800.300"),
        ("sell_price", "61837.6300"),
        ("sell_price", "6183763E-2"),
        ("action", CLOSE_SPREAD),
        ("spread_id", "other"),
        ("expires_at", NOW + 5),
    ],
)
def test_copy_is_known_by_its_numbers_and_not_by_what_else_it_says(field: str, value: Any) -> None:
    engine = new_engine()
    answer(engine, make_order(ts_buy=7, spread_id="s"))
    assert answer(engine, make_order(ts_buy=7, **{field: value})) == "order already placed"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", "0.2500000000000000000000000001"),
        ("buy_price", "61800.31"),
        ("sell_price", "61837.64"),
        ("ts_buy", 8),
        ("ts_sell", 8),
        ("buy", Instrument("inverse", "BTCPERP")),
        ("buy", Instrument("linear", "BTCPERQ")),
        ("sell", DATED),
    ],
)
def test_order_that_differs_in_one_thing_is_no_copy(field: str, value: Any) -> None:
    engine = new_engine()
    answer(engine, make_order(ts_buy=7))
    assert answer(engine, make_order(**{"ts_buy": 7, field: value})) == "order placed"


def test_order_with_the_legs_the_other_way_round_is_no_copy() -> None:
    engine = new_engine()
    same: dict[str, Any] = {"buy_price": "100", "sell_price": "100", "ts_buy": 1, "ts_sell": 1}
    answer(engine, make_order(**same))
    assert answer(engine, make_order(**same, buy=SPOT, sell=PERP)) == "order placed"


def test_order_that_was_refused_is_no_earlier_one() -> None:
    engine = new_engine(limit="20000")
    answer(engine, make_order(spread_id="s"))
    order = make_order()
    assert answer(engine, order) == "risk limit exceed"
    answer(engine, close_of("s"))
    assert answer(engine, order) == "order placed"


def test_copies_are_placed_where_orders_need_not_be_unique() -> None:
    engine = new_engine(unique_order=False)
    order = make_order()
    assert [answer(engine, order), answer(engine, order)] == ["order placed", "order placed"]
    assert engine.pnl == 2 * D("9.3325")


def test_request_key_depends_on_queue_correlation_and_body() -> None:
    keys = {
        request_key("q", "c", b"body"),
        request_key("r", "c", b"body"),
        request_key("q", "d", b"body"),
        request_key("q", "c", b"Body"),
        request_key(None, None, b"body"),
    }
    assert len(keys) == 5
    assert request_key("q", "c", b"body") == request_key("q", "c", b"body")


# --- expiry --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expires_at", "expected"),
    [(NOW - 1, "expired"), (NOW, "order placed"), (NOW + 1, "order placed"), (0, "expired")],
)
def test_order_is_expired_later_than_its_time(expires_at: int, expected: str) -> None:
    engine = new_engine()
    assert answer(engine, make_order(expires_at=expires_at, order_id="o")) == expected
    assert (engine.pnl == 0) == (expected == "expired")
    first = engine.first_answer("o")
    assert first is not None
    assert first.info == expected


def test_expired_comes_before_every_other_reason() -> None:
    engine = new_engine(limit="1")
    assert answer(engine, close_of("unknown", expires_at=NOW - 1)) == "expired"


# --- risk ----------------------------------------------------------------------------------------


def simple(buy_price: str, sell_price: str, size: str = "1", **changes: Any) -> Order:
    return make_order(buy_price=buy_price, sell_price=sell_price, size=size, **changes)


@pytest.mark.parametrize(
    ("buy_price", "sell_price", "expected"),
    [
        ("1000", "1000", "order placed"),
        ("1000.00000001", "1000", "risk limit exceed"),
        ("1000", "1000.00000001", "risk limit exceed"),
    ],
)
def test_exposure_may_reach_the_limit_and_not_exceed_it(
    buy_price: str, sell_price: str, expected: str
) -> None:
    engine = new_engine(limit="1000")
    assert answer(engine, simple(buy_price, sell_price)) == expected
    assert len(engine.risks) == (2 if expected == "order placed" else 0)


def test_exposure_adds_up_over_orders() -> None:
    engine = new_engine(limit="1000")
    assert answer(engine, simple("600", "600")) == "order placed"
    assert answer(engine, simple("400.01", "400")) == "risk limit exceed"
    assert answer(engine, simple("400", "400.01")) == "risk limit exceed"
    assert answer(engine, simple("400", "400")) == "order placed"


def test_each_leg_has_an_exposure_of_its_own() -> None:
    engine = new_engine(limit="1000")
    answer(engine, simple("1000", "1000"))
    assert answer(engine, simple("1000", "1000", buy=DATED, sell=Instrument("option", "X"))) == "order placed"
    assert answer(engine, simple("1", "1", buy=DATED, sell=PERP)) == "risk limit exceed"


def over_the_limit() -> TradingEngine:
    """Return an engine whose perpetual is 1500 long, over a limit that was larger once."""
    engine = new_engine(limit="2000")
    records = [engine.execute(simple("1500", "1400"))]
    lower = new_engine(limit="1000")
    lower.recover(records)
    assert lower.risks == {PERP: D(1500), SPOT: D(-1400)}
    return lower


def test_exposure_over_the_limit_may_shrink() -> None:
    assert answer(over_the_limit(), simple("100", "100", buy=SPOT, sell=PERP)) == "order placed"


def test_exposure_over_the_limit_may_not_grow() -> None:
    assert answer(over_the_limit(), simple("1", "1", buy=PERP, sell=DATED)) == "risk limit exceed"
    assert answer(over_the_limit(), simple("1", "1", buy=DATED, sell=SPOT)) == "risk limit exceed"


def test_exposure_may_turn_round_to_the_same_size_but_not_beyond() -> None:
    engine = over_the_limit()
    assert answer(engine, simple("2800", "3000.01", buy=SPOT, sell=PERP)) == "risk limit exceed"
    assert answer(engine, simple("2800", "3000", buy=SPOT, sell=PERP)) == "order placed"
    assert engine.risks == {PERP: D(-1500), SPOT: D(1400)}


def test_one_leg_that_shrinks_does_not_excuse_the_other() -> None:
    engine = over_the_limit()
    assert answer(engine, simple("1001", "100", buy=DATED, sell=PERP)) == "risk limit exceed"
    assert answer(engine, simple("1000", "100", buy=DATED, sell=PERP)) == "order placed"


def test_refusal_changes_nothing_but_the_answer() -> None:
    engine = new_engine(limit="1000")
    answer(engine, simple("2000", "1", order_id="o"))
    assert engine.risks == {}
    assert engine.pnl == 0
    assert engine.spreads.listed() == []
    assert list(engine.orders) == ["o"]


@pytest.mark.parametrize("risk_model", ["cash", "position"])
def test_close_of_a_known_spread_is_never_refused_for_risk(risk_model: str) -> None:
    engine = new_engine(limit="1000", risk_model=risk_model)
    answer(engine, simple("900", "900", spread_id="s"))
    assert answer(engine, close_of("s", "0.5", buy_price="9000", sell_price="8000")) == "order placed"
    assert left(engine) == {"s": D("0.5")}


def round_trip(number: int) -> tuple[Order, Order]:
    """Return an Open that buys at 60000 and sells at 60010, and its Close at 70000 and 69999, of 1 BTC."""
    identifier = f"s{number}"
    opened = simple("60000", "60010", spread_id=identifier)
    return opened, close_of(identifier, "1", buy_price="69999", sell_price="70000")


def test_close_after_100_round_trips_is_accepted_also_after_a_recovery() -> None:
    engine = new_engine()
    records: list[Record] = []
    for number in range(100):
        records += [engine.execute(order) for order in round_trip(number)]
    opened, closed = round_trip(100)
    records.append(engine.execute(opened))
    assert all(isinstance(record, Execution) for record in records)
    recovered = new_engine()
    recovered.recover(records)
    for each in (engine, recovered):
        assert abs(each.risks[SPOT]) > 900_000, "the cash exposure has drifted up to the limit"
        assert answer(each, closed) == "order placed"
        assert left(each) == {}


def test_position_model_has_no_exposure_where_nothing_is_open() -> None:
    engine = new_engine(risk_model="position")
    for number in range(300):
        for order in round_trip(number):
            assert answer(engine, order) == "order placed"
    assert engine.positions == {PERP: 0, SPOT: 0}


@pytest.mark.parametrize(
    ("buy_price", "sell_price", "size", "expected"),
    [
        ("500", "500", "1", "order placed"),
        ("500.01", "500", "1", "risk limit exceed"),
        ("500", "500.01", "1", "risk limit exceed"),
        ("600", "400", "1", "risk limit exceed"),
        ("400", "600", "1", "risk limit exceed"),
        ("100", "100", "13", "order placed"),
        ("100", "100", "13.01", "risk limit exceed"),
    ],
)
def test_position_model_limits_the_position_times_the_price_of_the_order(
    buy_price: str, sell_price: str, size: str, expected: str
) -> None:
    engine = new_engine(limit="1500", risk_model="position")
    assert answer(engine, simple("10", "10", size="2")) == "order placed"
    assert answer(engine, simple(buy_price, sell_price, size=size)) == expected


def test_position_model_lets_a_position_over_the_limit_shrink_but_not_grow() -> None:
    records = [new_engine(limit="2000").execute(simple("100", "100", size="15"))]
    for order, expected in (
        (simple("100", "100", size="15", buy=SPOT, sell=PERP), "order placed"),
        (simple("100", "100", size="30", buy=SPOT, sell=PERP), "order placed"),
        (simple("100", "100", size="30.1", buy=SPOT, sell=PERP), "risk limit exceed"),
        (simple("100", "100", size="0.1"), "risk limit exceed"),
    ):
        engine = new_engine(limit="1000", risk_model="position")
        engine.recover(records)
        assert answer(engine, order) == expected


# --- spreads -------------------------------------------------------------------------------------


def test_open_without_a_spread_id_gets_one() -> None:
    engine = new_engine()
    record = engine.execute(make_order())
    assert isinstance(record, Execution)
    assert record.order.spread_id
    assert list(left(engine)) == [record.order.spread_id]


def test_open_without_a_spread_id_is_known_by_its_order_id() -> None:
    engine = new_engine()
    answer(engine, make_order(order_id="o"))
    assert left(engine) == {"o": D("0.25")}


def test_open_with_the_id_of_an_open_spread_is_invalid() -> None:
    engine = new_engine()
    answer(engine, make_order(spread_id="s"))
    assert answer(engine, make_order(spread_id="s")).startswith("invalid order: spread_id: ")
    answer(engine, close_of("s"))
    assert answer(engine, make_order(spread_id="s")) == "order placed"


def test_close_in_part_leaves_the_rest() -> None:
    engine = new_engine()
    answer(engine, make_order(spread_id="s"))
    answer(engine, close_of("s", "0.1"))
    assert left(engine) == {"s": D("0.15")}


def test_close_with_a_spread_id_reduces_that_spread_and_no_older_one() -> None:
    engine = new_engine()
    answer(engine, make_order(spread_id="a"))
    answer(engine, make_order(spread_id="b"))
    answer(engine, close_of("b", "0.1"))
    assert left(engine) == {"a": D("0.25"), "b": D("0.15")}


def test_close_of_an_unknown_spread_is_invalid() -> None:
    engine = new_engine()
    answer(engine, make_order(spread_id="s"))
    expected = "invalid order: spread_id: expected an open spread, was unknown"
    assert answer(engine, close_of("t")) == expected
    answer(engine, close_of("s"))
    assert answer(engine, close_of("s")) == expected


def test_close_of_more_than_is_left_is_invalid() -> None:
    engine = new_engine()
    answer(engine, make_order(spread_id="s"))
    expected = "invalid order: spread_id: expected at most 0.25, was 0.2500001"
    assert answer(engine, close_of("s", "0.2500001")) == expected
    assert left(engine) == {"s": D("0.25")}
    assert answer(engine, close_of("s", "0.250")) == "order placed"


def test_close_with_other_legs_than_the_spread_is_invalid() -> None:
    engine = new_engine()
    answer(engine, make_order(spread_id="s"))
    others: list[dict[str, Any]] = [{"buy": PERP, "sell": SPOT}, {"buy": DATED}, {"sell": DATED}]
    for legs in others:
        assert answer(engine, close_of("s", **legs)).startswith("invalid order: spread_id: ")
    assert left(engine) == {"s": D("0.25")}


def test_close_without_a_spread_id_reduces_the_oldest_of_the_pair() -> None:
    engine = new_engine()
    for name, size in (("a", "0.1"), ("b", "0.2"), ("c", "0.3")):
        answer(engine, make_order(spread_id=name, size=size))
    answer(engine, make_order(spread_id="other", buy=DATED))
    assert answer(engine, close_of(None, "0.25")) == "order placed"
    assert left(engine) == {"b": D("0.05"), "c": D("0.3"), "other": D("0.25")}


def test_close_without_a_spread_id_goes_through_beyond_what_is_open() -> None:
    engine = new_engine()
    answer(engine, make_order(spread_id="a", size="0.1"))
    assert answer(engine, close_of(None, "0.25")) == "order placed"
    assert left(engine) == {}
    assert answer(engine, close_of(None, "0.25")) == "order placed"
    assert engine.risks[PERP] == D("6180.03") - 2 * D("15452.5")


def test_close_without_a_spread_id_leaves_the_other_direction_alone() -> None:
    engine = new_engine()
    answer(engine, make_order(spread_id="reverse", buy=SPOT, sell=PERP))
    answer(engine, close_of(None))
    assert left(engine) == {"reverse": D("0.25")}


def test_close_without_a_spread_id_is_judged_by_risk() -> None:
    engine = new_engine(limit="100")
    assert answer(engine, close_of(None)) == "risk limit exceed"


# --- recovery ------------------------------------------------------------------------------------


def test_recovered_engine_holds_what_the_first_life_held() -> None:
    first = new_engine(limit="40000")
    records: list[Record] = [
        first.execute(order, key)
        for order, key in (
            (make_order(order_id="1", spread_id="s"), None),
            (make_order(), "request 1"),
            (make_order(order_id="3"), None),
            (close_of("s", "0.1", order_id="4"), None),
            (close_of("s", "9", order_id="5"), None),
            (close_of(None, "0.2"), "request 2"),
        )
    ]
    second = new_engine(limit="40000")
    second.recover(records)
    assert second.risks == first.risks
    assert second.pnl == first.pnl
    assert second.orders == first.orders
    assert second.spreads.listed() == first.spreads.listed()
    order = make_order(order_id="6", spread_id="t", size="0.01")
    assert second.execute(order) == first.execute(order)
    assert isinstance(records[1], Execution)
    again = msgspec.structs.replace(records[1].order, spread_id=None)
    assert answer(second, again) == "order already placed"


def test_ids_go_on_rising_after_a_recovery() -> None:
    engine = new_engine()
    engine.recover([Refusal(41, "expired", NOW, "x"), Refusal(7, "expired", NOW, "y")])
    assert engine.execute(make_order()).execution_id == 42
