"""The player of a market: makes its pushes when they are due, and looks after what was pushed."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from local_exchange.server import LocalExchange

logger = logging.getLogger(__name__)

# Shortest pause of the player: pushes due within it leave together, at fewer wake-ups.
TICK = 0.002
# A market with a rate drops a socket that leaves this much unread; one without waits for the slowest socket
# to have less than the second figure.
MOST_UNREAD = 64 * 1024 * 1024
MOST_AHEAD = 256 * 1024
HOUSEKEEPING = 0.1


class Player:
    """Plays the source of an exchange.

    Args:
        exchange: whose source is played.
        wait_for: the market begins when this many topics are subscribed.
        repeat_after: seconds after which a quiet depth-1 topic repeats itself; 0: never.
    """

    def __init__(self, exchange: LocalExchange, wait_for: int, repeat_after: float) -> None:
        self._exchange = exchange
        self._wait_for = wait_for
        self._repeat_after = repeat_after
        # Whether everything has been played; a market without an end never has.
        self.finished = False
        self._begun = asyncio.Event()
        self._running = asyncio.Event()
        self._running.set()
        self._paused_at: float | None = None
        self._paused = 0.0

    def notice_subscriptions(self) -> None:
        """Begin once as many topics are subscribed as are waited for."""
        if not self._begun.is_set() and len(self._exchange.used_feeds()) >= self._wait_for:
            self._begun.set()

    def pause(self) -> None:
        """Stop the market; connections and answers go on."""
        if self._paused_at is None:
            self._paused_at = time.monotonic()
            self._running.clear()

    def resume(self) -> None:
        """Let the market go on where it stopped."""
        if self._paused_at is not None:
            self._paused += time.monotonic() - self._paused_at
            self._paused_at = None
            self._running.set()

    async def play(self) -> None:
        """Make the pushes until the source has no more."""
        self.notice_subscriptions()
        await self._begun.wait()
        source = self._exchange.source
        while True:
            await self._running.wait()
            wait = source.play(time.monotonic() - self._paused)
            if wait is None:
                break
            if not source.timed:
                await self._until_read()
            await asyncio.sleep(max(wait, TICK) if wait else 0)
        self.finished = True
        logger.info("the recording is played; its books stay")

    async def _until_read(self) -> None:
        """Wait until the slowest socket has read most of what it got."""
        while any(one.unread > MOST_AHEAD for one in self._exchange.sockets.values()):
            await asyncio.sleep(0.001)

    async def keep_house(self) -> None:
        """Repeat quiet depth-1 topics, drop sockets that don't read, flush the record."""
        exchange = self._exchange
        while True:
            await asyncio.sleep(HOUSEKEEPING)
            quiet = time.monotonic() - self._repeat_after
            for feed in exchange.used_feeds() if self._repeat_after else ():
                if feed.depth == 1 and feed.last_payload and feed.last_push < quiet:
                    exchange.source.repeat(feed)
            for one in list(exchange.sockets.values()):
                if one.unread > MOST_UNREAD:
                    logger.warning("socket %s does not read: dropped", one.number)
                    exchange.counters["dropped"] += 1
                    one.reset()
            if exchange.record is not None:
                exchange.record.flush()
