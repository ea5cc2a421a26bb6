"""One stream of Bybit's public WebSocket: one instrument's order-book topic on a connection of its own.

What pybit does about faults is not relied on, for in many of them it goes quiet without a word: a `Stream`
watches its connection (bybit_connection.py), asks for a snapshot when pushes stay away, and makes a new
connection with growing pauses when that brings none.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import msgspec

from blackbird.bybit.connection import Connection
from blackbird.bybit.connection_budget import ConnectionBudget
from blackbird.market.instrument import CHANNELS, Instrument
from config import Config

logger = logging.getLogger(__name__)

# https://bybit-exchange.github.io/docs/v5/websocket/public/orderbook
DEPTHS = {channel: (25, 100) if channel == "option" else (1, 50, 200, 1000) for channel in CHANNELS}

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


class _Data(msgspec.Struct, frozen=True, gc=False):
    u: int = -1
    fail_topics: list[str] = msgspec.field(default_factory=list, name="failTopics")


class _Head(msgspec.Struct, frozen=True, gc=False):
    """What the collector has to know of a frame."""

    topic: str = ""
    type: str = ""
    ts: object = 0
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


class SubscriptionStatus(Enum):
    """What the exchange thinks of the subscription, as far as is known."""

    UNKNOWN = "no answer yet"
    ACCEPTED = "accepted"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True)
class StreamContext:
    """What the streams of a collector share, and whom they tell."""

    budget: ConnectionBudget
    # Instrument, message, and the milliseconds at which the push was received and made.
    on_push: Callable[[Instrument, bytes, int, int], None]
    on_status: Callable[[Stream], None]


class Stream:
    """The subscription of one instrument, and the connection that serves it.

    `run` drives it and may be cancelled and started anew at any time: the connection and all that is known of
    it stay. Only `close` ends the stream.
    """

    def __init__(self, instrument: Instrument, matching_key: str, surroundings: StreamContext) -> None:
        self.instrument = instrument
        self.topic = f"orderbook.{depth(instrument.channel)}.{instrument.symbol}"
        self.phase = Phase.WAITING
        self.standing = SubscriptionStatus.UNKNOWN
        self.reason = ""
        self.answered = asyncio.Event()
        self.garbage = 0
        self.set_matching_key(matching_key)
        if depth(instrument.channel) != Config.ORDERBOOK_DEPTH:
            logger.info("%s: %s, the depth nearest to the configured one", instrument, self.topic)
        self._context = surroundings
        self._connection: Connection | None = None
        self._wake = asyncio.Event()
        self._now = asyncio.get_running_loop().time
        self._due = 0.0
        self._pause = SHORTEST_PAUSE
        self._live_since = 0.0
        self._last_push = 0.0
        self._newest = 0
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
        return self._drop_connection(graceful=True)

    # --- what is due -------------------------------------------------------------------------

    def _look(self, now: float) -> float:
        """Do what is due, and return the seconds until it is worth looking again."""
        if self._connection is not None and now >= self._next_ping:
            self._next_ping = now + PING_SECONDS
            self._connection.ping()
        match self.phase:
            case Phase.WAITING:
                wait = max(self._due - now, self._context.budget.wait(now))
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
        self._context.budget.take(now)
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
        self._context.budget.succeeded()
        if connection is self._connection:
            self._next_ping = self._now() + PING_SECONDS
            self._expect_snapshot()
            connection.request("subscribe")
            self._wake.set()

    def failed(self, connection: Connection, reason: str, *, reached: bool) -> None:
        """Learn that the connection did not come about."""
        self._context.budget.failed(reached=reached)
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
            body = frame.rstrip()[:-1] + self._ending
            # Whatever the exchange's clock does, an instrument's pushes keep their order.
            if isinstance(head.ts, int):
                self._newest = max(self._newest, head.ts)
            self._context.on_push(self.instrument, body, at, self._newest)
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
            self._stand(SubscriptionStatus.ACCEPTED)
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
            self._stand(SubscriptionStatus.ACCEPTED)
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
        self._stand(SubscriptionStatus.REFUSED, why)
        self._wake.set()

    def _lose(self, reason: str) -> None:
        if self._served and self._now() - self._live_since >= PROVEN_SECONDS:
            self._pause = SHORTEST_PAUSE
        self._drop_connection(graceful=False)
        self.phase = Phase.WAITING
        self._plan()
        self._complain(f"{reason}; connecting again")
        self._stand(SubscriptionStatus.UNREACHABLE, reason)
        self._wake.set()

    def _plan(self) -> None:
        """Set when to try again; streams that broke together do not come back together."""
        self._due = self._now() + self._pause * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        self._pause = min(self._pause * 2, LONGEST_PAUSE)

    def _complain(self, trouble: str) -> None:
        logger.log(logging.DEBUG if self._troubled else logging.WARNING, "%s: %s", self.instrument, trouble)
        self._troubled = True

    def _stand(self, standing: SubscriptionStatus, reason: str = "") -> None:
        self.standing = standing
        self.reason = reason
        self.answered.set()
        self._context.on_status(self)

    def _drop_connection(self, *, graceful: bool) -> threading.Event | None:
        connection, self._connection = self._connection, None
        self._served = False
        return connection.close(graceful=graceful) if connection is not None else None
