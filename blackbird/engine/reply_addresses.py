"""Reply addresses that can end the connection of whoever replies to them."""

from __future__ import annotations

import logging
from collections import deque

from blackbird.broker.session import Session
from blackbird.broker.topology import ORDERS

logger = logging.getLogger(__name__)


class ReplyAddresses:
    """Reply addresses of the kind that can crash a connection.

    RabbitMQ ends the connection of whoever publishes to `amq.rabbitmq.reply-to.` with a made-up rest (error
    541). Such an address must not keep the engine from everybody else: after such an end the addresses that
    were replied to last are suspects, each is tried by itself, and one that ends a connection again is muted.
    """

    PREFIX = "amq.rabbitmq.reply-to."

    def __init__(self, remembered: int) -> None:
        self._recent: deque[str] = deque(maxlen=remembered)
        self._suspects: set[str] = set()
        self._tried: str | None = None
        self._muted: set[str] = set()

    def session_ended(self, reason: BaseException | None) -> None:
        """Learn why the session ended on which the last replies were sent."""
        if reason is not None and str(reason).startswith("541"):
            if self._tried is None:
                self._suspects.update(self._recent)
            else:
                logger.error("no reply to %r any more: it ends our connection", self._tried)
                self._muted.add(self._tried)
        self._tried = None
        self._recent.clear()

    def is_muted(self, address: str) -> bool:
        """Tell whether nothing may be sent to `address`."""
        return address in self._muted

    async def sent(self, address: str, session: Session) -> None:
        """Note a reply; after one to a suspect, wait until the connection has survived it."""
        # pika gives an address that is no UTF-8 as bytes, whatever its types say.
        if self.PREFIX not in str(address):
            return
        if address in self._suspects:
            self._suspects.discard(address)
            self._tried = address
            await session.declare_queue(ORDERS)
            self._tried = None
        self._recent.append(address)
