"""Orders on their way to the trading engine, and its answers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from pika.channel import Channel
from pika.spec import Basic, BasicProperties

from blackbird.broker.session import Session, SessionLost
from blackbird.broker.topology import DIRECT_REPLY, ORDERS, PERSISTENT
from blackbird.market.fields import InvalidMessage
from blackbird.trading.orders import QUESTION, Order, Reply, decode_reply, encode_order
from blackbird.trading.spreads import new_id

logger = logging.getLogger(__name__)

ASK_AGAIN_SECONDS = 1.0
ASK_SPREADS_SECONDS = 2.0

OnReply = Callable[[Reply], None]


class OrderManager:
    """Sends orders to the trading engine and waits for its answers, by correlation id.

    An order's outcome is confirmed, refused or unknown; unknown is asked about with the same order id until
    it is known, over as many connections as it takes.
    """

    def __init__(self) -> None:
        self._session: Session | None = None
        self._out: dict[str, tuple[Order, OnReply]] = {}
        self._again: dict[str, asyncio.TimerHandle] = {}
        self._on_spreads: OnReply | None = None
        self._question = ""
        self._ask_spreads: asyncio.TimerHandle | None = None

    async def attach(self, session: Session) -> None:
        """Use `session` from now on; what was asked on another is asked again."""
        await session.consume(DIRECT_REPLY, self._take, auto_ack=True, label="replies")
        self._session = session
        for order_id in self._out:
            self._send(order_id)
        if self._on_spreads is not None:
            self._ask()

    def send(self, order: Order, on_reply: OnReply) -> None:
        """Send an order with an id; `on_reply` is called once, when its outcome is known."""
        order_id = str(order.order_id)
        self._out[order_id] = order, on_reply
        self._send(order_id)

    def open_spreads(self, on_reply: OnReply) -> None:
        """Ask the engine what is open, again every 2 s until it says."""
        self._on_spreads = on_reply
        self._ask()

    def close(self) -> None:
        """Ask no more."""
        for timer in (*self._again.values(), self._ask_spreads):
            if timer is not None:
                timer.cancel()

    def _send(self, order_id: str) -> None:
        if (earlier := self._again.pop(order_id, None)) is not None:
            earlier.cancel()
        self._again[order_id] = asyncio.get_running_loop().call_later(
            ASK_AGAIN_SECONDS, self._send_again, order_id
        )
        self._publish(encode_order(self._out[order_id][0]), order_id)

    def _send_again(self, order_id: str) -> None:
        logger.warning("no answer to order %s yet: asking again", order_id)
        self._send(order_id)

    def _ask(self) -> None:
        if self._ask_spreads is not None:
            self._ask_spreads.cancel()
        if self._on_spreads is None:
            return
        self._ask_spreads = asyncio.get_running_loop().call_later(ASK_SPREADS_SECONDS, self._ask)
        self._question = new_id()
        self._publish(QUESTION, self._question)

    def _publish(self, body: bytes, correlation_id: str) -> None:
        # Without a broker nothing is sent; it is asked again when there is one.
        with contextlib.suppress(SessionLost):
            if self._session is not None:
                properties = BasicProperties(
                    delivery_mode=PERSISTENT, reply_to=DIRECT_REPLY, correlation_id=correlation_id
                )
                self._session.publish("", ORDERS, body, properties)

    def _take(self, _: Channel, __: Basic.Deliver, properties: BasicProperties, body: bytes) -> None:
        try:
            reply = decode_reply(body)
        except InvalidMessage as error:
            logger.warning("reply that is none, ignored: %s", error)
            return
        correlation_id = str(properties.correlation_id)
        out = self._out.pop(correlation_id, None)
        if out is not None:
            self._again.pop(correlation_id).cancel()
            out[1](reply)
        elif self._on_spreads is not None and correlation_id == self._question and reply.acked:
            on_spreads = self._on_spreads
            self._on_spreads = None
            if self._ask_spreads is not None:
                self._ask_spreads.cancel()
            on_spreads(reply)
