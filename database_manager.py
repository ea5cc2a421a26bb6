"""The database: a connection that is remade when it was lost, and the ways rows get in.

Two errors come out of here and no other: `DatabaseUnavailable`, which heals by itself and is worth another
attempt, and `RowsRejected`, for which the rows may be at fault.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import psycopg2
import psycopg2.extensions
from psycopg2.extras import execute_values

T = TypeVar("T")
Cursor = psycopg2.extensions.cursor

# A table that is locked for longer than this counts as an unavailable database.
LOCK_TIMEOUT_MS = 2000
# Characters that COPY asks for at once. For each chunk this thread has to win the interpreter from a busy
# event loop, which takes up to 5 ms.
COPY_CHUNK = 1 << 20

# SQLSTATE classes for which the rows can be at fault: data exception and integrity constraint violation.
# Everything else is about the server: 0A000 while TimescaleDB restores, 25006 while it is read-only, 53100 on
# a full disk, XX000. https://www.postgresql.org/docs/current/errcodes-appendix.html
_CLASSES_OF_ROWS = ("22", "23")


class DatabaseUnavailable(Exception):
    """Not now: no connection, no disk space, a lock, the schema not there yet. Worth another attempt."""


class RowsRejected(Exception):
    """The database does not take these rows: a value or a constraint."""


class _RolledBack(Exception):
    """Ends a trial."""


class Table(Protocol):
    """Name and columns of a table, as the settings' TableConfig has them."""

    @property
    def name(self) -> str:
        """The name with its schema, as it stands in a statement."""

    @property
    def columns(self) -> Sequence[str]:
        """The columns in the order in which rows are written."""


class FixedTable(NamedTuple):
    """A table that no setting renames."""

    name: str
    columns: tuple[str, ...]


class DatabaseManager:
    """A connection to the database, for one thread at a time.

    `service` is how it appears in pg_stat_activity; `settings` are arguments of psycopg2.connect.
    """

    def __init__(self, service: str, settings: Mapping[str, Any]) -> None:
        self._service = service
        self._settings: dict[str, Any] = dict(settings)
        self._connection: psycopg2.extensions.connection | None = None

    def transaction(self, work: Callable[[Cursor], T]) -> T:
        """Do `work` in one transaction and return its result; raises DatabaseUnavailable or RowsRejected.

        After DatabaseUnavailable the transaction may have been committed, if the connection broke at that
        moment: `work` has to be safe to repeat.
        """
        try:
            connection = self._connect()
            with connection, connection.cursor() as cursor:
                return work(cursor)
        except psycopg2.Error as error:
            text = str(error).strip() or type(error).__name__
            if (error.pgcode or "").startswith(_CLASSES_OF_ROWS):
                raise RowsRejected(text) from error
            self.close()
            raise DatabaseUnavailable(text) from error

    def trial(self, work: Callable[[Cursor], object]) -> None:
        """Do `work` in a transaction that is rolled back; raises as `transaction` does."""

        def work_and_roll_back(cursor: Cursor) -> None:
            work(cursor)
            raise _RolledBack

        with contextlib.suppress(_RolledBack):
            self.transaction(work_and_roll_back)

    def rows(self, cursor: Cursor, query: str) -> Iterator[tuple[Any, ...]]:
        """Return the result of `query` row by row, in the transaction of `cursor`, without holding it all."""
        with cursor.connection.cursor("rows") as reader:
            reader.itersize = 5000
            reader.execute(query)
            yield from reader

    def insert(self, cursor: Cursor, table: Table, rows: Sequence[Sequence[Any]]) -> None:
        """Insert `rows`; one whose key is there already is left out."""
        # Table and columns come from the settings and the stores alone.
        columns = ", ".join(table.columns)
        statement = f"INSERT INTO {table.name} ({columns}) VALUES %s ON CONFLICT DO NOTHING"  # noqa: S608
        execute_values(cursor, statement, rows, page_size=500)

    def insert_new(
        self, cursor: Cursor, table: Table, rows: Sequence[tuple[Any, ...]]
    ) -> list[tuple[Any, ...]]:
        """Insert `rows` and return those that were not there already."""
        columns = ", ".join(table.columns)
        statement = (
            f"INSERT INTO {table.name} ({columns}) VALUES %s ON CONFLICT DO NOTHING RETURNING {columns}"  # noqa: S608
        )
        new: list[tuple[Any, ...]] = execute_values(cursor, statement, rows, page_size=500, fetch=True)
        return new

    def copy(self, cursor: Cursor, table: Table, lines: Iterable[str]) -> None:
        """Append rows given as lines of COPY's text format; any conflict fails them all."""
        statement = f"COPY {table.name} ({', '.join(table.columns)}) FROM STDIN"
        cursor.copy_expert(statement, io.BytesIO("".join(lines).encode()), COPY_CHUNK)

    def copy_rows(self, cursor: Cursor, table: Table, rows: Iterable[Iterable[object]]) -> None:
        """Append rows of texts, numbers and None; any conflict fails them all."""
        self.copy(cursor, table, [copy_line(row) for row in rows])

    def another(self) -> DatabaseManager:
        """Return a manager with a connection of its own to the same database, for another thread."""
        return DatabaseManager(self._service, self._settings)

    def close(self) -> None:
        """Close the connection; the next transaction opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> psycopg2.extensions.connection:
        if self._connection is None or self._connection.closed:
            self._connection = psycopg2.connect(
                **self._settings,
                application_name=f"blackbird {self._service}",
                connect_timeout=3,
                # A server that vanished without closing the connection is noticed within these seconds.
                keepalives_idle=5,
                keepalives_interval=2,
                keepalives_count=3,
                tcp_user_timeout=10_000,
                options=f"-c lock_timeout={LOCK_TIMEOUT_MS}",
            )
        return self._connection


NULL = "\\N"
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def copy_line(row: Iterable[object]) -> str:
    """Return `row` (texts, numbers and None) as a line of COPY's text format."""
    return "\t".join([NULL if value is None else copy_text(str(value)) for value in row]) + "\n"


def copy_text(text: str) -> str:
    """Return `text` as COPY's text format writes it."""
    return text.translate(_ESCAPES)
