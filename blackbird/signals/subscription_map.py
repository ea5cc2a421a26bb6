"""The newest subscription map, and the queue that keeps it for the next start."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence

from pika.channel import Channel
from pika.spec import Basic, BasicProperties

from blackbird.broker.session import Session, SessionLost
from blackbird.broker.topology import LATEST_SUBSCRIPTION, PERSISTENT, SUBSCRIPTION, is_worn
from blackbird.market.fields import InvalidMessage
from blackbird.market.instrument import Instrument
from blackbird.market.subscriptions import decode_subscriptions
from blackbird.runtime.failure_log import FailureLog

logger = logging.getLogger(__name__)

Delivery = tuple[int, BasicProperties, bytes]


class SubscriptionMap:
    """Takes the subscription maps of a session in order, and gives each that counts to `apply`.

    The newest map is kept by the broker in a queue of its own (`subscription.latest`): those that wait in
    `subscription` at the beginning are older and count for nothing, unless the newest one is malformed.
    A copy that is worn is replaced; for the rest of the session each map that comes is put behind it once
    more, because the new copy of the older map may have pushed it out.
    """

    def __init__(self, apply: Callable[[Sequence[Instrument]], None], failures: FailureLog) -> None:
        self._apply = apply
        self._failures = failures
        self._session: Session | None = None
        self._outdated = 0
        self._newest: bytes | None = None  # of those that could be understood
        self._is_spoiled = False  # the queue of the newest map holds a malformed one
        self._was_worn = False  # the newest map was put into its queue anew
        self._held: list[Delivery] | None = None  # deliveries, until the newest map is known

    async def follow(self, session: Session) -> None:
        """Take the newest map and consume what comes; raises QueueInUse where another process does."""
        self._session = session
        self._held = []
        self._was_worn = False
        self._outdated = await session.declare_queue(SUBSCRIPTION)
        await session.consume(SUBSCRIPTION, self._on_delivery, exclusive=True)
        newest = await session.peek(LATEST_SUBSCRIPTION)
        if newest is not None and not self._take_newest(newest[1]):
            self._outdated = 0  # one of those that wait counts
        elif newest is not None and is_worn(newest[0]):
            self._was_worn = True
            self._republish(session)
        held, self._held = self._held, None
        for delivery in held:
            self._take(session, *delivery)

    def _on_delivery(
        self, _: Channel, deliver: Basic.Deliver, properties: BasicProperties, body: bytes
    ) -> None:
        delivery = deliver.delivery_tag or 0, properties, body
        if self._held is not None:
            self._held.append(delivery)
        elif self._session is not None:
            self._take(self._session, *delivery)

    def _take(self, session: Session, tag: int, properties: BasicProperties, body: bytes) -> None:
        if self._outdated:
            self._outdated -= 1
        else:
            try:
                self._accept(body)
            except InvalidMessage as error:
                self._reject(session, str(error), properties, body)
            except Exception as error:  # noqa: BLE001 - the edge: a map that crashes its handler is put aside
                self._failures.log("taking a subscription map", error)
                self._reject(session, f"crashed the handler: {error!r}", properties, body)
            else:
                if self._is_spoiled or self._was_worn:
                    self._republish(session)
                self._is_spoiled = False
        session.acknowledge(tag)

    def _take_newest(self, body: bytes) -> bool:
        try:
            self._accept(body)
        except InvalidMessage as error:
            logger.warning("the newest subscription map is malformed: %s", error)
            return False
        except Exception as error:  # noqa: BLE001 - the edge: it has no map then, and takes the next one
            self._failures.log("taking the newest subscription map", error)
            return False
        return True

    def _accept(self, body: bytes) -> None:
        self._apply(decode_subscriptions(body))
        self._newest = body

    def _reject(self, session: Session, reason: str, properties: BasicProperties, body: bytes) -> None:
        with contextlib.suppress(SessionLost):
            session.dead_letter(SUBSCRIPTION, reason, properties, body)
        self._is_spoiled = True
        self._republish(session)

    def _republish(self, session: Session) -> None:
        """Put the newest map behind a malformed one, which must not stay the newest."""
        if self._newest is None:
            return
        kept = BasicProperties(delivery_mode=PERSISTENT)
        with contextlib.suppress(SessionLost):
            session.publish("", LATEST_SUBSCRIPTION, self._newest, kept)
