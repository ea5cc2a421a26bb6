"""Reply addresses that can end the connection of an engine that replies to them."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable

from blackbird.broker.topology import DIRECT_REPLY

logger = logging.getLogger(__name__)

# RabbitMQ's reply code for an internal error, with which it ends the connection.
INTERNAL_ERROR_CODE = "541"


class ReplyAddresses:
    """Reply addresses of the kind that can end the engine's connection.

    RabbitMQ ends the connection of a publisher to `amq.rabbitmq.reply-to.` with an invented suffix (error
    541). Such an address must not cut the engine off from everybody else: after such an end the last
    `remembered` addresses are suspects, each is tried by itself, and one that ends a connection again is
    muted.
    """

    PREFIX = f"{DIRECT_REPLY}."

    def __init__(self, remembered: int) -> None:
        self._recent: deque[str] = deque(maxlen=remembered)
        self._suspects: set[str] = set()
        self._tried: str | None = None
        self._muted: set[str] = set()

    def session_ended(self, reason: BaseException | None) -> None:
        """Take note of why the session ended on which the last replies were sent."""
        if reason is not None and str(reason).startswith(INTERNAL_ERROR_CODE):
            if self._tried is None:
                self._suspects.update(self._recent)
            else:
                logger.error("no more replies to %r: replying to it ends the connection", self._tried)
                self._muted.add(self._tried)
        self._tried = None
        self._recent.clear()

    def is_muted(self, address: str) -> bool:
        """Return whether nothing may be sent to `address`."""
        return address in self._muted

    async def sent(self, address: str, round_trip: Callable[[], Awaitable[object]]) -> None:
        """Take note of a reply; after one to a suspect, wait for a round trip to the broker."""
        # pika hands out an address that is not UTF-8 as bytes, whatever its types say.
        if self.PREFIX not in str(address):
            return
        if address in self._suspects:
            self._suspects.discard(address)
            self._tried = address
            await round_trip()
            self._tried = None
        self._recent.append(address)
