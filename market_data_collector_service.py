"""The market data collector: order books of Bybit, marked with their group, to the broker.

`POST /subscribe` gives an instrument a stream of its own (bybit_stream.py). Each push of it goes to the keys
`storage` and `signal` as it was sent, with the channel and the matching key added (feed_publisher.py). On
every change of the subscriptions the full map goes to `subscription`; a restarted collector takes up the
subscriptions that it had, and a request on `resync` brings a fresh snapshot of an instrument. The HTTP side
is in collector_api.py.
"""

from __future__ import annotations

if __name__ == "__main__":
    import blackbird.runtime.early_signals  # noqa: F401 - handles SIGINT and SIGTERM while the rest is imported

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator
from functools import partial
from typing import Any

import uvicorn

from blackbird.broker.session import Session, connection_parameters
from blackbird.bybit.connection import use_exchange
from blackbird.bybit.environment import OrderMode
from blackbird.bybit.stream import DEPTHS
from blackbird.collector.feed_manager import FeedManager
from blackbird.collector.http_api import create_app
from blackbird.collector.system_view import SystemView
from blackbird.runtime.process import exit_for_setting, parse_arguments, run_service
from config import Config, check_settings, log_settings

logger = logging.getLogger(__name__)
# Pushes that come within this many seconds go to the broker together: what it costs is above all wake-ups.
PACE = 0.003


class Server(uvicorn.Server):
    """uvicorn inside the service's own event loop, which handles the signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


# --- the process ---------------------------------------------------------------------------------


async def serve(stop: asyncio.Event, listening: socket.socket) -> None:
    """Collect until `stop`: HTTP on the `listening` socket, streams, publishing."""
    manager = FeedManager()
    view = SystemView(
        partial(Session.open, connection_parameters(**Config.BROKER_CONFIG, name="collector view"))
    )
    server = Server(
        uvicorn.Config(
            create_app(manager, manager.publisher, view),
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=1,
        )
    )
    logger.info("HTTP on http://%s:%s", *listening.getsockname()[:2])
    web = asyncio.create_task(server.serve(sockets=[listening]), name="http")
    publishing = asyncio.create_task(manager.keep_publishing(), name="publishing")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    watching = asyncio.create_task(view.watch(), name="watching")
    ends: list[asyncio.Future[Any]] = [web, publishing, watching, stopping, manager.failure]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    await manager.close()
    publishing.cancel()
    watching.cancel()
    stopping.cancel()
    manager.failure.cancel()
    ended = await asyncio.gather(web, publishing, watching, manager.failure, return_exceptions=True)
    for outcome in ended:
        if isinstance(outcome, Exception):
            raise outcome


def check_exchange_settings(asked: int, url: str) -> None:
    """End the process with one line where the exchange has no such depth, or the URL is no stream's."""
    if not any(asked in depths for depths in DEPTHS.values() if depths != DEPTHS["option"]):
        expected = ", ".join(map(str, DEPTHS["spot"]))
        exit_for_setting(f"ORDERBOOK_DEPTH: expected one of {expected}, was {asked}")
    if url and not url.startswith(("ws://", "wss://")):
        exit_for_setting(f"BYBIT_WS_URL: expected ws://... or wss://..., was {url!r}")


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
    use_exchange(Config.BYBIT_WS_URL)
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
