"""The collector's sessions with the broker: what it declares, restores, publishes and takes from it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable
from functools import partial

from pika.channel import Channel
from pika.spec import Basic, BasicProperties

from blackbird.broker.feed_layout import Share
from blackbird.broker.feed_list import FeedList
from blackbird.broker.session import Session, SessionLost
from blackbird.broker.topology import COLLECTOR_SUBSCRIPTIONS, PERSISTENT, RESYNC, is_worn
from blackbird.collector.publisher import FeedPublisher
from blackbird.market.fields import InvalidMessage
from blackbird.market.instrument import Instrument
from blackbird.market.saved_subscriptions import SavedSubscription, decode_saved
from blackbird.market.subscriptions import decode_resync

logger = logging.getLogger(__name__)

# Of subscriptions that are read at a time; a stream's consumer has to have a limit.
LISTS = 10


class BrokerLink:
    """Serves one session after the other.

    `on_restore` is called once, with the subscriptions of the collector before (none unless `restore`) before
    anything is published; where `on_list` takes the lists of another collector it is not called. `on_resync`
    is called with each instrument that somebody wants a fresh snapshot of. `share` see FeedPublisher.
    """

    def __init__(
        self,
        publisher: FeedPublisher,
        *,
        restore: bool,
        on_restore: Callable[[list[SavedSubscription]], None],
        on_resync: Callable[[Iterable[Instrument]], None],
        on_list: Callable[[list[SavedSubscription]], None] | None = None,
        share: Share | None = None,
    ) -> None:
        self._publisher = publisher
        self._restore = restore
        self._on_restore = on_restore
        self._on_resync = on_resync
        self._restored = False
        self._list = None if on_list is None else FeedList(on_list)
        self._numbers_queue = (share or Share()).numbers_queue

    async def serve(self, session: Session) -> None:
        """Declare, restore, publish and consume on a new session."""
        await session.declare_feed()
        await session.declare_queue(COLLECTOR_SUBSCRIPTIONS)
        await session.declare_queue(self._numbers_queue)
        if not self._restored and self._list is None:
            saved = await self._saved(session) if self._restore else []
            self._restored = True
            self._on_restore(saved)
        await self._publisher.start(session, await _kept(session, self._numbers_queue))
        queue = await session.declare_private_queue()
        await session.bind(queue, RESYNC)
        await session.consume(
            queue,
            partial(self._on_message, session),
            label=RESYNC,
            dead_letter=partial(self._publisher.dead_letter, RESYNC),
        )
        if self._list is not None:
            await session.set_prefetch(LISTS)
            await self._list.follow(session)

    async def _saved(self, session: Session) -> list[SavedSubscription]:
        kept = await _kept(session, COLLECTOR_SUBSCRIPTIONS)
        if kept is None:
            return []
        try:
            return decode_saved(kept)
        except InvalidMessage as error:
            logger.warning("ignoring the saved subscriptions, they are malformed: %s", error)
            return []

    def _on_message(
        self,
        session: Session,
        _: Channel,
        method: Basic.Deliver,
        properties: BasicProperties,
        body: bytes,
    ) -> None:
        try:
            self._on_resync([decode_resync(body)])
        except InvalidMessage as error:
            with contextlib.suppress(SessionLost):
                self._publisher.dead_letter(RESYNC, str(error), properties, body)
        session.acknowledge(method.delivery_tag or 0)


async def _kept(session: Session, queue: str) -> bytes | None:
    """Return what a last-value queue of this collector alone keeps; a worn copy is replaced by a new one.

    Call it before the session's publishes are confirmed: this one is not counted.
    """
    kept = await session.peek(queue)
    if kept is None:
        return None
    properties, body = kept
    if is_worn(properties):
        session.publish("", queue, body, BasicProperties(delivery_mode=PERSISTENT))
    return body
