"""From the database into the archive: COPY through a pipe into DuckDB, a day at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import duckdb

from blackbird.archive.copy_pipe import CopyPipe
from blackbird.archive.layout import COLUMNS, DAY_MS, TimeRange, file_of, files_of, moment_ms
from blackbird.market.instrument import Instrument
from blackbird.market.level_order import REMOVED_FIRST
from database_manager import Cursor, DatabaseManager

MEMORY_LIMIT = "1GB"
ROW_GROUP_ROWS = 100_000
_KEY = "ts_orderbook, update_id, sequence_id, channel, topic, type"

# A day's messages with their levels, as CSV. The index on time brings the levels of a message together, so
# nothing larger than a message is sorted. A message without levels has no row in bybit.orderbook.
_QUERY = f"""
COPY (
  SELECT number, published_at, levels.ts, ts_orderbook, update_id, sequence_id, type, topic, channel,
         coalesce(levels.symbol, CASE WHEN as_sent LIKE '{{%%' THEN as_sent::jsonb->>'s' END,
                  substring(topic FROM '^[^.]*[.][^.]*[.](.*)$')), levels.matching_key,
         coalesce(as_sent, ''), coalesce(bids, ''), coalesce(asks, '')
  FROM bybit.orderbook_update LEFT JOIN (
    SELECT {_KEY}, max(ts_message) AS ts, max(symbol_name) AS symbol, max(matching_key) AS matching_key,
           string_agg(price || '","' || size, '"],["') FILTER (WHERE side = 'bid') AS bids,
           string_agg(price || '","' || size, '"],["') FILTER (WHERE side = 'ask') AS asks
    FROM bybit.orderbook WHERE ts_orderbook >= %(begin)s AND ts_orderbook < %(end)s GROUP BY {_KEY}
  ) levels USING ({_KEY})
  WHERE ts_orderbook >= %(begin)s AND ts_orderbook < %(end)s %(symbols)s
) TO STDOUT (FORMAT csv, FORCE_QUOTE *)
"""  # noqa: S608 - columns and whole numbers
_STAGED = {
    "number": "BIGINT",
    "published_at": "BIGINT",
    "ts": "BIGINT",
    "cts": "BIGINT",
    "u": "BIGINT",
    "seq": "BIGINT",
    "type": "VARCHAR",
    "topic": "VARCHAR",
    "channel": "VARCHAR",
    "symbol": "VARCHAR",
    "matching_key": "VARCHAR",
    "as_sent": "VARCHAR",
    "bids": "VARCHAR",
    "asks": "VARCHAR",
}
# What is missing is filled in: messages of other publishers have no number, those without levels no rows.
# Levels are sorted here, which costs less than on the server, to the precision of floats: so they were
# compared when they were stored. Where they came in another order, as_sent says in which.
_SENT = "CASE WHEN starts_with(as_sent, '{') THEN as_sent END"  # what was kept as it came
_COMPLETE = f"""
CREATE MACRO as_json(levels) AS
  CASE WHEN len(levels) = 0 THEN '[]' ELSE '[["' || array_to_string(levels, '"],["') || '"]]' END;
CREATE MACRO ordered(levels, as_sent) AS
  CASE as_sent WHEN '{REMOVED_FIRST}'
    THEN list_concat(list_filter(levels, lambda level: ends_with(level, '","0')),
                     list_filter(levels, lambda level: NOT ends_with(level, '","0')))
    ELSE levels END;
CREATE MACRO levels_of(side, sign) AS CASE side WHEN '' THEN [] ELSE
  list_transform(list_sort(list_transform(
    string_split(side, '"],["'),
    lambda level: {{'price': sign * split_part(level, '","', 1)::DOUBLE, 'level': level}}
  )), lambda each: each.level) END;
CREATE VIEW complete AS
SELECT coalesce(number, coalesce(published_at, cts) * 1000000) AS number,
       coalesce(published_at, cts) AS published_at,
       coalesce(ts, ({_SENT}->>'$.ts')::BIGINT, cts) AS ts, cts, u, seq, type, topic,
       coalesce(matching_key, {_SENT}->>'$.matching_key') AS matching_key,
       coalesce({_SENT}->>'$.b', as_json(ordered(levels_of(bids, -1), as_sent))) AS bids,
       coalesce({_SENT}->>'$.a', as_json(ordered(levels_of(asks, 1), as_sent))) AS asks,
       channel, symbol
FROM staged
"""  # noqa: S608 - only what is above


class ExportError(Exception):
    """An export is not what the database holds; nothing was put in place. The text says what differs."""


class DatabaseExport:
    """Exports days of the database; `on_progress` is told how many messages more have been read.

    With `marks_days` the database is told how many messages the archive has of each day that was exported:
    retention removes no other days (ARCHIVE_PATH).
    """

    def __init__(
        self,
        database: DatabaseManager,
        folder: Path,
        on_progress: Callable[[int], None] | None = None,
        *,
        marks_days: bool = False,
    ) -> None:
        self._database = database
        self._folder = folder
        self._marks_days = marks_days
        self._on_progress = on_progress or (lambda _: None)

    def count(self, span: TimeRange, symbols: Sequence[str] = ()) -> int:
        """Return how many messages of the range are stored; raises DatabaseUnavailable."""
        return self._database.transaction(lambda cursor: _count(cursor, span, symbols))

    def stored_range(self, span: TimeRange) -> TimeRange | None:
        """Return the smallest range that has all stored messages of `span`; raises DatabaseUnavailable."""

        def ends(cursor: Cursor) -> tuple[int | None, int | None]:
            cursor.execute(
                "SELECT min(ts_orderbook), max(ts_orderbook) FROM bybit.orderbook_update"
                " WHERE ts_orderbook >= %s AND ts_orderbook < %s",
                (span.begin_ms, span.end_ms),
            )
            ((first, last),) = cursor.fetchall()
            return first, last

        first, last = self._database.transaction(ends)
        return None if first is None or last is None else TimeRange(first, last + 1)

    def run(self, span: TimeRange, symbols: Sequence[str] = ()) -> list[Path]:
        """Export a range and return its files; a part of a day replaces that part of the day's file.

        Raises ExportError, DatabaseUnavailable or duckdb.Error; the files of days that were complete before
        are in place then, and no others.
        """
        stored = self.stored_range(span)
        files: list[Path] = []
        self._folder.mkdir(parents=True, exist_ok=True)
        for day, part in () if stored is None else stored.days():
            # What is missing at the ends of the stored range is not there to be replaced either.
            files += self._export_day(day, part, symbols)
            if self._marks_days:
                self._mark(moment_ms(day.isoformat()))
        return files

    def _mark(self, day_ms: int) -> None:
        day = [str(path) for _, path in files_of(self._folder, TimeRange(day_ms, day_ms + DAY_MS))]
        with duckdb.connect() as db:
            count = _one(db, "SELECT count(*) FROM read_parquet($files)", {"files": day}) if day else 0
        self._database.transaction(
            lambda cursor: cursor.execute(
                "INSERT INTO bybit.archived_day (day, messages, archived_at)"
                " VALUES (%s, %s, extract(epoch FROM now()) * 1000)"
                " ON CONFLICT (day) DO UPDATE"
                " SET messages = excluded.messages, archived_at = excluded.archived_at",
                (day_ms, count),
            )
        )

    def _export_day(self, day: date, part: TimeRange, symbols: Sequence[str]) -> list[Path]:
        with (
            tempfile.TemporaryDirectory(prefix=".export-", dir=self._folder) as scratch,
            duckdb.connect(str(Path(scratch) / "staged.duckdb")) as db,
        ):
            db.execute(f"SET memory_limit = '{MEMORY_LIMIT}'")
            expected, sent = self._database.transaction(lambda cursor: self._stage(cursor, db, part, symbols))
            staged = _one(db, "SELECT count(*) FROM staged")
            if not expected == sent == staged:
                raise ExportError(f"{day}: expected {expected} messages, was sent {sent}, received {staged}")
            db.execute(_COMPLETE)
            written: dict[Path, Path] = {}
            for number, (instrument, count) in enumerate(_instruments(db)):
                path = file_of(self._folder, instrument, day)
                written[path] = Path(scratch) / f"{number}.parquet"
                _write(db, part, instrument, count, path, written[path])
            # All of a day, or none.
            for path, complete in written.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                complete.replace(path)
        return list(written)

    def _stage(
        self,
        cursor: Cursor,
        db: duckdb.DuckDBPyConnection,
        part: TimeRange,
        symbols: Sequence[str],
    ) -> tuple[int, int]:
        """Copy a part of a day into `staged`; return how many messages there are, and how many were sent."""
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        expected = _count(cursor, part, symbols)
        query = _QUERY % {
            "begin": part.begin_ms,
            "end": part.end_ms,
            "symbols": _of_symbols(cursor, symbols),
        }
        columns = ", ".join(f"'{name}': '{kind}'" for name, kind in _STAGED.items())
        with CopyPipe(lambda file: cursor.copy_expert(query, file), self._on_progress) as pipe:
            db.execute(
                f"CREATE TABLE staged AS FROM read_csv('{pipe.path}', header = false, auto_detect = false,"
                " allow_quoted_nulls = false,"
                f" delim = ',', quote = '\"', escape = '\"', columns = {{{columns}}})"
            )
        return expected, cursor.rowcount


def _write(
    db: duckdb.DuckDBPyConnection,
    part: TimeRange,
    instrument: Instrument,
    count: int,
    path: Path,
    target: Path,
) -> None:
    """Write the next file of an instrument to `target`, with what `path` has of the rest of the day."""
    names = ", ".join(COLUMNS)
    rows = f"SELECT {names} FROM complete WHERE channel = $channel AND symbol = $symbol"  # noqa: S608
    arguments: dict[str, Any] = instrument._asdict()
    if path.exists():
        known = {"path": str(path), "begin": part.begin_ms, "end": part.end_ms}
        kept = "FROM read_parquet($path, hive_partitioning = false) WHERE cts < $begin OR cts >= $end"
        rows += f" UNION ALL SELECT {names} {kept}"
        count += _one(db, f"SELECT count(*) {kept}", known)
        arguments |= known
    db.execute(
        f"COPY ({rows} ORDER BY number) TO '{_quoted(target)}'"
        f" (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {ROW_GROUP_ROWS})",
        arguments,
    )
    written = _one(db, "SELECT count(*) FROM read_parquet($path)", {"path": str(target)})
    if written != count:
        raise ExportError(f"{path}: expected {count} messages, wrote {written}")


def _count(cursor: Cursor, span: TimeRange, symbols: Sequence[str]) -> int:
    range_and_symbols = f"ts_orderbook >= {span.begin_ms} AND ts_orderbook < {span.end_ms}"
    range_and_symbols += _of_symbols(cursor, symbols)
    cursor.execute(f"SELECT count(*) FROM bybit.orderbook_update WHERE {range_and_symbols}")  # noqa: S608
    ((count,),) = cursor.fetchall()
    return int(count)


def _of_symbols(cursor: Cursor, symbols: Sequence[str]) -> str:
    if not symbols:
        return ""
    # The symbol of a topic is what follows its second dot.
    condition = " AND substring(topic FROM '^[^.]*[.][^.]*[.](.*)$') = ANY(%s)"
    text: bytes = cursor.mogrify(condition, (list(symbols),))
    return text.decode()


def _instruments(db: duckdb.DuckDBPyConnection) -> list[tuple[Instrument, int]]:
    rows = db.execute("SELECT channel, symbol, count(*) FROM staged GROUP BY ALL ORDER BY ALL").fetchall()
    return [(Instrument(channel, symbol), count) for channel, symbol, count in rows]


def _one(db: duckdb.DuckDBPyConnection, query: str, arguments: dict[str, Any] | None = None) -> int:
    ((value,),) = db.execute(query, arguments).fetchall()
    return int(value)


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
