"""Writes stored messages as CSV of the kind `incremental_book_L2`, which other backtesting programs read.

https://docs.tardis.dev/downloadable-csv-files/data-types: times in microseconds, amounts absolute, 0 removes
a level.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from pathlib import Path

from blackbird.archive.reader import StoredMessage
from blackbird.archive.recording_writer import COMPRESSION
from blackbird.market.levels import text_levels

HEAD = b"exchange,symbol,timestamp,local_timestamp,is_snapshot,side,price,amount\n"
# Their names of Bybit's markets.
EXCHANGES = {"spot": "bybit-spot", "option": "bybit-options"}


def write_tardis(rows: Iterable[StoredMessage], path: Path) -> int:
    """Write a gzipped CSV beside its place and move it there; return the number of messages.

    `timestamp` is the matching engine's time, `local_timestamp` when the message was published, made to rise.
    """
    part = path.with_name(f"{path.name}.part")
    count = local = 0
    with gzip.open(part, "wb", COMPRESSION) as file:
        file.write(HEAD)
        for row in rows:
            # By `number`, which is finer than published_at, and in the order of the rows.
            local = max(local, row.number // 1000)
            file.write(_lines(row, local))
            count += 1
    part.replace(path)
    return count


def _lines(row: StoredMessage, local: int) -> bytes:
    exchange = EXCHANGES.get(row.channel, "bybit")
    is_snapshot = "true" if row.type == "snapshot" else "false"
    head = f"{exchange},{row.symbol},{row.cts * 1000},{local},{is_snapshot}"
    return "".join(
        f"{head},{side},{price},{size}\n"
        for side, levels in (("bid", row.bids), ("ask", row.asks))
        for price, size in text_levels(levels)
    ).encode()
