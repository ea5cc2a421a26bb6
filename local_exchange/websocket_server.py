"""The WebSocket port of the exchange: which paths there are, and connections that come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

from websockets.asyncio.server import Server, serve

from local_exchange.client_socket import Socket
from local_exchange.instrument import DEPTHS
from local_exchange.private.stream import CHANNEL, PATH

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection
    from websockets.http11 import Request, Response

    from local_exchange.faults import Faults

HOST = "127.0.0.1"
PUBLIC = "/v5/public/"
LARGEST_REQUEST = 1 << 20


class WebSocketServer:
    """Listens for public and private sockets.

    Args:
        port: 0 takes a free one.
        faults: that meet handshakes.
        counters: of the exchange.
        handle: serves a socket until it is closed.
    """

    def __init__(
        self,
        port: int,
        faults: Faults,
        counters: dict[str, int],
        handle: Callable[[Socket], Awaitable[None]],
    ) -> None:
        self.port = port
        self._faults = faults
        self._counters = counters
        self._handle = handle
        self._server: Server | None = None
        self._closed_servers: list[Server] = []
        # Held while the port is opened or closed.
        self._changing = asyncio.Lock()
        # All of them, those that have not finished their handshake included.
        self._sockets: set[Socket] = set()

    async def start(self) -> None:
        """Accept connections."""
        async with self._changing:
            if self._server is None:
                await self._listen()

    async def _listen(self) -> None:
        self._server = await serve(
            self._serve,
            HOST,
            self.port,
            process_request=self._process_request,
            compression=None,
            open_timeout=None,
            ping_interval=None,
            max_size=LARGEST_REQUEST,
            create_connection=self._connection,  # type: ignore[arg-type]  # any callable does
        )
        self.port = next(iter(self._server.sockets)).getsockname()[1]

    async def stop(self) -> None:
        """Refuse new connections; those that are open stay."""
        async with self._changing:
            if self._server is None:
                return
            server, self._server = self._server, None
            server.close(close_connections=False)
            self._closed_servers.append(server)
            # The port is closed by a task that this made.
            while server.is_serving():
                await asyncio.sleep(0)
            await asyncio.sleep(0)

    def abort(self) -> None:
        """Reset all connections that are left."""
        for one in list(self._sockets):
            one.transport.abort()

    async def wait_closed(self) -> None:
        """Wait until nothing is left of what was stopped."""
        for server in self._closed_servers:
            await server.wait_closed()

    def _connection(self, *args: Any, **kwargs: Any) -> Socket:
        socket = Socket(*args, **kwargs)
        self._sockets.add(socket)
        socket.connection_lost_waiter.add_done_callback(lambda _: self._sockets.discard(socket))
        return socket

    async def _process_request(self, connection: ServerConnection, request: Request) -> Response | None:
        channel = _channel(request.path.partition("?")[0])
        if channel is None:
            self._counters["refused"] += 1
            return connection.respond(404, f"{request.path} is not served\n")
        cast("Socket", connection).channel = channel
        hanging = self._faults.meet("hang_handshake", channel)
        if hanging is not None:
            ended = asyncio.ensure_future(hanging.ended.wait())
            either: set[asyncio.Future[Any]] = {ended, connection.connection_lost_waiter}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            ended.cancel()
        refusing = self._faults.meet("refuse_handshake", channel)
        if refusing is not None:
            self._counters["refused"] += 1
            return connection.respond(refusing.given["status"], "refused\n")
        return None

    async def _serve(self, connection: ServerConnection) -> None:
        await self._handle(cast("Socket", connection))


def _channel(path: str) -> str | None:
    """Return the channel that a path is of, None where it is not served."""
    if path == PATH:
        return CHANNEL
    channel = path.removeprefix(PUBLIC)
    return channel if path.startswith(PUBLIC) and channel in DEPTHS else None
