"""How many messages and consumers the broker's queues have, asked by passive declaration."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from blackbird.broker.errors import SessionLost
from blackbird.broker.feed_layout import FeedLayout, kind_of
from blackbird.broker.rpc import Rpc
from blackbird.broker.session import Session
from blackbird.broker.topology import ORDERS, SIGNAL, STORAGE, SUBSCRIPTION, dead_letter_queue
from blackbird.runtime.clock import milliseconds

logger = logging.getLogger(__name__)

WORKED_OFF = (STORAGE, SIGNAL, SUBSCRIPTION, ORDERS)
INTERVAL_SECONDS = 0.5
# To ask for a queue that is not there ends the session.
MISSING_SECONDS = 10.0


class QueueDepth(NamedTuple):
    """Messages ready for delivery, and consumers."""

    messages: int
    consumers: int


class QueueWatch:
    """Looks at the queues twice a second over a session of its own, which `connect` opens.

    Nothing is declared: a queue that is not there stays away. `layout` says which there are (default: those
    of an undivided feed).
    """

    def __init__(self, connect: Callable[[], Awaitable[Session]], layout: FeedLayout | None = None) -> None:
        layout = layout or FeedLayout()
        divided = {STORAGE, SIGNAL}
        worked_off = [
            each for kind in WORKED_OFF for each in (layout.queues(kind) if kind in divided else [kind])
        ]
        self._watched = [*worked_off, *map(dead_letter_queue, WORKED_OFF)]
        self.depths: dict[str, QueueDepth] = {}
        self.seen_ms = 0
        self._connect = connect
        self._missing: dict[str, int] = {}

    def depth(self, kind: str) -> QueueDepth | None:
        """Return the depth of a queue, or of all its partitions with the fewest consumers of one."""
        depths = [depth for queue, depth in self.depths.items() if kind_of(queue) == kind]
        if not depths:
            return None
        return QueueDepth(sum(each.messages for each in depths), min(each.consumers for each in depths))

    async def watch(self) -> None:
        """Look until cancelled, over one session after the other."""
        while True:
            session = None
            self._asked = ""
            try:
                session = await self._connect()
                while True:
                    await self._look(session)
                    await asyncio.wait([session.lost], timeout=INTERVAL_SECONDS)
            except SessionLost as error:
                if self._asked and "NOT_FOUND" in str(error):
                    self._missing[self._asked] = milliseconds()
                    self.depths.pop(self._asked, None)
                    continue
                logger.debug("the queues can't be seen: %s", error)
            finally:
                if session is not None:
                    await session.closed()
            await asyncio.sleep(INTERVAL_SECONDS)

    async def _look(self, session: Session) -> None:
        began = milliseconds()
        for queue in self._watched:
            if began - self._missing.get(queue, 0) < MISSING_SECONDS * 1000:
                continue
            self._asked = queue
            self.depths[queue] = await _depth(session, queue)
            self._missing.pop(queue, None)
        self._asked = ""
        # When it began: what follows is at least as new.
        self.seen_ms = began


async def _depth(session: Session, queue: str) -> QueueDepth:
    declared = await Rpc(session.lost)(
        lambda done: session.channel.queue_declare(queue, passive=True, callback=done)
    )
    return QueueDepth(declared.method.message_count, declared.method.consumer_count)
