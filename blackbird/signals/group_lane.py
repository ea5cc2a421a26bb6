"""The trading of matching groups side by side, one lane for each."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import msgspec
from pika.spec import BasicProperties

from blackbird.broker.properties import published_at
from blackbird.market.book_message import BookMessage
from blackbird.market.fields import InvalidMessage
from blackbird.market.instrument import Instrument
from blackbird.runtime.clock import milliseconds
from blackbird.runtime.failure_log import FailureLog
from blackbird.signals.ack_tracker import AckTracker
from blackbird.signals.division import Division
from blackbird.trading.order_scan import OrderScan
from blackbird.trading.orders import OpenSpread, Order, Reply
from blackbird.trading.signal import Signal
from blackbird.trading.spreads import Pair

logger = logging.getLogger(__name__)

# A reply that takes longer than this is late: books are updated without it.
LATE_SECONDS = 1.0


class PendingUpdate(msgspec.Struct, gc=False):
    """A book message on its way through a lane; times are milliseconds since 1970."""

    delivery_tag: int
    message: BookMessage
    received_ms: int  # by the collector
    taken_ms: int  # from the broker
    body: bytes
    properties: BasicProperties


class Timer(Protocol):
    """A call that can be cancelled before its time."""

    def cancel(self) -> None:
        """Don't make the call."""


class OrderSender(Protocol):
    """What lanes need of the OrderManager."""

    def send(self, order: Order, on_reply: Callable[[Reply], None]) -> None:
        """Send an order; `on_reply` is called once, when its outcome is known."""

    def open_spreads(self, on_reply: Callable[[Reply], None]) -> None:
        """Ask the trading engine which spreads are open."""


def start_timer(seconds: float, callback: Callable[[], None]) -> Timer:
    """Call `callback` on the running event loop after so many seconds."""
    return asyncio.get_running_loop().call_later(seconds, callback)


@dataclass
class LaneContext:
    """What all lanes share. `reject` dead-letters a message with a reason.

    With `keeps_ordering` a message that leads to an order is acknowledged once the order is answered or late.
    """

    signal: Signal
    orders: OrderSender
    acks: AckTracker
    failures: FailureLog
    reject: Callable[[PendingUpdate, str], None]
    start_timer: Callable[[float, Callable[[], None]], Timer] = start_timer
    clock: Callable[[], int] = milliseconds
    keeps_ordering: bool = False


class LaneEdge:
    """Where errors in the processing of messages end: no message of another group is touched by them."""

    def __init__(self, context: LaneContext) -> None:
        self._context = context
        self._keeper = context.signal.keeper

    def put_aside(self, update: PendingUpdate, error: Exception) -> None:
        """Dead-letter a message that could not be applied."""
        if isinstance(error, InvalidMessage):
            self._context.reject(update, str(error))
        else:
            self.fail("updating the book", error, update)

    def fail(
        self, what: str, error: Exception, update: PendingUpdate | None, pairs: Sequence[Pair] = ()
    ) -> None:
        """Survive a programming error: log it, put its message aside and fetch the books anew.

        The group goes on without these books until their snapshots come; other groups are not touched.
        """
        if update is not None:
            self._context.failures.log(f"{what} of {update.message.instrument}", error)
            self._context.reject(update, f"crashed the handler: {error!r}")
            self._keeper.invalidate(update.message.instrument)
            return
        self._context.failures.log(f"{what} of {', '.join(map(str, pairs))}", error)
        for instrument in {leg for pair in pairs for leg in pair}:
            self._keeper.invalidate(instrument)


class Gate:
    """Whether the groups of a partition may trade: not before their open spreads are known."""

    __slots__ = ("is_open",)

    def __init__(self) -> None:
        self.is_open = False


class GroupLane:
    """The trading of one matching group.

    Its messages are processed one at a time, in order; while its order is in flight, those that follow wait.
    When the reply is late they are applied without a scan.
    """

    def __init__(self, key: str, context: LaneContext, lanes: GroupLanes) -> None:
        self.key = key
        self._partition = lanes.partition_of(key)
        self._gate = lanes.gate(self._partition)
        self._context = context
        self._signal = context.signal
        self._edge = LaneEdge(context)
        self._lanes = lanes
        self._last_updates = lanes.last_updates
        self._waiting: deque[PendingUpdate] = deque()
        self._scan: OrderScan | None = None  # whose order is in flight
        self._kept_tag: int | None = None  # of the message that the order in flight follows from
        self._is_late = False
        self._pending_pairs: list[Pair] = []  # of instruments that came from another group

    @property
    def is_idle(self) -> bool:
        """Return whether nothing is in flight and nothing waits."""
        return self._scan is None and not self._waiting and not self._pending_pairs

    @property
    def has_order_in_flight(self) -> bool:
        """Return whether the lane waits for a reply."""
        return self._scan is not None

    @property
    def is_late(self) -> bool:
        """Return whether the reply that the lane waits for is late."""
        return self._is_late

    @property
    def waiting(self) -> int:
        """Return how many messages wait."""
        return len(self._waiting)

    # --- messages --------------------------------------------------------------------------------

    def receive(self, update: PendingUpdate) -> None:
        """Process a message, or let it wait for the reply to the order in flight."""
        if self._scan is None:
            self._process(update)
            return
        self._context.acks.hold(update.delivery_tag)
        self._waiting.append(update)
        if self._is_late:
            self._apply_waiting()

    def move_in(self, updates: Sequence[PendingUpdate], pairs: Sequence[Pair]) -> None:
        """Take over an instrument of another lane: its waiting messages, and the pairs to scan."""
        self._waiting.extend(updates)
        self._pending_pairs += pairs
        self.work()

    def drop_waiting(self) -> None:
        """Forget what waits: the session that delivered it has ended."""
        self._waiting.clear()
        self._kept_tag = None

    def work(self) -> None:
        """Process what waits until an order is in flight or nothing is left."""
        if self._scan is None and self._has_waited_too_long():
            self._catch_up()
        if self._pending_pairs and self._scan is None and self._gate.is_open:
            pairs, self._pending_pairs = self._pending_pairs, []
            self._begin_scan(pairs)
        while self._waiting and self._scan is None:
            self._process(self._next())

    def scan_all(self) -> None:
        """Scan all pairs of the group, unless an order is in flight."""
        if self._scan is None and self._gate.is_open:
            self._pending_pairs = []
            self._begin_scan(self._signal.all_pairs(self.key))

    def _process(self, update: PendingUpdate) -> None:
        """Apply a message, and scan the pairs that it gives reason to."""
        message = update.message
        pairs: Sequence[Pair] = ()
        try:
            pairs = self._signal.on_book(message, update.received_ms, update.taken_ms)
        except Exception as error:  # noqa: BLE001 - see LaneEdge
            self._edge.put_aside(update, error)
        self._last_updates[message.channel, message.data.s] = update
        if self.key != message.matching_key:
            lane = self._lanes.lane_for(message)
            if lane is not self:
                self._move_out(message.instrument, lane, pairs)
                return
        if pairs and self._gate.is_open:
            self._begin_scan(pairs, update)

    def _move_out(self, instrument: Instrument, lane: GroupLane, pairs: Sequence[Pair]) -> None:
        """Hand an instrument that has changed its group over, with its messages that wait."""
        moving = [update for update in self._waiting if update.message.instrument == instrument]
        self._waiting = deque(update for update in self._waiting if update.message.instrument != instrument)
        self._lanes.remove_idle()
        lane.move_in(moving, pairs)

    def _catch_up(self) -> None:
        """Apply all that waits before anything is traded, then scan the whole group."""
        self._apply_waiting()
        self.scan_all()

    def _apply_waiting(self) -> None:
        """Apply what waits without a scan, but for instruments that move to another group.

        The order in flight may be on the book of such an instrument.
        """
        staying: deque[PendingUpdate] = deque()
        moving: set[Instrument] = set()
        for update in self._waiting:
            message = update.message
            if message.matching_key != self.key or message.instrument in moving:
                moving.add(message.instrument)
                staying.append(update)
            else:
                self._context.acks.release(update.delivery_tag)
                try:
                    self._signal.on_book(message, update.received_ms, update.taken_ms)
                except Exception as error:  # noqa: BLE001 - see LaneEdge
                    self._edge.put_aside(update, error)
                self._last_updates[message.channel, message.data.s] = update
        self._waiting = staying

    def _next(self) -> PendingUpdate:
        update = self._waiting.popleft()
        self._context.acks.release(update.delivery_tag)
        return update

    # --- orders ----------------------------------------------------------------------------------

    def _begin_scan(self, pairs: Sequence[Pair], update: PendingUpdate | None = None) -> None:
        """Scan `pairs`, which `update` gave reason to, and send the first order."""
        try:
            scan = self._signal.scan(pairs)
        except Exception as error:  # noqa: BLE001 - see LaneEdge
            self._edge.fail("scanning", error, update, pairs)
            return
        if scan.order is not None:
            self._send(scan, scan.order)
            if update is not None and self._context.keeps_ordering:
                self._keep(update.delivery_tag)

    def _send(self, scan: OrderScan, order: Order) -> None:
        self._scan = scan
        on_late = self._context.failures.guard("applying what waits", self._on_late)
        timer = self._context.start_timer(LATE_SECONDS, on_late)
        self._context.orders.send(self._with_trail(order), partial(self._on_reply, scan, order, timer))

    def _with_trail(self, order: Order) -> Order:
        """Return `order` with the times that its latency is measured by."""
        bought, sold = self._last_updates.get(order.buy), self._last_updates.get(order.sell)
        return msgspec.structs.replace(
            order,
            published_buy=bought and published_at(bought.properties),
            published_sell=sold and published_at(sold.properties),
            received_buy=bought and bought.taken_ms,
            received_sell=sold and sold.taken_ms,
            decided_at=self._context.clock(),
        )

    def _keep(self, delivery_tag: int) -> None:
        self._let_go()
        self._context.acks.keep(delivery_tag)
        self._kept_tag = delivery_tag

    def _let_go(self) -> None:
        if self._kept_tag is not None:
            self._context.acks.let_go(self._kept_tag)
            self._kept_tag = None

    def _on_late(self) -> None:
        self._is_late = True
        self._let_go()
        self._apply_waiting()

    def _on_reply(self, scan: OrderScan, order: Order, timer: Timer, reply: Reply) -> None:
        timer.cancel()
        self._scan = None
        is_outdated = self._is_late or self._has_waited_too_long()
        self._is_late = False
        next_order = self._book(scan, order, reply)
        if is_outdated:
            # The books have moved on under the scan: what it would order next is decided anew.
            self._catch_up()
        elif next_order is not None and self._gate.is_open:
            self._send(scan, next_order)
        if self._scan is None:
            self._let_go()
        self.work()

    def _has_waited_too_long(self) -> bool:
        return bool(self._waiting) and self._signal.is_late(self._waiting[0].received_ms)

    def _book(self, scan: OrderScan, order: Order, reply: Reply) -> Order | None:
        """Book the reply to `order` and return the next one.

        Where that fails, or the engine does not know the spread, it is asked which are open.
        """
        next_order = None
        try:
            next_order = scan.answer(reply)
        except Exception as error:  # noqa: BLE001 - see LaneEdge
            self._edge.fail("booking a reply", error, None, [Pair(order.buy, order.sell)])
            self._lanes.ask_open_spreads(self._partition)
        if reply.contradicts_open_spreads:
            logger.warning("refused: %s; asking which spreads are open", reply.info)
            self._lanes.ask_open_spreads(self._partition)
        return next_order


class GroupLanes:
    """The lanes of all groups; an instrument that changes its group moves from one to the other.

    Nothing of a partition is ordered before the trading engine has said which spreads are open; without a
    `division` there is one, number 0.
    """

    def __init__(self, context: LaneContext, division: Division | None = None) -> None:
        self._context = context
        self._division = division
        self._gates: dict[int, Gate] = {}
        self._asked: set[int] = set()  # the partitions whose open spreads the trading engine is asked for
        self._signal = context.signal
        self._lanes: dict[str, GroupLane] = {}
        # The last message that each instrument's book has seen, applied or not; an Instrument is such a key.
        self.last_updates: dict[tuple[str, str], PendingUpdate] = {}
        self.is_stopping = False

    @property
    def may_trade(self) -> bool:
        """Return whether all groups whose messages come may trade."""
        return not self._asked and any(gate.is_open for gate in self._gates.values())

    def partition_of(self, key: str) -> int:
        """Return the partition of the group with this key."""
        return 0 if self._division is None else self._division.of_group(key)

    def gate(self, partition: int) -> Gate:
        """Return what says whether the groups of a partition may trade."""
        return self._gates.setdefault(partition, Gate())

    @property
    def keys(self) -> list[str]:
        """The matching keys of the lanes, in order of their making."""
        return list(self._lanes)

    @property
    def have_orders_in_flight(self) -> bool:
        """Return whether any lane waits for a reply."""
        return any(lane.has_order_in_flight for lane in self._lanes.values())

    @property
    def orders_in_flight(self) -> int:
        """Return how many lanes wait for a reply."""
        return sum(lane.has_order_in_flight for lane in self._lanes.values())

    @property
    def waiting(self) -> int:
        """Return how many messages wait in all lanes."""
        return sum(lane.waiting for lane in self._lanes.values())

    def get(self, key: str) -> GroupLane | None:
        """Return the lane of the group with this key, None where it has none yet."""
        return self._lanes.get(key)

    def receive(self, update: PendingUpdate) -> None:
        """Process a message in the lane of its group, or let it wait there."""
        message = update.message
        key = self._signal.keeper.key_of(message.instrument) or message.matching_key
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lane(key)
        lane.receive(update)

    def lane_for(self, message: BookMessage) -> GroupLane:
        """Return the lane of the instrument's group, of the one that it joins where it is in none."""
        return self._lane(self._signal.keeper.key_of(message.instrument) or message.matching_key)

    def ask_open_spreads(self, partition: int = 0) -> None:
        """Order nothing more of a partition before the trading engine has said what is open."""
        self.close(partition)
        self._asked.add(partition)
        self._context.orders.open_spreads(self._restore)

    def close(self, partition: int) -> None:
        """Order nothing more of a partition."""
        self.gate(partition).is_open = False
        self._asked.discard(partition)

    def restart(self) -> None:
        """Begin anew with another session: messages that wait will be redelivered.

        Another engine may have opened and closed spreads while this one had no session. Partitions are asked
        about when they deliver again.
        """
        for lane in self._lanes.values():
            lane.drop_waiting()
        if self._division is None:
            if self.may_trade:
                self.ask_open_spreads()
        else:
            for partition in self._gates:
                self.close(partition)

    def stop_trading(self) -> None:
        """Begin no more scans."""
        self.is_stopping = True
        for gate in self._gates.values():
            gate.is_open = False

    def remove_idle(self) -> None:
        """Forget the lanes of groups, and the messages of instruments, that are gone."""
        groups = self._signal.keeper.groups
        for instrument in self.last_updates.keys() - self._signal.keeper.books.keys():
            del self.last_updates[instrument]
        self._lanes = {key: lane for key, lane in self._lanes.items() if key in groups or not lane.is_idle}

    def _lane(self, key: str) -> GroupLane:
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = GroupLane(key, self._context, self)
        return lane

    def _restore(self, reply: Reply) -> None:
        asked = set(self._asked)
        self._restore_spreads(reply.open_spreads or (), asked)
        self._asked.clear()
        for partition in asked:
            self.gate(partition).is_open = True
        logger.info("the trading engine has %d spreads open", len(reply.open_spreads or ()))
        for key in list(self._signal.keeper.groups):
            if self.partition_of(key) in asked:
                lane = self._lane(key)
                lane.scan_all()
                lane.work()

    def _restore_spreads(self, spreads: Sequence[OpenSpread], partitions: set[int]) -> None:
        division = self._division
        if division is None:
            self._signal.restore(spreads)
        else:
            # Those of a pair whose partition is not known are kept too: it may be one of these.
            wanted = {*partitions, None}
            self._signal.restore_some(spreads, lambda pair: division.of_pair(pair) in wanted)
