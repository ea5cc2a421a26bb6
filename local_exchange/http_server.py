"""uvicorn in the exchange's own event loop, started and stopped at will, with connections that can be cut."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Any, cast

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.datastructures import Address
    from starlette.types import ASGIApp

BACKLOG = 512
# Longer than any client pauses, so that no pooled connection is closed just as its next request goes out.
KEEP_ALIVE_SECONDS = 300
# What a stop waits for handlers of cut connections before it cancels them.
STOP_SECONDS = 0.5


class _Config(uvicorn.Config):
    """uvicorn's settings, and the open connections by the address of the client."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(
            app,
            http=_Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )
        self.connections: dict[tuple[str, int], asyncio.Transport] = {}


class _Connection(H11Protocol):
    """A connection that its server can find again by the client's address."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Note the connection."""
        super().connection_made(transport)
        cast("_Config", self.config).connections[transport.get_extra_info("peername")[:2]] = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        cast("_Config", self.config).connections.pop(self.transport.get_extra_info("peername")[:2], None)
        super().connection_lost(exc)


class _Server(uvicorn.Server):
    """A server that leaves the signals to the process it is part of."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


class HttpServer:
    """Serves an ASGI application on a port of the loopback interface."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._config: _Config | None = None
        self._server: _Server | None = None
        self._serving: asyncio.Task[Any] | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen on `port`, 0 takes a free one, and return the port.

        Raises:
            OSError: the port is taken.
        """
        listening = socket.create_server((host, port), backlog=BACKLOG)
        self._config = _Config(self._app)
        self._server = _Server(self._config)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listening]))
        while not self._server.started and not self._serving.done():
            await asyncio.sleep(0)
        taken: int = listening.getsockname()[1]
        return taken

    def cut(self, client: Address | None) -> None:
        """Reset the connection of this client, whatever it waits for."""
        if client is not None and self._config is not None:
            transport = self._config.connections.get((client.host, client.port))
            if transport is not None:
                transport.abort()

    async def stop(self) -> None:
        """Stop listening and reset every connection; handlers that go on get STOP_SECONDS."""
        if self._server is None or self._config is None or self._serving is None:
            return
        for listening in self._server.servers:
            listening.close()
        for transport in list(self._config.connections.values()):
            transport.abort()
        self._serving.cancel()
        handlers = set(self._server.server_state.tasks)
        if handlers:
            _, pending = await asyncio.wait(handlers, timeout=STOP_SECONDS)
            for task in pending:
                task.cancel()
        await asyncio.gather(self._serving, *handlers, return_exceptions=True)
        self._config = self._server = self._serving = None
