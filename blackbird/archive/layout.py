"""How the archive is laid out: one Parquet file per instrument and day, one row per order-book message.

`channel=<channel>/symbol=<symbol>/date=<YYYY-MM-DD>.parquet`, the day being that of the matching engine's
time (`cts`), UTC. Rows are in the order of publishing (`number`); `bids` and `asks` are the levels as JSON,
best first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from urllib.parse import quote, unquote

from blackbird.market.instrument import Instrument

DAY_MS = 86_400_000

# Columns of a file, with DuckDB's types.
COLUMNS = {
    "number": "BIGINT",
    "published_at": "BIGINT",
    "ts": "BIGINT",
    "cts": "BIGINT",
    "u": "BIGINT",
    "seq": "BIGINT",
    "type": "VARCHAR",
    "topic": "VARCHAR",
    "matching_key": "VARCHAR",
    "bids": "VARCHAR",
    "asks": "VARCHAR",
}
_FILE = re.compile(r"channel=([^/]+)/symbol=([^/]+)/date=(\d{4}-\d{2}-\d{2})\.parquet").fullmatch


@dataclass(frozen=True)
class TimeRange:
    """From `begin_ms` to before `end_ms`, milliseconds since 1970, by the matching engine's time."""

    begin_ms: int = 0
    end_ms: int = 1 << 53

    def days(self) -> Iterator[tuple[date, TimeRange]]:
        """Return each day (UTC) of the range, with the part of the range that is in it."""
        day_ms = self.begin_ms - self.begin_ms % DAY_MS
        while day_ms < self.end_ms:
            day = datetime.fromtimestamp(day_ms / 1000, UTC).date()
            yield day, TimeRange(max(day_ms, self.begin_ms), min(day_ms + DAY_MS, self.end_ms))
            day_ms += DAY_MS


def moment_ms(text: str) -> int:
    """Return the milliseconds since 1970 of a time as ISO 8601 writes it, UTC where it names no zone.

    Also takes the milliseconds themselves. Raises ValueError.
    """
    if text.isdecimal():
        return int(text)
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def quoted(symbol: str) -> str:
    """Return a symbol as it stands in the name of a file."""
    return quote(symbol, safe="")


def file_of(folder: Path, instrument: Instrument, day: date) -> Path:
    """Return the file of an instrument and day."""
    place = folder / f"channel={instrument.channel}" / f"symbol={quoted(instrument.symbol)}"
    return place / f"date={day.isoformat()}.parquet"


def files_of(folder: Path, span: TimeRange) -> list[tuple[Instrument, Path]]:
    """Return the files of an archive that can have messages of a range."""
    files = []
    for path in sorted(folder.glob("channel=*/symbol=*/date=*.parquet")):
        found = _FILE(path.relative_to(folder).as_posix())
        if found is None:
            continue
        channel, symbol, day = found.groups()
        begin_ms = moment_ms(day)
        if begin_ms < span.end_ms and begin_ms + DAY_MS > span.begin_ms:
            files.append((Instrument(channel, unquote(symbol)), path))
    return files


def instruments_of(folder: Path) -> list[Instrument]:
    """Return the instruments of an archive."""
    return sorted({instrument for instrument, _ in files_of(folder, TimeRange())})
