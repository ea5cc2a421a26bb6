"""One stream of Bybit's public WebSocket: one instrument's order-book topic on a connection of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from blackbird.bybit.connection import ConnectFailed, ConnectionClosed, OnFrame
from blackbird.bybit.connection_budget import ConnectionBudget, Priority
from blackbird.bybit.protocol import ALREADY_SUBSCRIBED, served_depth, stream_url
from blackbird.bybit.topic import OnPush, Topic
from blackbird.market.instrument import Instrument
from blackbird.runtime.backoff import Backoff

logger = logging.getLogger(__name__)

SNAPSHOT_SECONDS = 5.0
SHORTEST_RETRY_SECONDS = 0.1
LONGEST_RETRY_SECONDS = 10.0
# A subscription that is accepted and sends nothing is asked again at these intervals.
SHORTEST_QUIET_SECONDS = 10.0
LONGEST_QUIET_SECONDS = 60.0
# A connection that worked this long is retried after the shortest delay when it breaks.
PROVEN_SECONDS = 10.0
# Requests that follow a snapshot this soon were made before it arrived.
COALESCE_SECONDS = 0.25


class Refused(Exception):
    """The exchange refuses the subscription; the text is its own."""


class Silent(Exception):
    """Nothing comes on a connection that looks open."""


class Phase(Enum):
    """What a stream is doing."""

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


class Socket(Protocol):
    """A connection as a stream uses it; see Connection."""

    closed: asyncio.Future[str]

    def send(self, text: str) -> None:
        """Send a text message."""

    async def close(self) -> None:
        """Close with a close frame."""

    def abort(self) -> None:
        """Close at once."""


@dataclass(frozen=True)
class StreamContext:
    """What the streams of a collector share.

    `url` is the exchange's base URL, `depth` the levels to ask for; a stream that sends nothing for
    `silence_seconds` is asked for a snapshot.
    """

    url: str
    depth: int
    silence_seconds: float
    connect: Callable[[str, OnFrame], Awaitable[Socket]]
    budget: ConnectionBudget
    on_push: OnPush

    def topic(self, instrument: Instrument) -> str:
        """Return the topic of an instrument's book, at the depth nearest to the configured one."""
        depth = served_depth(instrument.channel, self.depth)
        if depth != self.depth:
            logger.info("%s: depth %d, the nearest to the configured one", instrument, depth)
        return f"orderbook.{depth}.{instrument.symbol}"


class Stream:
    """The subscription of one instrument, served by `run` until that is cancelled.

    The position in `run` is the stream's state. Pushes are forwarded as they are read, whatever it waits for.
    `on_status` is called when the exchange has answered and when it is lost.
    """

    def __init__(
        self,
        instrument: Instrument,
        matching_key: str,
        context: StreamContext,
        on_status: Callable[[Stream], None],
    ) -> None:
        self.instrument = instrument
        self.phase = Phase.WAITING
        self.status = SubscriptionStatus.UNKNOWN
        self.reason = ""
        # Set when a client that asked for the subscription can be answered.
        self.answered = asyncio.Event()
        self.reconnects = 0
        self.resyncs = 0  # snapshots asked for after the first of a connection
        self._connected_before = False
        self.topic = Topic(context.topic(instrument), instrument, matching_key, context.on_push)
        self.set_matching_key = self.topic.mark
        self._context = context
        self._on_status = on_status
        self._loop = asyncio.get_running_loop()
        self._backoff = Backoff(SHORTEST_RETRY_SECONDS, LONGEST_RETRY_SECONDS, jitter=0.5)
        self._priority = Priority.FIRST_ATTEMPT
        self._in_outage = False
        self._has_snapshot = False  # on the current connection
        self._live_since = 0.0
        self._no_replacement_before = 0.0
        # Done when somebody has asked for a snapshot.
        self._wanted: asyncio.Future[None] = self._loop.create_future()
        self._no_snapshot_before = 0.0

    @property
    def is_up(self) -> bool:
        """Whether pushes come, as far as is known."""
        return self.phase is Phase.LIVE or (self.phase is Phase.SUBSCRIBING and self._has_snapshot)

    @property
    def matching_key(self) -> str:
        """The group that its pushes are marked with."""
        return self.topic.matching_key

    def request_snapshot(self) -> None:
        """Have the topic subscribed anew, unless a snapshot is on its way or has just come."""
        is_new = not self._wanted.done() and self._loop.time() >= self._no_snapshot_before
        if self.phase is Phase.LIVE and is_new:
            self._wanted.set_result(None)

    async def run(self) -> None:
        """Serve the subscription until cancelled, which closes its connection."""
        while True:
            try:
                async with self._connected() as socket:
                    while True:
                        await self._obtain_snapshot(socket)
                        await self._forward(socket)
                        self.resyncs += 1
            except (ConnectFailed, ConnectionClosed, Silent) as error:
                self._on_outage(str(error))
            await asyncio.sleep(self._backoff.next())

    # --- where it stands ---------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[Socket]:
        """Connect as soon as the budget allows it; the connection ends with the block."""
        url = stream_url(self._context.url, self.instrument.channel)
        async with self._context.budget.slot(self._priority):
            self.phase = Phase.CONNECTING
            if self._priority is Priority.FIRST_ATTEMPT:
                self._priority = Priority.NEVER_LIVE
            socket = await self._context.connect(url, self.topic.on_frame)
        self.reconnects += self._connected_before
        self._connected_before = True
        self.topic.attach(socket.send)
        self._has_snapshot = False
        try:
            yield socket
        except asyncio.CancelledError:
            await socket.close()
            raise
        finally:
            socket.abort()

    async def _obtain_snapshot(self, socket: Socket) -> None:
        """Subscribe until a snapshot has come, on this connection as long as the exchange answers on it.

        New connections are scarce. One is made only when the exchange does not answer, or, once a minute at
        most, when the topic was live on this one and its new, accepted subscription brings nothing.
        """
        quiet = Backoff(SHORTEST_QUIET_SECONDS, LONGEST_QUIET_SECONDS, jitter=0.5)
        while True:
            asked = self._loop.time()
            try:
                if await self._subscribe(socket):
                    break
            except Refused as refusal:
                self._on_refusal(str(refusal))
                await _wait(socket, seconds=self._backoff.next())
                continue
            if self._has_snapshot and asked >= self._no_replacement_before:
                self._no_replacement_before = asked + LONGEST_QUIET_SECONDS
                raise Silent("accepted anew, but no snapshot followed")
            self._has_snapshot = False
            self._log_failure("accepted, but no snapshot followed")
            if await self._first_snapshot(socket, asked, quiet.next()):
                break
        self._on_live()

    async def _subscribe(self, socket: Socket) -> bool:
        """Subscribe, and return whether a snapshot came in time; raises Refused, or Silent without an answer.

        Answer and snapshot come in either order. At depth 1 all pushes are snapshots, those of a subscription
        that is being replaced too: where there was one on this connection before, the answer counts as well.
        """
        self.phase = Phase.SUBSCRIBING
        self.topic.subscribe()
        answer, snapshot = self.topic.answer, self.topic.snapshot
        deadline = self._loop.time() + SNAPSHOT_SECONDS
        while (left := deadline - self._loop.time()) > 0:
            await _wait(socket, *(each for each in (answer, snapshot) if not each.done()), seconds=left)
            if answer.done() and not answer.result().accepted:
                raise Refused(answer.result().reason)
            if answer.done() or snapshot.done():
                self._set_status(SubscriptionStatus.ACCEPTED)
            if snapshot.done() and (answer.done() or not self._has_snapshot):
                return True
        if not answer.done() and not snapshot.done():
            raise Silent(f"no answer within {SNAPSHOT_SECONDS:.0f} s")
        return snapshot.done()

    async def _first_snapshot(self, socket: Socket, asked: float, seconds: float) -> bool:
        """Wait for the snapshot of a subscription that sends nothing, and return whether it came.

        Pushes without one, since it was asked for, end the wait: they are of no use.
        """
        topic = self.topic
        until = self._loop.time() + seconds
        while not topic.snapshot.done() and topic.last_push < asked and self._loop.time() < until:
            left = until - self._loop.time()
            await _wait(socket, topic.snapshot, seconds=min(left, SNAPSHOT_SECONDS))
        return topic.snapshot.done()

    async def _forward(self, socket: Socket) -> None:
        """Wait until a snapshot is wanted: requested, or because pushes have stopped."""
        self._wanted = self._loop.create_future()
        while not self._wanted.done():
            left = self.topic.last_push + self._context.silence_seconds - self._loop.time()
            if left <= 0:
                logger.debug("%s: silent, asking for a snapshot", self.instrument)
                break
            await _wait(socket, self._wanted, seconds=left)

    # --- what became of it -------------------------------------------------------------------

    def _on_live(self) -> None:
        now = self._loop.time()
        if self._has_snapshot:
            self._no_snapshot_before = now + COALESCE_SECONDS
        else:
            self._has_snapshot = True
            self._live_since = now
            logger.info("%s: live%s", self.instrument, " again" if self._in_outage else "")
        self._in_outage = False
        self._priority = Priority.WAS_LIVE
        self.phase = Phase.LIVE

    def _on_refusal(self, reason: str) -> None:
        if ALREADY_SUBSCRIBED in reason:
            # It was read before the unsubscribe took effect: the topic is subscribed, and goes on.
            logger.debug("%s: %s; asking again", self.instrument, reason)
            return
        self.phase = Phase.REFUSED
        self._log_failure(f"refused by the exchange: {reason}")
        self._set_status(SubscriptionStatus.REFUSED, reason)

    def _on_outage(self, reason: str) -> None:
        if self._has_snapshot and self._loop.time() - self._live_since >= PROVEN_SECONDS:
            self._backoff.reset()
        self._has_snapshot = False
        self.phase = Phase.WAITING
        self._log_failure(f"{reason}; connecting again")
        self._set_status(SubscriptionStatus.UNREACHABLE, reason)

    def _log_failure(self, failure: str) -> None:
        logger.log(logging.DEBUG if self._in_outage else logging.WARNING, "%s: %s", self.instrument, failure)
        self._in_outage = True

    def _set_status(self, status: SubscriptionStatus, reason: str = "") -> None:
        self.status = status
        self.reason = reason
        self.answered.set()
        self._on_status(self)


async def _wait(socket: Socket, *events: asyncio.Future[Any], seconds: float) -> None:
    """Wait for the first of `events`, at most `seconds`; raises ConnectionClosed."""
    await asyncio.wait((socket.closed, *events), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    if socket.closed.done():
        raise ConnectionClosed(socket.closed.result())
