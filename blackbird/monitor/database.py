"""What the page shows out of the database: new executions, and how large the tables are."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from blackbird.market.instrument import Instrument
from blackbird.monitor.backfill import StoredQuote
from blackbird.runtime.clock import milliseconds

T = TypeVar("T")

# At the start the newest executions are read, later those that came since.
FIRST_EXECUTIONS = 20_000
MOST_EXECUTIONS = 20_000
# Sizes change slowly, and to add them up touches each file.
SIZES_SECONDS = 15.0
TABLES = ("orderbook", "orderbook_update", "order", "refused_order")
# Over less than this, growth says nothing about days.
GROWTH_SECONDS = 60.0


class Database(Protocol):
    """DatabaseManager, as far as it is used here."""

    def transaction(self, work: Callable[[Any], T]) -> T:
        """Do `work` with a cursor in one transaction; raises DatabaseUnavailable."""


class Trade(NamedTuple):
    """One execution: `value` is price(second) - price(first) of its legs in sorted order."""

    placed_ms: int
    opens: bool
    first: Instrument
    second: Instrument
    value: Decimal


class Facts(NamedTuple):
    """What one look at the database found, and when it began (milliseconds)."""

    read_ms: int
    is_other_history: bool  # the tables were emptied: what was read before is void
    trades: Sequence[Trade]
    table_bytes: Mapping[str, int]
    disk_free: int | None  # None where the data folder is on another machine
    disk_total: int | None
    bytes_per_day: float | None


class DatabaseReader:
    """Reads by execution_id, so no execution is read twice; for one thread at a time.

    `data_folder` is where the database keeps its files, if that is on this machine.
    """

    def __init__(
        self, database: Database, data_folder: Path, clock: Callable[[], int] = milliseconds
    ) -> None:
        self._database = database
        self._folder = data_folder
        self._clock = clock
        self._history: str | None = None
        self._last_id: int | None = None
        self._sizes: dict[str, int] = {}
        self._sizes_ms = 0
        self._first_sizes: tuple[int, int] | None = None
        self._bytes_per_day: float | None = None

    def read(self) -> Facts:
        """Return what there is now; raises DatabaseUnavailable."""
        began = self._clock()
        is_other, trades = self._database.transaction(self._read)
        if began - self._sizes_ms > SIZES_SECONDS * 1000:
            self._sizes = self._database.transaction(_table_sizes)
            self._sizes_ms = began
            self._note_growth(began)
        free, total = self._disk()
        return Facts(began, is_other, trades, dict(self._sizes), free, total, self._bytes_per_day)

    def quotes(self, begin: int, end: int) -> list[StoredQuote]:
        """Return the stored quotes of some seconds since 1970, `end` excluded; raises DatabaseUnavailable."""

        def read(cursor: Any) -> list[StoredQuote]:
            cursor.execute(
                "SELECT quoted_at / 1000, channel, symbol_name, bid, ask FROM bybit.quote"
                " WHERE quoted_at >= %s AND quoted_at < %s",
                (1000 * begin, 1000 * end),
            )
            return [StoredQuote(row[0], Instrument(*row[1:3]), *row[3:]) for row in cursor]

        return self._database.transaction(read)

    def _read(self, cursor: Any) -> tuple[bool, list[Trade]]:
        cursor.execute("SELECT id::text FROM bybit.history")
        found = cursor.fetchone()
        history = found[0] if found else None
        is_other = history != self._history
        if is_other:
            self._history, self._last_id = history, None
        if self._last_id is None:
            cursor.execute('SELECT coalesce(max(execution_id), 0) FROM bybit."order"')
            newest = cursor.fetchone()[0]
            self._last_id = newest - FIRST_EXECUTIONS
        cursor.execute(
            "SELECT execution_id, action, placed_at, channel, symbol_name, price"
            ' FROM bybit."order" WHERE execution_id > %s ORDER BY execution_id, type LIMIT %s',
            (self._last_id, 2 * MOST_EXECUTIONS),
        )
        rows = cursor.fetchall()
        if rows:
            self._last_id = rows[-1][0]
        return is_other, _trades(rows)

    def _note_growth(self, now: int) -> None:
        total = self._sizes.get("orderbook", 0) + self._sizes.get("orderbook_update", 0)
        if self._first_sizes is None or total < self._first_sizes[1]:
            self._first_sizes = (now, total)
        since, size = self._first_sizes
        seconds = (now - since) / 1000
        self._bytes_per_day = (total - size) / seconds * 86_400 if seconds >= GROWTH_SECONDS else None

    def _disk(self) -> tuple[int | None, int | None]:
        try:
            usage = shutil.disk_usage(self._folder)
        except OSError:
            return None, None
        return usage.free, usage.total


def _trades(rows: Sequence[tuple[Any, ...]]) -> list[Trade]:
    """Return the executions of which both legs are in `rows`, ordered by execution_id."""
    trades = []
    for one, other in zip(rows[::2], rows[1::2], strict=False):
        (first, first_price), (second, second_price) = sorted(
            [(Instrument(*one[3:5]), one[5]), (Instrument(*other[3:5]), other[5])]
        )
        trades.append(Trade(one[2], one[1] == "Open Spread", first, second, second_price - first_price))
    return trades


def _table_sizes(cursor: Any) -> dict[str, int]:
    cursor.execute("SELECT 1 FROM pg_extension WHERE extname = 'timescaledb'")
    has_hypertables = bool(cursor.fetchall())
    sizes = {}
    for table in TABLES:
        name = f'bybit."{table}"'
        sized = "pg_total_relation_size"
        if has_hypertables:
            cursor.execute(
                "SELECT 1 FROM timescaledb_information.hypertables"
                " WHERE hypertable_schema = 'bybit' AND hypertable_name = %s",
                (table,),
            )
            sized = "hypertable_size" if cursor.fetchall() else sized
        cursor.execute(f"SELECT {sized}(%s::regclass)", (name,))
        sizes[table] = int(cursor.fetchone()[0] or 0)
    return sizes
