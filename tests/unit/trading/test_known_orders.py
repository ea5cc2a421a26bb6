"""Which first answers are remembered, and which orders may be among those that are not."""

from __future__ import annotations

from decimal import Decimal

import msgspec
import pytest

from blackbird.trading.books import Books
from blackbird.trading.engine import TradingEngine
from blackbird.trading.known_orders import CLOCK_MARGIN_MS, Answer, KnownOrders, Mark
from blackbird.trading.orders import Order
from blackbird.trading.records import Execution, Refusal
from tests.support.market import PERP, SPOT

NOW = 1_800_000_000_000


def known(most: int | None, *, stored: bool = True, records: int = 0) -> KnownOrders:
    """Return what is left of so many records, which were answered a second apart."""
    orders = KnownOrders(most)
    if stored:
        orders.stored(10**9)
    for number in range(records):
        orders.add(number, 1000 * number, str(number), "order placed", copy=bytes([number]))
    return orders


def order(ts: int = NOW, order_id: str | None = "o", number: int = 1) -> Order:
    return Order(
        action="Open Spread",
        buy=PERP,
        buy_price=Decimal(99),
        sell=SPOT,
        sell_price=Decimal(100) + Decimal(number) / 8,
        size=Decimal("0.5"),
        ts_buy=ts,
        ts_sell=ts - 5,
        order_id=order_id,
    )


def test_half_of_the_newest_at_least_are_remembered_with_their_copies() -> None:
    orders = known(20, records=37)
    remembered = range(20, 37)
    assert list(orders) == [str(number) for number in remembered]
    assert [number for number in range(37) if orders.is_copy(bytes([number]))] == list(remembered)
    assert (len(orders), orders.get("19"), orders["20"]) == (17, None, "order placed")
    assert orders.forgotten_ms == 19_000
    assert orders.newest_ms == 36_000


def test_nothing_is_forgotten_without_a_limit_nor_before_it_is_in_the_database() -> None:
    assert len(known(None, records=200)) == 200
    orders = known(10, stored=False, records=200)
    assert (len(orders), orders.forgotten_ms) == (200, None)
    orders.stored(150)
    for number in range(200, 230):
        orders.add(number, 0, str(number), "expired")
    assert all(str(number) in orders for number in range(151, 230)), "not stored yet"
    assert "0" not in orders


@pytest.mark.parametrize(
    ("books", "doubtful"),
    [
        (19_000 + CLOCK_MARGIN_MS, True),
        (19_001 + CLOCK_MARGIN_MS, False),
        (NOW, False),
        # Not the time of a book: it says nothing about when the order was sent.
        (NOW + CLOCK_MARGIN_MS + 1, True),
    ],
)
def test_an_order_whose_books_are_younger_than_all_that_is_forgotten_is_new(
    books: int, *, doubtful: bool
) -> None:
    assert known(20, records=37).may_be_forgotten(order(books), NOW) is doubtful
    assert not known(None, records=37).may_be_forgotten(order(books), NOW)


def test_answers_after_the_first_mark_are_known_and_copies_only_after_the_last() -> None:
    first = KnownOrders(25)
    first.stored(10**9)
    marks: list[Mark] = []
    for number in range(1, 41):
        first.add(number, 1000 * number, str(number), "order placed")
        if number % 10 == 0:
            marks = first.mark(number)
    assert marks == [(20, 20_000), (30, 30_000), (40, 40_000)]
    second = KnownOrders(25)
    answers = [Answer(number, 1000 * number, str(number), f"answer {number}") for number in range(21, 41)]
    second.restore(marks, [*answers[:5], answers[5]._replace(key=None), *answers[6:]])
    assert dict(second) == {each.key: each.info for each in answers if each.record_id != 26}
    assert (second.newest_ms, second.forgotten_ms) == (40_000, 20_000)
    young = order(20_001 + CLOCK_MARGIN_MS)
    assert not second.may_be_forgotten(young, NOW)
    assert second.may_be_forgotten(order(20_000 + CLOCK_MARGIN_MS), NOW)
    without_id = msgspec.structs.replace(young, order_id=None)
    assert second.may_be_forgotten(without_id, NOW)
    assert not second.may_be_forgotten(msgspec.structs.replace(without_id, ts_buy=NOW), NOW)
    assert second.mark(41) == [(20, 20_000), (30, 30_000), (40, 40_000), (41, 40_000)]


# --- the books of a checkpoint -------------------------------------------------------------------


def new_engine() -> TradingEngine:
    return TradingEngine(limit=Decimal(10**9), unique_order=True, clock=lambda: NOW, known_orders=1000)


def busy_engine() -> TradingEngine:
    engine = new_engine()
    for number in range(20):
        engine.execute(order(number=number, order_id=f"o{number}"))
    for number in range(0, 20, 3):
        close = order(number=number, order_id=f"c{number}")
        close = msgspec.structs.replace(
            close,
            action="Close Spread",
            buy=close.sell,
            sell=close.buy,
            spread_id=f"o{number}",
            size=Decimal("0.5") if number % 2 else Decimal("0.125"),
        )
        assert isinstance(engine.execute(close), Execution)
    assert isinstance(engine.execute(msgspec.structs.replace(order(), expires_at=1)), Refusal)
    return engine


def test_books_go_through_json_and_an_engine_goes_on_from_them_as_from_all_records() -> None:
    first = busy_engine()
    books = msgspec.json.decode(msgspec.json.encode(first.books()), type=Books)
    second = new_engine()
    second.restore(books)
    for engine in (first, second):
        engine.execute(order(number=99, order_id="next"))
    assert second.books() == first.books()
    assert (second.risks, second.positions, second.pnl) == (first.risks, first.positions, first.pnl)
    assert second.spreads.listed() == first.spreads.listed()
    assert second.last_id == first.last_id


def test_after_a_checkpoint_older_orders_are_forgotten_and_newer_ones_are_new() -> None:
    engine = new_engine()
    engine.restore(busy_engine().books())
    assert engine.first_answer("o1") is None
    assert engine.may_be_forgotten(order(NOW))
    later = TradingEngine(
        limit=Decimal(1), unique_order=True, clock=lambda: NOW + 10 * CLOCK_MARGIN_MS, known_orders=1000
    )
    later.restore(busy_engine().books())
    assert later.may_be_forgotten(order(NOW + CLOCK_MARGIN_MS))
    assert not later.may_be_forgotten(order(NOW + CLOCK_MARGIN_MS + 1))


def test_a_record_that_is_looked_up_is_remembered_and_not_accounted_for_again() -> None:
    engine = new_engine()
    first = new_engine()
    record = first.execute(order())
    assert isinstance(record, Execution)
    engine.restore(first.books())
    before = engine.books()
    engine.remember(record)
    assert engine.first_answer("o") == first.first_answer("o")
    assert engine.books() == before
    assert isinstance(engine.execute(msgspec.structs.replace(record.order, order_id=None)), Refusal), "a copy"


def test_books_agree_with_the_sums_of_their_executions_only() -> None:
    books = busy_engine().books()
    sums = {leg.instrument: (leg.exposure, leg.position) for leg in books.legs}
    assert books.adds_up_to(sums)
    for wrong in (
        {},
        {**sums, PERP: (Decimal(1), sums[PERP][1])},
        {**sums, PERP: (sums[PERP][0], Decimal(1))},
    ):
        assert not books.adds_up_to(wrong)
    assert not msgspec.structs.replace(books, pnl=books.pnl + 1).adds_up_to(sums)
