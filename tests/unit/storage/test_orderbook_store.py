"""The rows that go into the two tables: columns in their order, odd texts, exact numbers. No database."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any

import pytest
from pika.spec import BasicProperties

from blackbird.engine import history_rows
from blackbird.market.book_message import BookMessage, decode_book
from blackbird.market.fields import InvalidMessage
from blackbird.storage.level_rows import message_rows
from blackbird.storage.orderbook_store import (
    KEY_COLUMNS,
    UPDATES,
    read_update,
    update_key,
    update_line,
)
from blackbird.storage.update import Update
from blackbird.trading.orders import Order
from blackbird.trading.records import Execution, Refusal
from config import Config
from database_manager import copy_text
from tests.support.market import PERP, SPOT
from tests.support.workspace import HERE

D = Decimal
ODD = [
    "a\tb",
    "a\nb",
    "a\rb",
    "a\\b",
    "\\N",
    "\\.",
    "\\t",
    "a\\",
    "'",
    '"',
    "é",
    "日本",
    "😀",
    "\u2028",
    "\x7f",
    "\b\f\v",
    '","',
    '"],["',
]


def message(
    *,
    topic: str = "orderbook.50.BTCUSDT",
    symbol: str = "BTCUSDT",
    key: str = "a",
    bids: Any = (("61837.24", "0"),),
    asks: Any = (("61837.64", "1.2"), ("61838", "0.50")),
    **changes: Any,
) -> BookMessage:
    push = {
        "topic": topic,
        "type": "delta",
        "ts": 1723161255608,
        "data": {"s": symbol, "b": bids, "a": asks, "u": 5002, "seq": 50093239220},
        "cts": 1723161255600,
        "channel": "spot",
        "matching_key": key,
        **changes,
    }
    return decode_book(json.dumps(push, separators=(",", ":")).encode())


def read_copy(lines: str) -> list[list[str | None]]:
    """Read COPY's text format as PostgreSQL documents it: tabs, newlines, backslash escapes, \\N is null."""
    assert lines == "" or lines.endswith("\n")
    escapes = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
    rows = []
    for line in lines.split("\n")[:-1]:
        assert line != "\\."
        assert "\r" not in line
        rows.append(
            [
                None
                if field == "\\N"
                else re.sub(r"\\(.)", lambda found: escapes.get(found[1], found[1]), field, flags=re.DOTALL)
                for field in line.split("\t")
            ]
        )
    return rows


def orderbook_lines(message: BookMessage) -> str:
    return message_rows(message)[0]


def by_column(lines: str) -> list[dict[str, str | None]]:
    columns = Config.TABLES["orderbook"].columns
    return [dict(zip(columns, row, strict=True)) for row in read_copy(lines)]


def schema_columns(table: str) -> list[str]:
    """Return the columns of a table in the order of init.sql, those that later versions added last."""
    schema = re.sub("--.*", "", (HERE / "deploy" / "init.sql").read_text())
    schema = re.sub(r"\s+ADD COLUMN", " ADD COLUMN", schema)
    body = schema.split(f"CREATE TABLE IF NOT EXISTS {table} (")[1].split("\n);")[0]
    added = "".join(part.split(";")[0] for part in schema.split(f"ALTER TABLE {table} ADD")[1:])
    columns = re.findall(r"^  ([a-z_]+) ", body, flags=re.MULTILINE)
    columns += re.findall(r"COLUMN IF NOT EXISTS ([a-z_]+) ", added)
    return list(dict.fromkeys(columns))


# --- order-book rows -----------------------------------------------------------------------------


def test_columns_are_those_of_the_contract() -> None:
    assert Config.TABLES["orderbook"].columns == [
        "topic",
        "type",
        "ts_message",
        "channel",
        "symbol_name",
        "update_id",
        "sequence_id",
        "side",
        "price",
        "size",
        "ts_orderbook",
        "matching_key",
    ]
    first = ["channel", "symbol_name", "price", "size", "type", "flux", "ts_orderbook"]
    assert Config.TABLES["order"].columns[: len(first)] == first


@pytest.mark.parametrize(
    ("table", "columns"),
    [
        ("bybit.orderbook", Config.TABLES["orderbook"].columns),
        ('bybit."order"', Config.TABLES["order"].columns),
        ("bybit.orderbook_update", list(UPDATES.columns)),
    ],
)
def test_schema_has_the_columns_in_the_same_order(table: str, columns: list[str]) -> None:
    assert schema_columns(table) == columns


def test_schema_has_the_columns_of_refused_orders() -> None:
    assert set(schema_columns("bybit.refused_order")) == set(history_rows.REFUSED_ORDERS.columns)


def test_update_is_one_row_a_level_bids_first() -> None:
    common = {
        "topic": "orderbook.50.BTCUSDT",
        "type": "delta",
        "ts_message": "1723161255608",
        "channel": "spot",
        "symbol_name": "BTCUSDT",
        "update_id": "5002",
        "sequence_id": "50093239220",
        "ts_orderbook": "1723161255600",
        "matching_key": "a",
    }
    assert by_column(orderbook_lines(message())) == [
        {**common, "side": "bid", "price": "61837.24", "size": "0"},
        {**common, "side": "ask", "price": "61837.64", "size": "1.2"},
        {**common, "side": "ask", "price": "61838", "size": "0.50"},
    ]


def test_update_without_levels_is_no_row() -> None:
    assert orderbook_lines(message(bids=[], asks=[])) == ""
    assert [row["side"] for row in by_column(orderbook_lines(message(bids=[])))] == ["ask", "ask"]


def test_numbers_are_written_as_the_exchange_sent_them() -> None:
    texts = [("0.00000000000000000001", "99999999999999999999"), ("1e-7", "0.000"), ("0001.50", "2E+3")]
    rows = by_column(orderbook_lines(message(bids=texts, asks=[])))
    assert [(row["price"], row["size"]) for row in rows] == texts


@pytest.mark.parametrize(
    "levels", [[("1", "x")], [("NaN", "1")], [("-1", "1")], [("0", "1")], [("1\t2", "1")], [("1", "")]]
)
def test_levels_that_are_no_numbers_give_no_row(levels: Any) -> None:
    for sides in ({"bids": levels}, {"asks": levels}):
        with pytest.raises(InvalidMessage):
            orderbook_lines(message(**sides))


@pytest.mark.parametrize("text", ODD)
def test_odd_text_comes_back_from_copy_and_moves_no_column(text: str) -> None:
    rows = by_column(orderbook_lines(message(topic=text, symbol=f"{text}s", key=f"{text}k")))
    assert len(rows) == 3
    for row in rows:
        assert (row["topic"], row["symbol_name"], row["matching_key"]) == (text, f"{text}s", f"{text}k")
        assert row["channel"] == "spot"
    assert read_copy(copy_text(text) + "\n") == [[text]]


def test_key_of_an_update_is_channel_topic_type_u_seq_and_cts() -> None:
    assert KEY_COLUMNS == ("ts_orderbook", "update_id", "sequence_id", "channel", "topic", "type")
    key = (1723161255600, 5002, 50093239220, "spot", "orderbook.50.BTCUSDT", "delta")
    assert update_key(message()) == key


def test_row_of_an_update_is_its_key_and_the_headers_of_its_message() -> None:
    assert UPDATES.columns == (*KEY_COLUMNS, "published_at", "number", "as_sent")
    key = update_key(message())
    for headers, expected in (
        ({"published_at": 1723161255610, "number": 2**60}, ["1723161255610", str(2**60)]),
        ({"published_at": 0, "number": 0}, ["0", "0"]),
        ({}, [None, None]),
    ):
        for as_sent in (None, 'a\\tb"'):
            line = update_line(key, Update("", BasicProperties(headers=headers), b"", as_sent))
            assert read_copy(line) == [[*map(str, key), *expected, as_sent]]


@pytest.mark.parametrize("text", ODD)
def test_odd_topic_comes_back_from_the_line_of_its_key(text: str) -> None:
    update = Update("", BasicProperties(), b"")
    (row,) = read_copy(update_line(update_key(message(topic=text)), update))
    assert row == ["1723161255600", "5002", "50093239220", "spot", text, "delta", None, None, None]


# --- what rows do not say ------------------------------------------------------------------------

BEST_FIRST = {"bids": [("3", "1"), ("2", "0"), ("1", "2")], "asks": [("10", "1"), ("11.5", "0"), ("12", "3")]}
REMOVED_FIRST = {
    "bids": [("2", "0"), ("3", "1"), ("1", "2")],
    "asks": [("11", "0"), ("12", "0"), ("10", "3")],
}


@pytest.mark.parametrize(
    "sides",
    [
        BEST_FIRST,
        {"bids": [("1", "0")], "asks": [("2", "1")]},
        {"bids": [], "asks": [("2", "1"), ("3", "0")]},
        {"bids": [(str(900 - each), "0.10") for each in range(50)], "asks": []},
    ],
)
def test_nothing_is_kept_of_levels_that_are_best_first(sides: dict[str, Any]) -> None:
    assert message_rows(message(**sides))[1] is None


@pytest.mark.parametrize(
    "sides",
    [
        REMOVED_FIRST,
        {**REMOVED_FIRST, "asks": []},
        {**REMOVED_FIRST, "bids": [("3", "0"), ("2", "1")]},
        {**REMOVED_FIRST, "bids": [("3", "0"), ("2", "0")]},
        {**REMOVED_FIRST, "bids": [("3", "1"), ("2", "1")]},
    ],
)
def test_removed_levels_that_come_first_are_told_in_two_words(sides: dict[str, Any]) -> None:
    assert message_rows(message(**sides))[1] == "removed first"


@pytest.mark.parametrize(
    "sides",
    [
        {**REMOVED_FIRST, "bids": BEST_FIRST["bids"]},  # no rule for both sides
        {"bids": [("1", "1"), ("2", "1")], "asks": []},
        {"bids": [("2", "1"), ("2", "1")], "asks": []},
        {"bids": [("2", "0"), ("2.0", "1")], "asks": [("3", "0"), ("1", "0"), ("2", "0")]},
        {"bids": [("2", "0.0"), ("3", "1")], "asks": []},
        {"bids": [("1", "1"), ("2", "0"), ("3", "0")], "asks": []},
        {"bids": [("2", "0"), ("3", "1"), ("1", "0")], "asks": []},
        {"bids": [("2", "0"), ("1", "0"), ("3", "1"), ("4", "1")], "asks": []},
        {"bids": [("1.00000000000000000001", "1"), ("1.00000000000000000002", "1")], "asks": []},
        {"bids": [("0002", "1")], "asks": []},
        {"bids": [], "asks": [("1e3", "1")]},
        {"bids": [], "asks": []},
    ],
)
def test_all_else_is_kept_as_it_came(sides: dict[str, Any]) -> None:
    sent = message(**sides)
    kept = json.loads(message_rows(sent)[1] or "")
    assert kept == {
        "ts": sent.ts,
        "s": "BTCUSDT",
        "matching_key": "a",
        "b": bytes(sent.data.b).decode(),
        "a": bytes(sent.data.a).decode(),
    }


def test_blanks_between_levels_are_kept() -> None:
    body = (
        b'{"topic":"t","type":"delta","ts":1,"data":{"s":"S","b":[["2", "1"]],"a":[],"u":2,"seq":3},"cts":4,'
        b'"channel":"spot","matching_key":"a"}'
    )
    _, update = read_update(body, BasicProperties())
    assert json.loads(update.as_sent or "")["b"] == '[["2", "1"]]'


@pytest.mark.parametrize(
    "changes",
    [
        {"cts": 1},
        {"type": "snapshot"},
        {"channel": "linear"},
        {"topic": "orderbook.1.BTCUSDT"},
        {"data": {"s": "BTCUSDT", "b": [], "a": [], "u": 1, "seq": 50093239220}},
        {"data": {"s": "BTCUSDT", "b": [], "a": [], "u": 5002, "seq": 1}},
    ],
)
def test_update_that_differs_in_its_key_is_another_update(changes: dict[str, Any]) -> None:
    assert update_key(message(**changes)) != update_key(message())


def test_copy_of_an_update_has_the_same_key_whatever_else_it_says() -> None:
    assert update_key(message(ts=1, key="b", bids=[])) == update_key(message())


# --- order rows ----------------------------------------------------------------------------------


def execution(**changes: Any) -> Execution:
    fields: dict[str, Any] = {
        "action": "Open Spread",
        "buy": PERP,
        "buy_price": D("61800.3"),
        "sell": SPOT,
        "sell_price": D("61837.63"),
        "size": D("0.25"),
        "ts_buy": 298,
        "ts_sell": 208,
        "order_id": "o",
        "spread_id": "s",
        "expires_at": 5,
        "published_buy": 11,
        "published_sell": 12,
        "received_buy": 13,
        "received_sell": 14,
        "decided_at": 15,
        **changes,
    }
    return Execution(7, Order(**fields), 1723161256300, "request 1")


def test_execution_is_a_row_of_the_buy_leg_and_one_of_the_sell_leg() -> None:
    buy, sell = (row._asdict() for row in history_rows.order_rows(execution()))
    common = {
        "order_id": "o",
        "action": "Open Spread",
        "spread_id": "s",
        "placed_at": 1723161256300,
        "execution_id": 7,
        "fee": None,
        "trade_id": None,
        "asked_price": None,
        "asked_size": None,
        "request_key": "request 1",
    }
    assert buy == {
        "channel": "linear",
        "symbol_name": "BTCPERP",
        "price": D("61800.3"),
        "size": D("0.25"),
        "type": "buy",
        "flux": D("-15450.075"),
        "ts_orderbook": 298,
        "published_at": 11,
        "received_at": 13,
        "decided_at": 15,
        **common,
    }
    assert sell == {
        "channel": "spot",
        "symbol_name": "BTCUSDT",
        "price": D("61837.63"),
        "size": D("0.25"),
        "type": "sell",
        "flux": D("15459.4075"),
        "ts_orderbook": 208,
        "published_at": 12,
        "received_at": 14,
        "decided_at": 15,
        **common,
    }


def test_flux_is_exact_beyond_the_usual_28_digits() -> None:
    price, size = D("12345678901234567.12345678901234567891"), D("0.1000000000000000000001")
    buy, sell = history_rows.order_rows(execution(buy_price=price, sell_price=price, size=size))
    assert sell.flux == D("1234567890123456.712346913469124691347712345678901234567891")
    assert buy.flux == D("-1234567890123456.712346913469124691347712345678901234567891")


def test_execution_comes_back_from_its_rows() -> None:
    there = [
        execution(),
        execution(order_id=None, spread_id=None, action="Close Spread"),
        execution(size=D("1E+2")),
    ]
    rows = [row for record in there for row in history_rows.order_rows(record)]
    back = list(history_rows.executions(iter(rows)))
    times = {"published_buy", "published_sell", "received_buy", "received_sell", "decided_at"}
    forgotten = {"expires_at", *times}  # of no use to the engine
    for record, found in zip(there, back, strict=True):
        assert isinstance(found, Execution)
        assert found.execution_id == record.execution_id
        assert (found.placed_at, found.request_key) == (record.placed_at, record.request_key)
        for field in (*Order.__struct_fields__,):
            expected = None if field in forgotten else getattr(record.order, field)
            assert getattr(found.order, field) == expected


def test_half_an_execution_is_an_error() -> None:
    rows = list(history_rows.order_rows(execution()))
    with pytest.raises(ValueError):
        list(history_rows.executions(iter(rows[:1])))


def test_refusal_is_a_row_in_the_order_of_its_columns() -> None:
    row = history_rows.refused_order_row(Refusal(8, "expired", 1723161256300, "o", "request 1"))
    assert dict(zip(history_rows.REFUSED_ORDERS.columns, row, strict=True)) == {
        "execution_id": 8,
        "order_id": "o",
        "request_key": "request 1",
        "info": "expired",
        "answered_at": 1723161256300,
        "trade_id": None,
    }
