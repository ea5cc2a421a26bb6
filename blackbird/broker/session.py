"""The broker: names of exchange, keys and queues, and a connection that comes back by itself.

One `Session` is one connection with one channel. Whatever goes wrong with it (broker gone, exchange or queue
deleted, another process has the queue to itself) ends the session, and `keep_session` starts the next one:
starting and recovering are the same path.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

import pika
import pika.exceptions
from pika.channel import Channel
from pika.spec import Basic, BasicProperties

from blackbird.broker.lean_connection import LeanConnection
from blackbird.broker.topology import (
    DEAD_LETTER_EXPIRATION,
    EXCHANGE,
    FEED_QUEUES,
    PERSISTENT,
    QUEUE_ARGUMENTS,
)
from blackbird.runtime.throttled_log import ThrottledLog

logger = logging.getLogger(__name__)

SHORTEST_PAUSE = 0.05
LONGEST_PAUSE = 2.0
# Somebody may delete what a service has declared, and not every deletion is told to it.
REDECLARE_SECONDS = 2.0
# A broker that does not answer a close in this time is not waited for.
CLOSE_SECONDS = 2.0

OnMessage = Callable[[Channel, Basic.Deliver, BasicProperties, bytes], None]


class SessionLost(Exception):
    """The session ended; everything not acknowledged or confirmed on it is open again."""


class QueueInUse(SessionLost):
    """Another process consumes the queue and has it to itself."""


def connection_parameters(
    *, host: str, port: int, virtual_host: str, user: str, password: str, heartbeat: int
) -> pika.ConnectionParameters:
    """Return the parameters of a connection; `heartbeat` is in seconds."""
    return pika.ConnectionParameters(
        host=host,
        port=port,
        virtual_host=virtual_host,
        credentials=pika.PlainCredentials(user, password),
        heartbeat=heartbeat,
        socket_timeout=5,
        stack_timeout=10,
    )


class Session:
    """One connection with one channel, as long as both live.

    Methods that ask the broker something raise SessionLost when the session ends before the answer.
    """

    # Queues that are there with other arguments than ours: declaring those ends the session.
    _declared_by_others: ClassVar[set[str]] = set()

    def __init__(self) -> None:
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Whoever waits sees the exception; nobody waiting is no error.
        self.lost.add_done_callback(lambda lost: lost.cancelled() or lost.exception())
        # Done with the socket closed, which is some time after the channel has told the loss.
        self._gone = asyncio.Event()
        self._connection: LeanConnection | None = None
        self._channel: Channel | None = None
        self._queues: set[str] = set()
        self._feed = False

    @classmethod
    async def open(cls, parameters: pika.ConnectionParameters) -> Session:
        """Connect and open a channel; raises SessionLost where that fails."""
        session = cls()
        opened: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        connection = LeanConnection(
            parameters,
            on_open_callback=lambda _: _resolve(opened),
            on_open_error_callback=session._on_gone,
            on_close_callback=session._on_gone,
        )
        session._connection = connection
        try:
            await session._answer(opened)
            connection.add_on_connection_blocked_callback(
                lambda *_: logger.warning("the broker takes nothing: it is short of memory or disk")
            )
            connection.add_on_connection_unblocked_callback(
                lambda *_: logger.info("the broker takes messages again")
            )
            channel: Channel = await session._ask(lambda done: connection.channel(on_open_callback=done))
        except BaseException:
            session.close()
            raise
        channel.add_on_close_callback(lambda _, error: session._end(_channel_loss(error)))
        channel.add_on_cancel_callback(lambda _: session._end(SessionLost("a queue was deleted")))
        session._channel = channel
        return session

    @property
    def channel(self) -> Channel:
        """The channel; raises SessionLost when the session has ended."""
        if self._channel is None or self.lost.done():
            raise SessionLost("not connected")
        return self._channel

    @property
    def is_open(self) -> bool:
        """Tell whether the session still lives."""
        return self._channel is not None and not self.lost.done()

    async def declare_queue(self, name: str) -> int:
        """Declare one of the durable queues and return how many messages wait in it.

        Where somebody has declared it with other arguments the session ends, and the next takes it as it is.
        """
        channel = self.channel
        self._queues.add(name)
        arguments = QUEUE_ARGUMENTS[name] or None
        passive = name in self._declared_by_others
        try:
            declared = await self._ask(
                lambda done: channel.queue_declare(
                    name, passive=passive, durable=True, arguments=arguments, callback=done
                )
            )
        except SessionLost as error:
            if passive:
                self._declared_by_others.discard(name)  # it has gone
            elif "PRECONDITION_FAILED - inequivalent arg" in str(error):
                self._declared_by_others.add(name)
                logger.warning("queue %s is there with other arguments, and used as it is: %s", name, error)
            raise
        return int(declared.method.message_count)

    async def declare_feed(self) -> None:
        """Declare the exchange and the queues bound to it, as every service that reads or writes it does."""
        channel = self.channel
        self._feed = True
        await self._ask(
            lambda done: channel.exchange_declare(
                EXCHANGE, exchange_type="topic", durable=True, callback=done
            )
        )
        for queue, key in FEED_QUEUES.items():
            await self.declare_queue(queue)
            await self.bind(queue, key)

    async def redeclare(self) -> None:
        """Declare what this session has declared, should it have gone since."""
        if self._feed:
            await self.declare_feed()
        for queue in self._queues - FEED_QUEUES.keys():
            await self.declare_queue(queue)

    async def declare_private_queue(self) -> str:
        """Declare a queue of this session's own, gone with it, and return its name."""
        channel = self.channel
        declared = await self._ask(
            lambda done: channel.queue_declare("", exclusive=True, auto_delete=True, callback=done)
        )
        return str(declared.method.queue)

    async def bind(self, queue: str, key: str) -> None:
        """Bind `queue` to the routing key of the exchange."""
        channel = self.channel
        await self._ask(lambda done: channel.queue_bind(queue, EXCHANGE, key, callback=done))

    async def set_prefetch(self, messages: int) -> None:
        """Let at most `messages` be on their way to each consumer that is started after this."""
        channel = self.channel
        await self._ask(lambda done: channel.basic_qos(prefetch_count=messages, callback=done))

    async def consume(
        self, queue: str, on_message: OnMessage, *, exclusive: bool = False, auto_ack: bool = False
    ) -> str:
        """Start a consumer and return its tag; raises QueueInUse where another has `queue` to itself.

        The dead-letter queue of a durable queue is declared with it.
        """
        channel = self.channel
        if queue in QUEUE_ARGUMENTS:
            channel.queue_declare(f"{queue}.dead", durable=True)
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        tag = channel.basic_consume(
            queue,
            on_message,
            exclusive=exclusive,
            auto_ack=auto_ack,
            callback=lambda frame: _resolve(done, frame),
        )
        await self._answer(done)
        return tag

    async def cancel(self, consumer_tag: str) -> None:
        """Stop a consumer; what it was given stays to be acknowledged."""
        channel = self.channel
        await self._ask(lambda done: channel.basic_cancel(consumer_tag, callback=done))

    async def get(self, queue: str) -> tuple[int, BasicProperties, bytes] | None:
        """Take one message (delivery tag, properties, body), or None where the queue is empty."""
        channel = self.channel
        taken: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        channel.add_callback(lambda _: _resolve(taken, None), [Basic.GetEmpty])
        channel.basic_get(
            queue, callback=lambda _, method, props, body: _resolve(taken, (method.delivery_tag, props, body))
        )
        message: tuple[int, BasicProperties, bytes] | None = await self._answer(taken)
        return message

    async def peek(self, queue: str) -> tuple[BasicProperties, bytes] | None:
        """Return the first message of `queue` and leave it there."""
        taken = await self.get(queue)
        if taken is None:
            return None
        tag, properties, body = taken
        self.channel.basic_nack(tag, requeue=True)
        return properties, body

    async def purge(self, queue: str) -> None:
        """Throw away what waits in `queue`."""
        channel = self.channel
        await self._ask(lambda done: channel.queue_purge(queue, callback=done))

    async def confirm_publishes(self, on_confirm: Callable[[Any], None]) -> None:
        """Have the broker confirm each publish of this session to `on_confirm` (pika's method frame)."""
        channel = self.channel
        await self._ask(lambda done: channel.confirm_delivery(on_confirm, callback=done))

    def publish(self, exchange: str, key: str, body: bytes, properties: BasicProperties) -> None:
        """Send a message; raises SessionLost when the session has ended."""
        try:
            self.channel.basic_publish(exchange, key, body, properties)
        except (pika.exceptions.AMQPError, AssertionError) as error:
            raise SessionLost(_reason(error)) from None

    def acknowledge(self, delivery_tag: int, *, multiple: bool = False) -> None:
        """Acknowledge a delivery, with `multiple` all before it too; on an ended session nothing happens."""
        if self.is_open:
            self.channel.basic_ack(delivery_tag, multiple=multiple)

    def dead_letter(self, queue: str, reason: str, properties: BasicProperties, body: bytes) -> None:
        """Put a body that `queue` cannot take into `<queue>.dead`, the reason in a header, and log it.

        The caller acknowledges the delivery afterwards: on one channel the broker works in this order.
        """
        dead = f"{queue}.dead"
        logger.warning("message from %s dead-lettered: %s", queue, reason)
        self.channel.queue_declare(dead, durable=True)
        headers = {"reason": reason[:1000], "queue": queue}
        kept = BasicProperties(
            delivery_mode=PERSISTENT,
            expiration=DEAD_LETTER_EXPIRATION,
            headers=headers,
            correlation_id=properties.correlation_id,
            reply_to=None,
        )
        self.publish("", dead, body, kept)

    def close(self) -> None:
        """End the session; what is not acknowledged goes back to the broker."""
        if self._connection is not None and not (self._connection.is_closing or self._connection.is_closed):
            self._connection.close()

    async def closed(self) -> None:
        """Close once the broker has seen what was sent before; cut it off where it does not answer."""
        self.close()
        if not await self._gone_in_time() and self._connection is not None:
            self._connection.cut_off()
            await self._gone_in_time()

    async def _ask(self, call: Callable[[Callable[..., None]], Any]) -> Any:
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        try:
            call(lambda *frames: _resolve(done, frames[0] if frames else None))
        except pika.exceptions.AMQPError as error:
            raise SessionLost(_reason(error)) from None
        return await self._answer(done)

    async def _answer(self, done: asyncio.Future[Any]) -> Any:
        await asyncio.wait([done, self.lost], return_when=asyncio.FIRST_COMPLETED)
        if done.done():
            return done.result()
        self.lost.result()
        raise SessionLost("closed")

    async def _gone_in_time(self) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._gone.wait()
        return self._gone.is_set()

    def _on_gone(self, _: Any, error: BaseException) -> None:
        self._gone.set()
        self._end(SessionLost(_reason(error)))

    def _end(self, error: SessionLost) -> None:
        if not self.lost.done():
            self.lost.set_exception(error)
        self.close()


async def keep_session(
    parameters: pika.ConnectionParameters, serve: Callable[[Session], Awaitable[None]]
) -> None:
    """Keep a session until cancelled: connect, `serve`, wait for its end, and again with growing pauses.

    `serve` declares and consumes what the service needs and returns. Cancelling closes the session.
    """
    pause = SHORTEST_PAUSE
    outage = ThrottledLog()
    while True:
        session = None
        began = float("inf")
        try:
            session = await Session.open(parameters)
            await serve(session)
            outage.resolved("connected to the broker at %s:%s", parameters.host, parameters.port)
            began = time.monotonic()
            while not session.lost.done():
                await asyncio.wait([session.lost], timeout=REDECLARE_SECONDS)
                if session.is_open:
                    await session.redeclare()
            session.lost.result()
        except QueueInUse as error:
            outage.warn("another process does this work already (%s); waiting until it ends", error)
        except SessionLost as error:
            # A session that ends as soon as it is made must not be made again without end.
            if time.monotonic() - began > pause:
                pause = SHORTEST_PAUSE
            outage.warn("no broker at %s:%s (%s); trying again", parameters.host, parameters.port, error)
        finally:
            if session is not None:
                await session.closed()
        await asyncio.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE)


def _resolve(future: asyncio.Future[Any], result: Any = None) -> None:
    if not future.done():
        future.set_result(result)


def _channel_loss(error: BaseException) -> SessionLost:
    # 403 on a consumer: "queue 'orders' in vhost '/' in exclusive use".
    if isinstance(error, pika.exceptions.ChannelClosedByBroker) and "exclusive use" in error.reply_text:
        return QueueInUse(error.reply_text.removeprefix("ACCESS_REFUSED - "))
    return SessionLost(_reason(error))


def _reason(error: BaseException) -> str:
    for cause in (error, *error.args):
        if isinstance(cause, pika.exceptions.ConnectionClosed | pika.exceptions.ChannelClosed):
            return f"{cause.reply_code} {cause.reply_text}"
    return str(error) or type(error).__name__
