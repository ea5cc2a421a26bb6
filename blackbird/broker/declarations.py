"""What a session has declared and bound, so that it can be declared and bound again."""

from __future__ import annotations

import logging

from pika.channel import Channel

from blackbird.broker.errors import DeclaredOtherwise, SessionLost
from blackbird.broker.feed_layout import FeedLayout, queue_arguments
from blackbird.broker.rpc import Rpc
from blackbird.broker.topology import EXCHANGE

logger = logging.getLogger(__name__)


class Declarations:
    """Exchange, queues and bindings of a session.

    `foreign_queues` are those that exist with other arguments than ours, which are then used as they are; the
    set outlives the session, because such a declaration ends it.
    """

    def __init__(self, channel: Channel, rpc: Rpc, foreign_queues: set[str], layout: FeedLayout) -> None:
        self._channel = channel
        self._rpc = rpc
        self._foreign_queues = foreign_queues
        self._layout = layout
        self._exchange = False
        self._queues: dict[str, None] = {}
        self._bindings: dict[tuple[str, str], None] = {}

    async def declare_queue(self, name: str) -> int:
        """Declare one of the durable queues and return how many messages wait in it."""
        self._queues[name] = None
        passive = name in self._foreign_queues
        arguments = queue_arguments(name)
        try:
            declared = await self._rpc(
                lambda done: self._channel.queue_declare(
                    name, passive=passive, durable=True, arguments=arguments, callback=done
                )
            )
        except DeclaredOtherwise as error:
            self._foreign_queues.add(name)
            logger.warning("queue %s is there with other arguments, and used as it is: %s", name, error)
            raise
        except SessionLost:
            self._foreign_queues.discard(name)  # passively declared and not there: it was deleted
            raise
        return int(declared.method.message_count)

    async def count_consumers(self, queue: str) -> int:
        """Return how many consumers a queue has; raises SessionLost where there is no such queue."""
        declared = await self._rpc(
            lambda done: self._channel.queue_declare(queue, passive=True, callback=done)
        )
        return int(declared.method.consumer_count)

    async def declare_exchange(self) -> None:
        """Declare the exchange."""
        self._exchange = True
        await self._rpc(
            lambda done: self._channel.exchange_declare(
                EXCHANGE, exchange_type="topic", durable=True, callback=done
            )
        )

    async def declare_feed(self) -> None:
        """Declare the exchange, and the queues that are bound to it."""
        await self.declare_exchange()
        for queue, key in self._layout.bindings().items():
            await self.declare_queue(queue)
            await self.bind(queue, key)

    async def declare_private_queue(self) -> str:
        """Declare a queue that ends with the session, and return its name."""
        declared = await self._rpc(
            lambda done: self._channel.queue_declare("", exclusive=True, auto_delete=True, callback=done)
        )
        return str(declared.method.queue)

    async def bind(self, queue: str, key: str) -> None:
        """Bind `queue` to the routing key of the exchange."""
        self._bindings[queue, key] = None
        await self._rpc(lambda done: self._channel.queue_bind(queue, EXCHANGE, key, callback=done))

    async def redeclare(self) -> None:
        """Declare and bind again all that was: whatever was deleted since is there again."""
        if self._exchange:
            await self.declare_exchange()
        for queue in list(self._queues):
            await self.declare_queue(queue)
        for queue, key in list(self._bindings):
            await self.bind(queue, key)
