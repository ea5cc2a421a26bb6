"""Order-book updates as rows of two tables: one row per price level, and one key per update."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache, partial

from pika.spec import BasicProperties

from blackbird.broker.properties import publication
from blackbird.market.book_message import BookMessage, decode_book
from blackbird.storage.level_rows import message_rows
from blackbird.storage.update import Update
from database_manager import NULL, Cursor, DatabaseManager, FixedTable, RowsRejected, Table, copy_text

UpdateKey = tuple[int, int, int, str, str, str]

KEY_COLUMNS = ("ts_orderbook", "update_id", "sequence_id", "channel", "topic", "type")
UPDATES = FixedTable("bybit.orderbook_update", (*KEY_COLUMNS, "published_at", "number", "as_sent"))
# A key that no update has: its update id is negative.
_TRIAL_KEY: UpdateKey = (0, -1, 0, "", "", "")
_TRIAL_PROPERTIES = BasicProperties()


def read_update(body: bytes, properties: BasicProperties) -> tuple[UpdateKey, Update]:
    """Return the key and the rows of the order-book message in `body`; raises InvalidMessage."""
    message = decode_book(body)
    lines, as_sent = message_rows(message)
    return update_key(message), Update(lines, properties, body, as_sent)


def update_key(message: BookMessage) -> UpdateKey:
    """Return what makes two messages copies of one update, in the order of UPDATES' columns."""
    data = message.data
    return message.cts, data.u, data.seq, message.channel, message.topic, message.type


_escaped = lru_cache(maxsize=10_000)(copy_text)


class OrderbookStore:
    """Writes batches of updates, each update once, one transaction per batch.

    `levels` is the table of the price levels; `rows` counts what was added to it. The methods raise
    DatabaseUnavailable or RowsRejected.
    """

    def __init__(self, database: DatabaseManager, levels: Table) -> None:
        self.rows = 0
        self._database = database
        self._levels = levels

    def add(self, batch: Mapping[UpdateKey, Update]) -> None:
        """Store the rows of each update that is not stored yet."""
        try:
            self.rows += self._database.transaction(partial(self._copy, batch))
        except RowsRejected:
            # Some are stored already, as after a crash between commit and acknowledgement, or are at fault.
            self.rows += self._database.transaction(partial(self._copy_new, batch))

    def trial(self, lines: str) -> None:
        """Write the levels of an update under a key of their own, and roll back."""
        self._database.trial(partial(self._copy, {_TRIAL_KEY: Update(lines, _TRIAL_PROPERTIES, b"")}))

    def ping(self) -> None:
        """Return when the database answers and has the tables."""
        statement = f"SELECT FROM {self._levels.name}, {UPDATES.name} LIMIT 0"
        self._database.transaction(lambda cursor: cursor.execute(statement))

    def _copy(self, batch: Mapping[UpdateKey, Update], cursor: Cursor) -> int:
        """Add updates that are all new, and return how many rows of levels they have."""
        lines = [update_line(key, update) for key, update in batch.items()]
        self._database.copy(cursor, UPDATES, lines)
        self._database.copy(cursor, self._levels, [update.lines for update in batch.values()])
        return cursor.rowcount

    def _copy_new(self, batch: Mapping[UpdateKey, Update], cursor: Cursor) -> int:
        """Add those of the updates that are new, and return how many rows of levels they have."""
        rows = [(*key, *publication(update.properties), update.as_sent) for key, update in batch.items()]
        new = self._database.insert_new(cursor, UPDATES, rows)
        keys: list[UpdateKey] = [row[: len(KEY_COLUMNS)] for row in new]
        self._database.copy(cursor, self._levels, [batch[key].lines for key in keys])
        return cursor.rowcount


def update_line(key: UpdateKey, update: Update) -> str:
    """Return the row of an update as a line of COPY's text format."""
    cts, update_id, sequence_id, channel, topic, kind = key
    published_at, number = publication(update.properties)
    as_sent = update.as_sent
    return (
        f"{cts}\t{update_id}\t{sequence_id}\t{channel}\t{_escaped(topic)}\t{kind}"
        f"\t{NULL if published_at is None else published_at}\t{NULL if number is None else number}"
        f"\t{NULL if as_sent is None else copy_text(as_sent)}\n"
    )
