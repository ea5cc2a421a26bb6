"""The partitions that a signal engine works: which it takes, and when one begins anew."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from pika.channel import Channel
from pika.spec import Basic, BasicProperties

from blackbird.broker.feed_list import FeedList
from blackbird.broker.properties import sequence
from blackbird.broker.session import OnMessage, Session
from blackbird.broker.topology import SIGNAL
from blackbird.market.instrument import Instrument
from blackbird.market.saved_subscriptions import SavedSubscription
from blackbird.signals.division import Division
from blackbird.signals.group_lane import GroupLanes
from blackbird.trading.signal import Signal

logger = logging.getLogger(__name__)

# From this version on the broker gives a partition to the consumer of the highest priority.
VERSION_WITH_PRIORITIES = (4, 0)
FAVORITE, FIRST_BACKUP, BACKUP = 2, 1, 0
# A partition of another engine that has brought nothing for so long is taken to be that one's again.
IDLE_SECONDS = 15.0


def priority(partition: int, engine: int, engines: int) -> int:
    """Return how much engine number `engine` of `engines` is wanted for a partition.

    Each has its share of the partitions, and those of a dead one are spread over the others.
    """
    if partition % engines == engine:
        return FAVORITE
    backup = (partition + 1 + partition // engines % (engines - 1)) % engines
    return FIRST_BACKUP if backup == engine else BACKUP


class _Line:
    """What was last delivered of a partition."""

    __slots__ = ("redelivered", "seconds", "sequence")

    def __init__(self) -> None:
        self.sequence: int | None = None
        self.redelivered = False
        self.seconds = 0.0

    def continues(self, number: int | None, *, redelivered: bool) -> bool:
        """Return whether nothing can have happened between the last delivery and this one."""
        if redelivered and not self.redelivered:
            return False  # another engine may have had it
        return number is None or self.sequence is None or number == self.sequence + 1


class Partitions:
    """Consumes partitions for one of several engines.

    The broker gives each partition to one engine at a time and does not say to which. So a partition begins
    anew here with its first delivery of a session and wherever messages were missed or come again: its books
    are distrusted, and nothing of it is ordered before the trading engine has said what is open. `request`
    asks for a snapshot.
    """

    def __init__(
        self,
        signal: Signal,
        lanes: GroupLanes,
        division: Division,
        request: Callable[[Instrument], None],
        *,
        partitions: int,
        engine: int = 0,
        engines: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._signal = signal
        self._lanes = lanes
        self._division = division
        self._request = request
        self._priorities = [priority(number, engine, engines) for number in range(partitions)]
        self._clock = clock
        self._lines: dict[int, _Line] = {}
        self._feeds = FeedList(self._apply_list)

    async def open(self, session: Session, on_message: OnMessage) -> None:
        """Consume on this session from now on; raises SessionLost."""
        self._lines.clear()
        await self._feeds.follow(session)
        with_priorities = session.broker_version >= VERSION_WITH_PRIORITIES
        for number, wanted in enumerate(self._priorities):
            if with_priorities or wanted == FAVORITE:
                arguments: dict[str, Any] = {"x-priority": wanted} if with_priorities else {}
                handler = partial(self._on_delivery, number, on_message)
                await session.consume(f"{SIGNAL}.{number}", handler, arguments=arguments)

    def release_idle(self) -> None:
        """Forget the partitions of other engines that bring nothing any more."""
        before = self._clock() - IDLE_SECONDS
        idle = {
            number
            for number, line in self._lines.items()
            if line.seconds < before and self._priorities[number] != FAVORITE
        }
        for number in idle:
            logger.info("partition %d brings nothing any more: left to another engine", number)
            del self._lines[number]
            self._lanes.close(number)
        if idle:
            self._apply_subscriptions()

    def _on_delivery(
        self,
        number: int,
        on_message: OnMessage,
        channel: Channel,
        deliver: Basic.Deliver,
        properties: BasicProperties,
        body: bytes,
    ) -> None:
        line = self._lines.get(number)
        count = sequence(properties)
        redelivered = bool(deliver.redelivered)
        if line is None:
            line = self._lines[number] = _Line()
            self._apply_subscriptions()
            self._begin(number)
        elif not line.continues(count, redelivered=redelivered):
            self._begin(number)
        line.sequence, line.redelivered, line.seconds = count, redelivered, self._clock()
        on_message(channel, deliver, properties, body)

    def _begin(self, number: int) -> None:
        logger.info("partition %d begins: asking for its books and open spreads", number)
        keeper = self._signal.keeper
        for instrument in list(keeper.books):
            if self._division.of_instrument(instrument) == number:
                keeper.invalidate(instrument)
        self._lanes.ask_open_spreads(number)
        for instrument in self._division.instruments([number]):
            self._request(instrument)

    def _apply_list(self, subscriptions: list[SavedSubscription]) -> None:
        """Take the collector's list; ask for what the instruments that a partition gains bring with them."""
        gained = self._division.renew(subscriptions) & self._lines.keys()
        self._apply_subscriptions()
        for number in gained:
            self._lanes.ask_open_spreads(number)

    def _apply_subscriptions(self) -> None:
        """Keep the books and open spreads of the partitions that deliver, as far as the list is known."""
        if not self._division.is_known:
            return
        self._signal.on_subscriptions(self._division.instruments(self._lines))
        ours = {*self._lines, None}
        self._signal.restore_some((), lambda pair: self._division.of_pair(pair) not in ours)
        self._lanes.remove_idle()
