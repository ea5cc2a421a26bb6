"""Orders on their way to the trading engine, and its replies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

from pika.channel import Channel
from pika.spec import Basic, BasicProperties

from blackbird.broker.session import Session, SessionLost
from blackbird.broker.topology import DIRECT_REPLY, ORDERS, PERSISTENT
from blackbird.market.fields import InvalidMessage
from blackbird.runtime.failure_log import FailureLog
from blackbird.runtime.throttled_log import ThrottledLog
from blackbird.signals.order_log import OrderLog
from blackbird.trading.orders import QUESTION, Order, Reply, decode_reply, encode_order
from blackbird.trading.spreads import new_id

logger = logging.getLogger(__name__)

ASK_AGAIN_SECONDS = 1.0
ASK_SPREADS_SECONDS = 2.0

OnReply = Callable[[Reply], None]


class OrderManager:
    """Sends orders to the trading engine and waits for its replies, by correlation id.

    An order's outcome is confirmed, refused or unknown; unknown is asked about with the same order id until
    it is known, over as many connections as it takes. An `on_reply` that fails ends nothing.
    """

    def __init__(
        self,
        failures: FailureLog | None = None,
        *,
        ask_again_seconds: float = ASK_AGAIN_SECONDS,
        ask_spreads_seconds: float = ASK_SPREADS_SECONDS,
    ) -> None:
        self.log = OrderLog()
        self._failures = failures or FailureLog()
        self._ask_again_seconds = ask_again_seconds
        self._ask_spreads_seconds = ask_spreads_seconds
        self._session: Session | None = None
        self._in_flight: dict[str, tuple[Order, OnReply, float]] = {}  # with the time of sending
        self._again: dict[str, asyncio.TimerHandle] = {}
        self._on_spreads: OnReply | None = None
        self._question = ""
        self._ask_spreads: asyncio.TimerHandle | None = None
        self._unserved = ThrottledLog()
        self._checking: asyncio.Task[None] | None = None

    async def attach(self, session: Session) -> None:
        """Use `session` from now on; what was asked on another is asked again."""
        # Counted and throttled here; the session's own edge would log each failure with its traceback.
        on_delivery = self._failures.guard("booking a reply", self._on_delivery)
        await session.consume(DIRECT_REPLY, on_delivery, auto_ack=True, label="replies")
        self._session = session
        for order_id in self._in_flight:
            self._send(order_id)
        if self._on_spreads is not None:
            self._ask()

    def send(self, order: Order, on_reply: OnReply) -> None:
        """Send an order with an id; `on_reply` is called once, when its outcome is known."""
        order_id = str(order.order_id)
        self._in_flight[order_id] = order, on_reply, time.perf_counter()
        self._send(order_id)

    def open_spreads(self, on_reply: OnReply) -> None:
        """Ask the engine which spreads are open, again every 2 s until it answers and `on_reply` succeeds."""
        self._on_spreads = on_reply
        self._ask()

    def close(self) -> None:
        """Ask no more."""
        for handle in (*self._again.values(), self._ask_spreads, self._checking):
            if handle is not None:
                handle.cancel()

    def _send(self, order_id: str) -> None:
        if (earlier := self._again.pop(order_id, None)) is not None:
            earlier.cancel()
        self._again[order_id] = asyncio.get_running_loop().call_later(
            self._ask_again_seconds, self._failures.guard("asking again", self._send_again), order_id
        )
        self._publish(encode_order(self._in_flight[order_id][0]), order_id)

    def _send_again(self, order_id: str) -> None:
        logger.warning("no reply to order %s yet: asking again", order_id)
        self._check_consumer()
        self._send(order_id)

    def _ask(self) -> None:
        if self._ask_spreads is not None:
            self._ask_spreads.cancel()
        if self._on_spreads is None:
            return
        self._ask_spreads = asyncio.get_running_loop().call_later(
            self._ask_spreads_seconds, self._failures.guard("asking again", self._ask_again)
        )
        self._question = new_id()
        self._publish(QUESTION, self._question)

    def _ask_again(self) -> None:
        if self._on_spreads is not None:
            self._check_consumer()
        self._ask()

    def _publish(self, body: bytes, correlation_id: str) -> None:
        # Without a broker nothing is sent; it is asked again when there is one.
        with contextlib.suppress(SessionLost):
            if self._session is not None:
                properties = BasicProperties(
                    delivery_mode=PERSISTENT, reply_to=DIRECT_REPLY, correlation_id=correlation_id
                )
                self._session.publish("", ORDERS, body, properties)

    def _check_consumer(self) -> None:
        """Say so where a request goes unanswered because nobody takes it."""
        if self._session is not None and (self._checking is None or self._checking.done()):
            self._checking = asyncio.get_running_loop().create_task(self._warn_unserved(self._session))

    async def _warn_unserved(self, session: Session) -> None:
        with contextlib.suppress(SessionLost):
            if await session.count_consumers(ORDERS) == 0:
                self._unserved.warn("nobody consumes `orders`: is the trading engine running?")

    def _on_delivery(self, _: Channel, __: Basic.Deliver, properties: BasicProperties, body: bytes) -> None:
        try:
            reply = decode_reply(body)
        except InvalidMessage as error:
            logger.warning("ignoring malformed reply: %s", error)
            return
        self._take(str(properties.correlation_id), reply)

    def _take(self, correlation_id: str, reply: Reply) -> None:
        in_flight = self._in_flight.pop(correlation_id, None)
        if in_flight is not None:
            self._again.pop(correlation_id).cancel()
            order, on_reply, sent = in_flight
            self.log.add(order, reply, time.perf_counter() - sent)
            on_reply(reply)
        elif self._on_spreads is not None and correlation_id == self._question and reply.acked:
            self._on_spreads(reply)  # where this fails the timer asks again
            if correlation_id == self._question:
                self._on_spreads = None
                if self._ask_spreads is not None:
                    self._ask_spreads.cancel()
