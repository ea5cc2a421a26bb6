"""Data storage: writes every level of every order-book message of the `storage` queue to `bybit.orderbook`.

Messages are gathered, copied into the database in one transaction, and acknowledged after its commit: what
dies in between is delivered again, and the key of `bybit.orderbook_update` keeps the copies out.
"""

from __future__ import annotations

if __name__ == "__main__":
    import blackbird.runtime.early_signals  # noqa: F401 - handles SIGINT and SIGTERM while the rest is imported

import asyncio
import contextlib
import logging
import sys
from functools import partial
from typing import Any

from pika.channel import Channel
from pika.spec import Basic, BasicProperties

from blackbird.broker.session import Session, SessionLost, connection_parameters, keep_session
from blackbird.broker.topology import STORAGE
from blackbird.market.book_message import decode_book
from blackbird.market.fields import InvalidMessage
from blackbird.runtime.process import parse_arguments, run_service
from blackbird.runtime.throttled_log import ThrottledLog
from blackbird.runtime.worker_thread import WorkerThread
from blackbird.storage.batch import Batch
from blackbird.storage.orderbook_store import OrderbookStore, orderbook_lines, update_key
from config import Config, check_settings, log_settings
from database_manager import (
    LONGEST_PAUSE,
    DatabaseManager,
    DatabaseUnavailable,
    RowsRejected,
)

logger = logging.getLogger(__name__)

# Two batches: one that the database is busy with, and one that fills meanwhile.
BATCH = 2000
UNACKNOWLEDGED = 2 * BATCH
# How long a batch may fill before it is written: a commit costs the same for one message as for many.
GATHER_SECONDS = 0.03

# Messages are read in gulps: a wake-up for each would cost more than the messages do.
PACE = 0.003
# Each chunk of a COPY needs the interpreter, which the event loop keeps for so long when it is busy.
SWITCH_SECONDS = 0.001


class DataStorageService:
    """The storage service between broker and database."""

    def __init__(self) -> None:
        self._store = OrderbookStore(DatabaseManager("data storage"))
        self._database = WorkerThread()
        self._session: Session | None = None
        self._consumer: str | None = None
        self._batch = Batch()
        self._arrived = asyncio.Event()
        self._full = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    async def serve(self, stop: asyncio.Event) -> None:
        """Store messages until `stop`; then write and acknowledge those that were taken."""
        if not Config.DUMP_ORDERBOOK_TO_DB:
            logger.warning("DUMP_ORDERBOOK_TO_DB is off: order books are acknowledged and thrown away")
        connection: asyncio.Task[Any] = asyncio.create_task(
            keep_session(connection_parameters(**Config.BROKER_CONFIG, name="data storage"), self._open)
        )
        writing = asyncio.create_task(self._write())
        stopping: asyncio.Task[Any] = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([connection, writing, stopping], return_when=asyncio.FIRST_COMPLETED)
            for task in (connection, writing):  # neither ends by itself but by an error
                if task.done():
                    task.result()
            await self._finish()
        finally:
            for task in (writing, connection, stopping):
                task.cancel()
            await asyncio.wait([writing, connection], timeout=2)

    async def _open(self, session: Session) -> None:
        # What an earlier session delivered and is not written yet comes again.
        self._batch = Batch()
        await session.declare_feed()
        await session.set_prefetch(UNACKNOWLEDGED)
        self._session = session
        self._consumer = await session.consume(STORAGE, self._take)

    def _take(self, _: Channel, deliver: Basic.Deliver, properties: BasicProperties, body: bytes) -> None:
        batch = self._batch
        if not batch.messages:
            batch.begun = asyncio.get_running_loop().time()
        batch.last_tag = deliver.delivery_tag or 0
        batch.messages += 1
        if Config.DUMP_ORDERBOOK_TO_DB:
            try:
                message = decode_book(body)
                key = update_key(message)
                batch.lines[key] = orderbook_lines(message)
                batch.sources[key] = properties, body
            except InvalidMessage as error:
                self._dead_letter(str(error), properties, body)
            except Exception as error:
                # The edge: a message that crashes the service is put aside, the others are stored.
                logger.exception("message crashed the handler")
                self._dead_letter(f"crashed the handler: {error!r}", properties, body)
        self._arrived.set()
        if batch.messages >= BATCH:
            self._full.set()

    async def _write(self) -> None:
        """Write batch after batch, for ever; a batch is kept until the database has taken it."""
        while True:
            await self._arrived.wait()
            # Under load it is due already, and each turn of the event loop would read more messages first.
            due = self._batch.begun + GATHER_SECONDS
            if not self._full.is_set() and asyncio.get_running_loop().time() < due:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(due):
                        await self._full.wait()
            self._arrived.clear()
            self._full.clear()
            batch, self._batch = self._batch, Batch()
            session = self._session
            if session is None or not batch.messages:
                continue
            self._idle.clear()
            await self._add(batch)
            session.acknowledge(batch.last_tag, multiple=True)
            self._idle.set()

    async def _add(self, batch: Batch) -> None:
        pause = 0.1
        outage = ThrottledLog()
        while batch.lines:
            try:
                await self._database.run(partial(self._store.add, batch.lines))
            except DatabaseUnavailable as error:
                outage.warn("%d messages wait for the database: %s", len(batch.lines), error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
            except RowsRejected as error:
                await self._isolate(batch, str(error))
            else:
                if pause > 0.1:
                    outage.resolved("the database takes messages again")
                return

    async def _isolate(self, batch: Batch, reason: str) -> None:
        """Narrow a refused batch down: write its halves, dead-letter the message that is at fault."""
        keys = list(batch.lines)
        if len(keys) == 1:
            properties, body = batch.sources[keys[0]]
            self._dead_letter(f"refused by the database: {reason}", properties, body)
        else:
            for half in (keys[: len(keys) // 2], keys[len(keys) // 2 :]):
                part = Batch()
                part.lines = {key: batch.lines[key] for key in half}
                part.sources = {key: batch.sources[key] for key in half}
                await self._add(part)
        batch.lines.clear()

    def _dead_letter(self, reason: str, properties: BasicProperties, body: bytes) -> None:
        # On a session that has ended the message is not acknowledged either: it comes again.
        with contextlib.suppress(SessionLost):
            if self._session is not None:
                self._session.dead_letter(STORAGE, reason, properties, body)

    async def _finish(self) -> None:
        """Take no more messages, write and acknowledge those that were taken; at most 3 seconds."""
        if self._session is None or not self._session.is_open or self._consumer is None:
            return
        await self._session.cancel(self._consumer)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(3):
                while self._batch.messages or not self._idle.is_set():
                    await asyncio.sleep(0.01)


def main() -> None:
    """Run the data storage service."""
    parse_arguments(__doc__)
    check_settings()
    sys.setswitchinterval(SWITCH_SECONDS)
    run_service(
        "data storage",
        DataStorageService().serve,
        log_level=Config.LOG_LEVEL,
        pace=PACE,
        on_start=log_settings,
    )


if __name__ == "__main__":
    main()
