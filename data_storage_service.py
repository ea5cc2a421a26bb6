"""Data storage: writes every level of every order-book message of the `storage` queue to `bybit.orderbook`.

Messages are gathered, copied into the database in one transaction, and acknowledged after its commit: what
is not acknowledged when the service dies is redelivered, and the key of `bybit.orderbook_update` keeps copies
out.
"""

from __future__ import annotations

if __name__ == "__main__":
    import blackbird.runtime.early_signals  # noqa: F401 - handles SIGINT and SIGTERM while the rest is imported

import asyncio
import contextlib
import logging
import sys
from typing import Any, Protocol

from pika.channel import Channel
from pika.spec import Basic, BasicProperties

from blackbird.broker.parameters import BrokerParameters
from blackbird.broker.session import Session, SessionLost, connection_parameters, keep_session
from blackbird.broker.status_publisher import reporting
from blackbird.broker.topology import STORAGE
from blackbird.bybit.environment import OrderMode
from blackbird.market.fields import InvalidMessage
from blackbird.runtime.failure_log import FailureLog
from blackbird.runtime.process import parse_arguments, run_service
from blackbird.runtime.status_report import Identity
from blackbird.storage.batch_writer import BatchWriter, Store
from blackbird.storage.intake import Intake
from blackbird.storage.orderbook_store import OrderbookStore, UpdateKey, read_update
from blackbird.storage.quote_storage import QuoteStorage, QuoteStore
from blackbird.storage.retention import DiskWatch, Retention, RetentionStore, Upkeep
from blackbird.storage.storage_status import StorageStatusSource
from config import HERE, LOCAL_HOSTS, Config, check_settings, hosts_and_ports, log_settings
from database_manager import DatabaseManager

logger = logging.getLogger(__name__)

# Two batches: one that the database is busy with, and one that fills meanwhile.
BATCH = 2000
UNACKNOWLEDGED = 2 * BATCH
# Of each partition at least so many, or a busy one would be slow.
LEAST_PREFETCH = 500
# The contract gives a service 5 s to end.
DRAIN_SECONDS = 3.0

# An idle service asks the database so often whether it would take a message.
PING_SECONDS = 1.0

# Reads are coalesced over 3 ms: a wake-up per message would cost more than the messages do.
PACE = 0.003
# Each chunk of a COPY needs the interpreter, which the event loop keeps for so long when it is busy.
SWITCH_SECONDS = 0.001


class CountingStore(Store[UpdateKey], Protocol):
    """Where updates are stored; `rows` counts what was added to the table of levels."""

    rows: int


class DataStorageService:
    """The storage service between broker and database; with `discard` messages are acknowledged unread."""

    def __init__(
        self,
        broker: BrokerParameters,
        store: CountingStore,
        quotes: QuoteStorage,
        upkeep: Upkeep,
        *,
        discard: bool,
    ) -> None:
        self._broker = broker
        self._quotes = quotes
        self._upkeep = upkeep
        self._discard = discard
        self._writer: BatchWriter[UpdateKey] = BatchWriter(
            store, BATCH, ping_seconds=None if discard else PING_SECONDS
        )
        queues = broker.layout.queues(STORAGE)
        self._prefetch = max(UNACKNOWLEDGED // len(queues), LEAST_PREFETCH)
        self._intake = Intake(self._writer, self._on_delivery, queues)
        self._session: Session | None = None
        self._failures = FailureLog()
        self.status = StorageStatusSource(
            self._writer.progress,
            self._failures,
            rows=lambda: store.rows,
            gathered=lambda: self._writer.gathered,
            is_connected=lambda: self._session is not None and self._session.is_open,
            discard=discard,
        )

    async def serve(self, stop: asyncio.Event) -> None:
        """Store messages until `stop`; then write and acknowledge those that were delivered."""
        if self._discard:
            logger.warning("DUMP_ORDERBOOK_TO_DB is off: order books are acknowledged and thrown away")
        loops: list[asyncio.Task[Any]] = [
            asyncio.create_task(keep_session(self._broker, self._open)),
            asyncio.create_task(self._writer.run()),
            asyncio.create_task(self._intake.run()),
            asyncio.create_task(keep_session(self._broker, self._quotes.open)),
            asyncio.create_task(self._quotes.run()),
        ]
        if not self._discard:
            loops.append(asyncio.create_task(self._upkeep.run()))
        stopping: asyncio.Task[Any] = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([*loops, stopping], return_when=asyncio.FIRST_COMPLETED)
            for task in loops:  # each ends only by an error
                if task.done():
                    task.result()
            await self._finish()
        finally:
            for task in (*loops, stopping):
                task.cancel()
            await asyncio.wait(loops, timeout=2)

    async def _open(self, session: Session) -> None:
        self._writer.start_session(session)
        await session.declare_feed()
        await session.set_prefetch(self._prefetch)
        self._session = session
        await self._intake.start_session(session)

    def _on_delivery(
        self, _: Channel, deliver: Basic.Deliver, properties: BasicProperties, body: bytes
    ) -> None:
        batch = self._writer.count(deliver.delivery_tag or 0)
        if self._discard:
            return
        try:
            key, update = read_update(body, properties)
        except InvalidMessage as error:
            batch.dead_letter_message(str(error), properties, body)
        except Exception as error:  # noqa: BLE001 - the edge: the message is dead-lettered, the others stored
            self._failures.log("reading a message", error)
            batch.dead_letter_message(f"crashed the handler: {error!r}", properties, body)
        else:
            batch.add(key, update)

    async def _finish(self) -> None:
        """Take no more messages, write and acknowledge those that were delivered."""
        await self._intake.stop()
        with contextlib.suppress(SessionLost):
            await self._quotes.finish(DRAIN_SECONDS / 2)
        await self._writer.drain(DRAIN_SECONDS / 2)


def upkeep() -> Upkeep:
    """Return the upkeep by the settings, on a connection of its own."""
    store = RetentionStore(DatabaseManager("data storage upkeep", Config.DB_CONFIG))
    retention = None
    if Config.RETENTION_DAYS:
        retention = Retention(store, Config.RETENTION_DAYS, only_archived=bool(Config.ARCHIVE_PATH))
    # Of a database elsewhere the disk is not known here.
    hosts = {host for host, _ in hosts_and_ports(Config.POSTGRES_HOST, Config.POSTGRES_PORT)}
    is_here = hosts <= LOCAL_HOSTS
    disk = DiskWatch(HERE / Config.PGDATA_PATH, store.size) if is_here else None
    return Upkeep(retention, disk, store.check_gaps)


def main() -> None:
    """Run the data storage service."""
    parse_arguments(__doc__)
    check_settings()
    sys.setswitchinterval(SWITCH_SECONDS)
    discard = not Config.DUMP_ORDERBOOK_TO_DB
    quotes = QuoteStore(DatabaseManager("data storage quotes", Config.DB_CONFIG))
    service = DataStorageService(
        connection_parameters(**Config.BROKER_CONFIG, name="data storage"),
        OrderbookStore(DatabaseManager("data storage", Config.DB_CONFIG), Config.TABLES["orderbook"]),
        QuoteStorage(quotes, discard=discard),
        upkeep(),
        discard=discard,
    )
    mode = OrderMode.of(**Config.ORDER_CONFIG)

    async def serve(stop: asyncio.Event) -> None:
        status = connection_parameters(**Config.BROKER_CONFIG, name="data storage status")
        identity = Identity("storage", mode.name, str(mode))
        async with reporting(identity, service.status, status, **Config.STATUS_CONFIG):
            await service.serve(stop)

    run_service(
        "data storage",
        serve,
        mode=mode,
        log_level=Config.LOG_LEVEL,
        log_format=Config.LOG_FORMAT,
        pace=PACE,
        alive_file=Config.ALIVE_FILE,
        on_start=log_settings,
    )


if __name__ == "__main__":
    main()
