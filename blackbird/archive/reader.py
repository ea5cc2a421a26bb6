"""Reads the archive in the order of publishing, over all instruments."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple, cast

import duckdb
import msgspec

from blackbird.archive.layout import TimeRange, files_of
from blackbird.archive.source import SourceError, Timed
from blackbird.market.book_message import BookData, BookMessage
from blackbird.market.instrument import Instrument

WINDOW_ROWS = 100_000
MEMORY_LIMIT = "512MB"

_ROWS = (
    "SELECT number, published_at, ts, cts, u, seq, type, topic, matching_key, channel, symbol,"
    " encode(bids), encode(asks) FROM messages"
)


class StoredMessage(NamedTuple):
    """A row of the archive; `bids` and `asks` are JSON."""

    number: int
    published_at: int
    ts: int
    cts: int
    u: int
    seq: int
    type: Literal["snapshot", "delta"]
    topic: str
    matching_key: str
    channel: Literal["spot", "linear", "inverse", "option"]
    symbol: str
    bids: bytes
    asks: bytes


class Archive:
    """The messages of an archive in a time range, of all instruments and groups or of some.

    About `window_rows` are read, put into order and handed over at a time.
    """

    def __init__(
        self,
        folder: Path,
        span: TimeRange | None = None,
        *,
        instrument: Instrument | None = None,
        groups: Collection[str] = (),
        window_rows: int = WINDOW_ROWS,
    ) -> None:
        self.name = str(folder)
        self.done: float = 0
        self._folder = folder
        self._span = span or TimeRange()
        self._instrument = instrument
        self._groups = sorted(groups)
        self._window_rows = window_rows

    @property
    def total(self) -> float:
        """How many messages there are; raises SourceError."""
        with self._open() as db:
            return _ends(db).rows

    def published_range(self) -> tuple[int, int]:
        """Return when the first and the last message were published, in milliseconds; raises SourceError."""
        with self._open() as db:
            query = "SELECT coalesce(min(published_at), 0), coalesce(max(published_at), 0) FROM messages"
            ((first, last),) = db.execute(query).fetchall()
        return first, last

    def __iter__(self) -> Iterator[Timed]:
        """Return the messages in the order of publishing; raises SourceError."""
        raw = msgspec.Raw
        for rows in self._windows():
            for _, published_at, ts, cts, u, seq, kind, topic, key, channel, symbol, bids, asks in rows:
                data = BookData(symbol, raw(bids), raw(asks), u, seq)
                yield published_at, BookMessage(topic, kind, ts, data, cts, channel, key)
            self.done += len(rows)

    def rows(self) -> Iterator[StoredMessage]:
        """Return the rows in the order of publishing; raises SourceError."""
        for rows in self._windows():
            yield from map(StoredMessage._make, rows)
            self.done += len(rows)

    def _windows(self) -> Iterator[list[StoredMessage]]:
        """Return the rows as plain tuples, by spans of `number`: a day at once may not fit the memory."""
        self.done = 0
        keys: dict[Instrument, str] = {}
        with self._open() as db:
            ends = _ends(db)
            length = max((ends.last - ends.first) * self._window_rows // max(ends.rows, 1), 1)
            for begin in range(ends.first, ends.last + 1, length) if ends.rows else ():
                try:
                    rows = db.execute(
                        f"{_ROWS} WHERE number >= $begin AND number < $end ORDER BY number",
                        {"begin": begin, "end": begin + length},
                    ).fetchall()
                except duckdb.Error as error:
                    raise SourceError(f"{self._folder}: {error}") from None
                # Tuples of the same fields, which cost half as much as StoredMessage.
                plain = cast("list[StoredMessage]", rows)
                yield list(_with_keys(plain, keys)) if ends.without_key else plain

    def _open(self) -> duckdb.DuckDBPyConnection:
        """Return a connection with the range's rows as the view `messages`."""
        files = [
            path
            for instrument, path in files_of(self._folder, self._span)
            if self._instrument in {None, instrument}
        ]
        if not files:
            raise SourceError(f"{self._folder}: expected an archive with this range, found no file of it")
        db = duckdb.connect()
        try:
            db.execute(f"SET memory_limit = '{MEMORY_LIMIT}'")
            db.execute("SET parquet_metadata_cache = true")
            # A view takes no parameters.
            names = ", ".join("'" + str(path).replace("'", "''") + "'" for path in files)
            groups = ", ".join("'" + group.replace("'", "''") + "'" for group in self._groups)
            db.execute(
                f"CREATE VIEW messages AS FROM read_parquet([{names}], hive_partitioning = true,"
                " hive_types = {'channel': VARCHAR, 'symbol': VARCHAR})"
                f" WHERE cts >= {self._span.begin_ms} AND cts < {self._span.end_ms}"
                + (f" AND (matching_key IS NULL OR matching_key IN ({groups}))" if groups else "")
            )
        except duckdb.Error as error:
            db.close()
            raise SourceError(f"{self._folder}: {error}") from None
        return db


class _Ends(NamedTuple):
    """How many rows there are, how many of them without a matching key, and their first and last number."""

    rows: int
    without_key: int
    first: int
    last: int


def _ends(db: duckdb.DuckDBPyConnection) -> _Ends:
    (ends,) = db.execute(
        "SELECT count(*), count(*) - count(matching_key), coalesce(min(number), 0), coalesce(max(number), 0)"
        " FROM messages"
    ).fetchall()
    return _Ends(*ends)


def _with_keys(rows: Iterable[StoredMessage], keys: dict[Instrument, str]) -> Iterator[StoredMessage]:
    """Give messages without levels, of which no key is stored, the last one of their instrument.

    Before its first message with levels they say nothing, and are left out.
    """
    for row in map(StoredMessage._make, rows):
        instrument = Instrument(row.channel, row.symbol)
        if row.matching_key:
            keys[instrument] = row.matching_key
            yield row
        elif instrument in keys:
            yield row._replace(matching_key=keys[instrument])
