"""What pika asks of an event loop, answered by asyncio; see stream.py for why.

services = IOServices()
connection = AsyncioConnection(parameters, ..., custom_ioloop=services)
services.stream     # once it is open
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Coroutine
from typing import Any

from pika.adapters.utils import nbio_interface as nbio

from blackbird.broker.stream import Stream

# Called with a result or with an exception; with a type of its own for each of pika's methods.
OnDone = Callable[[Any], None]


class IOServices(nbio.AbstractIOServices):
    """The services of one connection, on the running event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.stream: Stream | None = None

    def get_native_ioloop(self) -> asyncio.AbstractEventLoop:
        """Return the event loop."""
        return self._loop

    def close(self) -> None:
        """Do nothing: the event loop is not pika's to run, stop or close."""

    run = stop = close

    def add_callback_threadsafe(self, callback: Callable[..., None]) -> None:
        """Call `callback` in the next turn of the event loop."""
        self._loop.call_soon_threadsafe(callback)

    def call_later(self, delay: float, callback: Callable[..., None]) -> _Timer:
        """Call `callback` after `delay` seconds."""
        return _Timer(self._loop.call_later(delay, callback))

    def getaddrinfo(
        self,
        host: str | bytes | None,
        port: str | bytes | int | None,
        on_done: OnDone,
        family: int = 0,
        socktype: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> _Task:
        """Resolve a host name."""
        return self._start(
            self._loop.getaddrinfo(host, port, family=family, type=socktype, proto=proto, flags=flags),
            on_done,
        )

    def connect_socket(self, sock: socket.socket, resolved_addr: Any, on_done: OnDone) -> _Task:
        """Connect a socket."""
        return self._start(self._loop.sock_connect(sock, resolved_addr), on_done)

    def create_streaming_connection(
        self,
        protocol_factory: Callable[[], nbio.AbstractStreamProtocol],
        sock: socket.socket,
        on_done: OnDone,
        ssl_context: ssl.SSLContext | None = None,
        server_hostname: str | None = None,
    ) -> _Linking:
        """Make a stream of a connected socket, which belongs to the stream from now on."""
        linking = _Linking(protocol_factory, sock, on_done, ssl_context, server_hostname)
        self.stream = linking.stream
        return linking

    def _start(self, work: Coroutine[Any, Any, Any], on_done: OnDone) -> _Task:
        task = self._loop.create_task(work)
        task.add_done_callback(
            lambda done: None if done.cancelled() else on_done(done.exception() or done.result())
        )
        return _Task(task)


class _Timer(nbio.AbstractTimerReference):
    def __init__(self, handle: asyncio.TimerHandle) -> None:
        self._handle = handle

    def cancel(self) -> None:
        self._handle.cancel()


class _Task(nbio.AbstractIOReference):
    def __init__(self, task: asyncio.Task[Any]) -> None:
        self._task = task

    def cancel(self) -> bool:
        return self._task.cancel()


class _Linking(nbio.AbstractIOReference):
    """The making of a stream: TLS handshake, then both sides linked, of which `on_done` is told at once."""

    def __init__(
        self,
        protocol_factory: Callable[[], nbio.AbstractStreamProtocol],
        sock: socket.socket,
        on_done: OnDone,
        ssl_context: ssl.SSLContext | None,
        server_hostname: str | None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._sock = sock
        self._on_done = on_done
        pika_side = protocol_factory()
        self.stream = Stream(pika_side, lambda: on_done((self.stream, pika_side)))
        connecting = loop.create_connection(
            lambda: self.stream, sock=sock, ssl=ssl_context, server_hostname=server_hostname
        )
        self._task = loop.create_task(connecting)
        self._task.add_done_callback(self._on_connected)

    def cancel(self) -> bool:
        """Give the stream up; `on_done` is not called any more."""
        self.stream.give_up()
        return self._task.cancel()

    def _on_connected(self, done: asyncio.Task[Any]) -> None:
        if done.cancelled():
            self._sock.close()  # asyncio has closed it only if it had begun
        elif (error := done.exception()) is not None:
            self._on_done(error)
