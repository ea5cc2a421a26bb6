"""The rest of the system as seen through the broker: consumers and depth of its queues, open spreads.

The view has a connection of its own. The broker reads nothing from a connection that it blocks (memory or
disk alarm), so on the publishing one the queues could not be seen just when they matter; and a declaration
that fails here ends nothing but the view's own session.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from pika.channel import Channel
from pika.spec import Basic, BasicProperties

from blackbird.broker.errors import DeclaredOtherwise
from blackbird.broker.feed_layout import FeedLayout, kind_of, queue_arguments
from blackbird.broker.rpc import Rpc
from blackbird.broker.session import Session, SessionLost
from blackbird.broker.topology import (
    DIRECT_REPLY,
    ORDERS,
    SIGNAL,
    STORAGE,
    dead_letter_queue,
)
from blackbird.market.fields import InvalidMessage
from blackbird.trading.orders import QUESTION, OpenSpread, decode_reply

logger = logging.getLogger(__name__)

# What the system works through, and the service that consumes it, with why it may not.
CONSUMERS: Mapping[str, str] = {
    # See blackbird.storage.intake.
    STORAGE: "data storage: not running, or the database takes no messages",
    SIGNAL: "signal engine",
    ORDERS: "trading engine",
}
DEAD_LETTER_QUEUES = frozenset(map(dead_letter_queue, CONSUMERS))
INTERVAL_SECONDS = 1.0
# An observation older than this says nothing about now.
STALE_SECONDS = 5.0
# A queue whose depth has not fallen for so long is not being worked off.
BACKLOG_SECONDS = 10.0
ANSWER_SECONDS = 1.0


class EngineNotAsked(Exception):
    """The trading engine could not be asked what is open, or did not answer; the text says why."""


class QueueDepth(NamedTuple):
    """A queue when it was last seen.

    `messages` are those ready for delivery: what a consumer holds unacknowledged is not among them.
    `falling_at` is the clock's second when the depth last fell or was zero.
    """

    consumers: int
    messages: int
    dead_letters: int
    falling_at: float


class SystemView:
    """Looks at the queues of the other services once a second, and asks the engine for its open spreads.

    `connect` returns a session of the view's own or raises SessionLost; `layout` says which queues there are
    (default: undivided); `clock` returns seconds. Dead letters are shared by the partitions.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Session]],
        clock: Callable[[], float] = time.monotonic,
        layout: FeedLayout | None = None,
    ) -> None:
        self.queues: dict[str, QueueDepth] = {}
        self._connect = connect
        self._clock = clock
        self._session: Session | None = None
        self._seen_at: float | None = None
        # What is there already is taken as it is; a queue that turns out to be missing is declared.
        layout = layout or FeedLayout()
        self._watched = [*layout.queues(STORAGE), *layout.queues(SIGNAL), ORDERS]
        self._passive = set(self._watched)
        # Nobody but an engine or one who sends it orders declares `orders`: without it there never was one.
        self._engine_may_exist = True
        self._answers: dict[str, asyncio.Future[bytes]] = {}

    @property
    def age(self) -> float | None:
        """Seconds since the queues were last seen, None where they never were."""
        return None if self._seen_at is None else self._clock() - self._seen_at

    def down(self) -> list[str]:
        """Return what does not work of the services behind the broker, as far as their queues show it."""
        age = self.age
        if age is None:
            return ["RabbitMQ: the queues have not been seen yet"]
        if age > STALE_SECONDS:
            return [f"RabbitMQ: the queues have not been seen for {age:.0f} s"]
        return [trouble for queue in self.queues if (trouble := self._trouble(queue))]

    def _trouble(self, queue: str) -> str:
        depth = self.queues[queue]
        if not depth.consumers:
            return f"{queue}: no consumer ({CONSUMERS[kind_of(queue)]}), {depth.messages} messages waiting"
        standing = self._clock() - depth.falling_at
        if standing < BACKLOG_SECONDS:
            return ""
        return f"{queue}: {depth.messages} messages waiting, not falling for {standing:.0f} s"

    # --- observing -------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Observe the queues until cancelled, over one session after the other."""
        while True:
            session = None
            declare_anew = False
            try:
                session = await self._connect()
                await session.consume(DIRECT_REPLY, self._on_reply, auto_ack=True, label="replies")
                self._session = session
                while True:
                    await self._observe(session)
                    await asyncio.wait([session.lost], timeout=INTERVAL_SECONDS)
            except _Redeclare:
                declare_anew = True
            except SessionLost as error:
                logger.debug("the queues can't be seen: %s", error)
            finally:
                self._session = None
                if session is not None:
                    await session.closed()
            if not declare_anew:
                await asyncio.sleep(INTERVAL_SECONDS)

    async def _observe(self, session: Session) -> None:
        depths = {queue: await self._declare(session, queue) for queue in self._watched}
        letters = {kind: (await self._declare(session, dead_letter_queue(kind)))[0] for kind in CONSUMERS}
        seen = {
            queue: QueueDepth(consumers, messages, letters[kind_of(queue)], self._falling_at(queue, messages))
            for queue, (messages, consumers) in depths.items()
        }
        if seen[ORDERS].consumers:
            self._engine_may_exist = True
        self.queues = seen
        self._seen_at = self._clock()

    def _falling_at(self, queue: str, messages: int) -> float:
        before = self.queues.get(queue)
        age = self.age
        if before is None or age is None or age > STALE_SECONDS:
            return self._clock()
        return self._clock() if messages < before.messages or not messages else before.falling_at

    async def _declare(self, session: Session, queue: str) -> tuple[int, int]:
        """Return messages and consumers of a queue; where it fails the next session declares it otherwise."""
        passive = queue in self._passive
        try:
            return await _declared(session, queue, passive=passive)
        except SessionLost as error:
            if passive and "NOT_FOUND" in str(error):
                self._passive.discard(queue)
                if queue == ORDERS and not self.queues:
                    self._engine_may_exist = False
            elif isinstance(error, DeclaredOtherwise):
                self._passive.add(queue)
            else:
                raise
            raise _Redeclare(str(error)) from None

    # --- asking the engine -----------------------------------------------------------------------

    async def open_spreads(self) -> list[OpenSpread]:
        """Return what the trading engine has open; raises EngineNotAsked.

        Nothing is open where there has never been an engine: the broker had no queue for its orders.
        """
        session = self._session
        if session is None:
            raise EngineNotAsked("no connection to RabbitMQ")
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                _, consumers = await self._declare(session, ORDERS)
                if not consumers and not self._engine_may_exist:
                    return []
                if not consumers:
                    raise EngineNotAsked("it is not running")
                body = await self._ask(session)
        except TimeoutError:
            raise EngineNotAsked(f"no answer within {ANSWER_SECONDS:g} s") from None
        except SessionLost as error:
            raise EngineNotAsked(f"lost the connection to RabbitMQ: {error}") from None
        try:
            reply = decode_reply(body)
        except InvalidMessage as error:
            raise EngineNotAsked(f"malformed reply: {error}") from None
        if reply.open_spreads is None:
            raise EngineNotAsked(f"it answered {reply.status}: {reply.info}")
        return reply.open_spreads

    async def _ask(self, session: Session) -> bytes:
        number = uuid.uuid4().hex
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        properties = BasicProperties(
            reply_to=DIRECT_REPLY, correlation_id=number, expiration=str(int(ANSWER_SECONDS * 1000))
        )
        self._answers[number] = answer
        try:
            session.publish("", ORDERS, QUESTION, properties)
            return await answer
        finally:
            del self._answers[number]

    def _on_reply(self, _: Channel, __: Basic.Deliver, properties: BasicProperties, body: bytes) -> None:
        answer = self._answers.get(properties.correlation_id or "")
        if answer is not None and not answer.done():
            answer.set_result(body)


class _Redeclare(SessionLost):
    """The session ended over a queue that the next one declares otherwise."""


async def _declared(session: Session, queue: str, *, passive: bool) -> tuple[int, int]:
    arguments = None if queue in DEAD_LETTER_QUEUES else queue_arguments(queue)
    declared = await Rpc(session.lost)(
        lambda done: session.channel.queue_declare(
            queue, passive=passive, durable=True, arguments=arguments, callback=done
        )
    )
    return declared.method.message_count, declared.method.consumer_count
