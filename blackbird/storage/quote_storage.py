"""Quotes as rows: the best prices of each instrument, once a second."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial

from pika.channel import Channel
from pika.spec import Basic, BasicProperties

from blackbird.broker.session import Session
from blackbird.broker.topology import QUOTE
from blackbird.market.fields import InvalidMessage
from blackbird.market.quotes import decode_quotes
from blackbird.storage.batch_writer import BatchWriter, Store
from blackbird.storage.update import Update
from database_manager import Cursor, DatabaseManager, FixedTable, copy_line

logger = logging.getLogger(__name__)

QUOTES = FixedTable(
    "bybit.quote",
    (
        "quoted_at",
        "channel",
        "symbol_name",
        "matching_key",
        "state",
        "bid",
        "bid_size",
        "ask",
        "ask_size",
        "received_at",
        "number",
    ),
)
_NEW_QUOTES = FixedTable("new_quote", QUOTES.columns)
# Messages, one a second; each has all instruments.
BATCH = 50
UNACKNOWLEDGED = 2 * BATCH


class QuoteStore:
    """Writes the quotes of a second that are not stored yet, by message number. Raises as DatabaseManager."""

    def __init__(self, database: DatabaseManager) -> None:
        self._database = database

    def add(self, batch: Mapping[int, Update]) -> None:
        """Store the quotes of these messages, all or none."""
        self._database.transaction(partial(self._write, "".join([update.lines for update in batch.values()])))

    def trial(self, lines: str) -> None:
        """Write the quotes of a message and roll back."""
        self._database.trial(partial(self._write, lines))

    def ping(self) -> None:
        """Return when the database answers and has the table."""
        self._database.transaction(lambda cursor: cursor.execute(f"SELECT FROM {QUOTES.name} LIMIT 0"))

    def _write(self, lines: str, cursor: Cursor) -> None:
        cursor.execute(
            f"CREATE TEMP TABLE IF NOT EXISTS {_NEW_QUOTES.name} (LIKE {QUOTES.name}) ON COMMIT DELETE ROWS"
        )
        self._database.copy(cursor, _NEW_QUOTES, [lines])
        # Table and columns are named above.
        columns = ", ".join(QUOTES.columns)
        cursor.execute(
            f"INSERT INTO {QUOTES.name} ({columns}) SELECT {columns} FROM {_NEW_QUOTES.name}"  # noqa: S608
            " ON CONFLICT DO NOTHING"
        )


def quote_lines(body: bytes) -> str:
    """Return the rows of a message as lines of COPY's text format; raises InvalidMessage."""
    message = decode_quotes(body)
    return "".join(
        [
            copy_line(
                (
                    message.time,
                    quote.channel,
                    quote.symbol,
                    quote.group,
                    quote.state,
                    quote.bid,
                    quote.bid_size,
                    quote.ask,
                    quote.ask_size,
                    quote.received_at,
                    quote.number,
                )
            )
            for quote in message.quotes
        ]
    )


class QuoteStorage:
    """Takes the `quote` queue to the database; with `discard` messages are acknowledged unread.

    On a session of its own: order-book messages are acknowledged by the thousand, up to a delivery tag.
    """

    def __init__(self, store: Store[int], *, discard: bool) -> None:
        self._discard = discard
        self._writer: BatchWriter[int] = BatchWriter(store, BATCH, queue=QUOTE)
        self.run = self._writer.run
        self._session: Session | None = None
        self._consumer = ""

    async def open(self, session: Session) -> None:
        """Consume on this session from now on; raises SessionLost."""
        self._writer.start_session(session)
        await session.declare_feed()
        await session.set_prefetch(UNACKNOWLEDGED)
        self._consumer = await session.consume(QUOTE, self._on_delivery)
        self._session = session

    async def finish(self, seconds: float) -> None:
        """Take no more messages, write and acknowledge those that were delivered; raises SessionLost."""
        if self._session is not None and self._session.is_open:
            await self._session.cancel(self._consumer)
        await self._writer.drain(seconds)

    def _on_delivery(
        self, _: Channel, deliver: Basic.Deliver, properties: BasicProperties, body: bytes
    ) -> None:
        tag = deliver.delivery_tag or 0
        batch = self._writer.count(tag)
        if self._discard:
            return
        try:
            lines = quote_lines(body)
        except InvalidMessage as error:
            batch.dead_letter_message(str(error), properties, body)
        except Exception as error:
            # The process edge: a message that crashes the handler is dead-lettered, the others are stored.
            logger.exception("message crashed the handler")
            batch.dead_letter_message(f"crashed the handler: {error!r}", properties, body)
        else:
            batch.add(tag, Update(lines, properties, body))
