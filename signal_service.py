"""Signal engine: keeps the books of each matching group, sends the orders that open and close spreads.

The book messages of a group are worked off one at a time, in order: while an order of the group is out, those
that follow wait, and only when its answer takes longer than a second are they applied without a look. What to
do is `Signal`'s; how orders travel is `OrderManager`'s; this file takes messages to the one and orders to the
other.
"""

from __future__ import annotations

if __name__ == "__main__":
    import blackbird.runtime.early_signals  # noqa: F401 - handles SIGINT and SIGTERM while the rest is imported

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from pika.channel import Channel
from pika.spec import Basic, BasicProperties

from blackbird.broker.properties import published_at
from blackbird.broker.session import QueueInUse, Session, SessionLost, connection_parameters, keep_session
from blackbird.broker.topology import (
    EXCHANGE,
    LATEST_SUBSCRIPTION,
    ORDERS,
    PERSISTENT,
    RESYNC,
    SIGNAL,
    SUBSCRIPTION,
)
from blackbird.market.book_message import BookMessage, decode_book
from blackbird.market.fields import InvalidMessage
from blackbird.market.instrument import Instrument
from blackbird.market.subscriptions import decode_subscriptions, encode_resync
from blackbird.runtime.process import parse_arguments, run_service
from blackbird.signals.group_lane import GroupLane, PendingUpdate
from blackbird.signals.order_manager import OrderManager
from blackbird.signals.snapshot_requests import SnapshotRequest
from blackbird.trading.orders import Order, Reply
from blackbird.trading.signal import OrderScan, Signal
from blackbird.trading.spreads import OpenSpreads, Pair, Spread
from config import Config, check_settings, log_settings

__all__ = ["OpenSpreads", "OrderManager", "Pair", "Signal", "SignalService", "Spread"]

logger = logging.getLogger(__name__)

UNACKNOWLEDGED = 2000
ACKNOWLEDGE_EVERY = 500
ACKNOWLEDGE_SECONDS = 0.05
# An answer that takes longer than this is late: books go on being kept without it.
LATE_SECONDS = 1.0
SKIPPING = 5  # so many snapshots asked for in a row are worth a word in the log


def milliseconds() -> int:
    """Return the time of day in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class SignalService:
    """The signal engine between broker and trading engine.

    Nothing is sent before the trading engine has said which spreads are open (`_ready`). Each matching group
    has at most one order out.
    """

    def __init__(self, signal: Signal, orders: OrderManager) -> None:
        self.signal = signal
        self.orders = orders
        self._session: Session | None = None
        self._desks: dict[str, GroupLane] = {}
        self._ready = False
        self._taken = 0  # delivery tags
        self._acknowledged = 0
        self._waiting: dict[int, None] = {}  # those in inboxes, in order of arrival
        # Another has the queue: the first time it may be what is left of our own last session.
        self._overtaken = False
        self._outdated_maps = 0
        self._map: bytes | None = None  # the newest that could be understood
        self._map_spoiled = False  # what came after it is no map
        # Deliveries of maps that wait until the newest one is known.
        self._held_maps: list[tuple[Basic.Deliver, BasicProperties, bytes]] | None = None
        self._resync: dict[Instrument, SnapshotRequest] = {}

    async def serve(self, stop: asyncio.Event) -> None:
        """Work until `stop`; then wait for the answer to an order that is out, at most 3 s."""
        self.orders.open_spreads(self._restore)
        tasks: list[asyncio.Task[Any]] = [
            asyncio.create_task(
                keep_session(connection_parameters(**Config.BROKER_CONFIG, name="signal engine"), self._open)
            ),
            asyncio.create_task(self._acknowledge_regularly()),
            asyncio.create_task(self._ask_for_snapshots()),
        ]
        stopping: asyncio.Task[Any] = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
            await self._finish()
        finally:
            self.orders.close()
            for task in (*tasks, stopping):
                task.cancel()
            await asyncio.wait(tasks, timeout=2)

    async def _open(self, session: Session) -> None:
        """Take the book queue for this engine alone; begin with the newest subscription map."""
        for desk in self._desks.values():
            desk.inbox.clear()
        self._waiting.clear()
        self._taken = self._acknowledged = 0
        await session.declare_feed()
        await session.declare_queue(ORDERS)
        await session.set_prefetch(UNACKNOWLEDGED)
        # Maps that wait are older than the newest one, which is kept in a queue of its own.
        self._outdated_maps = await session.declare_queue(SUBSCRIPTION)
        self._held_maps = []
        self._session = session
        try:
            # Whoever has this queue is the signal engine; a second one waits here.
            await session.consume(SUBSCRIPTION, self._take_subscriptions, exclusive=True)
        except QueueInUse:
            if self._overtaken:
                # The other one takes the book messages, and trades.
                for instrument in list(self.signal.books):
                    self.signal.invalidate(instrument)
            self._overtaken = True
            raise
        self._overtaken = False
        newest = await session.peek(LATEST_SUBSCRIPTION)
        if newest is not None and self._apply_subscriptions(newest[1]) is not None:
            self._outdated_maps = 0  # the newest is no map: one of those that wait counts
        held, self._held_maps = self._held_maps, None
        for delivery in held:
            self._take_map(session, *delivery)
        for instrument in self.signal.subscribed:
            self._request(session, instrument)
        if self._ready:
            # Another engine may have opened and closed spreads while this one had no session.
            self._ready = False
            self.orders.open_spreads(self._restore)
        await self.orders.attach(session)
        await session.consume(SIGNAL, self._take_book, exclusive=True)

    # --- subscriptions ---------------------------------------------------------------------------

    def _take_subscriptions(
        self, _: Channel, deliver: Basic.Deliver, properties: BasicProperties, body: bytes
    ) -> None:
        if self._held_maps is not None:
            self._held_maps.append((deliver, properties, body))
        elif self._session is not None:
            self._take_map(self._session, deliver, properties, body)

    def _take_map(
        self, session: Session, deliver: Basic.Deliver, properties: BasicProperties, body: bytes
    ) -> None:
        if self._outdated_maps:
            self._outdated_maps -= 1
        else:
            error = self._apply_subscriptions(body)
            with contextlib.suppress(SessionLost):
                if error is not None:
                    session.dead_letter(SUBSCRIPTION, error, properties, body)
                if self._map is not None and (error is not None or self._map_spoiled):
                    # What is no map must not stay the newest one; the real one is put after it.
                    kept = BasicProperties(delivery_mode=PERSISTENT)
                    session.publish("", LATEST_SUBSCRIPTION, self._map, kept)
            self._map_spoiled = error is not None
        session.acknowledge(deliver.delivery_tag or 0)

    def _apply_subscriptions(self, body: bytes) -> str | None:
        try:
            self.signal.on_subscriptions(decode_subscriptions(body))
        except InvalidMessage as error:
            return str(error)
        self._close_desks()
        self._map = body
        return None

    # --- books -----------------------------------------------------------------------------------

    def _take_book(
        self, _: Channel, deliver: Basic.Deliver, properties: BasicProperties, body: bytes
    ) -> None:
        self._taken = tag = deliver.delivery_tag or 0
        now = milliseconds()
        published = published_at(properties)
        # A time from the future would keep a book young for ever.
        received_ms = now if published is None or published > now else published
        try:
            arrived = PendingUpdate(tag, decode_book(body), received_ms, body, properties)
        except InvalidMessage as error:
            self._dead_letter(str(error), properties, body)
            return
        desk = self._desk_of(arrived.message)
        if desk.look is None:
            self._work_off(desk, arrived)
        else:
            self._waiting[tag] = None
            desk.inbox.append(arrived)
            if desk.late:
                self._apply_all(desk)
        if tag - self._acknowledged >= ACKNOWLEDGE_EVERY:
            self._acknowledge()

    def _desk_of(self, message: BookMessage) -> GroupLane:
        """Return the desk of the instrument's group, of the one that it joins where it is in none."""
        return self._desk(self.signal.key_of(message.instrument) or message.matching_key)

    def _desk(self, key: str) -> GroupLane:
        desk = self._desks.get(key)
        if desk is None:
            desk = self._desks[key] = GroupLane(key)
        return desk

    def _work(self, desk: GroupLane) -> None:
        """Work a desk's messages off until an order is out or none is left."""
        if desk.look is None and desk.moved_in and self._ready:
            moved_in, desk.moved_in = desk.moved_in, []
            self._start(desk, self.signal.scan(moved_in))
        while desk.look is None and desk.inbox:
            self._work_off(desk, self._next(desk))

    def _work_off(self, desk: GroupLane, arrived: PendingUpdate) -> None:
        """Apply a message, and look at the pairs that it gives reason to."""
        pairs = self._apply(arrived)
        if desk.key != arrived.message.matching_key:
            now = self._desk_of(arrived.message)
            if now is not desk:
                self._move(arrived.message.instrument, desk, now, pairs)
                return
        if pairs and self._ready:
            self._start(desk, self.signal.scan(pairs))

    def _move(self, instrument: Instrument, old: GroupLane, new: GroupLane, pairs: Sequence[Pair]) -> None:
        """Give the other desk what waits of an instrument that has changed its group."""
        staying = [waiting for waiting in old.inbox if waiting.message.instrument != instrument]
        new.inbox.extend(waiting for waiting in old.inbox if waiting.message.instrument == instrument)
        old.inbox = deque(staying)
        new.moved_in += pairs
        self._close_desks()
        self._work(new)

    def _close_desks(self) -> None:
        """Forget the desks of groups that are no more."""
        self._desks = {
            key: desk for key, desk in self._desks.items() if key in self.signal.groups or not desk.is_idle
        }

    def _apply_all(self, desk: GroupLane) -> None:
        """Apply what waits, but for instruments that move to another group: the order may be on them."""
        staying: deque[PendingUpdate] = deque()
        moving: set[Instrument] = set()
        for arrived in desk.inbox:
            message = arrived.message
            if message.matching_key != desk.key or message.instrument in moving:
                moving.add(message.instrument)
                staying.append(arrived)
            else:
                del self._waiting[arrived.delivery_tag]
                self._apply(arrived)
        desk.inbox = staying

    def _next(self, desk: GroupLane) -> PendingUpdate:
        arrived = desk.inbox.popleft()
        del self._waiting[arrived.delivery_tag]
        return arrived

    def _apply(self, arrived: PendingUpdate) -> Sequence[Pair]:
        try:
            return self.signal.on_book(arrived.message, arrived.received_ms)
        except InvalidMessage as error:
            self._dead_letter(str(error), arrived.properties, arrived.body)
        except Exception as error:
            # The edge: a message that crashes the engine is put aside, and its book is fetched anew.
            logger.exception("order-book message of %s crashed the handler", arrived.message.instrument)
            self._dead_letter(f"crashed the handler: {error!r}", arrived.properties, arrived.body)
            self.signal.invalidate(arrived.message.instrument)
        return ()

    def _dead_letter(self, reason: str, properties: BasicProperties, body: bytes) -> None:
        with contextlib.suppress(SessionLost):
            if self._session is not None:
                self._session.dead_letter(SIGNAL, reason, properties, body)

    # --- orders ----------------------------------------------------------------------------------

    def _start(self, desk: GroupLane, look: OrderScan) -> None:
        order = next(look, None)
        if order is not None:
            self._send(desk, look, order)

    def _send(self, desk: GroupLane, look: OrderScan, order: Order) -> None:
        desk.look = look
        desk.late = False
        desk.late_timer = asyncio.get_running_loop().call_later(LATE_SECONDS, self._become_late, desk)
        self.orders.send(order, lambda reply: self._answered(desk, reply))

    def _become_late(self, desk: GroupLane) -> None:
        desk.late = True
        self._apply_all(desk)

    def _answered(self, desk: GroupLane, reply: Reply) -> None:
        look = desk.look
        assert look is not None and desk.late_timer is not None  # noqa: S101, PT018 - an order was out
        desk.late_timer.cancel()
        desk.look = None
        try:
            order: Order | None = look.send(reply)
        except StopIteration:
            order = None
        if not reply.acked and reply.info.startswith("invalid order: spread_id"):
            # What the engine has open is not what we think: it is the authority.
            logger.warning("refused: %s; asking which spreads are open", reply.info)
            self._ready = False
            self.orders.open_spreads(self._restore)
        if desk.late or not self._ready:
            # The books have moved on under the look: whatever it would order next is decided anew.
            look.close()
            order = None
        if order is not None:
            self._send(desk, look, order)
            return
        if desk.late and self._ready:
            self._look_at_all(desk)
        self._work(desk)

    def _look_at_all(self, desk: GroupLane) -> None:
        desk.late = False
        desk.moved_in = []
        self._start(desk, self.signal.scan(self.signal.all_pairs(desk.key)))

    def _restore(self, reply: Reply) -> None:
        self.signal.restore(reply.open_spreads or ())
        self._ready = True
        logger.info("the trading engine has %d spreads open", len(self.signal.spreads))
        for key in list(self.signal.groups):
            desk = self._desk(key)
            if desk.look is None:
                self._look_at_all(desk)
                self._work(desk)

    # --- acknowledging and snapshots -------------------------------------------------------------

    def _acknowledge(self) -> None:
        """Acknowledge everything before the oldest message that waits."""
        worked_off = next(iter(self._waiting)) - 1 if self._waiting else self._taken
        if self._session is not None and worked_off > self._acknowledged:
            self._acknowledged = worked_off
            self._session.acknowledge(worked_off, multiple=True)

    async def _acknowledge_regularly(self) -> None:
        while True:
            await asyncio.sleep(ACKNOWLEDGE_SECONDS)
            self._acknowledge()

    async def _ask_for_snapshots(self) -> None:
        """Ask the collector for a snapshot of each book that waits for one, with growing pauses."""
        while True:
            await asyncio.sleep(ACKNOWLEDGE_SECONDS)
            session = self._session
            if session is None or not session.is_open:
                continue
            for instrument in list(self.signal.needs_snapshot):
                self._request(session, instrument)
            for instrument in [known for known in self._resync if known not in self.signal.needs_snapshot]:
                if self._resync[instrument].is_over():
                    del self._resync[instrument]

    def _request(self, session: Session, instrument: Instrument) -> None:
        resync = self._resync.setdefault(instrument, SnapshotRequest())
        if not resync.is_due():
            return
        if resync.asked == SKIPPING:
            logger.warning(
                "%s keeps losing updates: its book is seldom usable; if its update ids skip by nature, "
                "CONSECUTIVE_UPDATES=false takes them as they come",
                instrument,
            )
        with contextlib.suppress(SessionLost):
            session.publish(EXCHANGE, RESYNC, encode_resync(instrument), BasicProperties())

    async def _finish(self) -> None:
        deadline = asyncio.get_running_loop().time() + 3
        self._ready = False
        while (
            any(desk.look for desk in self._desks.values()) and asyncio.get_running_loop().time() < deadline
        ):
            await asyncio.sleep(0.01)
        self._acknowledge()


def main() -> None:
    """Run the signal service."""
    parse_arguments(__doc__)
    check_settings()
    signal = Signal(
        clock=milliseconds,
        stale_after_ms=Config.MAX_BOOK_AGE_MS,
        order_timeout_ms=Config.ORDER_TIMEOUT_MS,
        consecutive=Config.CONSECUTIVE_UPDATES,
    )
    run_service(
        "signal engine",
        SignalService(signal, OrderManager()).serve,
        log_level=Config.LOG_LEVEL,
        on_start=log_settings,
    )


if __name__ == "__main__":
    main()
