"""Order-book updates as rows: one per price level, each update once."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache, partial

from blackbird.market.book_message import BookMessage
from blackbird.market.levels import canonical_prices, text_levels
from config import Config, TableConfig
from database_manager import (
    Cursor,
    DatabaseManager,
    RowsRejected,
    copy_text,
)

UpdateKey = tuple[int, int, int, str, str, str]

UPDATES = TableConfig(
    "bybit.orderbook_update",
    ["ts_orderbook", "update_id", "sequence_id", "channel", "topic", "type"],
)


def update_key(message: BookMessage) -> UpdateKey:
    """Return what makes two messages copies of one update, in the order of UPDATES' columns."""
    data = message.data
    return message.cts, data.u, data.seq, message.channel, message.topic, message.type


def orderbook_lines(message: BookMessage) -> str:
    """Return the rows of a message, one a level, as lines of COPY's text format.

    Raises InvalidMessage on levels that are no prices and sizes.
    """
    data = message.data
    head = (
        f"{_escaped(message.topic)}\t{message.type}\t{message.ts}\t{message.channel}\t{_escaped(data.s)}"
        f"\t{data.u}\t{data.seq}\t"
    )
    tail = f"\t{message.cts}\t{_escaped(message.matching_key)}\n"
    return _side_lines(bytes(data.b), f"{head}bid\t", tail) + _side_lines(bytes(data.a), f"{head}ask\t", tail)


def _side_lines(side: bytes, head: str, tail: str) -> str:
    if canonical_prices(side) is None:
        return "".join([f"{head}{price}\t{size}{tail}" for price, size in text_levels(side)])
    # [["61837.24","0"],["61837.23","1.2"]]: what stands between the numbers, replaced by what is to.
    levels = side[3:-3].decode().replace('","', "\t").replace('"],["', tail + head)
    return f"{head}{levels}{tail}"


_escaped = lru_cache(maxsize=10_000)(copy_text)


class OrderbookStore:
    """Writes batches of updates, each once, in one transaction a batch."""

    def __init__(self, database: DatabaseManager) -> None:
        self._database = database

    def add(self, batch: Mapping[UpdateKey, str]) -> None:
        """Store the lines of each update that is not stored yet.

        Raises DatabaseUnavailable or RowsRejected.
        """
        try:
            self._database.transaction(partial(self._copy, batch))
        except RowsRejected:
            # Some are stored already, as after a crash between commit and acknowledgement, or at fault.
            self._database.transaction(partial(self._copy_new, batch))

    def _copy(self, batch: Mapping[UpdateKey, str], cursor: Cursor) -> None:
        self._database.copy(cursor, UPDATES, [_key_line(key) for key in batch])
        self._database.copy(cursor, Config.TABLES["orderbook"], batch.values())

    def _copy_new(self, batch: Mapping[UpdateKey, str], cursor: Cursor) -> None:
        new = self._database.insert_new(cursor, UPDATES, list(batch))
        self._database.copy(cursor, Config.TABLES["orderbook"], [batch[key] for key in new])


def _key_line(key: UpdateKey) -> str:
    cts, update_id, sequence_id, channel, topic, kind = key
    return f"{cts}\t{update_id}\t{sequence_id}\t{channel}\t{_escaped(topic)}\t{kind}\n"
