"""One stream of Bybit's public WebSocket: one instrument's order-book topic on a connection of its own.

pybit makes the connection. What it does about faults is not relied on, for in many of them it goes quiet
without a word: a `Stream` watches its connection, asks for a snapshot when pushes stay away, and makes a new
connection with growing pauses when that brings none.

Threads make and close connections, for that blocks; everything else happens on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import random
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

import msgspec
import pybit.unified_trading
import websocket

from config import Config
from messages import CHANNELS, Instrument
from websocket_frames import BINARY, CLOSE, PING, PONG, TEXT, SocketReader

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

# https://bybit-exchange.github.io/docs/v5/websocket/public/orderbook
DEPTHS = {channel: (25, 100) if channel == "option" else (1, 50, 200, 1000) for channel in CHANNELS}

# Bybit allows 500 new connections in five minutes; some are left for whoever else works from here.
CONNECTIONS = 450
CONNECTIONS_WINDOW = 300.0
# While no connection comes about at all, tries share one pace: the budget is needed when it works again.
FAILURES_IN_A_ROW = 5
PACE_WHILE_FAILING = 2.0
# Until the first of a crowd have failed, the others wait: an exchange that is away must not cost the budget.
MOST_AT_ONCE = 50
LOOK_AGAIN_SECONDS = 0.05

HANDSHAKE_SECONDS = 5.0
CONNECT_SECONDS = 15.0
SNAPSHOT_SECONDS = 5.0
SHORTEST_PAUSE = 0.1
LONGEST_PAUSE = 10.0
# A connection that worked this long starts with the shortest pause again when it breaks.
PROVEN_SECONDS = 10.0
# Requests that come this soon after the snapshot that another brought are the same one.
SNAPSHOT_REST_SECONDS = 0.25
WATCH_SECONDS = 1.0
# https://bybit-exchange.github.io/docs/v5/ws/connect
PING_SECONDS = 20.0


def depth(channel: str) -> int:
    """Return the depth to ask of a channel: the configured one, or the nearest that it has."""
    return min(DEPTHS[channel], key=lambda served: abs(served - Config.ORDERBOOK_DEPTH))


def use_exchange(url: str) -> None:
    """Point pybit and its connections at the configured exchange; an empty `url` is the real one."""
    websocket.setdefaulttimeout(HANDSHAKE_SECONDS)
    if url:
        # pybit has no parameter for it. Braces in the URL would be read as its own place holders.
        pybit.unified_trading.PUBLIC_WSS = (
            url.replace("{", "{{").replace("}", "}}") + "/v5/public/{CHANNEL_TYPE}"
        )


class ConnectionBudget:
    """Keeps the new connections of all streams within what Bybit allows."""

    def __init__(self, most: int = CONNECTIONS, window: float = CONNECTIONS_WINDOW) -> None:
        self._most = most
        self._window = window
        self._opened: deque[float] = deque()
        self._failures = 0
        self._under_way = 0
        self._last = -window

    def wait(self, now: float) -> float:
        """Return for how many seconds no connection may be opened."""
        while self._opened and self._opened[0] <= now - self._window:
            self._opened.popleft()
        pace = self._last + PACE_WHILE_FAILING - now if self._failures >= FAILURES_IN_A_ROW else 0.0
        spent = self._opened[0] + self._window - now if len(self._opened) >= self._most else 0.0
        crowd = LOOK_AGAIN_SECONDS if self._under_way >= MOST_AT_ONCE else 0.0
        return max(0.0, pace, spent, crowd)

    def take(self, now: float) -> None:
        """Count a connection that is opened now; `succeeded` or `failed` has to follow."""
        self._under_way += 1
        self._opened.append(now)
        self._last = now

    def succeeded(self) -> None:
        """Learn that a connection came about."""
        self._under_way -= 1
        self._failures = 0

    def failed(self, *, reached: bool) -> None:
        """Learn that one did not; where the exchange was not even reached it does not count."""
        self._under_way -= 1
        if reached:
            self._failures += 1
        elif self._opened:
            self._opened.pop()


class NotConnected(Exception):
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
            raise NotConnected(self._failure)
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


class Connection:
    """One PushSocket from its making to its end; what blocks is done in a thread of its own."""

    _numbers = itertools.count(1)

    def __init__(self, stream: Stream) -> None:
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

    def close(self, *, politely: bool) -> threading.Event:
        """Close whatever there is or will be; the event tells when it is done."""
        self._given_up = True
        if self._reader is not None:
            self._reader.let_go()
        if self._socket is not None:
            made = self._socket
            _in_thread(lambda: self._close(made, politely=politely), f"close-{self.number}")
        return self._closed

    def _open(self) -> None:
        try:
            made = PushSocket(self._stream.instrument.channel)
        except NotConnected as error:
            self._closed.set()
            self._call(self._failed, error)
        else:
            self._call(self._take, made)

    def _call(self, call: Callable[[_T], None], what: _T) -> None:
        # The loop is closed already when the process ends.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, what)

    def _failed(self, error: NotConnected) -> None:
        self._stream.failed(self, str(error), reached=error.reached)

    def _take(self, made: PushSocket) -> None:
        self._socket = made
        self._stream.opened(self)
        if self._given_up:
            self.close(politely=True)
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

    def _close(self, made: PushSocket, *, politely: bool) -> None:
        with contextlib.suppress(*FAULTS):
            if politely:
                made.exit()
            else:
                made.abandon()
        self._closed.set()


class _Data(msgspec.Struct, frozen=True, gc=False):
    u: int = -1
    fail_topics: list[str] = msgspec.field(default_factory=list, name="failTopics")


class _Head(msgspec.Struct, frozen=True, gc=False):
    """What the collector has to know of a frame."""

    topic: str = ""
    type: str = ""
    op: str = ""
    success: bool | None = None
    ret_msg: str = ""
    req_id: str | None = None
    data: _Data | None = None


_decode_head = msgspec.json.Decoder(_Head).decode


class Phase(Enum):
    """Where a stream stands."""

    WAITING = "waiting to connect"
    CONNECTING = "connecting"
    SUBSCRIBING = "waiting for a snapshot"
    LIVE = "live"
    REFUSED = "refused"
    CLOSED = "closed"


class Standing(Enum):
    """What the exchange thinks of the subscription, as far as is known."""

    UNKNOWN = "no answer yet"
    ACCEPTED = "accepted"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True)
class Surroundings:
    """What the streams of a collector share, and whom they tell."""

    budget: ConnectionBudget
    on_push: Callable[[Instrument, bytes, int], None]
    on_standing: Callable[[Stream], None]


class Stream:
    """The subscription of one instrument, and the connection that serves it.

    `run` drives it and may be cancelled and started anew at any time: the connection and all that is known of
    it stay. Only `close` ends the stream.
    """

    def __init__(self, instrument: Instrument, matching_key: str, surroundings: Surroundings) -> None:
        self.instrument = instrument
        self.topic = f"orderbook.{depth(instrument.channel)}.{instrument.symbol}"
        self.phase = Phase.WAITING
        self.standing = Standing.UNKNOWN
        self.reason = ""
        self.answered = asyncio.Event()
        self.garbage = 0
        self.set_matching_key(matching_key)
        if depth(instrument.channel) != Config.ORDERBOOK_DEPTH:
            logger.info("%s: %s, the depth nearest to the configured one", instrument, self.topic)
        self._surroundings = surroundings
        self._connection: Connection | None = None
        self._wake = asyncio.Event()
        self._now = asyncio.get_running_loop().time
        self._due = 0.0
        self._pause = SHORTEST_PAUSE
        self._live_since = 0.0
        self._last_push = 0.0
        self._next_ping = 0.0
        self._rests_until = 0.0
        self._subscribed = False
        self._served = False
        self._troubled = False

    @property
    def is_up(self) -> bool:
        """Tell whether pushes come, as far as is known."""
        return self.phase is Phase.LIVE or (self.phase is Phase.SUBSCRIBING and self._served)

    def set_matching_key(self, matching_key: str) -> None:
        """Mark pushes with this key from the next one on."""
        self.matching_key = matching_key
        fields = {"channel": self.instrument.channel, "matching_key": matching_key}
        self._ending = b"," + msgspec.json.encode(fields)[1:]

    async def run(self) -> None:
        """Drive the stream until cancelled."""
        while True:
            delay = self._look(self._now())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._wake.wait()
            self._wake.clear()

    def request_snapshot(self) -> None:
        """Subscribe anew, so that a snapshot comes; nothing where one is on its way or just came."""
        rested = self._now() >= self._rests_until
        if self.phase is Phase.LIVE and self._connection is not None and rested:
            self._expect_snapshot()
            self._connection.request("unsubscribe")
            self._connection.request("subscribe")

    def close(self) -> threading.Event | None:
        """End the stream; the event, if any, tells when its connection is closed."""
        self.phase = Phase.CLOSED
        self.answered.set()
        return self._drop_connection(politely=True)

    # --- what is due -------------------------------------------------------------------------

    def _look(self, now: float) -> float:
        """Do what is due, and return the seconds until it is worth looking again."""
        if self._connection is not None and now >= self._next_ping:
            self._next_ping = now + PING_SECONDS
            self._connection.ping()
        match self.phase:
            case Phase.WAITING:
                wait = max(self._due - now, self._surroundings.budget.wait(now))
                if wait > LONGEST_PAUSE:
                    logger.info(
                        "%s: next try in %.0f s, for the limit of new connections", self.instrument, wait
                    )
                if wait > 0:
                    return wait
                self._connect(now)
            case Phase.CONNECTING if now >= self._due:
                self._lose("no handshake")
                return 0
            case Phase.SUBSCRIBING if now >= self._due:
                self._lose(f"no snapshot within {SNAPSHOT_SECONDS:.0f} s")
                return 0
            case Phase.LIVE if now - self._last_push >= Config.STREAM_SILENCE_MS / 1000:
                logger.debug("%s: silent, asking for a snapshot", self.instrument)
                self.request_snapshot()
            case Phase.REFUSED if now >= self._due and self._connection is not None:
                self._expect_snapshot()
                self._connection.request("subscribe")
            case _:
                pass
        due = self._due if self.phase is not Phase.LIVE else self._last_push + Config.STREAM_SILENCE_MS / 1000
        return max(0.01, min(WATCH_SECONDS, due - now))

    def _connect(self, now: float) -> None:
        self._surroundings.budget.take(now)
        self.phase = Phase.CONNECTING
        self._due = now + CONNECT_SECONDS
        self._connection = Connection(self)
        self._connection.open()

    def _expect_snapshot(self) -> None:
        self.phase = Phase.SUBSCRIBING
        self._due = self._now() + SNAPSHOT_SECONDS
        self._subscribed = False

    # --- what a connection says --------------------------------------------------------------

    def opened(self, connection: Connection) -> None:
        """Learn that the connection stands."""
        self._surroundings.budget.succeeded()
        if connection is self._connection:
            self._next_ping = self._now() + PING_SECONDS
            self._expect_snapshot()
            connection.request("subscribe")
            self._wake.set()

    def failed(self, connection: Connection, reason: str, *, reached: bool) -> None:
        """Learn that the connection did not come about."""
        self._surroundings.budget.failed(reached=reached)
        if connection is self._connection:
            self._lose(reason)

    def ended(self, connection: Connection, reason: str) -> None:
        """Learn that the connection broke."""
        if connection is self._connection:
            self._lose(reason)

    def received(self, connection: Connection, frame: bytes, at: int) -> None:
        """Take a frame that was received at the millisecond `at`."""
        if connection is not self._connection:
            return
        try:
            head = _decode_head(frame)
        except (msgspec.DecodeError, RecursionError) as error:
            self._reject(frame, str(error))
            return
        if head.topic == self.topic:
            if head.data is None or head.data.u < 0 or head.type not in {"snapshot", "delta"}:
                self._reject(frame, "no order book")
                return
            self._last_push = self._now()
            if self.phase is not Phase.LIVE and head.type == "snapshot":
                self._start_living()
            # Valid JSON ends with its closing brace; what is sent stays as it is up to there.
            self._surroundings.on_push(self.instrument, frame.rstrip()[:-1] + self._ending, at)
        elif head.success is not None:
            self._answer(connection, head)
        elif head.op != "pong" and not head.topic:
            self._reject(frame, "neither a push nor an answer")

    def _answer(self, connection: Connection, head: _Head) -> None:
        if head.ret_msg == "pong" or head.op == "ping":
            return
        requests = connection.requests
        # Answers come in the order of the requests; option's do not name theirs.
        op = ""
        while requests:
            req_id, op = requests.popleft()
            if not head.req_id or head.req_id == req_id:
                break
            op = ""
        if op != "subscribe":
            return
        if head.success and not (head.data is not None and head.data.fail_topics):
            self._subscribed = True
            self._stand(Standing.ACCEPTED)
        elif self._served:
            # It was served on this connection: a new one tells whether the exchange means the symbol.
            self._lose(f"refused: {head.ret_msg}")
        else:
            self._refuse(head.ret_msg)

    def _start_living(self) -> None:
        # Until a new subscription is acknowledged, snapshots are still the old one's (depth 1 has no others).
        if self._served and not self._subscribed:
            return
        now = self._now()
        if self._served:
            self._rests_until = now + SNAPSHOT_REST_SECONDS
        else:
            self._live_since = now
            self._stand(Standing.ACCEPTED)
        self._served = True
        self.phase = Phase.LIVE
        if self._troubled:
            logger.info("%s: live again", self.instrument)
        elif self._live_since == now:
            logger.info("%s: live", self.instrument)
        self._troubled = False
        self._wake.set()

    def rejected(self, connection: Connection, frame: bytes) -> None:
        """Learn of a frame that is no text."""
        if connection is self._connection:
            self._reject(frame, "binary")

    def _reject(self, frame: bytes, why: str) -> None:
        self.garbage += 1
        self._lose(f"expected a frame of the exchange's, was {frame[:80]!r} ({why})")

    def _refuse(self, why: str) -> None:
        self.phase = Phase.REFUSED
        self._plan()
        self._complain(f"the exchange refuses it: {why}")
        self._stand(Standing.REFUSED, why)
        self._wake.set()

    def _lose(self, reason: str) -> None:
        if self._served and self._now() - self._live_since >= PROVEN_SECONDS:
            self._pause = SHORTEST_PAUSE
        self._drop_connection(politely=False)
        self.phase = Phase.WAITING
        self._plan()
        self._complain(f"{reason}; connecting again")
        self._stand(Standing.UNREACHABLE, reason)
        self._wake.set()

    def _plan(self) -> None:
        """Set when to try again; streams that broke together do not come back together."""
        self._due = self._now() + self._pause * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        self._pause = min(self._pause * 2, LONGEST_PAUSE)

    def _complain(self, trouble: str) -> None:
        logger.log(logging.DEBUG if self._troubled else logging.WARNING, "%s: %s", self.instrument, trouble)
        self._troubled = True

    def _stand(self, standing: Standing, reason: str = "") -> None:
        self.standing = standing
        self.reason = reason
        self.answered.set()
        self._surroundings.on_standing(self)

    def _drop_connection(self, *, politely: bool) -> threading.Event | None:
        connection, self._connection = self._connection, None
        self._served = False
        return connection.close(politely=politely) if connection is not None else None


def _in_thread(work: Callable[[], None], name: str) -> None:
    """Run what may block in a thread of its own: a pool could be used up by connections that hang."""
    threading.Thread(target=work, name=name, daemon=True).start()
