"""One stream of Bybit's public WebSocket: one instrument's order-book topic on a connection of its own.

pybit makes the connection, reads it in a thread and keeps it alive with pings. What it does about faults is
not relied on, for in many of them it goes quiet without a word: a `Stream` watches its connection, asks for a
snapshot when pushes stay away, and makes a new connection with growing pauses when that brings none.

Everything that a connection's threads have to say goes through one `Inbox` to the event loop, so that all
state here belongs to the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import msgspec
import pybit.unified_trading
import websocket

from config import Config
from messages import CHANNELS, Instrument

logger = logging.getLogger(__name__)

# https://bybit-exchange.github.io/docs/v5/websocket/public/orderbook
DEPTHS = {channel: (25, 100) if channel == "option" else (1, 50, 200, 1000) for channel in CHANNELS}

# Bybit allows 500 new connections in five minutes; some are left for whoever else works from here.
CONNECTIONS = 450
CONNECTIONS_WINDOW = 300.0
# While no connection comes about at all, tries share one pace: the budget is needed when it works again.
FAILURES_IN_A_ROW = 5
PACE_WHILE_FAILING = 2.0

HANDSHAKE_SECONDS = 5.0
CONNECT_SECONDS = 15.0
SNAPSHOT_SECONDS = 5.0
SHORTEST_PAUSE = 0.1
LONGEST_PAUSE = 10.0
# A connection that worked this long starts with the shortest pause again when it breaks.
PROVEN_SECONDS = 10.0
# Requests for a snapshot that come this soon after one are answered by it.
SNAPSHOT_REST_SECONDS = 0.25
WATCH_SECONDS = 1.0
INBOX_BATCH = 256


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


class Inbox:
    """Hands what connections' threads have to say to the event loop, in order and with few wake-ups."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._calls: deque[Callable[[], None]] = deque()
        self._woken = False

    def put(self, call: Callable[[], None]) -> None:
        """Have the loop make `call`; for any thread."""
        self._calls.append(call)
        if not self._woken:
            self._woken = True
            # The loop is closed already when the process ends.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._work)

    def _work(self) -> None:
        # Cleared before the count is taken: what is put after that wakes the loop again.
        self._woken = False
        try:
            for _ in range(min(len(self._calls), INBOX_BATCH)):
                self._calls.popleft()()
        finally:
            if self._calls and not self._woken:
                self._woken = True
                self._loop.call_soon(self._work)


class ConnectionBudget:
    """Keeps the new connections of all streams within what Bybit allows."""

    def __init__(self, most: int = CONNECTIONS, window: float = CONNECTIONS_WINDOW) -> None:
        self._most = most
        self._window = window
        self._opened: deque[float] = deque()
        self._failures = 0
        self._last = -window

    def wait(self, now: float) -> float:
        """Return for how many seconds no connection may be opened."""
        while self._opened and self._opened[0] <= now - self._window:
            self._opened.popleft()
        pace = self._last + PACE_WHILE_FAILING - now if self._failures >= FAILURES_IN_A_ROW else 0.0
        spent = self._opened[0] + self._window - now if len(self._opened) >= self._most else 0.0
        return max(0.0, pace, spent)

    def take(self, now: float) -> None:
        """Count a connection that is opened now."""
        self._opened.append(now)
        self._last = now

    def succeeded(self) -> None:
        """Learn that a connection came about."""
        self._failures = 0

    def failed(self, *, reached: bool) -> None:
        """Learn that one did not; where the exchange was not even reached it does not count."""
        if reached:
            self._failures += 1
        elif self._opened:
            self._opened.pop()


class PushSocket(pybit.unified_trading.WebSocket):  # type: ignore[misc]
    """pybit's connection, handing over each text as it was sent, and its end.

    pybit parses what comes and hands over dictionaries; written as JSON again they would cost three times as
    much and not be what was sent. The methods below are the ones that pybit calls on events; the exact pin of
    its version keeps them so. All run in threads of the connection.
    """

    def __init__(self, channel: str, on_text: Callable[[str], None], on_end: Callable[[str], None]) -> None:
        self._on_text = on_text
        self._on_end = on_end
        self._failure: Exception | None = None
        super().__init__(
            channel_type=channel,
            testnet=Config.BYBIT_ENVIRONMENT == "testnet",
            callback_function=on_text,
            restart_on_error=False,
            # With 1 pybit gives up a connection that it has made; see is_connected for the second.
            retries=2,
        )

    def send(self, text: str) -> None:
        """Send a text frame; raises OSError or websocket's exceptions."""
        self.ws.send(text)

    def is_connected(self) -> bool:
        """Tell whether the connection stands; while it is being made, raise what it failed of.

        pybit would try again at once and without a pause.
        """
        if self._failure is not None and self.attempting_connection:
            raise self._failure
        return bool(super().is_connected())

    def _on_open(self) -> None:
        # Checked byte by byte in Python otherwise; decoding the text checks it too.
        self.ws.sock.cont_frame.skip_utf8_validation = True

    def _on_message(self, message: str) -> None:
        self._on_text(message)

    def _on_error(self, error: Exception) -> None:
        # pybit raises here what it can't name, in a thread where nobody sees it.
        self._failure = error
        self._end(str(error) or type(error).__name__)

    def _on_close(self) -> None:
        self._end("closed")

    def _end(self, reason: str) -> None:
        if not self.exited:
            self.exited: bool = True
            self._stop_custom_ping_timer()
            self._on_end(reason)


# Errors of a connection that was never made: Bybit does not count those.
UNREACHED = (ConnectionRefusedError, websocket.WebSocketAddressException)
# What making a connection and sending on it raise.
FAULTS = (OSError, websocket.WebSocketException)


class Connection:
    """One PushSocket from its making, in a thread of its own, to its end."""

    _numbers = itertools.count(1)

    def __init__(self, stream: Stream, inbox: Inbox) -> None:
        self.number = next(self._numbers)
        self.requests: deque[tuple[str, str]] = deque()
        self._stream = stream
        self._inbox = inbox
        self._socket: PushSocket | None = None
        self._given_up = False
        self._closed = threading.Event()

    @property
    def is_connected(self) -> bool:
        """Tell whether the socket stands."""
        return self._socket is not None and self._socket.is_connected()

    def open(self) -> None:
        """Connect and subscribe; the stream hears of the outcome."""
        frame = self._request("subscribe")
        _in_thread(lambda: self._open(frame), f"open-{self.number}")

    def subscribe(self, *, again: bool) -> None:
        """Subscribe on the connection as it stands, with `again` after unsubscribing."""
        frames = [self._request(op) for op in (("unsubscribe", "subscribe") if again else ("subscribe",))]
        _in_thread(lambda: self._send(frames), f"subscribe-{self.number}")

    def close(self) -> threading.Event:
        """Close whatever there is or will be; the event tells when it is done."""
        self._given_up = True
        if not self._closed.is_set():
            _in_thread(self._close, f"close-{self.number}")
        return self._closed

    def _request(self, op: str) -> str:
        req_id = f"{op}-{self.number}-{len(self.requests)}-{time.monotonic_ns()}"
        self.requests.append((req_id, op))
        return json.dumps({"op": op, "req_id": req_id, "args": [self._stream.topic]})

    def _open(self, frame: str) -> None:
        stream, inbox = self._stream, self._inbox
        put, received = inbox.put, stream.received
        now = time.time

        def on_text(text: str) -> None:
            at = int(now() * 1000)
            put(lambda: received(self, text, at))

        def on_end(reason: str) -> None:
            if self._socket is not None:
                put(lambda: stream.ended(self, reason))

        try:
            socket = PushSocket(stream.instrument.channel, on_text, on_end)
        except FAULTS as error:
            reason = str(error) or type(error).__name__
            reached = not isinstance(error, UNREACHED)
            put(lambda: stream.failed(self, reason, reached=reached))
            self._closed.set()
            return
        self._socket = socket
        put(lambda: stream.opened(self))
        if self._given_up:
            self._close()
        else:
            self._send([frame])

    def _send(self, frames: list[str]) -> None:
        if self._socket is None:
            return
        try:
            for frame in frames:
                self._socket.send(frame)
        except FAULTS as error:
            reason = str(error) or type(error).__name__
            self._inbox.put(lambda: self._stream.ended(self, reason))

    def _close(self) -> None:
        # While it is being made there is nothing to close; its maker does it then.
        if self._socket is not None:
            with contextlib.suppress(*FAULTS):
                self._socket.exit()
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

    inbox: Inbox
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
        self._last_snapshot = 0.0
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
        self._ending = "," + msgspec.json.encode(fields).decode()[1:]

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
        rested = self._now() - self._last_snapshot >= SNAPSHOT_REST_SECONDS
        if self.phase is Phase.LIVE and self._connection is not None and rested:
            self._expect_snapshot()
            self._connection.subscribe(again=True)

    def close(self) -> threading.Event | None:
        """End the stream; the event, if any, tells when its connection is closed."""
        self.phase = Phase.CLOSED
        self.answered.set()
        return self._drop_connection()

    # --- what is due -------------------------------------------------------------------------

    def _look(self, now: float) -> float:
        """Do what is due, and return the seconds until it is worth looking again."""
        match self.phase:
            case Phase.WAITING:
                wait = max(self._due - now, self._surroundings.budget.wait(now))
                if wait > 0:
                    return wait
                self._connect(now)
            case Phase.CONNECTING if now >= self._due:
                self.failed(self._connection, "no handshake", reached=True)
                return 0
            case Phase.SUBSCRIBING if now >= self._due:
                self._lose(f"no snapshot within {SNAPSHOT_SECONDS:.0f} s")
                return 0
            case Phase.SUBSCRIBING | Phase.LIVE | Phase.REFUSED if not self._connected():
                self._lose("not connected any more")
                return 0
            case Phase.LIVE if now - self._last_push >= Config.STREAM_SILENCE_MS / 1000:
                logger.debug("%s: silent, asking for a snapshot", self.instrument)
                self.request_snapshot()
            case Phase.REFUSED if now >= self._due and self._connection is not None:
                self._expect_snapshot()
                self._connection.subscribe(again=False)
            case _:
                pass
        due = self._due if self.phase is not Phase.LIVE else self._last_push + Config.STREAM_SILENCE_MS / 1000
        return max(0.01, min(WATCH_SECONDS, due - now))

    def _connected(self) -> bool:
        return self._connection is not None and self._connection.is_connected

    def _connect(self, now: float) -> None:
        self._surroundings.budget.take(now)
        self.phase = Phase.CONNECTING
        self._due = now + CONNECT_SECONDS
        self._connection = Connection(self, self._surroundings.inbox)
        self._connection.open()

    def _expect_snapshot(self) -> None:
        self.phase = Phase.SUBSCRIBING
        self._due = self._now() + SNAPSHOT_SECONDS
        self._subscribed = False

    # --- what a connection says --------------------------------------------------------------

    def opened(self, connection: Connection) -> None:
        """Learn that the connection stands and the subscription is on its way."""
        self._surroundings.budget.succeeded()
        if connection is self._connection:
            self._expect_snapshot()
            self._wake.set()

    def failed(self, connection: Connection | None, reason: str, *, reached: bool) -> None:
        """Learn that the connection did not come about."""
        self._surroundings.budget.failed(reached=reached)
        if connection is self._connection:
            self._lose(reason)

    def ended(self, connection: Connection, reason: str) -> None:
        """Learn that the connection broke."""
        if connection is self._connection:
            self._lose(reason)

    def received(self, connection: Connection, text: str, at: int) -> None:
        """Take a frame that was received at the millisecond `at`."""
        if connection is not self._connection:
            return
        try:
            head = _decode_head(text)
        except (msgspec.DecodeError, RecursionError) as error:
            self._reject(text, str(error))
            return
        if head.topic == self.topic:
            if head.data is None or head.data.u < 0 or head.type not in {"snapshot", "delta"}:
                self._reject(text, "no order book")
                return
            self._last_push = self._now()
            if self.phase is not Phase.LIVE and head.type == "snapshot":
                self._start_living()
            # Valid JSON ends with its closing brace; what is sent stays as it is up to there.
            body = (text.rstrip()[:-1] + self._ending).encode()
            self._surroundings.on_push(self.instrument, body, at)
        elif head.success is not None:
            self._answer(connection, head)
        elif head.op != "pong" and not head.topic:
            self._reject(text, "neither a push nor an answer")

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
        if not self._served:
            self._live_since = now
            self._stand(Standing.ACCEPTED)
        self._served = True
        self.phase = Phase.LIVE
        self._last_snapshot = now
        if self._troubled:
            logger.info("%s: live again", self.instrument)
        elif self._live_since == now:
            logger.info("%s: live", self.instrument)
        self._troubled = False
        self._wake.set()

    def _reject(self, text: object, why: str) -> None:
        self.garbage += 1
        self._lose(f"expected a frame of the exchange's, was {text!r:.80} ({why})")

    def _refuse(self, why: str) -> None:
        self.phase = Phase.REFUSED
        self._plan()
        self._complain(f"the exchange refuses it: {why}")
        self._stand(Standing.REFUSED, why)
        self._wake.set()

    def _lose(self, reason: str) -> None:
        if self._served and self._now() - self._live_since >= PROVEN_SECONDS:
            self._pause = SHORTEST_PAUSE
        self._drop_connection()
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

    def _drop_connection(self) -> threading.Event | None:
        connection, self._connection = self._connection, None
        self._served = False
        return connection.close() if connection is not None else None


def _in_thread(work: Callable[[], None], name: str) -> None:
    """Run what may block in a thread of its own: a pool could be used up by connections that hang."""
    threading.Thread(target=work, name=name, daemon=True).start()
