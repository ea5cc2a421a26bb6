"""The database: one connection that is made anew when it was lost, and the two ways rows get in.

Two errors come out of here and no other: `DatabaseUnavailable`, which heals by itself and is tried again, and
`RowsRejected`, for which the rows are at fault.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import psycopg2
import psycopg2.errors
import psycopg2.extensions
from psycopg2.errors import ReadOnlySqlTransaction
from psycopg2.extras import execute_values

from config import Config, TableConfig

logger = logging.getLogger(__name__)

T = TypeVar("T")
Cursor = psycopg2.extensions.cursor

# A table locked for longer than this is as good as a database that is away.
LOCK_TIMEOUT_MS = 2000
LONGEST_PAUSE = 2.0
# Characters that COPY asks for at once. For each chunk this thread has to win the interpreter from a busy
# event loop, which takes up to 5 ms.
COPY_CHUNK = 1 << 20


class DatabaseUnavailable(Exception):
    """Not now: no connection, no disk space, a lock, the schema not there yet. Worth trying again."""


class RowsRejected(Exception):
    """The database will never take these rows."""


# What the database says of the rows themselves; everything else may be different the next time.
_ROWS_AT_FAULT = (
    psycopg2.DataError,
    psycopg2.IntegrityError,
    psycopg2.NotSupportedError,
    psycopg2.InternalError,
)


class DatabaseManager:
    """A connection to the database, for one thread at a time."""

    def __init__(self, service: str, settings: Mapping[str, str] | None = None) -> None:
        self._settings = dict(settings or Config.DB_CONFIG)
        self._service = service
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
            # A server that is read-only for a while, such as one in recovery, has nothing against the rows.
            if isinstance(error, _ROWS_AT_FAULT) and not isinstance(error, ReadOnlySqlTransaction):
                raise RowsRejected(str(error).strip()) from error
            self.close()
            raise DatabaseUnavailable(str(error).strip() or type(error).__name__) from error

    def rows(self, cursor: Cursor, query: str) -> Iterator[tuple[Any, ...]]:
        """Return what `query` gives row by row, in the transaction of `cursor`, without holding it all."""
        with cursor.connection.cursor("rows") as reader:
            reader.itersize = 5000
            reader.execute(query)
            yield from reader

    def insert(self, cursor: Cursor, table: TableConfig, rows: Sequence[Sequence[Any]]) -> None:
        """Insert `rows`; one whose key is there already is left out."""
        # Table and columns come from Config alone.
        columns = ", ".join(table.columns)
        statement = f"INSERT INTO {table.name} ({columns}) VALUES %s ON CONFLICT DO NOTHING"  # noqa: S608
        execute_values(cursor, statement, rows, page_size=500)

    def insert_new(
        self, cursor: Cursor, table: TableConfig, rows: Sequence[tuple[Any, ...]]
    ) -> list[tuple[Any, ...]]:
        """Insert `rows` and return those that were not there already."""
        columns = ", ".join(table.columns)
        statement = (
            f"INSERT INTO {table.name} ({columns}) VALUES %s ON CONFLICT DO NOTHING RETURNING {columns}"  # noqa: S608
        )
        new: list[tuple[Any, ...]] = execute_values(cursor, statement, rows, page_size=500, fetch=True)
        return new

    def copy(self, cursor: Cursor, table: TableConfig, lines: Iterable[str]) -> None:
        """Append rows given as lines of COPY's text format; any conflict fails them all."""
        statement = f"COPY {table.name} ({', '.join(table.columns)}) FROM STDIN"
        cursor.copy_expert(statement, io.BytesIO("".join(lines).encode()), COPY_CHUNK)

    def copy_rows(self, cursor: Cursor, table: TableConfig, rows: Iterable[Iterable[object]]) -> None:
        """Append rows of texts, numbers and None; any conflict fails them all."""
        self.copy(cursor, table, [copy_line(row) for row in rows])

    def close(self) -> None:
        """Close the connection; the next transaction makes another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> psycopg2.extensions.connection:
        if self._connection is None or self._connection.closed:
            self._connection = psycopg2.connect(
                dbname=self._settings["database"],
                host=self._settings["host"],
                port=self._settings["port"],
                user=self._settings["user"],
                password=self._settings["password"],
                application_name=f"blackbird {self._service}",
                connect_timeout=3,
                # A server that is gone without a word is noticed within these seconds.
                keepalives_idle=5,
                keepalives_interval=2,
                keepalives_count=3,
                tcp_user_timeout=10_000,
                options=f"-c lock_timeout={LOCK_TIMEOUT_MS}",
            )
        return self._connection


_NULL = "\\N"
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def copy_line(row: Iterable[object]) -> str:
    """Return `row` (texts, numbers and None) as a line of COPY's text format."""
    return "\t".join([_NULL if value is None else copy_text(str(value)) for value in row]) + "\n"


def copy_text(text: str) -> str:
    """Return `text` as COPY's text format writes it."""
    return text.translate(_ESCAPES)
