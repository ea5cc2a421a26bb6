"""The trading engine's history in the database: executions as two rows each, refusals as one."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from blackbird.market.decimals import EXACT
from blackbird.market.instrument import Instrument
from blackbird.trading.orders import Execution, Order, Record, Refusal
from config import Config, TableConfig
from database_manager import Cursor, DatabaseManager, RowsRejected

Rows = Sequence[tuple[Any, ...]]

_REFUSED = TableConfig(
    "bybit.refused_order", ["execution_id", "order_id", "request_key", "info", "answered_at"]
)


class Fenced(Exception):
    """Another trading engine has taken the history over; this one must not go on."""


class ExecutionStore:
    """Reads and writes the history for the engine process that is known by `owner`."""

    def __init__(self, owner: uuid.UUID) -> None:
        self._owner = str(owner)
        self._database = DatabaseManager("trading engine")

    def claim(self) -> str:
        """Make this engine the one that accounts for the history, and return the history's id."""

        def work(cursor: Cursor) -> str:
            cursor.execute("UPDATE bybit.history SET engine = %s RETURNING id::text", (self._owner,))
            row = cursor.fetchone()
            assert row is not None  # noqa: S101 - init.sql makes the one row
            return str(row[0])

        return self._database.transaction(work)

    def is_owned(self) -> bool:
        """Tell whether no other engine has claimed the history since this one did."""

        def work(cursor: Cursor) -> bool:
            cursor.execute("SELECT engine::text FROM bybit.history")
            return cursor.fetchall() == [(self._owner,)]

        return self._database.transaction(work)

    def add(self, records: Sequence[Record]) -> None:
        """Store records, all or none; those that are stored already are left as they are.

        Raises Fenced where another engine has claimed the history since.
        """
        executed = [row for record in records if isinstance(record, Execution) for row in _rows(record)]
        refused = [_refusal_row(record) for record in records if isinstance(record, Refusal)]
        try:
            self._write(self._database.copy_rows, executed, refused)
        except RowsRejected:
            # Some are stored already, as after a crash between commit and clearing of the journal.
            self._write(self._database.insert, executed, refused)

    def _write(
        self,
        write: Callable[[Cursor, TableConfig, Rows], None],
        executed: Rows,
        refused: Rows,
    ) -> None:
        def work(cursor: Cursor) -> None:
            cursor.execute("SELECT engine::text FROM bybit.history FOR SHARE")
            row = cursor.fetchone()
            if row is None or row[0] != self._owner:
                raise Fenced("another trading engine works on this database now")
            if executed:
                write(cursor, Config.TABLES["order"], executed)
            if refused:
                write(cursor, _REFUSED, refused)

        self._database.transaction(work)

    def replay(self, recover: Callable[[Iterable[Record]], None]) -> None:
        """Give all executions, oldest first, and then all refusals to `recover`."""
        columns = ", ".join(Config.TABLES["order"].columns)
        executions = f"SELECT {columns} FROM {Config.TABLES['order'].name} ORDER BY execution_id, type"  # noqa: S608
        refusals = "SELECT execution_id, info, answered_at, order_id, request_key FROM bybit.refused_order"

        def work(cursor: Cursor) -> None:
            recover(_executions(self._database.rows(cursor, executions)))
            recover(Refusal(*row) for row in self._database.rows(cursor, refusals))

        self._database.transaction(work)


def _rows(execution: Execution) -> Iterator[tuple[Any, ...]]:
    """Return the rows of the buy leg and of the sell leg, in the order of the table's columns."""
    order = execution.order
    common = (
        order.order_id,
        order.action,
        order.spread_id,
        execution.placed_at,
        execution.execution_id,
        execution.request_key,
    )
    bought = EXACT.multiply(order.buy_price, order.size)
    sold = EXACT.multiply(order.sell_price, order.size)
    yield (*order.buy, order.buy_price, order.size, "buy", -bought, order.ts_buy, *common)
    yield (*order.sell, order.sell_price, order.size, "sell", sold, order.ts_sell, *common)


def _refusal_row(refusal: Refusal) -> tuple[Any, ...]:
    return (
        refusal.execution_id,
        refusal.order_id,
        refusal.request_key,
        refusal.info,
        refusal.answered_at,
    )


def _executions(rows: Iterator[tuple[Any, ...]]) -> Iterator[Execution]:
    """Return executions from rows that come as buy leg, sell leg, buy leg, sell leg."""
    for buy, sell in zip(rows, rows, strict=True):
        channel, symbol, price, size, _, _, ts_buy, order_id, action, spread_id, placed_at, number, key = buy
        order = Order(
            action=action,
            buy=Instrument(channel, symbol),
            buy_price=price,
            sell=Instrument(sell[0], sell[1]),
            sell_price=sell[2],
            size=size,
            ts_buy=ts_buy,
            ts_sell=sell[6],
            order_id=order_id,
            spread_id=spread_id,
        )
        yield Execution(number, order, placed_at, key)
