"""Publishing of the collector: every push in order and confirmed, within a bounded buffer.

Each push is published once, persistent, and the broker routes it to `storage` and `signal` both, with
partitions to the queues of its own. What the
broker has not confirmed when a session ends is published again on the next one; without a session, pushes
wait in the buffer, and the oldest are dropped when it is full.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable
from enum import Enum
from itertools import chain
from operator import attrgetter
from typing import NamedTuple

from pika.spec import Basic, BasicProperties

from blackbird.broker.feed_layout import Share
from blackbird.broker.session import Session, SessionLost
from blackbird.broker.topology import (
    EXCHANGE,
    PERSISTENT,
    STORAGE,
)
from blackbird.collector.announcements import Announcements
from blackbird.collector.message_numbers import MessageNumbers
from blackbird.collector.push_properties import MakeProperties, PropertiesOfGroups, PushProperties
from blackbird.market.instrument import Instrument
from blackbird.runtime.throttled_log import ThrottledLog
from blackbird.status.histogram import MillisecondHistogram

logger = logging.getLogger(__name__)

# Messages on their way to the broker; more would only fill buffers in between.
MOST_UNCONFIRMED = 2000
# One push in so many has its confirmation timed: timing all of them would cost two per cent of a push.
CONFIRM_SAMPLE = 8


class _Push(NamedTuple):
    instrument: Instrument
    body: bytes
    received_ms: int
    made_ms: int
    properties: MakeProperties


_made_ms = attrgetter("made_ms")


class BrokerState(Enum):
    """Whether the broker takes what is published."""

    CONNECTED = "connected"
    BLOCKED = "blocked (memory or disk alarm)"
    NOT_CONNECTED = "not connected"


class FeedPublisher:
    """Publishes order-book messages and the state of the subscriptions over the current session.

    At most `buffer` pushes wait to be sent. `on_gap` is called with the instruments of which pushes were
    dropped, once all that waited is sent; `on_read` with the number of pushes that were read together.
    `share` says which pushes go to which queues (default: all to two); the others are not published.
    """

    def __init__(
        self,
        on_gap: Callable[[set[Instrument]], None],
        *,
        buffer: int,
        on_read: Callable[[int], None] = lambda _: None,
        share: Share | None = None,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.received = 0
        self.dropped = 0
        self.drops: Counter[Instrument] = Counter()
        self.buffer = buffer
        self.push_age = MillisecondHistogram()  # `ts` to socket, of the oldest push of each turn
        self.confirm_age = MillisecondHistogram()  # socket to confirmation, of a sample
        self._on_gap = on_gap
        self._on_read = on_read
        self._clock_ns = clock_ns
        self._numbers = MessageNumbers(clock_ns)
        self._session: Session | None = None
        # Pushes read in this turn of the event loop.
        self._arrived: list[_Push] = []
        self._waiting: deque[_Push] = deque()
        # Sent and not confirmed, by delivery tag; None for what is not a push.
        self._unconfirmed: dict[int, _Push | None] = {}
        self._next_tag = 1
        self._oldest_tag = 1
        self._gaps: set[Instrument] = set()
        self._overflow = ThrottledLog()
        self._share = share or Share()
        self._announcements = Announcements(to_feeds=bool(self._share.layout.partitions))
        self._groups = PropertiesOfGroups(self._share, clock_ns)
        self._properties: dict[Instrument, MakeProperties | None] = {}

    @property
    def is_up(self) -> bool:
        """Whether there is a session to publish on."""
        return self._session is not None and self._session.is_open

    @property
    def state(self) -> BrokerState:
        """Whether the broker takes what is published, as far as it has said so."""
        if self._session is None or not self._session.is_open:
            return BrokerState.NOT_CONNECTED
        return BrokerState.BLOCKED if self._session.blocked is not None else BrokerState.CONNECTED

    @property
    def subscriptions_confirmed(self) -> bool:
        """Whether the broker has the newest of the subscriptions that were published."""
        return self._announcements.is_confirmed

    @property
    def backlog(self) -> int:
        """How many pushes the broker has not confirmed yet."""
        return len(self._arrived) + len(self._waiting) + len(self._unconfirmed)

    def pending(self) -> Counter[Instrument]:
        """Return how many pushes of each instrument the broker has not confirmed yet."""
        pushes = chain(self._waiting, self._unconfirmed.values())
        return Counter(push.instrument for push in pushes if push is not None)

    async def start(self, session: Session, reserved_numbers: bytes | None = None) -> None:
        """Publish on `session` from now on: the subscriptions, what was not confirmed, what waited.

        `reserved_numbers` is what the broker has kept of MessageNumbers.
        """
        self._numbers.start(reserved_numbers)
        await session.confirm_publishes(lambda frame: self._confirm(session, frame.method))
        self._session = session
        self._next_tag = self._oldest_tag = 1
        session.lost.add_done_callback(lambda _: self._end(session))
        self._announcements.publish(session, self._take_tag)
        self._send()

    def assign(self, instrument: Instrument, matching_key: str) -> None:
        """Publish an instrument's pushes to the partition of this group from the next one on."""
        if self._share.layout.partitions:
            self._properties[instrument] = self._groups.of(matching_key)

    def publish_book(self, instrument: Instrument, body: bytes, received_ms: int, made_ms: int) -> None:
        """Publish an order-book message that was received and made by the exchange at these milliseconds.

        Pushes read in one turn of the event loop are published in the order in which they were made. Sockets
        are read one after the other: without sorting, two legs would cross that never did.
        """
        properties: MakeProperties = PushProperties
        if self._properties:
            assigned = self._properties.get(instrument)
            if assigned is None:
                return
            properties = assigned
        if not self._arrived:
            asyncio.get_running_loop().call_soon(self._queue)
        self._arrived.append(_Push(instrument, body, received_ms, made_ms, properties))

    def publish_subscriptions(self, subscriptions: bytes, saved: bytes) -> asyncio.Future[None]:
        """Publish the subscription map, and `saved` for the next start of the collector.

        Only the newest counts: without a session it is published when there is one. The future is done when
        the broker has both.
        """
        confirmed = self._announcements.renew(subscriptions, saved)
        if self._session is not None:
            self._announcements.publish(self._session, self._take_tag)
        return confirmed

    def dead_letter(self, queue: str, reason: str, properties: BasicProperties, body: bytes) -> None:
        """Dead-letter a body that `queue` cannot take, counting the publish that this is."""
        if self._session is not None:
            self._session.dead_letter(queue, reason, properties, body)
            self._take_tag()

    async def drain(self, seconds: float) -> None:
        """Wait until the broker has confirmed everything, at most `seconds` and not without a session."""
        deadline = asyncio.get_running_loop().time() + seconds
        while self.backlog and self.is_up and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.01)
        if self.backlog:
            logger.warning("%d messages end with this process: the broker did not take them", self.backlog)

    def _queue(self) -> None:
        arrived, self._arrived = self._arrived, []
        self._on_read(len(arrived))
        self.received += len(arrived)
        arrived.sort(key=_made_ms)
        self.push_age.tally[arrived[0].received_ms - arrived[0].made_ms] += 1
        self._waiting.extend(arrived)
        self._send()
        self._limit()

    def _send(self) -> None:
        session, numbers = self._session, self._numbers
        waiting, unconfirmed = self._waiting, self._unconfirmed
        if session is None:
            return
        try:
            while waiting and len(unconfirmed) < MOST_UNCONFIRMED:
                push = waiting[0]
                # A push that is published again gets a new number: numbers are the order in the queues.
                number = numbers.next()
                if number >= numbers.reserved_end:
                    self._reserve(session, number)
                properties = push.properties(push.received_ms, number)
                session.publish(EXCHANGE, STORAGE, push.body, properties)
                unconfirmed[self._next_tag] = waiting.popleft()
                self._next_tag += 1
        except SessionLost:
            return
        if self._gaps and not waiting:
            gaps, self._gaps = self._gaps, set()
            logger.info("asking for fresh snapshots of the %d instruments that lost pushes", len(gaps))
            self._on_gap(gaps)

    def _reserve(self, session: Session, number: int) -> None:
        # On one channel: the broker has the reservation before a push whose number is in it.
        body, properties = self._numbers.reserve(number), BasicProperties(delivery_mode=PERSISTENT)
        session.publish("", self._share.numbers_queue, body, properties)
        self._next_tag += 1

    def _take_tag(self) -> int:
        """Count a publish that is not a push."""
        tag = self._next_tag
        self._next_tag += 1
        self._unconfirmed[tag] = None
        return tag

    def _confirm(self, session: Session, method: Basic.Ack | Basic.Nack) -> None:
        if session is not self._session:
            return
        tag = int(method.delivery_tag or 0)
        tags = range(self._oldest_tag, tag + 1) if method.multiple else (tag,)
        refused: list[_Push] = []
        push = None
        for confirmed in tags:
            push = self._unconfirmed.pop(confirmed, None)
            if isinstance(method, Basic.Nack) and push is not None:
                refused.append(push)
            if self._announcements.pending:
                self._announcements.confirm(confirmed)
        if push is not None and tag % CONFIRM_SAMPLE == 0:
            self.confirm_age.tally[self._clock_ns() // 1_000_000 - push.received_ms] += 1
        if method.multiple:
            self._oldest_tag = tag + 1
        if refused:
            logger.warning("the broker refused %d messages; publishing them again", len(refused))
            self._waiting.extendleft(reversed(refused))
            self._limit()
        if self._waiting:
            self._send()

    def _end(self, session: Session) -> None:
        if session is not self._session:
            return
        self._session = None
        unconfirmed = [push for push in self._unconfirmed.values() if push is not None]
        self._unconfirmed.clear()
        self._announcements.pending.clear()
        self._waiting.extendleft(reversed(unconfirmed))
        self._limit()

    def _limit(self) -> None:
        while len(self._waiting) > self.buffer:
            instrument = self._waiting.popleft().instrument
            self._gaps.add(instrument)
            self.drops[instrument] += 1
            self.dropped += 1
            self._overflow.warn(
                "the broker takes too little: %d pushes dropped so far, the oldest first", self.dropped
            )
