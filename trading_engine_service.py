"""Trading engine: answers the `orders` queue, and stores what it executed.

An order is decided by `TradingEngine`, written to the journal, answered, acknowledged, and stored in the
database behind the answer. What dies in between is there again after a restart: an unanswered order is
delivered again, an answered one is in the journal or in the database.
"""

from __future__ import annotations

if __name__ == "__main__":
    import blackbird.runtime.early_signals  # noqa: F401 - handles SIGINT and SIGTERM while the rest is imported

import asyncio
import contextlib
import logging
import sqlite3
import time
import uuid
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, NamedTuple

from pika.channel import Channel
from pika.spec import Basic, BasicProperties

from blackbird.broker.session import QueueInUse, Session, SessionLost, connection_parameters, keep_session
from blackbird.broker.topology import ORDERS
from blackbird.bybit.rest_orders import BybitOrders
from blackbird.engine.execution_store import ExecutionStore, Fenced
from blackbird.engine.journal import SYNC_SECONDS, Journal, JournalInUse
from blackbird.engine.reply_addresses import ReplyAddresses
from blackbird.market.fields import InvalidMessage
from blackbird.runtime.process import exit_for_setting, parse_arguments, run_service
from blackbird.runtime.throttled_log import ThrottledLog
from blackbird.runtime.worker_thread import WorkerThread
from blackbird.trading.engine import TradingEngine, request_key
from blackbird.trading.orders import ACK, NOT_ACK, Order, Record, Reply, decode_request, encode_reply
from config import Config, check_settings, log_settings
from database_manager import LONGEST_PAUSE, DatabaseUnavailable, RowsRejected

logger = logging.getLogger(__name__)

UNACKNOWLEDGED = 500
STORE_AT_ONCE = 1000
# Executions are stored in batches of this many seconds: a commit an order would cost the database more than
# the orders cost the engine.
STORE_PAUSE = 0.1
# How long orders wait for the database to say who is in charge, after a session was lost.
ASK_OWNER_SECONDS = 1.0
INTERNAL_ERROR = "internal error"
CRASHED = "crashed the handler twice"


class Request(NamedTuple):
    """A delivery of the `orders` queue."""

    delivery_tag: int
    redelivered: bool
    properties: BasicProperties
    body: bytes


class Answered(NamedTuple):
    """A request with the reply to it.

    `dead` is the reason for putting its body aside where there is one, `order` what was decided on just now.
    """

    request: Request
    reply: Reply
    dead: str | None = None
    order: Order | None = None


def milliseconds() -> int:
    """Return the time of day in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def new_engine() -> TradingEngine:
    """Return an engine that knows of nothing yet, by the settings."""
    return TradingEngine(
        limit=Config.MAX_RISK_OPEN_POSITION,
        unique_order=Config.UNIQUE_ORDER,
        clock=milliseconds,
        exchange=BybitOrders.from_settings() if Config.REAL_ORDER_SENDING else None,
    )


class TradingEngineService:
    """The engine between broker, journal and database.

    `engine` is None until the state of an earlier life is read, and again when it can't be trusted; reading
    it is part of each session that finds it so.
    """

    def __init__(self) -> None:
        self._engine: TradingEngine | None = None
        self._journal: Journal | None = None
        self._store = ExecutionStore(uuid.uuid4()) if Config.DUMP_ORDER_TO_DB else None
        self._database = WorkerThread()
        self._disk = WorkerThread()
        self._session: Session | None = None
        self._consumer: str | None = None
        self._inbox: list[Request] = []
        self._answering = asyncio.Lock()
        # Another has the queue: the first time it may be what is left of our own last session.
        self._overtaken = False
        self._arrived = asyncio.Event()
        self._unstored = asyncio.Event()
        self._unsynced = False
        self._direct = ReplyAddresses(2 * UNACKNOWLEDGED)

    async def serve(self, stop: asyncio.Event) -> None:
        """Answer orders until `stop`; then finish those that were taken."""
        if self._store is None:
            logger.warning("DUMP_ORDER_TO_DB is off: exposure, PnL and known orders are in memory alone")
        tasks: list[Coroutine[Any, Any, None]] = [
            keep_session(connection_parameters(**Config.BROKER_CONFIG, name="trading engine"), self._open),
            self._answer_orders(),
            self._store_records(),
            self._sync(),
        ]
        work: list[asyncio.Task[Any]] = [asyncio.create_task(task) for task in tasks]
        stopping: asyncio.Task[Any] = asyncio.create_task(stop.wait())
        # None of them ends by itself but by an error.
        await asyncio.wait([*work, stopping], return_when=asyncio.FIRST_COMPLETED)
        try:
            for task in work:
                if task.done():
                    task.result()
            await self._finish()
        finally:
            for task in (*work, stopping):
                task.cancel()
            await asyncio.wait(work, timeout=2)
            if self._journal is not None:
                self._journal.close()

    async def _open(self, session: Session) -> None:
        """Take the `orders` queue for this engine alone, and read the state before the first answer."""
        self._inbox.clear()
        if self._session is not None and self._session.lost.done():
            self._direct.session_ended(self._session.lost.exception())
        await session.declare_queue(ORDERS)
        await session.set_prefetch(UNACKNOWLEDGED)
        self._session = session
        async with self._answering:  # what arrives waits until it is clear that this engine is in charge
            try:
                self._consumer = await session.consume(ORDERS, self._take, exclusive=True)
            except QueueInUse:
                if self._overtaken:
                    # The other one needs the journal, and makes history that is not known here.
                    await self._release_state()
                self._overtaken = True
                raise
            self._overtaken = False
            if not await self._is_active():
                await self._release_state()
            if self._engine is None:
                self._engine = await self._recovered(session)
                logger.info(
                    "ready: %s orders known, PnL %s, %s spreads open, exposure %s",
                    len(self._engine.orders),
                    self._engine.pnl,
                    len(self._engine.spreads),
                    {str(leg): str(exposure) for leg, exposure in self._engine.risks.items()},
                )

    async def _recovered(self, session: Session) -> TradingEngine:
        """Return an engine with the state of its earlier lives; waits for the database if need be."""
        store = self._store
        if store is None:
            return new_engine()
        pause = 0.1
        waiting = ThrottledLog()
        while True:
            try:
                history = await self._database.run(store.claim)
                if self._journal is None:
                    self._journal = Journal(Config.JOURNAL_PATH / f"{history}.sqlite")
                while pending := self._journal.pending(STORE_AT_ONCE):
                    await self._database.run(partial(store.add, pending))
                    self._journal.forget(pending[-1].execution_id)
                engine = new_engine()
                await self._database.run(partial(store.replay, engine.recover))
            except (DatabaseUnavailable, RowsRejected, JournalInUse, Fenced, sqlite3.Error, OSError) as error:
                waiting.warn("no order is answered before the state is read: %s", error)
            else:
                return engine
            await asyncio.wait([session.lost], timeout=pause)
            if session.lost.done():
                session.lost.result()
            pause = min(pause * 2, LONGEST_PAUSE)

    async def _is_active(self) -> bool:
        """Tell whether no other engine has taken the history over while this one had no session.

        A database that does not say leaves it so: who takes over has to reach it too.
        """
        if self._engine is None or self._store is None:
            return True
        with contextlib.suppress(DatabaseUnavailable, RowsRejected, TimeoutError):
            async with asyncio.timeout(ASK_OWNER_SECONDS):
                return await self._database.run(self._store.is_owned)
        return True

    async def _release_state(self) -> None:
        """Forget the state, where it is stored, and leave the journal to whoever is in charge next."""
        if self._store is None:
            return
        self._engine = None
        journal, self._journal = self._journal, None
        if journal is not None:
            # In the thread that syncs it, which may be about to.
            await self._disk.run(journal.close)

    def _take(self, _: Channel, deliver: Basic.Deliver, properties: BasicProperties, body: bytes) -> None:
        self._inbox.append(Request(deliver.delivery_tag or 0, deliver.redelivered, properties, body))
        self._arrived.set()

    async def _answer_orders(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            async with self._answering:
                if self._engine is not None and self._session is not None and self._inbox:
                    requests, self._inbox = self._inbox, []
                    await self._answer(self._engine, self._session, requests)

    async def _answer(self, engine: TradingEngine, session: Session, requests: list[Request]) -> None:
        """Decide on requests, journal what was decided, reply, acknowledge: in this order."""
        answers: list[Answered] = []
        records: list[Record] = []

        def decide() -> None:
            for request in requests:
                answers.append(_decide(engine, request, records))

        try:
            if Config.REAL_ORDER_SENDING:
                await self._disk.run(decide)
            else:
                decide()
            if records and self._journal is not None:
                self._journal.append(records)
        except Exception as error:
            # What the engine holds may be ahead of the journal now: it is read anew, and the broker delivers
            # all that was not answered again.
            logger.exception("orders not answered: the state is read anew (%s)", type(error).__name__)
            self._engine = None
            await asyncio.sleep(1 if isinstance(error, sqlite3.Error) else 0)
            session.close()
            return
        # On a session that has ended in between nobody hears the answers: the requests are delivered again
        # and get the same ones.
        with contextlib.suppress(SessionLost):
            for request, reply, dead, _ in answers:
                if dead is not None:
                    session.dead_letter(ORDERS, dead, request.properties, request.body)
                address = request.properties.reply_to
                if address and not self._direct.is_muted(address):
                    correlation = BasicProperties(correlation_id=request.properties.correlation_id)
                    session.publish("", address, encode_reply(reply), correlation)
                    await self._direct.sent(address, session)
            session.acknowledge(requests[-1].delivery_tag, multiple=True)
        # Not before: a line in the log takes a tenth of the time to the answer.
        for answered in answers:
            _log(answered)
        if records:
            self._unsynced = True
            self._unstored.set()
        if any(answered.dead == CRASHED for answered in answers):
            # Nobody knows what the crash has left in memory.
            self._engine = None
            session.close()

    async def _store_records(self) -> None:
        """Bring what is in the journal to the database, for ever."""
        pause = STORE_PAUSE
        outage = ThrottledLog()
        while self._store is not None:
            await self._unstored.wait()
            await asyncio.sleep(pause)
            store, journal = self._store, self._journal
            try:
                if journal is None or not (pending := journal.pending(STORE_AT_ONCE)):
                    self._unstored.clear()
                    continue
                await self._database.run(partial(store.add, pending))
                if self._journal is journal:
                    journal.forget(pending[-1].execution_id)
            except (DatabaseUnavailable, RowsRejected) as error:
                outage.warn("executions wait in the journal for the database: %s", error)
                pause = min(max(pause, STORE_PAUSE) * 2, LONGEST_PAUSE)
            except sqlite3.Error as error:
                outage.warn("the journal can't be cleared of what is stored: %s", error)
                pause = min(max(pause, STORE_PAUSE) * 2, LONGEST_PAUSE)
            except Fenced as error:
                logger.warning("executions stay in the journal: %s", error)
                async with self._answering:
                    await self._release_state()
                if self._session is not None:
                    self._session.close()
            else:
                if pause > STORE_PAUSE:
                    outage.resolved("executions are stored again")
                pause = STORE_PAUSE if len(pending) < STORE_AT_ONCE else 0.0
        await asyncio.Event().wait()

    async def _sync(self) -> None:
        """Bring the journal to the disk every `SYNC_SECONDS` in which it grew."""
        outage = ThrottledLog()
        while True:
            await asyncio.sleep(SYNC_SECONDS)
            if self._unsynced and self._journal is not None:
                self._unsynced = False
                try:
                    await self._disk.run(self._journal.sync)
                except sqlite3.Error as error:
                    self._unsynced = True
                    outage.warn("the journal can't be brought to the disk: %s", error)

    async def _finish(self) -> None:
        """Take no more orders, answer those that were taken, store what the database takes at once."""
        if self._session is not None and self._session.is_open and self._consumer is not None:
            await self._session.cancel(self._consumer)
            self._arrived.set()
            await _until(lambda: not self._inbox or self._engine is None, 2)
        await _until(lambda: not self._unstored.is_set() or self._journal is None, 1)


def _decide(engine: TradingEngine, request: Request, records: list[Record]) -> Answered:
    """Return the answer to one request; what was decided anew is added to `records`."""
    try:
        order = decode_request(request.body)
    except InvalidMessage as error:
        return Answered(request, Reply(NOT_ACK, f"invalid order: {error}"), str(error))
    if order is None:
        return Answered(request, Reply(ACK, "open spreads", engine.spreads.listed()))
    if order.order_id is not None:
        key = None
        known = engine.first_answer(order.order_id)
    else:
        key = request_key(request.properties.reply_to, request.properties.correlation_id, request.body)
        known = engine.first_answer(key) if request.redelivered else None
    if known is not None:
        return Answered(request, known)
    try:
        record = engine.execute(order, key)
    except Exception:
        if not request.redelivered:
            raise
        # The second time that it crashes the handler: it is put aside, and the others go on.
        logger.exception("order %s crashed the engine again", order.order_id)
        records.append(engine.refuse(order, INTERNAL_ERROR, key))
        return Answered(request, Reply(NOT_ACK, INTERNAL_ERROR), CRASHED)
    records.append(record)
    return Answered(request, engine.answer_of(record), order=order)


def _log(answered: Answered) -> None:
    order, reply = answered.order, answered.reply
    if order is None:
        return
    logger.info(
        "%s %s: %s %s, buy %s at %s, sell %s at %s",
        reply.status,
        reply.info,
        order.action,
        order.size,
        order.buy,
        order.buy_price,
        order.sell,
        order.sell_price,
    )


async def _until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition() and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.01)


def check_journal_path() -> None:
    """End the process with one line where no journal can be kept."""
    try:
        Config.JOURNAL_PATH.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        path = str(Config.JOURNAL_PATH)
        exit_for_setting(f"JOURNAL_PATH: expected a folder to write in, was {path!r}: {error}")


def main() -> None:
    """Run the trading engine service."""
    parse_arguments(__doc__)
    check_settings()
    if Config.DUMP_ORDER_TO_DB:
        check_journal_path()
    run_service(
        "trading engine", TradingEngineService().serve, log_level=Config.LOG_LEVEL, on_start=log_settings
    )


if __name__ == "__main__":
    main()
