"""A stretch of network between services and broker that a test can cut or silence, and that can speak TLS."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from typing import Self, TypeVar

from config import Config
from tests.support.workspace import Workspace

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with RST
CHUNK = 65536

T = TypeVar("T")


class BrokerProxy:
    """Listens on `port` and passes everything on to the broker of the test's workspace.

    With `tls`, which is a server's context, clients speak TLS to it; the broker is spoken to without.
    """

    def __init__(self, place: Workspace, tls: ssl.SSLContext | None = None) -> None:
        host = place.environment.get("RABBITMQ_HOST", Config.RABBITMQ_HOST)
        self._broker = (host, int(place.environment.get("RABBITMQ_PORT", Config.RABBITMQ_PORT)))
        self._tls = tls
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = str(self._listening.getsockname()[1])
        self._writers: set[asyncio.StreamWriter] = set()
        self._connections: set[asyncio.Task[None]] = set()
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        self._started.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def cut(self) -> int:
        """Reset every connection, and return how many there were; new ones may come."""
        return self._run(self._cut)

    def silence(self) -> None:
        """Let nothing through any more, and tell neither side."""
        self._run(self._passing.clear)

    def go_on(self) -> None:
        """Let everything through again."""
        self._run(self._passing.set)

    def _run(self, call: Callable[[], T]) -> T:
        async def run() -> T:
            return call()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._passing = asyncio.Event()
        self._passing.set()
        server = await asyncio.start_server(self._accept, sock=self._listening, ssl=self._tls)
        self._started.set()
        await self._stop.wait()
        server.close()
        self._cut()
        for connection in self._connections:
            connection.cancel()
        if self._connections:
            await asyncio.wait(self._connections)

    def _cut(self) -> int:
        writers, self._writers = self._writers, set()
        for writer in writers:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()
        return len(writers) // 2

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.create_task(self._connect(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            broker_reader, broker_writer = await asyncio.open_connection(*self._broker)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, broker_writer}
        self._writers |= both
        # The end of one direction is the end of both: neither side hangs.
        directions = (self._pass_on(reader, broker_writer), self._pass_on(broker_reader, writer))
        tasks = [asyncio.create_task(direction) for direction in directions]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            for each in both:
                each.close()
            self._writers -= both

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                await self._passing.wait()
                writer.write(data)
                await writer.drain()
