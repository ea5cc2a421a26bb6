"""The trading engine's history in the database: executions as two rows each, refusals as one.

What came of a real trade, with its fills and leftovers, is written in one transaction.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any, Protocol, TypeVar

from blackbird.bybit.environment import SIMULATED, OrderMode
from blackbird.engine.checkpoints import Checkpoints
from blackbird.engine.history_rows import (
    FILLS,
    LEFTOVERS,
    REFUSED_ORDERS,
    LeftoverRow,
    OrderRow,
    RefusedOrderRow,
    executions,
    fill_row,
    leftover_row,
    leftovers,
    order_rows,
    refusals,
    refused_order_row,
    unwind_rows,
)
from blackbird.engine.lease import Holder, LeaseHeld, MayClaim, from_anybody
from blackbird.engine.lookups import StoredTrade, find, find_trade
from blackbird.runtime.clock import milliseconds
from blackbird.runtime.process import InvalidSetup
from blackbird.trading.books import Books
from blackbird.trading.known_orders import Answer
from blackbird.trading.orders import ORDER_PLACED, Order
from blackbird.trading.records import (
    Booking,
    Execution,
    Record,
    Refusal,
    Resolved,
    Stored,
)
from database_manager import Cursor, DatabaseManager, RowsRejected, Table

Row = tuple[Any, ...]
R = TypeVar("R", OrderRow, RefusedOrderRow, LeftoverRow)

# Updating what is resolved already, as after a crash before the journal was cleared, changes nothing.
_RESOLVE = (
    "UPDATE bybit.leftover SET resolution = %s, resolved_at = %s"
    " WHERE trade_id = %s AND number = %s AND resolved_at IS NULL"
)


# For so long after it was seen last, an engine that stands by counts as there.
STANDBY_SECONDS = 60


class Fenced(Exception):
    """Another trading engine has taken the history over; this one must not go on."""


class TooLate(Exception):
    """An order expired before it could be stored; nothing was stored."""


class OtherMode(InvalidSetup):
    """The history was made with orders of another mode, environment or account."""


class Recovering(Protocol):
    """The part of TradingEngine that takes what was decided earlier."""

    def restore(self, books: Books, answers: Iterable[Answer] | None = None) -> None:
        """Begin with the books of an earlier run, and its answers after the first of the books' marks."""

    def recover(self, records: Iterable[Stored]) -> None:
        """Account for what was decided earlier."""


class ExecutionStore:
    """Reads and writes the history for the engine process that is known by `owner`.

    `orders` is the table of the executions, `mode` what kind of orders the engine places, and `account` the
    exchange's id of who places real ones, as soon as it is known. The methods raise DatabaseUnavailable or
    RowsRejected.
    """

    def __init__(self, owner: uuid.UUID, database: DatabaseManager, orders: Table, mode: OrderMode) -> None:
        self.account: str | None = None
        self._owner = str(owner)
        self._database = database
        self._orders = orders
        self._in_table_order = attrgetter(*orders.columns)
        self._mode = mode
        self._checkpoints = Checkpoints(orders)

    def claim(self, journal: str = "", may_claim: MayClaim = from_anybody) -> str:
        """Make this engine with its journal the active one, and return the history's id.

        Raises OtherMode, and LeaseHeld where this engine may not claim the history from who holds it.
        """

        def work(cursor: Cursor) -> str:
            self._check_mode(cursor)  # locks the row: what the holder is storing is committed first
            holder = _holder(cursor)
            if not may_claim(holder, journal):
                raise LeaseHeld(f"{holder.place} works on this database")
            cursor.execute(
                "UPDATE bybit.history SET engine = %s, journal = %s, place = %s, renewals = renewals + 1,"
                " standby_seen = NULL",
                (self._owner, journal, f"{socket.gethostname()}, process {os.getpid()}"),
            )
            return holder.history_id

        return self._database.transaction(work)

    def enter_mode(self) -> None:
        """Mark the history as made in this engine's mode; raises OtherMode."""

        def work(cursor: Cursor) -> None:
            self._check_mode(cursor)
            cursor.execute(
                "UPDATE bybit.history SET mode = %s, environment = %s, account = coalesce(%s, account)",
                (self._mode.kind, self._mode.environment, self.account),
            )

        self._database.transaction(work)

    def _check_mode(self, cursor: Cursor) -> None:
        cursor.execute(
            f"SELECT mode, environment, account, EXISTS (SELECT FROM {self._orders.name})"  # noqa: S608 - a setting
            f" OR EXISTS (SELECT FROM {REFUSED_ORDERS.name}) FROM bybit.history FOR UPDATE"
        )
        kind, environment, account, has_rows = _only_row(cursor)
        # An empty history takes on any mode. One that is older than its columns was simulated.
        made = (kind or SIMULATED, environment or self._mode.environment)
        mine = (self._mode.kind, self._mode.environment)
        if has_rows and made != mine:
            raise OtherMode(
                f"REAL_ORDER_SENDING, BYBIT_ENVIRONMENT: expected {' in '.join(made)}, as the orders in the"
                f" database were made, was {' in '.join(mine)}; name another POSTGRES_DB, or empty the tables"
            )
        if has_rows and account is not None and self.account not in {None, account}:
            raise OtherMode(
                f"API_KEY: expected a key of account {account}, which made the orders in the database, was"
                f" one of account {self.account}; name another POSTGRES_DB, or empty the tables"
            )

    def is_owned(self) -> bool:
        """Return whether no other engine has claimed the history since this one did."""

        def work(cursor: Cursor) -> bool:
            cursor.execute("SELECT engine::text FROM bybit.history")
            return cursor.fetchall() == [(self._owner,)]

        return self._database.transaction(work)

    def add(self, records: Sequence[Record], deadline_ms: int | None = None) -> None:
        """Store records, all or none; those that are stored already are left as they are.

        Raises Fenced where another engine has claimed the history since, and TooLate where they could not be
        committed before `deadline_ms`.
        """
        rows = _Rows(self._in_table_order)
        for record in records:
            rows.add(record)
        try:
            self._write(self._database.copy_rows, rows, deadline_ms)
        except RowsRejected:
            # Some are stored already, as after a crash between commit and clearing of the journal.
            self._write(self._database.insert, rows, deadline_ms)

    def _write(
        self,
        write: Callable[[Cursor, Table, Sequence[Row]], None],
        rows: _Rows,
        deadline_ms: int | None,
    ) -> None:
        tables = (
            (self._orders, rows.orders),
            (REFUSED_ORDERS, rows.refused),
            (FILLS, rows.fills),
            (LEFTOVERS, rows.leftovers),
        )

        def work(cursor: Cursor) -> None:
            self._check_owner(cursor)
            for table, of_table in tables:
                if of_table:
                    write(cursor, table, of_table)
            for each in rows.resolved:
                cursor.execute(_RESOLVE, (each.resolution, each.resolved_at, each.trade_id, each.number))
            if deadline_ms is not None and milliseconds() > deadline_ms:
                raise TooLate("the database took the orders after they had expired")

        self._database.transaction(work)

    def _check_owner(self, cursor: Cursor) -> None:
        cursor.execute("SELECT engine::text FROM bybit.history FOR SHARE")
        row = cursor.fetchone()
        if row is None or row[0] != self._owner:
            raise Fenced("another trading engine works on this database now")

    def replay(self, engine: Recovering) -> Books | None:
        """Give the checkpoint, what was executed and refused since, and all leftovers to `engine`.

        Returns the checkpoint, None where there was none that could be used.
        """

        def work(cursor: Cursor) -> Books | None:
            books = self._checkpoints.load(cursor)
            if books is not None:
                # Real orders have more in their answers, and wait for the exchange longer than for a look-up.
                engine.restore(books, None if self._mode.is_real else self._answers(cursor, books))
            since = f"WHERE execution_id > {books.execution_id if books else 0} ORDER BY execution_id"
            # What was executed last is asked about again, so it is remembered last.
            engine.recover(refusals(self._read(cursor, RefusedOrderRow, REFUSED_ORDERS, since)))
            engine.recover(executions(self._read(cursor, OrderRow, self._orders, f"{since}, type")))
            in_order = "ORDER BY since, trade_id, number"
            engine.recover(leftovers(self._read(cursor, LeftoverRow, LEFTOVERS, in_order)))
            return books

        return self._database.transaction(work)

    def _answers(self, cursor: Cursor, books: Books) -> Iterator[Answer]:
        """Return the answers between the first of the books' marks and the books."""
        if not books.marks:
            return
        span = f"execution_id > {books.marks[0].record_id} AND execution_id <= {books.execution_id}"
        yield from map(
            Answer._make,
            self._database.rows(
                cursor,
                "SELECT execution_id, placed_at, coalesce(order_id, request_key),"  # noqa: S608 - no values
                f" '{ORDER_PLACED}' FROM {self._orders.name} WHERE type = 'buy' AND {span}"
                " UNION ALL SELECT execution_id, answered_at, coalesce(order_id, request_key), info"
                f" FROM {REFUSED_ORDERS.name} WHERE {span} ORDER BY execution_id",
            ),
        )

    def agrees(self, books: Books) -> bool:
        """Return whether the executions add up to the books of the checkpoint; remove it where they do not.

        On a connection of its own, for it takes a second per two million executions.
        """
        database = self._database.another()
        try:
            return database.transaction(lambda cursor: self._checkpoints.agrees(cursor, books))
        finally:
            database.close()

    def _read(self, cursor: Cursor, kind: type[R], table: Table, which: str) -> Iterator[R]:
        query = f"SELECT {', '.join(kind._fields)} FROM {table.name} {which}"  # noqa: S608 - no values
        return map(kind._make, self._database.rows(cursor, query))

    def find(self, keys: Sequence[str], copies: Sequence[Order]) -> list[Execution | Refusal]:
        """Return the records of orders and requests known by `keys`, and those that may equal `copies`."""
        return self._database.transaction(lambda cursor: find(cursor, self._orders, keys, copies))

    def find_trade(self, link_id: str) -> StoredTrade:
        """Return what is stored of the real trade that an order at the exchange belongs to."""
        return self._database.transaction(lambda cursor: find_trade(cursor, self._orders, link_id))

    def save_checkpoint(self, books: Books) -> None:
        """Write the checkpoint where it agrees with the executions; raises Fenced."""

        def work(cursor: Cursor) -> None:
            self._check_owner(cursor)
            self._checkpoints.save(cursor, books)
            # For bybit.latency, which adds up what came since.
            cursor.execute("SELECT bybit.count_latencies(%s)", (books.execution_id,))

        self._database.transaction(work)


class _Rows:
    """The rows of a batch of records, by table; those of executions in the order of the table's columns."""

    def __init__(self, in_table_order: Callable[[OrderRow], Row]) -> None:
        self._in_table_order = in_table_order
        self.orders: list[Row] = []
        self.refused: list[Row] = []
        self.fills: list[Row] = []
        self.leftovers: list[Row] = []
        self.resolved: list[Resolved] = []

    def add(self, record: Record) -> None:
        """Add the rows of a record."""
        if isinstance(record, Execution):
            self.orders += map(self._in_table_order, order_rows(record))
        elif isinstance(record, Refusal):
            self.refused.append(refused_order_row(record))
        else:
            self._add_booking(record)

    def _add_booking(self, booking: Booking) -> None:
        answer = booking.execution or booking.refusal
        if answer is not None:
            self.add(answer)
        for unwind in booking.unwinds:
            self.orders += map(self._in_table_order, unwind_rows(unwind))
        self.fills += [fill_row(fill, booking.trade_id) for fill in booking.fills]
        self.leftovers += map(leftover_row, booking.leftovers)
        self.resolved += booking.resolved


class StoredLease:
    """The lease in the row that fences the other engines, on a connection of its own."""

    def __init__(self, owner: uuid.UUID, database: DatabaseManager) -> None:
        self.engine = str(owner)
        self._database = database

    def look(self) -> Holder:
        """Return who has the lease, and let that engine know that another one stands by."""

        def work(cursor: Cursor) -> Holder:
            cursor.execute(
                "UPDATE bybit.history SET standby_seen = clock_timestamp() WHERE engine <> %s", (self.engine,)
            )
            return _holder(cursor)

        return self._database.transaction(work)

    def renew(self) -> bool | None:
        """Renew the lease; return whether another engine stands by, None: the lease is another engine's."""

        def work(cursor: Cursor) -> bool | None:
            cursor.execute(
                "UPDATE bybit.history SET renewals = renewals + 1 WHERE engine = %s"
                " RETURNING coalesce(standby_seen > clock_timestamp() - %s * interval '1 second', false)",
                (self.engine, STANDBY_SECONDS),
            )
            row = cursor.fetchone()
            return None if row is None else bool(row[0])

        return self._database.transaction(work)

    def give_back(self) -> None:
        """Let anybody have the lease at once."""
        self._database.transaction(
            lambda cursor: cursor.execute(
                "UPDATE bybit.history SET engine = NULL WHERE engine = %s", (self.engine,)
            )
        )


def _holder(cursor: Cursor) -> Holder:
    cursor.execute("SELECT id::text, engine::text, journal, place, renewals FROM bybit.history")
    return Holder._make(_only_row(cursor))


def _only_row(cursor: Cursor) -> tuple[Any, ...]:
    row = cursor.fetchone()
    assert row is not None  # noqa: S101 - init.sql inserts the only row of bybit.history
    return row
