"""Sends the replies to decided requests."""

from __future__ import annotations

import logging
from functools import partial
from typing import Protocol

from pika.spec import BasicProperties

from blackbird.broker.topology import ORDERS
from blackbird.engine.answer_counts import AnswerCounts
from blackbird.engine.reply_addresses import ReplyAddresses
from blackbird.engine.requests import Decision
from blackbird.trading.orders import encode_reply

logger = logging.getLogger(__name__)


class ReplySession(Protocol):
    """The broker session that brought the requests; all but the acknowledgement raise SessionLost."""

    def publish(self, exchange: str, key: str, body: bytes, properties: BasicProperties) -> None:
        """Send a message."""

    def dead_letter(self, queue: str, reason: str, properties: BasicProperties, body: bytes) -> None:
        """Move a body that is not a request to the dead-letter queue."""

    def acknowledge(self, delivery_tag: int, *, multiple: bool = False) -> None:
        """Acknowledge a delivery, with `multiple` all before it too; on an ended session nothing happens."""

    async def declare_queue(self, name: str) -> int:
        """Declare a queue, which takes a round trip to the broker."""

    def close(self) -> None:
        """End the session; the broker redelivers what is not acknowledged."""


class Replies:
    """Sends replies, but for those that would end the session; `remembered` see ReplyAddresses."""

    def __init__(self, *, remembered: int) -> None:
        self.counts = AnswerCounts()
        self._addresses = ReplyAddresses(remembered)

    def session_ended(self, reason: BaseException | None) -> None:
        """Take note of why the session ended on which the last replies were sent."""
        self._addresses.session_ended(reason)

    async def send(self, session: ReplySession, decision: Decision) -> None:
        """Reply to a request, and dead-letter one that was not understood; raises SessionLost."""
        properties = decision.request.properties
        if decision.dead_letter is not None:
            session.dead_letter(ORDERS, decision.dead_letter, properties, decision.request.body)
        address = properties.reply_to
        if address and not self._addresses.is_muted(address):
            correlation = BasicProperties(correlation_id=properties.correlation_id)
            session.publish("", address, encode_reply(decision.reply), correlation)
            self.counts.add(decision)
            await self._addresses.sent(address, partial(session.declare_queue, ORDERS))
        else:
            self.counts.add(decision)


def log_decision(decision: Decision) -> None:
    """Log the answer to an order."""
    order, reply = decision.order, decision.reply
    if order is not None:
        logger.debug(
            "%s %s: %s %s, buy %s at %s, sell %s at %s",
            reply.status,
            reply.info,
            order.action,
            order.size,
            order.buy,
            order.buy_price,
            order.sell,
            order.sell_price,
        )
