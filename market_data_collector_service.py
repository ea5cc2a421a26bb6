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
from functools import partial
from typing import Any

import uvicorn

from blackbird.broker.session import Session, connection_parameters, keep_session
from blackbird.bybit.connection import Connector
from blackbird.bybit.connection_budget import ConnectionBudget
from blackbird.bybit.environment import OrderMode
from blackbird.bybit.protocol import DEPTHS, MAINNET, TESTNET, check_url
from blackbird.bybit.stream import StreamContext
from blackbird.collector.broker_link import BrokerLink
from blackbird.collector.feed_manager import FeedManager
from blackbird.collector.http_api import create_app
from blackbird.collector.publisher import FeedPublisher
from blackbird.collector.system_view import SystemView
from blackbird.market.instrument import Instrument
from blackbird.runtime.process import exit_for_setting, parse_arguments, run_service
from config import Config, check_settings, log_settings

logger = logging.getLogger(__name__)
# Reads are coalesced over this many seconds: most of what a push costs, here and in the broker, are wake-ups.
PACE = 0.003
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

    def __init__(self) -> None:
        self.publisher = FeedPublisher(self._on_gap, buffer=Config.PUBLISH_BUFFER)
        self.feeds = FeedManager(
            self.publisher,
            StreamContext(
                url=Config.BYBIT_WS_URL or (TESTNET if Config.BYBIT_ENVIRONMENT == "testnet" else MAINNET),
                depth=Config.ORDERBOOK_DEPTH,
                silence_seconds=Config.STREAM_SILENCE_MS / 1000,
                connect=Connector(tls_context(Config.WEBSOCKET_CLIENT_CA_BUNDLE)).connect,
                budget=ConnectionBudget(),
                on_push=self.publisher.publish_book,
            ),
        )
        self._broker = BrokerLink(
            self.publisher,
            restore=Config.RESTORE_SUBSCRIPTIONS,
            on_restore=self.feeds.restore,
            on_resync=self.feeds.request_snapshots,
        )
        self._view = SystemView(
            partial(Session.open, connection_parameters(**Config.BROKER_CONFIG, name="collector view"))
        )
        self._server = Server(
            uvicorn.Config(
                create_app(self.feeds, self.publisher, self._view),
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                timeout_graceful_shutdown=1,
            )
        )

    def _on_gap(self, instruments: set[Instrument]) -> None:
        self.feeds.request_snapshots(instruments)

    async def serve(self, stop: asyncio.Event, listening: socket.socket) -> None:
        """Collect until `stop`: HTTP on the `listening` socket, streams, publishing."""
        logger.info("HTTP on http://%s:%s", *listening.getsockname()[:2])
        web = asyncio.create_task(self._server.serve(sockets=[listening]), name="http")
        broker = connection_parameters(**Config.BROKER_CONFIG, name="collector")
        publishing = asyncio.create_task(keep_session(broker, self._broker.serve), name="publishing")
        watching = asyncio.create_task(self._view.watch(), name="watching")
        stopping = asyncio.create_task(stop.wait(), name="stop")
        ends: list[asyncio.Future[Any]] = [web, publishing, watching, stopping, self.feeds.failure]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        self._server.should_exit = True
        await self.feeds.close()
        await self.publisher.drain(DRAIN_SECONDS)
        for end in (publishing, watching, stopping, self.feeds.failure):
            end.cancel()
        outcomes = await asyncio.gather(web, publishing, watching, self.feeds.failure, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome


# --- the process ---------------------------------------------------------------------------------


async def serve(stop: asyncio.Event, listening: socket.socket) -> None:
    """Run a collector until `stop`."""
    await MarketDataCollector().serve(stop, listening)


def check_exchange_settings(asked: int, url: str) -> None:
    """End the process with one line where the exchange has no such depth, or the URL is no stream's."""
    if not any(asked in depths for depths in DEPTHS.values() if depths != DEPTHS["option"]):
        expected = ", ".join(map(str, DEPTHS["spot"]))
        exit_for_setting(f"ORDERBOOK_DEPTH: expected one of {expected}, was {asked}")
    if url:
        try:
            check_url(url)
        except ValueError as error:
            exit_for_setting(f"BYBIT_WS_URL: {error}")


def tls_context(authorities: str) -> ssl.SSLContext:
    """Return the TLS context of all streams: it trusts the certificates in a file, or those of the system.

    Ends the process with one line where the file can't be read.
    """
    try:
        return ssl.create_default_context(cafile=authorities or None)
    except OSError as error:
        expected = f"expected a file of certificates, was {authorities!r}"
        exit_for_setting(f"WEBSOCKET_CLIENT_CA_BUNDLE: {expected} ({error})")


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
    tls_context(Config.WEBSOCKET_CLIENT_CA_BUNDLE)
    listening = listen(Config.COLLECTOR_HOST, Config.COLLECTOR_PORT)
    run_service(
        "market data collector",
        lambda stop: serve(stop, listening),
        mode=OrderMode.of(**Config.ORDER_CONFIG),
        log_level=Config.LOG_LEVEL,
        pace=PACE,
        on_start=log_settings,
    )


if __name__ == "__main__":
    main()
