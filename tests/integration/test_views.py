"""The views of the schema, compared with what the trading engine accounts for."""

from __future__ import annotations

import itertools
import json
import random
import uuid
from collections import defaultdict
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from blackbird.bybit.environment import OrderMode
from blackbird.engine.execution_store import ExecutionStore
from blackbird.market.book_message import decode_book
from blackbird.market.instrument import Instrument
from blackbird.market.quotes import Quote, quote_of
from blackbird.trading.engine import TradingEngine
from blackbird.trading.orders import Order
from blackbird.trading.records import Execution, Record, Refusal
from blackbird.trading.signal import Signal
from blackbird.trading.spreads import Pair
from config import Config
from tests.support.market import DATED, PERP, SPOT
from tests.support.stored_market import database_of
from tests.support.workspace import Workspace, apply_schema
from tests.unit.test_recordings import recorded

OPEN = "Open Spread"
CLOSE = "Close Spread"


PAIR = Pair(PERP, SPOT)
OTHER_PAIR = Pair(DATED, SPOT)


@pytest.fixture
def place(each_edition: Workspace) -> Workspace:
    """A database of each edition."""
    return each_edition


def store(place: Workspace, records: list[Record]) -> None:
    database = database_of(place)
    mode = OrderMode.of(real=False, environment="demo", rest_url="")
    history = ExecutionStore(uuid.uuid4(), database, Config.TABLES["order"], mode)
    history.claim()
    history.add(records)
    database.close()


class Trader:
    """An engine whose executions are kept; each order is a second after the one before it."""

    def __init__(self) -> None:
        self._seconds = itertools.count(1)
        self.engine = TradingEngine(
            limit=Decimal(10**9), unique_order=False, clock=lambda: next(self._seconds) * 1000
        )
        self.records: list[Record] = []

    def open(self, spread_id: str, entry: str, size: str, pair: Pair = PAIR) -> None:
        """Open a spread that is `entry` wide."""
        self._place(OPEN, pair.long, pair.short, Decimal(100) + Decimal(entry), Decimal(size), spread_id)

    def close(self, spread_id: str | None, cost: str, size: str, pair: Pair = PAIR) -> None:
        """Close for `cost` per base coin."""
        self._place(CLOSE, pair.short, pair.long, Decimal(100) - Decimal(cost), Decimal(size), spread_id)

    def _place(
        self,
        action: Any,
        buy: Instrument,
        sell: Instrument,
        sell_price: Decimal,
        size: Decimal,
        spread_id: str | None,
    ) -> None:
        order = Order(action, buy, Decimal(100), sell, sell_price, size, 900, 800, None, spread_id)
        self.records.append(self.engine.execute(order))

    @property
    def executed(self) -> list[Execution]:
        return [record for record in self.records if isinstance(record, Execution)]


def left_by_engine(engine: TradingEngine) -> list[tuple[Any, ...]]:
    return [
        (spread.spread_id, *spread.pair.long, *spread.pair.short, spread.spread, spread.quantity)
        for spread in engine.spreads
    ]


def left_in_view(place: Workspace) -> list[tuple[Any, ...]]:
    return place.query(
        "SELECT spread_id, long_channel, long_symbol, short_channel, short_symbol, entry_spread,"
        " left_quantity FROM bybit.open_spread ORDER BY execution_id"
    )


def totals(place: Workspace) -> tuple[Any, ...]:
    return place.query(
        "SELECT sum(closed_pnl), sum(entry_credit), sum(cash_without_spread), sum(cash) FROM bybit.pnl"
    )[0]


def test_closed_pnl_and_entry_credit_of_a_recording_are_its_cash(place: Workspace, recordings: Path) -> None:
    signal = Signal(clock=lambda: 0)
    engine = TradingEngine(limit=Decimal(1_000_000), unique_order=True, clock=lambda: 0)
    records: list[Record] = []
    for message in recorded(recordings / "btc_depth50.ndjson.gz"):
        scan = signal.scan(signal.on_book(decode_book(_encoded(message)), 0))
        while scan.order is not None:
            records.append(engine.execute(scan.order))
            scan.answer(engine.answer_of(records[-1]))
    store(place, records)

    assert totals(place) == (
        Decimal("145.4959031"),
        Decimal("90.3569498"),
        Decimal(0),
        Decimal("235.8528529"),
    )
    assert place.query('SELECT sum(flux) FROM bybit."order"') == [(engine.pnl,)]
    assert left_in_view(place) == left_by_engine(engine)
    assert place.query("SELECT count(*) FROM bybit.open_spread") == [(140,)]
    positions = place.query("SELECT channel, symbol_name, size, exposure FROM bybit.position")
    assert {Instrument(*row[:2]): row[2:] for row in positions} == {
        leg: (engine.positions[leg], engine.risks[leg]) for leg in (SPOT, PERP)
    }
    assert place.query("SELECT count(*) FROM bybit.execution") == [(1873,)]

    open_ones = "SELECT open_at_mark, total FROM bybit.pnl WHERE entry_credit <> 0"
    assert set(place.query(open_ones)) == {(None, None)}
    quotes = {leg: quote_of(leg, book, "a", 1) for leg, book in signal.keeper.books.items()}
    for quote in quotes.values():
        row = (7000, quote.channel, quote.symbol, "a", "in sync", quote.bid, 1, quote.ask, 1, 6990, 1)
        place.query(f"INSERT INTO bybit.quote VALUES ({', '.join(['%s'] * len(row))})", *row)  # noqa: S608
    closing = sum(
        spread.quantity * (bid_of(quotes[spread.pair.long]) - ask_of(quotes[spread.pair.short]))
        for spread in engine.spreads
    )
    ((open_at_mark, total),) = place.query("SELECT sum(open_at_mark), sum(total) FROM bybit.pnl")
    assert open_at_mark == Decimal("90.3569498") + closing
    assert total == engine.pnl + closing
    assert round(total, 2) == Decimal("-156.38")


def bid_of(quote: Quote) -> Decimal:
    assert quote.bid is not None
    return quote.bid


def ask_of(quote: Quote) -> Decimal:
    assert quote.ask is not None
    return quote.ask


def _encoded(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode()


def test_a_spread_has_its_closes_and_times(place: Workspace) -> None:
    trader = Trader()
    trader.open("first", "10", "3")
    trader.open("second", "8", "1")
    trader.close("first", "4", "1")
    trader.close("second", "5", "1")
    store(place, trader.records)
    opened, second_opened, _, closed = (record.placed_at for record in trader.executed)
    assert spreads(place) == [
        ("first", opened, None, Decimal(3), Decimal(1), Decimal(2), 10, Decimal(6), Decimal(20), None),
        ("second", second_opened, closed, 1, 1, 0, 8, Decimal(3), 0, closed - second_opened),
    ]


def spreads(place: Workspace) -> list[tuple[Any, ...]]:
    return place.query(
        "SELECT spread_id, opened_at, closed_at, opened_quantity, closed_quantity, left_quantity,"
        " entry_spread, closed_pnl, entry_credit, holding_ms FROM bybit.spread ORDER BY execution_id"
    )


def test_closes_without_a_spread_take_from_the_oldest_of_their_pair(place: Workspace) -> None:
    trader = Trader()
    trader.open("other", "7", "5", OTHER_PAIR)
    trader.open("first", "10", "3")
    trader.open("second", "8", "2")
    trader.close("first", "1", "1")
    trader.close(None, "4", "2.5")
    store(place, trader.records)
    closed_at = trader.executed[-1].placed_at
    rows = place.query(
        "SELECT spread_id, closed_at, closed_quantity, left_quantity, closed_pnl, entry_credit"
        " FROM bybit.spread ORDER BY execution_id"
    )
    assert rows == [
        ("other", None, 0, 5, 0, 35),
        ("first", closed_at, 3, 0, 21, 0),  # 3 * 10 - 1 * 1 - 2 * 4
        ("second", None, Decimal("0.5"), Decimal("1.5"), 2, 12),  # 0.5 * (8 - 4), 1.5 * 8
    ]
    assert left_in_view(place) == left_by_engine(trader.engine)


def test_a_close_beyond_what_is_open_is_a_row_of_its_own_and_takes_nothing_later(place: Workspace) -> None:
    trader = Trader()
    trader.open("before", "10", "1")
    trader.close(None, "4", "3")
    trader.open("after", "9", "2")
    store(place, trader.records)
    rows = place.query(
        "SELECT execution_id, spread_id, closed_quantity, left_quantity, closed_pnl, cash"
        " FROM bybit.spread ORDER BY execution_id"
    )
    assert [row[1:] for row in rows] == [
        ("before", 1, 0, 6, 6),
        ("after", 0, 2, 0, 18),
        (None, 2, 0, None, -8),
    ]
    assert totals(place) == (6, 18, -8, 16)
    assert left_in_view(place) == left_by_engine(trader.engine)


def test_an_id_that_is_opened_again_is_another_spread(place: Workspace) -> None:
    trader = Trader()
    trader.open("same", "10", "1")
    trader.close("same", "4", "1")
    trader.open("same", "9", "2", OTHER_PAIR)
    trader.close("same", "5", "1", OTHER_PAIR)
    store(place, trader.records)
    rows = place.query("SELECT spread_id, left_quantity, closed_pnl FROM bybit.spread ORDER BY execution_id")
    assert rows == [("same", 0, 6), ("same", 1, 4)]
    assert left_in_view(place) == left_by_engine(trader.engine)


class Lot:
    """A spread as a simple loop accounts for it."""

    def __init__(self, order: Order) -> None:
        self.entry = order.sell_price - order.buy_price
        self.left = order.size
        self.cash = self.entry * order.size
        self.closed_at: int | None = None


def take(lot: Lot, record: Execution, most: Decimal) -> Decimal:
    """Close up to `most` of a lot, and return how much."""
    size = min(most, lot.left)
    lot.left -= size
    lot.cash += size * (record.order.sell_price - record.order.buy_price)
    if size and not lot.left:
        lot.closed_at = record.placed_at
    return size


def account(executed: Iterable[Execution]) -> tuple[dict[int, Lot], Decimal]:
    """Return each spread by its opening execution, and the cash of closes without one, by a plain loop."""
    lots: dict[Pair, dict[int, Lot]] = defaultdict(dict)
    opening: dict[str | None, int] = {}
    alone = Decimal(0)
    for record in executed:
        order = record.order
        if order.action == OPEN:
            opening[order.spread_id] = record.execution_id
            lots[Pair(order.buy, order.sell)][record.execution_id] = Lot(order)
            continue
        of_pair = lots[Pair(order.sell, order.buy)]
        if order.spread_id is not None:
            take(of_pair[opening[order.spread_id]], record, order.size)
            continue
        rest = order.size
        for lot in of_pair.values():
            rest -= take(lot, record, rest)
        alone += rest * (order.sell_price - order.buy_price)
    return {number: lot for of_pair in lots.values() for number, lot in of_pair.items()}, alone


def random_orders(seed: int) -> Trader:
    """Return opens and closes of two pairs, with and without a spread, some of them beyond what is open."""
    chance = random.Random(seed)
    trader = Trader()

    def number(most: int) -> str:
        return f"{chance.randint(1, most)}e-{chance.randint(0, 3)}"

    for _ in range(400):
        pair = chance.choice([PAIR, OTHER_PAIR])
        kind = chance.random()
        listed = [spread for spread in trader.engine.spreads if spread.pair == pair]
        if kind < 0.45:
            trader.open(f"s{chance.randint(0, 300)}", number(99), number(50), pair)
        elif kind < 0.7 and listed:
            spread = chance.choice(listed)
            size = spread.quantity if chance.random() < 0.5 else spread.quantity / 2
            trader.close(spread.spread_id, number(99), str(size), pair)
        else:
            trader.close(None, number(99), number(60), pair)
    return trader


def test_any_mixture_of_closes_is_accounted_for_as_by_the_engine(place: Workspace) -> None:
    for seed in range(10):
        trader = random_orders(seed)
        place.query('TRUNCATE bybit."order"')
        store(place, trader.records)
        lots, alone = account(trader.executed)
        assert alone, "closes beyond what was open are part of it"
        assert any(isinstance(record, Refusal) for record in trader.records) or len(lots) > 100
        rows = place.query(
            "SELECT execution_id, left_quantity, closed_pnl, entry_credit, closed_at, cash FROM bybit.spread"
            " WHERE execution_id IS NOT NULL ORDER BY 1"
        )
        assert rows == [
            (number, lot.left, lot.cash - lot.entry * lot.left, lot.entry * lot.left, lot.closed_at, lot.cash)
            for number, lot in sorted(lots.items())
        ], f"seed {seed}"
        assert left_in_view(place) == left_by_engine(trader.engine)
        closed, credit, without, cash = totals(place)
        assert without == alone
        assert closed + credit + without == cash == trader.engine.pnl
        kept = kept_totals(place)
        place.query("SELECT bybit.recount_orders()")
        assert kept_totals(place) == kept


def kept_totals(place: Workspace) -> list[list[tuple[Any, ...]]]:
    return [
        place.query(f"SELECT * FROM bybit.{table} ORDER BY 1, 2, 3, 4")  # noqa: S608 - named here
        for table in ("instrument_total", "pair_total", "spread_total")
    ]


@pytest.mark.parametrize("batch", [1, 7])
def test_totals_are_the_same_however_many_executions_are_stored_at_once(place: Workspace, batch: int) -> None:
    trader = random_orders(11)
    store(place, trader.records)
    at_once = kept_totals(place)
    place.query('TRUNCATE bybit."order"')
    assert kept_totals(place) == [[], [], []]
    for at in range(0, len(trader.records), batch):
        store(place, trader.records[at : at + batch])
    assert kept_totals(place) == at_once
    # What is stored already is not counted again.
    store(place, trader.records[-50:])
    assert kept_totals(place) == at_once


def test_execution_counts_once_both_its_legs_are_there(place: Workspace) -> None:
    trader = Trader()
    trader.open("first", "10", "3")
    trader.close("first", "4", "1")
    store(place, trader.records)
    whole = kept_totals(place)
    place.query('CREATE TABLE legs AS SELECT * FROM bybit."order"')
    place.query('TRUNCATE bybit."order"')
    for kind in ("sell", "buy"):
        place.query('INSERT INTO bybit."order" SELECT * FROM legs WHERE type = %s', kind)
    assert kept_totals(place) == whole


def test_totals_follow_orders_that_are_changed_or_removed_by_hand(place: Workspace) -> None:
    trader = Trader()
    trader.open("first", "10", "3")
    trader.open("second", "8", "1")
    store(place, trader.records)
    place.query("UPDATE bybit.\"order\" SET spread_id = 'other' WHERE spread_id = 'second'")
    assert [row[0] for row in left_in_view(place)] == ["first", "other"]
    place.query("DELETE FROM bybit.\"order\" WHERE spread_id = 'other'")
    assert [row[0] for row in left_in_view(place)] == ["first"]
    assert place.query("SELECT channel, size FROM bybit.position ORDER BY 1") == [("linear", 3), ("spot", -3)]


def test_an_execution_has_both_legs_in_one_row(place: Workspace) -> None:
    trader = Trader()
    trader.open("first", "10", "3")
    store(place, trader.records)
    assert place.query("SELECT * FROM bybit.execution") == [
        (1, OPEN, "first", None, *PERP, 100, *SPOT, 110, 3, 30, 1000, 900, 800, 100, 200, *[None] * 10)
    ]


def test_views_of_an_empty_history_are_empty(place: Workspace) -> None:
    for view in ("position", "execution", "spread", "open_spread", "pnl", "spread_history", "gaps"):
        assert place.query(f"SELECT * FROM bybit.{view}") == []  # noqa: S608 - named above


def test_every_table_view_and_column_has_a_comment(place: Workspace) -> None:
    apply_schema(place)
    without = place.query(
        "SELECT relname, attname FROM pg_class"
        " LEFT JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped"
        " WHERE relnamespace = 'bybit'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'f')"
        " AND (obj_description(pg_class.oid, 'pg_class') IS NULL"
        " OR col_description(attrelid, attnum) IS NULL) ORDER BY 1, 2"
    )
    assert without == []


def test_latency_is_measured_by_the_leg_whose_message_came_last(place: Workspace) -> None:
    trader = Trader()
    for number in range(1, 5):
        trader.open(f"s{number}", "10", "3")
    timed = [
        msgspec.structs.replace(
            record,
            placed_at=3_600_000 + record.placed_at,
            order=msgspec.structs.replace(
                record.order,
                ts_buy=3_600_000,
                published_buy=3_600_010,
                received_buy=3_600_012,
                ts_sell=1,
                published_sell=2,
                received_sell=3,
                decided_at=3_600_000 + record.placed_at - 5,
            ),
        )
        for record in trader.executed[:3]
    ]
    store(place, [*timed, trader.executed[3]])
    assert place.query("SELECT * FROM bybit.latency") == [
        (3_600_000, 3, 10, 10, 2, 2, 1983, 2983, 5, 5, 2000, 3000)
    ]


PERCENTILES = ", ".join(
    f"percentile_disc({part}) WITHIN GROUP (ORDER BY {later} - {earlier})"
    for later, earlier in (
        ("buy_published_at", "buy_ts_orderbook"),
        ("buy_received_at", "buy_published_at"),
        ("decided_at", "buy_received_at"),
        ("placed_at", "decided_at"),
        ("placed_at", "buy_ts_orderbook"),
    )
    for part in (0.5, 0.99)
)


def test_latencies_are_the_percentiles_however_many_were_counted_before(place: Workspace) -> None:
    trader = Trader()
    chance = random.Random(3)
    for number in range(400):
        trader.open(f"s{number}", "10", "3")
    timed = []
    for record in trader.executed:
        at = [record.placed_at * 25 - step for step in sorted(chance.choices(range(50), k=4))]
        order = msgspec.structs.replace(
            record.order, decided_at=at[0], received_buy=at[1], published_buy=at[2], ts_buy=at[3], ts_sell=1,
            published_sell=1, received_sell=1
        )  # fmt: skip
        timed.append(msgspec.structs.replace(record, placed_at=record.placed_at * 25, order=order))
    store(place, [*timed])
    expected = place.query(
        f"SELECT placed_at / 3600000 * 3600000, count(*), {PERCENTILES} FROM bybit.execution"  # noqa: S608
        " GROUP BY 1 ORDER BY 1"
    )
    assert len(expected) > 2
    for counted in (0, 1, 150, 150, 399, 400):
        place.query("SELECT bybit.count_latencies(%s)", counted)
        assert place.query("SELECT * FROM bybit.latency ORDER BY 1") == expected
    # Orders that are changed by hand are counted anew.
    place.query('UPDATE bybit."order" SET placed_at = placed_at + 7200000 WHERE execution_id <= 100')
    changed = place.query("SELECT hour, executions FROM bybit.latency ORDER BY 1")
    assert changed == place.query(
        "SELECT placed_at / 3600000 * 3600000, count(*) FROM bybit.execution GROUP BY 1 ORDER BY 1"
    )
    assert changed != [row[:2] for row in expected]
