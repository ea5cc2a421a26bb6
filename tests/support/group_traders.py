"""Clients of the trading engine that trade several groups side by side, whatever breaks meanwhile."""

from __future__ import annotations

import random
import re
import time
from dataclasses import dataclass, field
from decimal import Decimal

import pika.exceptions

from blackbird.trading.orders import outlasts_books
from tests.support.order_client import OrderClient
from tests.support.real_system import Message, RealSystem, perp, spot

# An order that is not answered is sent again, as the signal engine does.
AGAIN_SECONDS = 1.0
# After a reason that prices do not change. The signal engine waits longer.
REST_SECONDS = 0.25
# What an order is answered of which nothing was sent.
UNSENT = re.compile(
    r"risk limit|order already|invalid order|size below|not enough|instrument not|leftover of"
    r"|cooling down|rate limit|not connected|order not placed|expired"
)
ZERO = Decimal(0)


@dataclass
class GroupTrader:
    """One order in flight for the two instruments of a coin; opens and closes what was opened."""

    system: RealSystem
    coin: str
    chance: random.Random
    open: list[tuple[Message, Decimal]] = field(default_factory=list)
    order: Message | None = None
    sent_at: float = 0.0
    rests_until: float = 0.0

    def next_order(self) -> Message:
        """Make up the next order."""
        if self.open and self.chance.random() < 0.5:
            opened, quantity = self.chance.choice(self.open)
            whole = self.chance.random() < 0.7
            size = quantity if whole else max(quantity / 2, Decimal("0.1"))
            self.order = self.system.closing(opened, min(size.quantize(Decimal("0.001")), quantity))
        else:
            size = Decimal(self.chance.randint(100, 900)) / 1000
            legs = [spot(self.coin), perp(self.coin)]
            self.chance.shuffle(legs)
            self.order = self.system.opening(self.coin, str(size), buy=legs[0], sell=legs[1])
        return self.order

    def take(self, reply: Message) -> None:
        """Note what became of the order."""
        order, self.order = self.order, None
        assert order is not None
        if outlasts_books(reply["info"]):
            self.rests_until = time.monotonic() + REST_SECONDS
        if reply["status"] != "ACK":
            if reply["info"].startswith("invalid order: spread_id"):
                self.open = [each for each in self.open if each[0]["spread_id"] != order["spread_id"]]
            return
        if order["action"] == "Open Spread":
            self.open.append((order, reply["size"]))
            return
        left = [(each, quantity) for each, quantity in self.open if each["spread_id"] != order["spread_id"]]
        [(opened, quantity)] = [each for each in self.open if each[0]["spread_id"] == order["spread_id"]]
        if quantity > reply["size"]:
            left.append((opened, quantity - reply["size"]))
        self.open = left


@dataclass
class Trading:
    """All groups, over one connection that is made anew when it breaks."""

    system: RealSystem
    traders: list[GroupTrader]
    orders: dict[str, Message] = field(default_factory=dict)
    replies: dict[str, Message] = field(default_factory=dict)
    sent: int = 0  # orders answered of which a leg went to the exchange

    def step(self, *, begin: bool) -> None:
        """Send what is to be sent, and take what has come; without `begin` no new orders."""
        try:
            self._send(begin=begin)
            self.system.client.pump()
        except (pika.exceptions.AMQPError, OSError):
            self._reconnect()
        self._collect()

    @property
    def in_flight(self) -> int:
        return sum(trader.order is not None for trader in self.traders)

    def settle(self, seconds: float) -> None:
        """Wait until every order is answered."""
        deadline = time.monotonic() + seconds
        while self.in_flight:
            waiting = [trader.order["order_id"] for trader in self.traders if trader.order]
            assert time.monotonic() < deadline, f"not answered: {waiting}"
            self.step(begin=False)

    def _send(self, *, begin: bool) -> None:
        now = time.monotonic()
        for trader in self.traders:
            order = trader.order
            if order is None:
                if not begin or now < trader.rests_until:
                    continue
                order = trader.next_order()
                self.orders[order["order_id"]] = order
            elif now - trader.sent_at < AGAIN_SECONDS:
                continue
            self.system.client.send(order, order["order_id"])
            trader.sent_at = now

    def _collect(self) -> None:
        for trader in self.traders:
            order_id = trader.order["order_id"] if trader.order else None
            if order_id in self.system.client.replies:
                reply = self.system.client.answer(order_id)
                self.replies[order_id] = reply
                self.sent += UNSENT.match(reply["info"]) is None
                trader.take(reply)

    def _reconnect(self) -> None:
        replies = self.system.client.replies
        try:
            self.system.client = OrderClient(self.system.place)
        except (pika.exceptions.AMQPError, OSError):
            time.sleep(0.1)
            return
        self.system.client.replies = replies
