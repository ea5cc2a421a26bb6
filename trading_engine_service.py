"""Trading engine: answers the `orders` queue, and stores what it executed.

An order is decided by `TradingEngine`, written to the journal, answered, acknowledged, and stored in the
database behind the answer. All of it survives a crash: an unanswered order is redelivered, an answered one is
in the journal or in the database.
"""

from __future__ import annotations

if __name__ == "__main__":
    import blackbird.runtime.early_signals  # noqa: F401 - handles SIGINT and SIGTERM while the rest is imported

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from pika.channel import Channel
from pika.spec import Basic, BasicProperties

from blackbird.broker.parameters import BrokerParameters
from blackbird.broker.session import QueueInUse, Session, SessionLost, connection_parameters, keep_session
from blackbird.broker.status_publisher import reporting
from blackbird.broker.topology import ORDERS
from blackbird.bybit.environment import OrderMode, UnsafeOrders
from blackbird.bybit.exchange import ExchangeUrls, connect
from blackbird.bybit.rest import Credentials
from blackbird.bybit.start_checks import check_account
from blackbird.engine.admission import Tolerances
from blackbird.engine.answerer import Answerer
from blackbird.engine.engine_status import EngineStatusSource
from blackbird.engine.exchange import Connect
from blackbird.engine.execution_store import ExecutionStore, StoredLease
from blackbird.engine.journal_loops import StoreLoop, SyncLoop
from blackbird.engine.lease import Lease, LeaseHeld
from blackbird.engine.leftover_retries import LeftoverRetries
from blackbird.engine.recollection import recall
from blackbird.engine.replies import Replies
from blackbird.engine.requests import Request
from blackbird.engine.state import EngineState, History
from blackbird.engine.trade_desk import TradeDesk
from blackbird.engine.trading_answerer import TradingAnswerer
from blackbird.runtime.clock import milliseconds
from blackbird.runtime.process import InvalidSetup, exit_for_setting, parse_arguments, run_service
from blackbird.runtime.status_report import Identity
from blackbird.trading.engine import TradingEngine
from config import Config, check_settings, log_settings
from database_manager import DatabaseManager

logger = logging.getLogger(__name__)

UNACKNOWLEDGED = 500
# Of the seconds that the service has to end: until what was delivered is decided, until running trades are
# left to the next start, for the database, for giving the lease back, and for what is cancelled.
FINISH_SECONDS = 2.0
TRADE_SECONDS = 3.0
STORE_SECONDS = 0.5
GIVE_BACK_SECONDS = 0.3
CANCEL_SECONDS = 0.4
# How soon it is looked again whether an engine that is not certain of its lease may answer.
UNCERTAIN_PAUSE = 0.1


class RealOrders(NamedTuple):
    """Orders go to an exchange: `check` is run once before, and raises what a person has to put right."""

    check: Callable[[], Awaitable[object]]
    connect: Connect
    tolerances: Tolerances


class TradingEngineService:
    """The engine between broker, journal and database.

    `history` is None where nothing is stored; the journals are kept in the folder `journals`. Without a
    `lease` there is no other engine, and without `real_orders` orders are simulated. With `stores_first` an
    order is in the history before it is answered.
    """

    def __init__(
        self,
        broker: BrokerParameters,
        new_engine: Callable[[], TradingEngine],
        history: History | None,
        journals: Path,
        real_orders: RealOrders | None = None,
        lease: Lease | None = None,
        *,
        stores_first: bool = False,
    ) -> None:
        self._broker = broker
        self._stores = history is not None
        self._state = EngineState(new_engine, history, journals, lease, stores_first=stores_first)
        self._lease = lease
        self._storing = StoreLoop(self._state, self._on_fenced)
        self._syncing = SyncLoop(self._state)
        self._replies = Replies(remembered=2 * UNACKNOWLEDGED)
        self._answerer = Answerer(self._state, self._replies, self._on_journaled)
        self._real_orders = real_orders
        self._trading = TradingAnswerer(self._replies)
        self._desk: TradeDesk | None = None
        if real_orders is not None:
            self._desk = TradeDesk(
                self._state,
                real_orders.connect,
                real_orders.tolerances,
                milliseconds,
                askers=self._trading,
                on_journaled=self._on_journaled,
            )
        self._session: Session | None = None
        self._consumer: str | None = None
        self._inbox: list[Request] = []
        self._arrived = asyncio.Event()
        self.status = EngineStatusSource(
            new_engine(),
            self._state,
            self._replies.counts,
            self._storing,
            self._desk,
            is_connected=lambda: self._session is not None and self._session.is_open,
            stores=self._stores,
        )
        # Held while orders are answered, and while it is not certain that this engine is the active one.
        self._answering = asyncio.Lock()
        # Another consumer has the queue. At first that may be what is left of our own last session.
        self._overtaken = False
        self._checking: asyncio.Task[None] | None = None

    async def serve(self, stop: asyncio.Event) -> None:
        """Answer orders until `stop`; then finish those that were delivered."""
        if not self._stores:
            logger.warning("DUMP_ORDER_TO_DB is off: exposure, PnL and known orders are in memory alone")
        loops: list[Coroutine[Any, Any, None]] = [
            self._serve_broker(),
            self._answer_orders(),
            self._storing.run(),
            self._syncing.run(),
        ]
        if self._desk is not None:
            retries = LeftoverRetries(self._state, self._desk, milliseconds)
            loops += [self._desk.run(), retries.run()]
        if self._lease is not None:
            loops.append(self._lease.keep(self._on_fenced))
        work: list[asyncio.Task[Any]] = [asyncio.create_task(loop) for loop in loops]
        stopping: asyncio.Task[Any] = asyncio.create_task(stop.wait())
        # Each of them ends only by an error.
        await asyncio.wait([*work, stopping], return_when=asyncio.FIRST_COMPLETED)
        try:
            for task in work:
                if task.done():
                    task.result()
            await self._finish()
        finally:
            for task in (*work, stopping, *([self._checking] if self._checking else [])):
                task.cancel()
            await asyncio.wait(work, timeout=CANCEL_SECONDS)
            self._state.close()

    async def _serve_broker(self) -> None:
        if self._real_orders is not None:
            await self._real_orders.check()
        await keep_session(self._broker, self._open)

    async def _open(self, session: Session) -> None:
        """Take the `orders` queue for this engine alone, and recover the state before the first answer."""
        self._inbox.clear()
        if self._session is not None and self._session.lost.done():
            self._replies.session_ended(self._session.lost.exception())
        await session.declare_queue(ORDERS)
        await session.set_prefetch(UNACKNOWLEDGED)
        self._session = session
        self._trading.attach(session)
        async with self._answering:
            if self._state.engine is None:
                await self._state.await_turn(session.lost)
            await self._consume(session)
            if not await self._state.is_active():
                await self._release()
            if self._state.engine is None:
                await self._recover(session)

    async def _recover(self, session: Session) -> None:
        try:
            engine = await self._state.recover(session.lost)
        except LeaseHeld as error:
            logger.warning("no orders are answered: %s", error)
            session.close()
            return
        if self._desk is not None:
            await self._desk.recover(engine)
        elif open_trades := self._state.open_trades():
            raise InvalidSetup(
                f"REAL_ORDER_SENDING: expected true, as {len(open_trades)} real trades in the journal"
                " have no outcome yet, was false"
            )
        logger.info(
            "ready: %s orders known, PnL %s, %s spreads open, exposure %s",
            len(engine.orders),
            engine.pnl,
            len(engine.spreads),
            {str(leg): str(exposure) for leg, exposure in engine.risks.items()},
        )
        # A first checkpoint may be due, and the one that was used is compared behind the answers.
        self._storing.notify()
        self._checking = asyncio.create_task(self._check_checkpoint(session))

    async def _check_checkpoint(self, session: Session) -> None:
        if not await self._state.checkpoint_agrees():
            async with self._answering:
                self._state.invalidate()
            session.close()

    async def _consume(self, session: Session) -> None:
        try:
            self._consumer = await session.consume(ORDERS, self._on_delivery, exclusive=True)
        except QueueInUse:
            if self._overtaken:
                # The other engine needs the journal, and executes orders that are not known here.
                await self._release()
            self._overtaken = True
            raise
        self._overtaken = False

    async def _release(self) -> None:
        """Leave history, journal and running trades to the engine that is active next."""
        if self._desk is not None:
            self._desk.abandon()
        await self._state.release()

    def _on_delivery(
        self, _: Channel, deliver: Basic.Deliver, properties: BasicProperties, body: bytes
    ) -> None:
        tag = deliver.delivery_tag or 0
        self._inbox.append(Request(tag, deliver.redelivered, properties, body, time.perf_counter()))
        self._arrived.set()

    async def _answer_orders(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            async with self._answering:
                if self._state.engine is not None and self._session is not None and self._inbox:
                    if not await self._may_answer(self._session):
                        continue
                    requests, self._inbox = self._inbox, []
                    try:
                        await recall(self._state.engine, requests, self._state.find, self._session.lost)
                    except SessionLost:
                        continue  # they are redelivered
                    if self._desk is None:
                        await self._answerer.answer(self._state.engine, self._session, requests)
                    else:
                        await self._trading.take(self._state.engine, self._desk, self._session, requests)

    async def _may_answer(self, session: Session) -> bool:
        """Return whether this engine certainly has the lease; else what it was sent waits."""
        try:
            if self._lease is None or await self._lease.is_certain():
                return True
        except LeaseHeld as error:
            logger.warning("no orders are answered: %s", error)
            await self._release()
            session.close()
        else:
            asyncio.get_running_loop().call_later(UNCERTAIN_PAUSE, self._arrived.set)
        return False

    def _on_journaled(self) -> None:
        self._storing.notify()
        self._syncing.notify()

    async def _on_fenced(self) -> None:
        async with self._answering:
            await self._release()
        if self._session is not None:
            self._session.close()

    async def _finish(self) -> None:
        """Take no more orders, answer those that were delivered, store what the database takes at once."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + FINISH_SECONDS
        if self._session is not None and self._session.is_open and self._consumer is not None:
            await self._session.cancel(self._consumer)
            self._arrived.set()
            while self._inbox and self._state.engine and loop.time() < deadline:
                await asyncio.sleep(0.01)
        if self._desk is not None:
            await self._desk.finish(deadline + TRADE_SECONDS - FINISH_SECONDS - loop.time())
        if self._state.journal is not None:
            await self._storing.drain(STORE_SECONDS)
        if self._lease is not None and self._state.is_all_stored:
            await self._lease.give_back(GIVE_BACK_SECONDS)


def new_engine() -> TradingEngine:
    """Return an engine by the settings, before its first order."""
    return TradingEngine(
        limit=Config.MAX_RISK_OPEN_POSITION,
        unique_order=Config.UNIQUE_ORDER,
        risk_model=Config.RISK_MODEL,
        clock=milliseconds,
        fee_rates=None if Config.REAL_ORDER_SENDING else simulated_fees(),
        pair_cooldown_ms=Config.PAIR_COOLDOWN_MS if Config.REAL_ORDER_SENDING else 0,
        known_orders=Config.KNOWN_ORDERS,
    )


def simulated_fees() -> dict[str, Decimal] | None:
    """Return the rates of a simulation by channel, None where it charges nothing."""
    rates = {"spot": Config.TAKER_FEE_SPOT, "linear": Config.TAKER_FEE_LINEAR}
    return rates if any(rates.values()) else None


def real_orders(mode: OrderMode, history: ExecutionStore) -> RealOrders:
    """Return what sends orders to the exchange of `mode`, by the settings."""
    credentials = Credentials(Config.API_KEY, Config.API_SECRET)

    async def check() -> None:
        facts = await check_account(mode.rest_url, credentials, milliseconds)
        history.account = facts.user_id

    return RealOrders(
        check,
        partial(
            connect,
            ExchangeUrls(mode.rest_url, mode.private_url),
            credentials,
            ca_file=Config.WEBSOCKET_CLIENT_CA_BUNDLE,
            spot_fee=Config.TAKER_FEE_SPOT,
            orders_per_second={
                "linear": Config.LINEAR_ORDERS_PER_SECOND,
                "spot": Config.SPOT_ORDERS_PER_SECOND,
            },
        ),
        Tolerances(Config.PRICE_TOLERANCE_BPS, Config.UNWIND_TOLERANCE_BPS),
    )


def check_setup(mode: OrderMode) -> None:
    """End the process with one line where orders would go astray, or where no journal can be kept."""
    try:
        mode.check()
        if Config.DUMP_ORDER_TO_DB:
            Config.JOURNAL_PATH.mkdir(parents=True, exist_ok=True)
    except UnsafeOrders as error:
        exit_for_setting(str(error))
    except OSError as error:
        path = str(Config.JOURNAL_PATH)
        exit_for_setting(f"JOURNAL_PATH: expected a folder to write in, was {path!r}: {error}")


def main() -> None:
    """Run the trading engine service."""
    parse_arguments(__doc__)
    check_settings()
    mode = OrderMode.of(**Config.ORDER_CONFIG)
    check_setup(mode)
    history = lease = None
    if Config.DUMP_ORDER_TO_DB:
        owner = uuid.uuid4()
        database = DatabaseManager("trading engine", Config.DB_CONFIG)
        history = ExecutionStore(owner, database, Config.TABLES["order"], mode)
        # What became of a real order may be known from the journal of its engine alone.
        lease = Lease(
            StoredLease(owner, database.another()), Config.LEASE_MS / 1000, inherits=not mode.is_real
        )
    service = TradingEngineService(
        connection_parameters(**Config.BROKER_CONFIG, name="trading engine"),
        new_engine,
        history,
        Config.JOURNAL_PATH,
        real_orders(mode, history) if history is not None and mode.is_real else None,
        lease,
        stores_first=Config.JOURNAL == "database",
    )

    async def serve(stop: asyncio.Event) -> None:
        status = connection_parameters(**Config.BROKER_CONFIG, name="trading engine status")
        identity = Identity("engine", mode.name, str(mode))
        async with reporting(identity, service.status, status, **Config.STATUS_CONFIG):
            await service.serve(stop)

    run_service(
        "trading engine",
        serve,
        mode=mode,
        log_level=Config.LOG_LEVEL,
        log_format=Config.LOG_FORMAT,
        alive_file=Config.ALIVE_FILE,
        on_start=log_settings,
    )


if __name__ == "__main__":
    main()
