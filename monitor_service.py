"""Monitor: a page for people and metrics for Prometheus, of what the services say of themselves. Reads only.

The services publish their status twice a second on the key `status`; the monitor takes it from a queue of its
own, asks the broker how deep the queues are, and reads new executions from the database in a thread of its
own. Nothing depends on it: it may be started, killed and left out at any time.
"""

from __future__ import annotations

if __name__ == "__main__":
    import blackbird.runtime.early_signals  # noqa: F401 - handles SIGINT and SIGTERM while the rest is imported

import asyncio
import contextlib
import logging
import math
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from pika.channel import Channel
from pika.spec import Basic, BasicProperties

from blackbird.broker.parameters import BrokerParameters
from blackbird.broker.session import Session, connection_parameters, keep_session
from blackbird.broker.topology import STATUS
from blackbird.bybit.environment import OrderMode
from blackbird.market.fields import InvalidMessage
from blackbird.monitor.app import create_app
from blackbird.monitor.backfill import Backfill
from blackbird.monitor.board import Board
from blackbird.monitor.database import DatabaseReader, Facts
from blackbird.monitor.history import History
from blackbird.monitor.metrics import Metrics
from blackbird.monitor.page import Page
from blackbird.monitor.page_feed import PageFeed
from blackbird.monitor.queues import QueueWatch
from blackbird.monitor.sources import Rules, Sources
from blackbird.runtime.clock import milliseconds
from blackbird.runtime.process import parse_arguments, run_service
from blackbird.runtime.throttled_log import ThrottledLog
from blackbird.runtime.worker_thread import WorkerThread
from config import Config, check_settings, log_settings
from database_manager import DatabaseManager, DatabaseUnavailable, RowsRejected

HERE = Path(__file__).resolve().parent

logger = logging.getLogger(__name__)

DATABASE_SECONDS = 0.5
SAMPLE_SECONDS = 0.25
# A viewer that does not read holds at most this in the kernel: what it reads later is not older than needed.
SEND_BUFFER = 64 * 1024


class Server(uvicorn.Server):
    """uvicorn inside the service's own event loop, which handles the signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


class MonitorService:
    """The monitor's parts, put together."""

    def __init__(
        self, broker: BrokerParameters, database: DatabaseReader, rules: Rules, hosts: list[str]
    ) -> None:
        self._broker = broker
        self._database = database
        self._rules = rules
        self._board = Board()
        self._history = History()
        self._backfill = Backfill(self._board, self._history)
        self._queues = QueueWatch(partial(Session.open, broker), broker.layout)
        self._facts: Facts | None = None
        self._thread = WorkerThread("database")
        self._unread = ThrottledLog()
        self._away = ThrottledLog()
        self._is_away = False
        self._sampled = 0
        page = Page()
        self._feed = PageFeed(page, self._sources, milliseconds)
        app = create_app(page.html, self._feed, Metrics(self._sources, milliseconds).text, hosts)
        self._server = Server(
            uvicorn.Config(
                app,
                lifespan="off",
                log_config=None,
                log_level="critical",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=1,
            )
        )

    async def serve(self, stop: asyncio.Event, listening: socket.socket) -> None:
        """Serve the page on the `listening` socket until `stop`."""
        logger.info("the page is at http://%s:%s", *listening.getsockname()[:2])
        parts: list[asyncio.Task[Any]] = [
            asyncio.create_task(self._server.serve(sockets=[listening])),
            asyncio.create_task(keep_session(self._broker, self._open)),
            asyncio.create_task(self._queues.watch()),
            asyncio.create_task(self._read_database()),
            asyncio.create_task(self._sample()),
            asyncio.create_task(self._feed.run()),
        ]
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([*parts, stopping], return_when=asyncio.FIRST_COMPLETED)
        self._server.should_exit = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(parts[0]), 2)
        for part in (*parts, stopping):
            part.cancel()
        for outcome in await asyncio.gather(*parts, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome

    def _sources(self) -> Sources:
        return Sources(self._board, self._history, self._queues, self._rules, self._facts)

    # --- what comes in ---------------------------------------------------------------------------

    async def _open(self, session: Session) -> None:
        await session.declare_exchange()
        queue = await session.declare_private_queue()
        await session.bind(queue, STATUS)
        await session.consume(queue, self._on_status, auto_ack=True, label=STATUS)

    def _on_status(self, _: Channel, __: Basic.Deliver, ___: BasicProperties, body: bytes) -> None:
        try:
            self._board.receive(body)
        except InvalidMessage as error:
            self._unread.warn("a status message can't be understood, it is left out: %s", error)

    async def _read_database(self) -> None:
        while True:
            try:
                self._take(await self._thread.run(self._database.read))
                await self._fill()
            except (DatabaseUnavailable, RowsRejected) as error:
                self._is_away = True
                self._away.warn("the database can't be read: %s", error)
            else:
                if self._is_away:
                    self._is_away = False
                    self._away.resolved("the database is read again")
            await asyncio.sleep(DATABASE_SECONDS)

    async def _fill(self) -> None:
        """Read the next quotes that were stored before the monitor ran, if there are any left to read."""
        span = self._backfill.next_span(milliseconds() // 1000)
        if span is not None:
            self._backfill.take(await self._thread.run(partial(self._database.quotes, *span)))

    def _take(self, facts: Facts) -> None:
        self._facts = facts
        if facts.is_other_history:
            self._history.forget_trades()
        for trade in facts.trades:
            self._history.add_trade(
                trade.placed_ms // 1000, trade.first, trade.second, float(trade.value), opens=trade.opens
            )

    async def _sample(self) -> None:
        """Note spreads and PnL once a second, for the charts; nothing while they are old."""
        while True:
            await asyncio.sleep(SAMPLE_SECONDS)
            now = milliseconds()
            if now // 1000 == self._sampled:
                continue
            self._sampled = now // 1000
            fresh = now - self._sources().stale_seconds * 1000
            if self._board.published_ms("signal") < fresh:
                continue
            for (long, short), direction in self._board.directions.items():
                if direction.spread is not None:
                    self._history.add_spread(self._sampled, long, short, float(direction.spread))
            pnl = self._sources().pnl()
            if pnl is not None and self._board.published_ms("engine") >= fresh:
                total = math.nan if pnl.total is None else float(pnl.total)
                self._history.add_pnl(self._sampled, total, float(pnl.closed - pnl.fees))


# --- the process ---------------------------------------------------------------------------------


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; ends the process with one line where that can't be had."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.create_server((str(address[0]), port), family=family, backlog=128)
    except OSError as error:
        raise SystemExit(f"can't listen on {host}:{port} (MONITOR_HOST, MONITOR_PORT): {error}") from None
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    return listening


def main() -> None:
    """Run the monitor as a process."""
    parse_arguments(__doc__)
    check_settings()
    listening = listen(Config.MONITOR_HOST, Config.MONITOR_PORT)
    rules = Rules(
        close_rule=Config.CLOSE_RULE,
        taker_fees={"spot": Config.TAKER_FEE_SPOT, "linear": Config.TAKER_FEE_LINEAR},
        min_profit_bps=Config.MIN_PROFIT_BPS,
        max_book_age_ms=Config.MAX_BOOK_AGE_MS,
    )

    def new_service() -> MonitorService:
        return MonitorService(
            connection_parameters(**Config.BROKER_CONFIG, name="monitor"),
            DatabaseReader(DatabaseManager("monitor", Config.DB_CONFIG), HERE / Config.PGDATA_PATH),
            rules,
            [Config.MONITOR_HOST, *Config.MONITOR_ALLOWED_HOSTS.replace(",", " ").split()],
        )

    run_service(
        "monitor",
        lambda stop: new_service().serve(stop, listening),
        mode=OrderMode.of(**Config.ORDER_CONFIG),
        log_level=Config.LOG_LEVEL,
        log_format=Config.LOG_FORMAT,
        alive_file=Config.ALIVE_FILE,
        on_start=log_settings,
    )


if __name__ == "__main__":
    main()
