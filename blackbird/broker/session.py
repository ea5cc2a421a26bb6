"""Sessions with the broker.

One `Session` is one connection with one channel. Whatever goes wrong with it (broker gone, exchange or queue
deleted, another process has the queue to itself) ends the session, and `keep_session` opens the next one:
starting and recovering are the same path.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from pika.channel import Channel
from pika.spec import Basic, BasicProperties

from blackbird.broker.acknowledgements import Acknowledgements
from blackbird.broker.connection import Connection, OnBlocked
from blackbird.broker.declarations import Declarations
from blackbird.broker.errors import QueueInUse, SessionLost, session_loss
from blackbird.broker.feed_layout import kind_of
from blackbird.broker.handler_edge import DeadLetter, guarded, guarded_confirm, settled_first
from blackbird.broker.parameters import BrokerParameters, connection_parameters
from blackbird.broker.rpc import Rpc
from blackbird.broker.stream import OnMessage
from blackbird.broker.topology import QUEUE_ARGUMENTS, dead_letter_properties, dead_letter_queue
from blackbird.runtime.backoff import Backoff
from blackbird.runtime.failure_log import FailureLog
from blackbird.runtime.throttled_log import ThrottledLog

__all__ = [
    "OnMessage",
    "QueueInUse",
    "Session",
    "SessionLost",
    "connection_parameters",
    "keep_session",
]

logger = logging.getLogger(__name__)

SHORTEST_PAUSE = 0.05
LONGEST_PAUSE = 2.0
# What a service has declared may be deleted, and the service does not learn of every deletion.
REDECLARE_SECONDS = 2.0


class Session:
    """One connection with one channel, for as long as both live.

    Methods that wait for an answer of the broker raise SessionLost when the session ends before it. `lost` is
    done, with that exception, when the session has ended.
    """

    def __init__(
        self, connection: Connection, channel: Channel, lost: asyncio.Future[None], foreign_queues: set[str]
    ) -> None:
        self.lost = lost
        self._connection = connection
        self._channel = channel
        self._rpc = Rpc(lost)
        self._acknowledgements = Acknowledgements()
        self._failures = FailureLog()
        fast = connection.parameters.fast_path
        self._fast_path = connection.stream if fast else None
        self._send = partial(connection.stream.publish, channel) if fast else channel.basic_publish
        self.layout = connection.parameters.layout
        declarations = Declarations(channel, self._rpc, foreign_queues, self.layout)
        self.declare_queue = declarations.declare_queue
        self.declare_exchange = declarations.declare_exchange
        self.declare_feed = declarations.declare_feed
        self.declare_private_queue = declarations.declare_private_queue
        self.bind = declarations.bind
        self.count_consumers = declarations.count_consumers
        self._redeclare = declarations.redeclare
        # Takes what is to be called with the new value whenever `blocked` changes.
        self.on_blocked: Callable[[OnBlocked], None] = connection.on_blocked.append
        channel.add_on_close_callback(lambda _, error: self._end(session_loss(error)))
        channel.add_on_cancel_callback(lambda _: self._end(SessionLost("a queue was deleted")))

    @classmethod
    async def open(cls, parameters: BrokerParameters, foreign_queues: set[str] | None = None) -> Session:
        """Connect and open a channel; raises SessionLost where that fails.

        `foreign_queues` is kept from session to session, see Declarations.
        """
        lost = _new_lost()
        connection = Connection(parameters, partial(_lose, lost))
        try:
            channel = await connection.open(Rpc(lost))
        except BaseException:
            connection.close()
            raise
        return cls(connection, channel, lost, set() if foreign_queues is None else foreign_queues)

    # --- state -----------------------------------------------------------------------------------

    @property
    def channel(self) -> Channel:
        """The channel; raises SessionLost when the session has ended."""
        if not self.is_open:
            raise SessionLost("not connected")
        return self._channel

    @property
    def is_open(self) -> bool:
        """Return whether the session still lives."""
        return bool(self._channel.is_open) and not self.lost.done()

    @property
    def blocked(self) -> str | None:
        """Why the broker takes no messages of this session (memory or disk alarm), None while it does."""
        return self._connection.blocked

    @property
    def broker_version(self) -> tuple[int, int]:
        """The broker's version, as (3, 13); raises SessionLost."""
        version = str((self.channel.connection.server_properties or {})["version"])
        major, minor, *_ = version.split(".")
        return int(major), int(minor)

    # --- topology --------------------------------------------------------------------------------

    async def redeclare(self) -> None:
        """Declare and bind again what this session has declared and bound, and look for an alarm."""
        self._connection.probe_alarm()
        await self._redeclare()

    # --- consuming -------------------------------------------------------------------------------

    async def set_prefetch(self, messages: int) -> None:
        """Let at most `messages` be unacknowledged at each consumer that is started after this."""
        await self._rpc(lambda done: self.channel.basic_qos(prefetch_count=messages, callback=done))

    async def consume(
        self,
        queue: str,
        on_message: OnMessage,
        *,
        exclusive: bool = False,
        auto_ack: bool = False,
        label: str | None = None,
        dead_letter: DeadLetter | None = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> str:
        """Start a consumer and return its tag; raises QueueInUse where another has `queue` to itself.

        An exception of `on_message` is logged, its message goes to `dead_letter` (default: the dead-letter
        queue; from a queue without one it is dropped) and is acknowledged, and session and other messages go
        on. `label` ends the consumer's name in RabbitMQ's screens. `arguments` are the broker's.
        """
        kind = kind_of(queue)
        if kind in QUEUE_ARGUMENTS:
            self.channel.queue_declare(dead_letter_queue(kind), durable=True)
            dead_letter = dead_letter or partial(self.dead_letter, kind)
        tag = self._connection.parameters.consumer_tag(label or queue)
        settle = self._acknowledgements.settle if auto_ack else self.acknowledge
        handler = guarded(on_message, label or queue, dead_letter, settle, self._failures)
        if auto_ack:
            handler = settled_first(handler, settle)

        def start(done: Callable[..., None]) -> None:
            self.channel.basic_consume(
                queue, handler, auto_ack, exclusive, tag, dict(arguments or {}), callback=done
            )
            if self._fast_path is not None:
                self._fast_path.register(self.channel, tag, handler)

        await self._rpc(start)
        return tag

    async def cancel(self, consumer_tag: str) -> None:
        """Stop a consumer; what it was given stays to be acknowledged."""
        channel = self.channel
        if self._fast_path is not None:
            self._fast_path.unregister(channel, consumer_tag)
        await self._rpc(lambda done: channel.basic_cancel(consumer_tag, callback=done))

    def acknowledge(self, delivery_tag: int, *, multiple: bool = False) -> None:
        """Acknowledge a delivery, with `multiple` all before it too; on an ended session nothing happens.

        Those that are acknowledged already, or were delivered to a consumer with `auto_ack`, are left out.
        """
        if not self.is_open:
            return
        if multiple:
            delivery_tag = self._acknowledgements.settle_up_to(delivery_tag)
            if delivery_tag:
                self._channel.basic_ack(delivery_tag, multiple=True)
        elif not self._acknowledgements.is_settled(delivery_tag):
            self._acknowledgements.settle(delivery_tag)
            self._channel.basic_ack(delivery_tag)

    def requeue(self, delivery_tag: int) -> None:
        """Give a delivery and all before it back to the broker; on an ended session nothing happens.

        Those that are acknowledged already stay so, and acknowledging those given back does nothing.
        """
        if self.is_open:
            delivery_tag = self._acknowledgements.settle_up_to(delivery_tag)
            if delivery_tag:
                self._channel.basic_nack(delivery_tag, multiple=True, requeue=True)

    async def get(self, queue: str) -> tuple[int, BasicProperties, bytes] | None:
        """Take one message (delivery tag, properties, body), or None where the queue is empty."""
        return await _get(self._rpc, self.channel, queue)

    async def peek(self, queue: str) -> tuple[BasicProperties, bytes] | None:
        """Return the first message of `queue` and leave it there."""
        taken = await self.get(queue)
        if taken is None:
            return None
        tag, properties, body = taken
        self.channel.basic_nack(tag, requeue=True)
        self._acknowledgements.settle(tag)
        return properties, body

    # --- publishing ------------------------------------------------------------------------------

    async def confirm_publishes(self, on_confirm: Callable[[Any], None]) -> None:
        """Have the broker confirm each publish of this session to `on_confirm` (pika's method frame).

        An exception of `on_confirm` is logged with its traceback and ends the session, for then it is
        uncertain what is confirmed. From here on `blocked` is up to date within REDECLARE_SECONDS even if
        nothing is published: the broker announces an alarm to connections that publish, and to no others.
        """
        confirm = guarded_confirm(on_confirm, self._end)
        await self._rpc(lambda done: self.channel.confirm_delivery(confirm, callback=done))
        await self._connection.open_alarm_probe(self._rpc)

    def publish(self, exchange: str, key: str, body: bytes, properties: BasicProperties) -> None:
        """Send a message; raises SessionLost when the session has ended."""
        if not self._channel.is_open:
            raise SessionLost("not connected")
        self._send(exchange, key, body, properties)

    def dead_letter(self, queue: str, reason: str, properties: BasicProperties, body: bytes) -> None:
        """Put a body that `queue` cannot take into `<queue>.dead`, the reason in a header, and log it.

        The caller acknowledges the delivery afterwards: on one channel the broker works in this order.
        """
        logger.warning("message from %s dead-lettered: %s", queue, reason)
        dead = dead_letter_queue(queue)
        self.channel.queue_declare(dead, durable=True)
        self.publish("", dead, body, dead_letter_properties(queue, reason, properties))

    # --- the end ---------------------------------------------------------------------------------

    def close(self) -> None:
        """End the session; what is not acknowledged is requeued."""
        self._connection.close()

    async def closed(self) -> None:
        """Close once the broker has seen what was sent before; abort where it does not answer."""
        await self._connection.closed()

    def _end(self, error: SessionLost) -> None:
        _lose(self.lost, error)
        self.close()


async def _get(rpc: Rpc, channel: Channel, queue: str) -> tuple[int, BasicProperties, bytes] | None:
    def take(done: Callable[..., None]) -> None:
        channel.add_callback(lambda _: done(None), [Basic.GetEmpty])
        channel.basic_get(queue, lambda _, method, props, body: done((method.delivery_tag, props, body)))

    message: tuple[int, BasicProperties, bytes] | None = await rpc(take)
    return message


def _new_lost() -> asyncio.Future[None]:
    lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    # The exception is for those who wait for it; that nobody waits is not an error.
    lost.add_done_callback(lambda lost: lost.cancelled() or lost.exception())
    return lost


def _lose(lost: asyncio.Future[None], error: SessionLost) -> None:
    if not lost.done():
        lost.set_exception(error)


def session_opener(parameters: BrokerParameters) -> Callable[[], Awaitable[Session]]:
    """Return what opens a session, on each call at the next node of the broker's cluster."""
    nodes = itertools.cycle(parameters.of_each_host())
    return lambda: Session.open(next(nodes))


async def keep_session(
    parameters: BrokerParameters,
    serve: Callable[[Session], Awaitable[None]],
    *,
    open_session: Callable[[BrokerParameters], Awaitable[Session]] | None = None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Keep a session until cancelled: open one, `serve` it, wait for its end, and begin anew after a backoff.

    `serve` declares and consumes what the service needs and returns. What was deleted is declared again every
    REDECLARE_SECONDS. Each attempt is made at the next node of the broker's cluster. Cancelling closes the
    session.
    """
    open_session = open_session or partial(Session.open, foreign_queues=set())
    backoff = Backoff(SHORTEST_PAUSE, LONGEST_PAUSE)
    pause = 0.0
    outage = ThrottledLog(clock)
    for there in itertools.cycle(parameters.of_each_host()):
        session = None
        began = float("inf")
        try:
            session = await open_session(there)
            await serve(session)
            outage.resolved("connected to the broker at %s", there.address)
            began = clock()
            await _redeclare_until_lost(session)
        except QueueInUse as error:
            outage.warn("another process does this work already (%s); waiting until it ends", error)
        except SessionLost as error:
            outage.warn("%s; trying again", error.described(there.address))
            # A session that ends as soon as it has begun must not be replaced without a pause.
            if clock() - began > pause:
                backoff.reset()
        finally:
            if session is not None:
                await session.closed()
        pause = backoff.next()
        await sleep(pause)


async def _redeclare_until_lost(session: Session) -> None:
    while not session.lost.done():
        await asyncio.wait([session.lost], timeout=REDECLARE_SECONDS)
        if session.is_open:
            await session.redeclare()
    session.lost.result()
