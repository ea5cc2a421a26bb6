"""The trading engine's history in the database: executions as two rows each, refusals as one."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from operator import attrgetter
from typing import Any, Literal, NamedTuple

from blackbird.bybit.environment import SIMULATED, OrderMode
from blackbird.market.decimals import EXACT
from blackbird.market.instrument import Instrument
from blackbird.runtime.process import InvalidSetup
from blackbird.trading.orders import Order
from blackbird.trading.records import Execution, Record, Refusal
from database_manager import Cursor, DatabaseManager, FixedTable, RowsRejected, Table

Rows = Sequence[tuple[Any, ...]]
Side = Literal["buy", "sell"]


class OrderRow(NamedTuple):
    """One leg of an execution, as `bybit."order"` has it; `flux` is signed cash, minus for the buy leg."""

    channel: str
    symbol_name: str
    price: Decimal
    size: Decimal
    type: Side
    flux: Decimal
    ts_orderbook: int
    order_id: str | None
    action: Literal["Open Spread", "Close Spread"]
    spread_id: str | None
    placed_at: int
    execution_id: int
    request_key: str | None


class RefusedOrderRow(NamedTuple):
    """A refusal, as `bybit.refused_order` has it."""

    execution_id: int
    info: str
    answered_at: int
    order_id: str | None
    request_key: str | None


REFUSED_ORDERS = FixedTable("bybit.refused_order", RefusedOrderRow._fields)


class Fenced(Exception):
    """Another trading engine has taken the history over; this one must not go on."""


class OtherMode(InvalidSetup):
    """The history was made with orders of another mode or environment."""


class ExecutionStore:
    """Reads and writes the history for the engine process that is known by `owner`.

    `orders` is the table of the executions, `mode` what kind of orders the engine places. The methods raise
    DatabaseUnavailable or RowsRejected.
    """

    def __init__(self, owner: uuid.UUID, database: DatabaseManager, orders: Table, mode: OrderMode) -> None:
        self._owner = str(owner)
        self._database = database
        self._orders = orders
        self._in_table_order = attrgetter(*orders.columns)
        self._mode = mode

    def claim(self) -> str:
        """Make this engine the active one, and return the history's id; raises OtherMode."""

        def work(cursor: Cursor) -> str:
            self._check_mode(cursor)
            cursor.execute("UPDATE bybit.history SET engine = %s RETURNING id::text", (self._owner,))
            return str(_only_row(cursor)[0])

        return self._database.transaction(work)

    def enter_mode(self) -> None:
        """Mark the history as made in this engine's mode; raises OtherMode."""

        def work(cursor: Cursor) -> None:
            self._check_mode(cursor)
            cursor.execute(
                "UPDATE bybit.history SET mode = %s, environment = %s",
                (self._mode.kind, self._mode.environment),
            )

        self._database.transaction(work)

    def _check_mode(self, cursor: Cursor) -> None:
        cursor.execute(
            f"SELECT mode, environment, EXISTS (SELECT FROM {self._orders.name})"  # noqa: S608 - a setting
            f" OR EXISTS (SELECT FROM {REFUSED_ORDERS.name}) FROM bybit.history FOR UPDATE"
        )
        kind, environment, has_rows = _only_row(cursor)
        # An empty history takes on any mode. One that is older than its columns was simulated.
        made = (kind or SIMULATED, environment or self._mode.environment)
        mine = (self._mode.kind, self._mode.environment)
        if has_rows and made != mine:
            raise OtherMode(
                f"REAL_ORDER_SENDING, BYBIT_ENVIRONMENT: expected {' in '.join(made)}, as the orders in the"
                f" database were made, was {' in '.join(mine)}; name another POSTGRES_DB, or empty the tables"
            )

    def is_owned(self) -> bool:
        """Return whether no other engine has claimed the history since this one did."""

        def work(cursor: Cursor) -> bool:
            cursor.execute("SELECT engine::text FROM bybit.history")
            return cursor.fetchall() == [(self._owner,)]

        return self._database.transaction(work)

    def add(self, records: Sequence[Record]) -> None:
        """Store records, all or none; those that are stored already are left as they are.

        Raises Fenced where another engine has claimed the history since.
        """
        executed = [
            self._in_table_order(row)
            for record in records
            if isinstance(record, Execution)
            for row in order_rows(record)
        ]
        refused = [refused_order_row(record) for record in records if isinstance(record, Refusal)]
        try:
            self._write(self._database.copy_rows, executed, refused)
        except RowsRejected:
            # Some are stored already, as after a crash between commit and clearing of the journal.
            self._write(self._database.insert, executed, refused)

    def _write(self, write: Callable[[Cursor, Table, Rows], None], executed: Rows, refused: Rows) -> None:
        def work(cursor: Cursor) -> None:
            cursor.execute("SELECT engine::text FROM bybit.history FOR SHARE")
            row = cursor.fetchone()
            if row is None or row[0] != self._owner:
                raise Fenced("another trading engine works on this database now")
            if executed:
                write(cursor, self._orders, executed)
            if refused:
                write(cursor, REFUSED_ORDERS, refused)

        self._database.transaction(work)

    def replay(self, recover: Callable[[Iterable[Record]], None]) -> None:
        """Give all executions, oldest first, and then all refusals to `recover`."""
        columns = ", ".join(OrderRow._fields)
        executed = f"SELECT {columns} FROM {self._orders.name} ORDER BY execution_id, type"  # noqa: S608
        columns = ", ".join(RefusedOrderRow._fields)
        refused = f"SELECT {columns} FROM {REFUSED_ORDERS.name}"  # noqa: S608

        def work(cursor: Cursor) -> None:
            recover(executions(map(OrderRow._make, self._database.rows(cursor, executed))))
            recover(refusals(map(RefusedOrderRow._make, self._database.rows(cursor, refused))))

        self._database.transaction(work)


def _only_row(cursor: Cursor) -> tuple[Any, ...]:
    row = cursor.fetchone()
    assert row is not None  # noqa: S101 - init.sql inserts the only row of bybit.history
    return row


def order_rows(execution: Execution) -> tuple[OrderRow, OrderRow]:
    """Return the rows of the buy leg and of the sell leg."""
    order = execution.order
    # Exact: a unary minus would round to the 28 digits of the default context.
    paid = EXACT.multiply(order.buy_price, order.size).copy_negate()
    received = EXACT.multiply(order.sell_price, order.size)
    return (
        _order_row(execution, order.buy, order.buy_price, "buy", paid, order.ts_buy),
        _order_row(execution, order.sell, order.sell_price, "sell", received, order.ts_sell),
    )


def _order_row(
    execution: Execution, leg: Instrument, price: Decimal, side: Side, flux: Decimal, ts_orderbook: int
) -> OrderRow:
    order = execution.order
    return OrderRow(
        leg.channel,
        leg.symbol,
        price,
        order.size,
        side,
        flux,
        ts_orderbook,
        order.order_id,
        order.action,
        order.spread_id,
        execution.placed_at,
        execution.execution_id,
        execution.request_key,
    )


def executions(rows: Iterator[OrderRow]) -> Iterator[Execution]:
    """Return executions from rows in the order buy leg, sell leg, buy leg, sell leg."""
    for buy, sell in zip(rows, rows, strict=True):
        order = Order(
            action=buy.action,
            buy=Instrument(buy.channel, buy.symbol_name),
            buy_price=buy.price,
            sell=Instrument(sell.channel, sell.symbol_name),
            sell_price=sell.price,
            size=buy.size,
            ts_buy=buy.ts_orderbook,
            ts_sell=sell.ts_orderbook,
            order_id=buy.order_id,
            spread_id=buy.spread_id,
        )
        yield Execution(buy.execution_id, order, buy.placed_at, buy.request_key)


def refused_order_row(refusal: Refusal) -> RefusedOrderRow:
    """Return the row of a refusal."""
    return RefusedOrderRow(
        execution_id=refusal.execution_id,
        info=refusal.info,
        answered_at=refusal.answered_at,
        order_id=refusal.order_id,
        request_key=refusal.request_key,
    )


def refusals(rows: Iterable[RefusedOrderRow]) -> Iterator[Refusal]:
    """Return refusals from their rows."""
    for row in rows:
        yield Refusal(
            execution_id=row.execution_id,
            info=row.info,
            answered_at=row.answered_at,
            order_id=row.order_id,
            request_key=row.request_key,
        )
