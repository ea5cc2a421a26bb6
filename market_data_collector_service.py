"""The market data collector: order books of Bybit, marked with their group, to the broker.

`POST /subscribe` gives an instrument a stream of its own (blackbird/bybit). Each push of it goes to the keys
`storage` and `signal` as it was sent, with the channel and the matching key added. On every change of the
subscriptions the full map goes to `subscription`; a restarted collector restores the subscriptions that it
had, and a request on `resync` brings a fresh snapshot of an instrument.
"""

from __future__ import annotations

if __name__ == "__main__":
    import blackbird.runtime.early_signals  # noqa: F401 - handles SIGINT and SIGTERM while the rest is imported

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import uvicorn

from blackbird.broker.feed_layout import FeedLayout, Share
from blackbird.broker.session import connection_parameters, keep_session, session_opener
from blackbird.broker.status_publisher import reporting
from blackbird.bybit.connection import Connector
from blackbird.bybit.connection_budget import ConnectionBudget
from blackbird.bybit.environment import OrderMode
from blackbird.bybit.protocol import DEPTHS, MAINNET, TESTNET, check_url
from blackbird.bybit.stream import StreamContext
from blackbird.collector.broker_link import BrokerLink
from blackbird.collector.collector_status import CollectorStatusSource
from blackbird.collector.feed_manager import FeedManager
from blackbird.collector.http_api import create_app
from blackbird.collector.publisher import FeedPublisher
from blackbird.collector.system_view import SystemView
from blackbird.market.instrument import Instrument
from blackbird.runtime.paced_selector import LoadPace
from blackbird.runtime.process import exit_for_setting, parse_arguments, run_service
from blackbird.runtime.status_report import Identity
from config import Config, check_settings, log_settings

logger = logging.getLogger(__name__)
# Reads are coalesced over up to this many seconds under load: most of what a push costs, here and in the
# broker, is the wake-up.
LONGEST_REST = 0.003
# Pushes a second: up to the first, reads are not coalesced; from the second on as much as it may be.
CALM_RATE, BUSY_RATE = 1200, 2400
# How long the end waits for the broker to take what is left.
DRAIN_SECONDS = 2.5


class Server(uvicorn.Server):
    """uvicorn inside the service's own event loop, which handles the signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


class MarketDataCollector:
    """The collector's parts, put together from the settings."""

    def __init__(self, pace: LoadPace) -> None:
        layout = FeedLayout(Config.SIGNAL_PARTITIONS)
        share = Share(layout, Config.COLLECTOR, Config.COLLECTORS)
        is_first = Config.COLLECTOR == 0
        self._publisher = FeedPublisher(
            self._on_gap, buffer=Config.PUBLISH_BUFFER, on_read=pace.count, share=share
        )
        self._feeds = FeedManager(
            self._publisher, self._streams(), on_key=self._publisher.assign, is_ours=share.has
        )
        self._link = BrokerLink(
            self._publisher,
            restore=Config.RESTORE_SUBSCRIPTIONS,
            on_restore=self._feeds.restore,
            on_resync=self._feeds.request_snapshots,
            on_list=None if is_first else self._feeds.follow,
            share=share,
        )
        self._view = SystemView(
            session_opener(connection_parameters(**Config.BROKER_CONFIG, name="collector view")),
            layout=layout,
        )
        self.status = CollectorStatusSource(self._feeds, self._publisher)
        self._server = Server(
            uvicorn.Config(
                create_app(self._feeds, self._publisher, self._view, may_subscribe=is_first),
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                timeout_graceful_shutdown=1,
            )
        )

    async def serve(self, stop: asyncio.Event, listening: socket.socket) -> None:
        """Collect until `stop`: HTTP on the `listening` socket, streams, publishing."""
        logger.info("HTTP on http://%s:%s", *listening.getsockname()[:2])
        broker = connection_parameters(**Config.BROKER_CONFIG, name="collector")
        web = asyncio.create_task(self._server.serve(sockets=[listening]), name="http")
        publishing = asyncio.create_task(keep_session(broker, self._link.serve), name="publishing")
        watching = asyncio.create_task(self._view.watch(), name="watching")
        stopping = asyncio.create_task(stop.wait(), name="stop")
        parts: list[asyncio.Future[Any]] = [web, publishing, watching, self._feeds.failure]
        await asyncio.wait([*parts, stopping], return_when=asyncio.FIRST_COMPLETED)
        self._server.should_exit = True
        await self._feeds.close()
        await self._publisher.drain(DRAIN_SECONDS)
        for end in (publishing, watching, stopping, self._feeds.failure):
            end.cancel()
        for outcome in await asyncio.gather(*parts, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome

    def _streams(self) -> StreamContext:
        tls = ssl.create_default_context(cafile=Config.WEBSOCKET_CLIENT_CA_BUNDLE or None)
        return StreamContext(
            url=Config.BYBIT_WS_URL or (TESTNET if Config.BYBIT_ENVIRONMENT == "testnet" else MAINNET),
            depth=Config.ORDERBOOK_DEPTH,
            silence_seconds=Config.STREAM_SILENCE_MS / 1000,
            connect=Connector(tls).connect,
            budget=ConnectionBudget(),
            on_push=self._publisher.publish_book,
        )

    def _on_gap(self, instruments: set[Instrument]) -> None:
        self._feeds.request_snapshots(instruments)


# --- the process ---------------------------------------------------------------------------------


def check_exchange_settings(asked: int, url: str) -> None:
    """End the process with one line where the exchange has no such depth, or the URL is not a stream's."""
    if not any(asked in depths for depths in DEPTHS.values() if depths != DEPTHS["option"]):
        expected = ", ".join(map(str, DEPTHS["spot"]))
        exit_for_setting(f"ORDERBOOK_DEPTH: expected one of {expected}, was {asked}")
    try:
        check_url(url or MAINNET)
    except ValueError as error:
        exit_for_setting(f"BYBIT_WS_URL: {error}")


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; ends the process with one line where that can't be had."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server((str(address[0]), port), family=family, backlog=128)
    except OSError as error:
        raise SystemExit(f"can't listen on {host}:{port} (COLLECTOR_HOST, COLLECTOR_PORT): {error}") from None


def main() -> None:
    """Run the collector as a process."""
    parse_arguments(__doc__)
    check_settings()
    check_exchange_settings(Config.ORDERBOOK_DEPTH, Config.BYBIT_WS_URL)
    listening = listen(Config.COLLECTOR_HOST, Config.COLLECTOR_PORT)
    pace = LoadPace(LONGEST_REST, calm=CALM_RATE, busy=BUSY_RATE)
    mode = OrderMode.of(**Config.ORDER_CONFIG)

    async def serve(stop: asyncio.Event) -> None:
        collector = MarketDataCollector(pace)
        broker = connection_parameters(**Config.BROKER_CONFIG, name="collector status")
        identity = Identity("collector", mode.name, str(mode))
        async with reporting(identity, collector.status, broker, **Config.STATUS_CONFIG):
            await collector.serve(stop, listening)

    run_service(
        "market data collector",
        serve,
        mode=mode,
        log_level=Config.LOG_LEVEL,
        log_format=Config.LOG_FORMAT,
        pace=pace,
        alive_file=Config.ALIVE_FILE,
        on_start=log_settings,
    )


if __name__ == "__main__":
    main()
