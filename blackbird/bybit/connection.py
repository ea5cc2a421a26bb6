"""Connections to Bybit's public WebSocket: made by pybit, read by the event loop, within Bybit's limits.

Threads make and close connections, for that blocks; everything else happens on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol, TypeVar

import pybit.unified_trading
import websocket

from blackbird.bybit.websocket_frames import BINARY, CLOSE, PING, PONG, TEXT, SocketReader
from blackbird.market.instrument import Instrument
from config import Config

_T = TypeVar("_T")

HANDSHAKE_SECONDS = 5.0


def use_exchange(url: str) -> None:
    """Point pybit and its connections at the configured exchange; an empty `url` is the real one."""
    websocket.setdefaulttimeout(HANDSHAKE_SECONDS)
    if url:
        # pybit has no parameter for it. Braces in the URL would be read as its own place holders.
        pybit.unified_trading.PUBLIC_WSS = (
            url.replace("{", "{{").replace("}", "}}") + "/v5/public/{CHANNEL_TYPE}"
        )


class ConnectFailed(Exception):
    """A connection did not come about; `reached` tells whether the exchange took part in that."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error) or type(error).__name__)
        # Bybit does not count what never arrived there.
        self.reached = not isinstance(error, ConnectionRefusedError | websocket.WebSocketAddressException)


# What sending and closing raise.
FAULTS = (OSError, websocket.WebSocketException)


class PushSocket(pybit.unified_trading.WebSocket):  # type: ignore[misc]
    """pybit's connection, made by it and read by the event loop.

    pybit would read it in a thread, wake up seven times for a push, parse it, and hand over a dictionary that
    had to be written as JSON again: three to five times the cost in all, and not what was sent. The methods
    below are those that pybit calls on events; the exact pin of its version keeps them so.
    """

    def __init__(self, channel: str) -> None:
        self._failure: Exception | None = None
        self._app: websocket.WebSocketApp | None = None
        super().__init__(
            channel_type=channel,
            testnet=Config.BYBIT_ENVIRONMENT == "testnet",
            restart_on_error=False,
            # With 1 pybit gives up a connection that it has made; see is_connected for the second.
            retries=2,
        )

    @property
    def ws(self) -> websocket.WebSocketApp | None:
        """The client library's side of the connection."""
        return self._app

    @ws.setter
    def ws(self, app: websocket.WebSocketApp) -> None:
        # pybit has no parameter for the library's hook that leaves reading and writing to an event loop.
        run_forever = app.run_forever
        app.run_forever = lambda **_: run_forever(  # type: ignore[method-assign]
            dispatcher=_LeftToTheLoop()
        )
        self._app = app

    @property
    def socket(self) -> socket.socket:
        """The connected socket; raises OSError where it is closed already."""
        if self._app is None or self._app.sock is None or self._app.sock.sock is None:
            raise OSError("closed at once")
        connected: socket.socket = self._app.sock.sock
        return connected

    def send(self, payload: str | bytes, opcode: int = TEXT) -> None:
        """Send a frame; raises one of FAULTS."""
        if self._app is not None:
            self._app.send(payload, opcode)

    def abandon(self) -> None:
        """Close the socket without a word."""
        if self._app is not None and self._app.sock is not None:
            self._app.sock.shutdown()  # type: ignore[no-untyped-call]

    def is_connected(self) -> bool:
        """Tell whether the connection stands; while it is being made, raise what it failed of.

        pybit would try again at once and without a pause.
        """
        if self._failure is not None and self.attempting_connection:
            raise ConnectFailed(self._failure)
        return bool(super().is_connected())

    def _on_error(self, error: Exception) -> None:
        # pybit raises here what it can't name, in a thread where nobody sees it.
        self._failure = error

    def _send_initial_ping(self) -> None:
        # The stream sends the pings; pybit has a thread for each.
        pass


class _LeftToTheLoop:
    """What websocket-client takes for an event loop's dispatcher: it reads nothing and sends at once."""

    def signal(self, *_: object) -> None:
        """Leave signals alone."""

    abort = signal

    def read(self, *_: object) -> None:
        """Leave reading to SocketReader."""

    def buffwrite(
        self, sock: socket.socket, frame: bytes, send: Callable[[socket.socket, bytes], int], _: object
    ) -> None:
        """Send a frame whole or not at all."""
        if send(sock, frame) != len(frame):
            raise websocket.WebSocketConnectionClosedException("the exchange does not read")


class Listener(Protocol):
    """Whoever a connection is made for, and hears what becomes of it."""

    instrument: Instrument
    topic: str

    def opened(self, connection: Connection) -> None:
        """Learn that it stands."""

    def failed(self, connection: Connection, reason: str, *, reached: bool) -> None:
        """Learn that it did not come about, and whether the exchange was reached."""

    def received(self, connection: Connection, payload: bytes, now: int) -> None:
        """Take a text frame that came at `now` (ms)."""

    def rejected(self, connection: Connection, payload: bytes) -> None:
        """Take a frame of a kind that the exchange does not send."""

    def ended(self, connection: Connection, reason: str) -> None:
        """Learn that nothing more will come."""


class Connection:
    """One PushSocket from its making to its end; what blocks is done in a thread of its own."""

    _numbers = itertools.count(1)

    def __init__(self, stream: Listener) -> None:
        self.number = next(self._numbers)
        self.requests: deque[tuple[str, str]] = deque()
        self._stream = stream
        self._loop = asyncio.get_running_loop()
        self._socket: PushSocket | None = None
        self._reader: SocketReader | None = None
        self._given_up = False
        self._closed = threading.Event()
        self._request_numbers = itertools.count(1)

    def open(self) -> None:
        """Connect; the stream hears of the outcome."""
        _in_thread(self._open, f"open-{self.number}")

    def request(self, op: str) -> None:
        """Send a request about the stream's topic; its answer names it."""
        req_id = f"{op}-{self.number}-{next(self._request_numbers)}"
        self.requests.append((req_id, op))
        self._send(json.dumps({"op": op, "req_id": req_id, "args": [self._stream.topic]}))

    def ping(self) -> None:
        """Send the ping that keeps the connection alive."""
        self._send(json.dumps({"op": "ping"}))

    def close(self, *, graceful: bool) -> threading.Event:
        """Close whatever there is or will be; the event tells when it is done."""
        self._given_up = True
        if self._reader is not None:
            self._reader.let_go()
        if self._socket is not None:
            made = self._socket
            _in_thread(lambda: self._close(made, graceful=graceful), f"close-{self.number}")
        return self._closed

    def _open(self) -> None:
        try:
            made = PushSocket(self._stream.instrument.channel)
        except ConnectFailed as error:
            self._closed.set()
            self._call(self._failed, error)
        else:
            self._call(self._take, made)

    def _call(self, call: Callable[[_T], None], what: _T) -> None:
        # The loop is closed already when the process ends.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, what)

    def _failed(self, error: ConnectFailed) -> None:
        self._stream.failed(self, str(error), reached=error.reached)

    def _take(self, made: PushSocket) -> None:
        self._socket = made
        self._stream.opened(self)
        if self._given_up:
            self.close(graceful=True)
            return
        try:
            self._reader = SocketReader(made.socket, self._received, self._ended)
        except OSError as error:
            self._ended(str(error))

    def _received(self, opcode: int, payload: bytes) -> None:
        if opcode == TEXT:
            self._stream.received(self, payload, int(time.time() * 1000))
        elif opcode == PING:
            self._send(payload, PONG)
        elif opcode == CLOSE:
            code = int.from_bytes(payload[:2], "big")
            self._ended(f"closed by the exchange with code {code}" if code else "closed by the exchange")
        elif opcode == BINARY:
            self._stream.rejected(self, payload)

    def _send(self, payload: str | bytes, opcode: int = TEXT) -> None:
        if self._socket is None:
            return
        try:
            self._socket.send(payload, opcode)
        except FAULTS as error:
            # Not from here: whoever sends is not prepared for the end of its connection.
            self._loop.call_soon(self._ended, str(error) or type(error).__name__)

    def _ended(self, reason: str) -> None:
        self._stream.ended(self, reason)

    def _close(self, made: PushSocket, *, graceful: bool) -> None:
        with contextlib.suppress(*FAULTS):
            if graceful:
                made.exit()
            else:
                made.abandon()
        self._closed.set()


def _in_thread(work: Callable[[], None], name: str) -> None:
    """Run what may block in a thread of its own: a pool could be used up by connections that hang."""
    threading.Thread(target=work, name=name, daemon=True).start()
