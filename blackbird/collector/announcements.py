"""The newest subscriptions on their way to the broker."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from pika.spec import BasicProperties

from blackbird.broker.session import Session, SessionLost
from blackbird.broker.topology import COLLECTOR_SUBSCRIPTIONS, EXCHANGE, FEEDS, PERSISTENT, SUBSCRIPTION


class Announcements:
    """Publishes the subscription map, and the subscriptions for the next start of the collector.

    Only the newest counts. With `to_feeds` the latter go to `feeds` too, for others to read. `pending` are
    those published and not confirmed, by delivery tag.
    """

    def __init__(self, *, to_feeds: bool = False) -> None:
        self._to_feeds = to_feeds
        self.pending: dict[int, asyncio.Future[None]] = {}
        self._newest: tuple[bytes, bytes] | None = None
        # Done when the broker has the newest; None before there are any.
        self._confirmed: asyncio.Future[None] | None = None

    @property
    def is_confirmed(self) -> bool:
        """Whether the broker has the newest, or there is none."""
        return self._confirmed is None or self._confirmed.done()

    def renew(self, subscriptions: bytes, saved: bytes) -> asyncio.Future[None]:
        """Take the newest, and return what is done when the broker has both."""
        self._newest = (subscriptions, saved)
        self._confirmed = asyncio.get_running_loop().create_future()
        return self._confirmed

    def publish(self, session: Session, take_tag: Callable[[], int]) -> None:
        """Publish the newest; `take_tag` counts a publish and returns its delivery tag."""
        if self._newest is None or self._confirmed is None:
            return
        subscriptions, saved = self._newest
        properties = BasicProperties(delivery_mode=PERSISTENT, content_type="application/json")
        with contextlib.suppress(SessionLost):
            session.publish(EXCHANGE, SUBSCRIPTION, subscriptions, properties)
            take_tag()
            if self._to_feeds:
                session.publish(EXCHANGE, FEEDS, saved, properties)
                take_tag()
            session.publish("", COLLECTOR_SUBSCRIPTIONS, saved, properties)
            self.pending[take_tag()] = self._confirmed

    def confirm(self, tag: int) -> None:
        """Take note that the broker has what was published under a delivery tag."""
        done = self.pending.pop(tag, None)
        # Published again on a new session it may have been confirmed before.
        if done is not None and not done.done():
            done.set_result(None)
