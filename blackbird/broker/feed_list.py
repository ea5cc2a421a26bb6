"""The list of what is subscribed, with matching keys, as engines and further collectors read it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from pika.channel import Channel
from pika.spec import Basic, BasicProperties

from blackbird.broker.session import Session
from blackbird.broker.topology import FEEDS
from blackbird.market.fields import InvalidMessage
from blackbird.market.saved_subscriptions import SavedSubscription, decode_saved

logger = logging.getLogger(__name__)


class FeedList:
    """Gives the newest list to `apply`, and each that follows it."""

    def __init__(self, apply: Callable[[list[SavedSubscription]], None]) -> None:
        self._apply = apply
        self._session: Session | None = None

    async def follow(self, session: Session) -> None:
        """Read the lists of this session, the newest that there is first; raises SessionLost."""
        self._session = session
        await session.consume(FEEDS, self._on_delivery, arguments={"x-stream-offset": "last"})

    def _on_delivery(self, _: Channel, deliver: Basic.Deliver, __: BasicProperties, body: bytes) -> None:
        try:
            self._apply(decode_saved(body))
        except InvalidMessage as error:
            logger.warning("ignoring a malformed list of subscriptions: %s", error)
        if self._session is not None:
            self._session.acknowledge(deliver.delivery_tag or 0)
