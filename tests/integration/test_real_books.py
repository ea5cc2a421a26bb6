"""Real trades in the database: every sum is the same in the fills, the rows, the views and the engine."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from blackbird.bybit.environment import OrderMode
from blackbird.engine.execution_store import ExecutionStore, OtherMode
from blackbird.engine.journal import Journal
from blackbird.market.instrument import Instrument
from blackbird.trading.books import Books
from blackbird.trading.engine import TradingEngine
from blackbird.trading.known_orders import Answer
from blackbird.trading.orders import OPEN_SPREAD, Order
from blackbird.trading.records import Booking, Record, Stored
from blackbird.trading.settlement import by_hand, late_fills, trade_away
from blackbird.trading.spreads import Pair, pair_of
from config import Config
from database_manager import DatabaseManager
from tests.support.real_trades import NOW, RULES, Chance, fill, new_engine, outcomes
from tests.support.trade_model import PERP, SPOT
from tests.support.workspace import Workspace, apply_schema

REAL = OrderMode.of(real=True, environment="demo", rest_url="")
SIMULATED = OrderMode.of(real=False, environment="demo", rest_url="")


class Collecting:
    """Keeps what is recovered in a list."""

    def __init__(self, found: list[Stored]) -> None:
        self._found = found

    def restore(self, books: Books, answers: Iterable[Answer] | None = None) -> None:
        del answers
        raise AssertionError(books)

    def recover(self, records: Iterable[Stored]) -> None:
        self._found.extend(records)


@pytest.fixture
def database(place: Workspace) -> Iterator[DatabaseManager]:
    manager = DatabaseManager("test", {**Config.DB_CONFIG, "database": place.name})
    yield manager
    manager.close()


def store(database: DatabaseManager, mode: OrderMode = REAL) -> ExecutionStore:
    return ExecutionStore(uuid.uuid4(), database, Config.TABLES["order"], mode)


def trade(engine: TradingEngine, seed: int, count: int = 40) -> list[Booking]:
    """Book trades and what became of their leftovers, as chance has it."""
    chance = Chance(-seed - 1)
    bookings: list[Booking] = []
    for number, outcome in enumerate(outcomes(seed, count, engine)):
        bookings.append(engine.book(outcome))
        open_ones = list(engine.leftovers.open.values())
        if not open_ones:
            continue
        leftover = open_ones[number % len(open_ones)]
        if number % 5 == 0:
            amendment = by_hand(leftover, None, NOW + number)
        elif number % 5 == 1:
            amendment = by_hand(leftover, Decimal(63_990), NOW + number)
        else:
            next_number = engine.leftovers.next_number(leftover.trade_id)
            fills = chance.retry(leftover)
            amendment = trade_away(
                leftover, fills, RULES[leftover.instrument], next_number, NOW + 60_000 + number
            )
        bookings.append(engine.amend(amendment))
    return bookings


# As docs/real_orders.md has it for people.
DIFFERENCES = """
WITH filled AS (
  SELECT channel, symbol_name,
         sum(CASE side WHEN 'buy' THEN size ELSE -size END - base_fee) AS size,
         sum(CASE side WHEN 'buy' THEN -value ELSE value END + base_fee * price) AS cash
  FROM (SELECT *, CASE WHEN symbol_name LIKE fee_coin || '%' THEN fee ELSE 0 END AS base_fee
        FROM bybit.fill) AS fill GROUP BY channel, symbol_name
), left_over AS (
  SELECT channel, symbol_name, sum(flux) AS cash
  FROM bybit.leftover WHERE resolution IS DISTINCT FROM 'traded away' GROUP BY channel, symbol_name
)
SELECT channel, symbol_name, filled.size - held_size, filled.cash + exposure - coalesce(left_over.cash, 0)
FROM filled JOIN bybit.position USING (channel, symbol_name)
LEFT JOIN left_over USING (channel, symbol_name)
WHERE filled.size <> held_size OR filled.cash <> coalesce(left_over.cash, 0) - exposure
"""


def state(engine: TradingEngine) -> tuple[Any, ...]:
    spreads = [(each.spread_id, each.pair, each.spread, each.quantity) for each in engine.spreads]
    held = {leg: engine.held(leg) for leg in (SPOT, PERP)}
    answers = {key: engine.first_answer(key) for key in engine.orders}
    return engine.risks, engine.positions, engine.pnl, spreads, engine.leftovers.open, held, answers


@pytest.mark.parametrize("seed", range(4))
def test_fills_rows_views_and_engine_agree(place: Workspace, database: DatabaseManager, seed: int) -> None:
    engine = new_engine(limit="1e12")
    bookings = trade(engine, seed)
    history = store(database)
    history.claim()
    history.add(bookings)

    again = new_engine(limit="1e12")
    history.replay(again)
    assert state(again) == state(engine)
    assert again.leftovers.next_number("trade 1") == engine.leftovers.next_number("trade 1")

    rows = place.query('SELECT channel, symbol_name, -sum(flux) FROM bybit."order" GROUP BY 1, 2')
    assert {Instrument(*row[:2]): row[2] for row in rows} == engine.risks
    assert place.query('SELECT sum(flux) FROM bybit."order"') == [(engine.pnl,)]
    held = place.query("SELECT channel, symbol_name, held_size, size, exposure FROM bybit.position")
    assert {Instrument(*row[:2]): row[2:] for row in held} == {
        leg: (engine.held(leg), engine.positions.get(leg, 0), engine.risks.get(leg, 0))
        for leg in (SPOT, PERP)
    }
    fees = place.query(
        'SELECT (SELECT coalesce(sum(fee), 0) FROM bybit."order") + (SELECT coalesce(sum(fee), 0)'
        " FROM bybit.leftover WHERE resolution IS DISTINCT FROM 'traded away')"
    )
    assert place.query("SELECT sum(fee) FROM bybit.pnl") == fees
    assert place.query("SELECT sum(net_cash) FROM bybit.pnl") == [(engine.pnl - fees[0][0],)]
    assert place.query("SELECT sum(cash) FROM bybit.pnl") == [(engine.pnl,)]
    assert place.query(
        "SELECT count(*) FROM bybit.pnl"
        " WHERE closed_pnl + entry_credit + cash_without_spread + unwound_cash <> cash"
    ) == [(0,)]
    left = place.query(
        "SELECT spread_id, entry_spread, left_quantity FROM bybit.open_spread ORDER BY execution_id"
    )
    assert left == [(each.spread_id, each.spread, each.quantity) for each in engine.spreads]
    assert place.query("SELECT trade_id, number FROM bybit.open_leftover") == list(engine.leftovers.open)


@pytest.mark.parametrize("seed", range(4))
def test_no_fill_is_lost_in_sizes_cash_or_fees(
    place: Workspace, database: DatabaseManager, seed: int
) -> None:
    engine = new_engine(limit="1e12")
    history = store(database)
    history.claim()
    chance = Chance(-seed - 1)
    bookings: list[Record] = []
    for outcome in outcomes(seed, 40, engine):
        bookings.append(engine.book(outcome))
        for leftover in list(engine.leftovers.open.values())[:1]:
            number = engine.leftovers.next_number(leftover.trade_id)
            fills = chance.retry(leftover)
            bookings.append(
                engine.amend(trade_away(leftover, fills, RULES[leftover.instrument], number, NOW))
            )
    history.add(bookings)
    assert place.query(DIFFERENCES) == []
    assert place.query("SELECT count(*) > 100 FROM bybit.fill") == [(True,)]


def test_trade_comes_back_from_the_database_as_it_went_in(database: DatabaseManager) -> None:
    engine = new_engine(limit="1e12")
    bookings = [engine.book(outcome) for outcome in outcomes(11, 30, engine)]
    history = store(database)
    history.claim()
    history.add(bookings)
    found: list[Stored] = []
    history.replay(Collecting(found))
    expected: list[Stored] = []
    for booking in bookings:
        expected += booking.parts()
    assert sorted(map(repr, found)) == sorted(map(repr, expected))


def test_trade_that_is_stored_already_is_left_as_it_is(place: Workspace, database: DatabaseManager) -> None:
    engine = new_engine(limit="1e12")
    bookings = trade(engine, 3, 10)
    history = store(database)
    history.claim()
    history.add(bookings)
    tables = ('bybit."order"', "bybit.refused_order", "bybit.fill", "bybit.leftover")
    before = [place.query(f"SELECT * FROM {table}") for table in tables]  # noqa: S608 - named above
    history.add(bookings)
    assert [place.query(f"SELECT * FROM {table}") for table in tables] == before  # noqa: S608 - named above


def test_half_a_trade_is_never_stored(place: Workspace, database: DatabaseManager) -> None:
    engine = new_engine(limit="1e12")
    booking = next(
        booking
        for booking in (engine.book(outcome) for outcome in outcomes(2, 200, engine))
        if booking.execution and booking.unwinds and booking.leftovers
    )
    history = store(database)
    history.claim()
    broken = msgspec.structs.replace(
        booking, leftovers=tuple(msgspec.structs.replace(each, trade_id="\0") for each in booking.leftovers)
    )
    with pytest.raises(ValueError):
        history.add([broken])
    for table in ('bybit."order"', "bybit.fill", "bybit.leftover"):
        assert place.query(f"SELECT count(*) FROM {table}") == [(0,)]  # noqa: S608 - named above


def test_journal_keeps_a_trade_in_one_piece(tmp_path: Path) -> None:
    engine = new_engine(limit="1e12")
    bookings: list[Record] = list(trade(engine, 1, 20))
    with closing(Journal(tmp_path / "j.sqlite")) as journal:
        journal.append(bookings)
    with closing(Journal(tmp_path / "j.sqlite")) as journal:
        assert journal.pending(1000) == bookings


def test_late_fill_of_a_refused_trade_is_held(place: Workspace, database: DatabaseManager) -> None:
    engine = new_engine()
    history = store(database)
    history.claim()
    pair = Pair(long=SPOT, short=PERP)
    amendment = late_fills("trade", [fill(PERP, "Sell", "0.1", "64200")], RULES, pair, 1, NOW)
    history.add([engine.amend(amendment)])
    assert place.query("SELECT symbol_name, held_size, executions FROM bybit.position") == [
        ("BTCPERP", Decimal("-0.1"), 0)
    ]
    assert place.query("SELECT leftover_cash, cash, short_symbol FROM bybit.pnl") == [(6420, 0, None)]


# --- simulated fees ------------------------------------------------------------------------------


def test_simulated_fees_are_stored_and_in_the_views(place: Workspace, database: DatabaseManager) -> None:
    rates = {"spot": Decimal("0.001"), "linear": Decimal(0)}
    engine = TradingEngine(limit=Decimal("1e9"), unique_order=True, clock=lambda: NOW, fee_rates=rates)
    order = Order(OPEN_SPREAD, PERP, Decimal(100), SPOT, Decimal(110), Decimal(2), 1, 1, "o", "s")
    history = store(database, SIMULATED)
    history.claim()
    history.add([engine.execute(order)])
    assert place.query('SELECT symbol_name, fee, trade_id FROM bybit."order" ORDER BY type') == [
        ("BTCPERP", 0, None),
        ("BTCUSDT", Decimal("0.22"), None),
    ]
    assert place.query("SELECT fee FROM bybit.spread") == [(Decimal("0.22"),)]
    assert place.query("SELECT cash, fee, net_cash FROM bybit.pnl") == [
        (20, Decimal("0.22"), Decimal("19.78"))
    ]
    found: list[Stored] = []
    history.replay(Collecting(found))
    (back,) = found
    assert back == msgspec.structs.replace(
        engine.execute(msgspec.structs.replace(order, order_id="p", spread_id="t")),
        execution_id=1,
        order=order,
    )


# --- accounts ------------------------------------------------------------------------------------


def test_history_of_another_account_is_refused(place: Workspace, database: DatabaseManager) -> None:
    engine = new_engine()
    history = store(database)
    history.account = "1001"
    history.claim()
    history.enter_mode()
    history.add([engine.refuse(Chance(1).order(engine), "not filled")])
    assert place.query("SELECT account FROM bybit.history") == [("1001",)]
    same, other = store(database), store(database)
    same.account, other.account = "1001", "1002"
    same.claim()
    with pytest.raises(OtherMode, match="expected a key of account 1001"):
        other.claim()


# --- a database from before ----------------------------------------------------------------------

# The tables and the view as they were in 0.1.
OLD_SCHEMA = """
DROP VIEW bybit.position CASCADE;
DROP VIEW bybit.execution CASCADE;
DROP TABLE bybit."order", bybit.refused_order, bybit.fill, bybit.leftover CASCADE;
ALTER TABLE bybit.history DROP COLUMN account;
CREATE TABLE bybit."order" (
  channel text NOT NULL, symbol_name text NOT NULL, price numeric NOT NULL, size numeric NOT NULL,
  type text NOT NULL CHECK (type IN ('buy', 'sell')), flux numeric NOT NULL, ts_orderbook bigint NOT NULL,
  order_id text, action text NOT NULL, spread_id text, placed_at bigint NOT NULL,
  execution_id bigint NOT NULL, request_key text, PRIMARY KEY (execution_id, type)
);
CREATE TABLE bybit.refused_order (
  execution_id bigint PRIMARY KEY, order_id text, request_key text, info text NOT NULL,
  answered_at bigint NOT NULL
);
CREATE VIEW bybit.position AS
SELECT channel, symbol_name, sum(CASE type WHEN 'buy' THEN size ELSE -size END) AS size,
       -sum(flux) AS exposure, count(*) AS executions
FROM bybit."order" GROUP BY channel, symbol_name;
CREATE VIEW bybit.execution AS
SELECT execution_id, buy.action, buy.spread_id, buy.order_id,
       buy.channel AS buy_channel, buy.symbol_name AS buy_symbol, buy.price AS buy_price,
       sell.channel AS sell_channel, sell.symbol_name AS sell_symbol, sell.price AS sell_price,
       buy.size, buy.flux + sell.flux AS cash, buy.placed_at,
       buy.ts_orderbook AS buy_ts_orderbook, sell.ts_orderbook AS sell_ts_orderbook,
       buy.placed_at - buy.ts_orderbook AS buy_book_age_ms,
       buy.placed_at - sell.ts_orderbook AS sell_book_age_ms
FROM bybit."order" AS buy JOIN bybit."order" AS sell USING (execution_id)
WHERE buy.type = 'buy' AND sell.type = 'sell';
INSERT INTO bybit."order" VALUES
  ('linear', 'BTCPERP', 100, 2, 'buy', -200, 900, 'o', 'Open Spread', 's', 1000, 1, NULL),
  ('spot', 'BTCUSDT', 110, 2, 'sell', 220, 800, 'o', 'Open Spread', 's', 1000, 1, NULL);
INSERT INTO bybit.refused_order VALUES (2, 'p', NULL, 'expired', 1001);
"""


def test_database_from_before_keeps_everything(place: Workspace, database: DatabaseManager) -> None:
    place.query(OLD_SCHEMA)
    apply_schema(place)
    apply_schema(place)
    history = store(database, SIMULATED)
    history.claim()
    engine = new_engine()
    history.replay(engine)
    assert engine.pnl == 20
    assert [(each.spread_id, each.quantity) for each in engine.spreads] == [("s", Decimal(2))]
    assert engine.orders == {"o": "order placed", "p": "expired"}
    history.add([engine.execute(Chance(1).order(engine))])
    assert place.query('SELECT count(*), count(trade_id), count(fee) FROM bybit."order"') == [(4, 0, 0)]
    assert place.query("SELECT cash, fee, net_cash FROM bybit.pnl") == [(engine.pnl, 0, engine.pnl)]


def test_emptied_orders_take_fills_and_leftovers_with_them(
    place: Workspace, database: DatabaseManager
) -> None:
    history = store(database)
    history.account = "1001"
    history.claim()
    history.enter_mode()
    history.add(trade(new_engine(limit="1e12"), 3, 10))
    place.query('TRUNCATE bybit."order"')
    for table in ("refused_order", "fill", "leftover"):
        assert place.query(f"SELECT count(*) FROM bybit.{table}") == [(0,)]  # noqa: S608 - named above
    assert place.query("SELECT mode, account FROM bybit.history") == [(None, None)]


def test_real_trade_is_found_by_the_link_id_of_any_of_its_orders(database: DatabaseManager) -> None:
    engine = new_engine(limit="1e12")
    bookings = [each for each in trade(engine, 1) if each.answer is not None]
    history = store(database)
    history.claim()
    history.add(bookings)
    assert {each.execution is None for each in bookings} == {True, False}
    for booking in bookings:
        found = history.find_trade(f"{booking.trade_id}-u7")
        firsts = [each for each in booking.fills if each.link_id.startswith(f"{booking.trade_id}-")]
        ids = frozenset(each.exec_id for each in firsts)
        assert (found.trade_id, found.exec_ids) == (booking.trade_id, ids)
        if booking.execution is not None:
            assert found.pair == pair_of(booking.execution.order)
        elif booking.leftovers:
            assert found.pair == booking.leftovers[0].pair
        else:
            assert found.pair is None
    assert history.find_trade("history-unknown-b1") == ("unknown", None, frozenset())
    # What traded a leftover away is booked for the trade that had left it over.
    retry = fill(SPOT, "Buy", "0.1", number=99, link_id="history-retry-u1")
    left = late_fills("trade 1", [retry], RULES, Pair(SPOT, PERP), 9, NOW)
    history.add([engine.amend(left)])
    found = history.find_trade("history-retry-u2")
    assert (found.trade_id, found.exec_ids) == ("trade 1", frozenset({retry.exec_id}))
