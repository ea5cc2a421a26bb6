"""A client of the trading engine that asks until it knows, and the accounts that the order table comes to."""

from __future__ import annotations

import json
import random
import re
import time
import uuid
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any

import pika

from tests.support.workspace import DEADLINE, Service, Workspace, encode

LINEAR = ["linear", "BTCPERP"]
SPOT = ["spot", "BTCUSDT"]
ACK = {"status": "ACK", "info": "order placed"}
READY = re.compile(r"ready: (\d+) orders known, PnL (\S+), (\d+) spreads open, exposure (\{.*\})")


def new_order(**changes: Any) -> dict[str, Any]:
    """Return an Open order of an id of its own; None takes a field out."""
    identifier = uuid.uuid4().hex
    fields = {
        "order_id": identifier,
        "action": "Open Spread",
        "spread_id": f"s-{identifier}",
        "buy": LINEAR,
        "buy_price": 100,
        "sell": SPOT,
        "sell_price": 101,
        "size": 1,
        "ts_buy": 1723161256298,
        "ts_sell": 1723161256208,
        **changes,
    }
    return {name: value for name, value in fields.items() if value is not None}


def closing(order: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return an order that closes the spread that `order` opens."""
    fields = {"buy": order["sell"], "sell": order["buy"], "buy_price": 100.5, "sell_price": 100.25}
    return new_order(**{"action": "Close Spread", "spread_id": order["spread_id"], **fields, **changes})


class OrderClient:
    """Sends requests over one connection and collects the replies, by correlation id."""

    def __init__(self, place: Workspace) -> None:
        self._channel = place.channel()
        self.replies: dict[str, list[dict[str, Any]]] = {}
        self._queue = self._channel.queue_declare("", exclusive=True).method.queue
        self._channel.basic_consume(self._queue, self._take, auto_ack=True)

    def send(self, body: dict[str, Any] | bytes, correlation_id: str) -> None:
        properties = pika.BasicProperties(
            reply_to=self._queue, correlation_id=correlation_id, delivery_mode=pika.DeliveryMode.Persistent
        )
        self._channel.basic_publish(
            "", "orders", body if isinstance(body, bytes) else encode(body), properties
        )

    def pump(self, seconds: float = 0.02) -> None:
        """Take what has arrived, and what arrives in `seconds`."""
        self._channel.connection.process_data_events(seconds)

    def settle(
        self,
        orders: Iterable[dict[str, Any]],
        *,
        meanwhile: Callable[[], None] = lambda: None,
        in_flight: int = 20,
        again: float = 0.25,
        seconds: float = 60,
    ) -> dict[str, dict[str, Any]]:
        """Send each order, again with the same order_id until its outcome is known; return the outcomes.

        Fails where one order gets two different answers.
        """
        waiting = list(orders)
        identifiers = [order["order_id"] for order in waiting]
        out: dict[str, tuple[dict[str, Any], float]] = {}
        deadline = time.monotonic() + seconds
        while waiting or out:
            assert time.monotonic() < deadline, f"{len(out)} orders without an answer"
            while waiting and len(out) < in_flight:
                order = waiting.pop(0)
                self.send(order, order["order_id"])
                out[order["order_id"]] = (order, time.monotonic())
            self.pump()
            meanwhile()
            for identifier, (order, sent) in list(out.items()):
                if identifier in self.replies:
                    del out[identifier]
                elif time.monotonic() - sent > again:
                    self.send(order, identifier)
                    out[identifier] = (order, time.monotonic())
        return {identifier: self.answer(identifier) for identifier in identifiers}

    def answer(self, correlation_id: str) -> dict[str, Any]:
        """Return the one answer that all replies to a request gave."""
        replies = self.replies[correlation_id]
        assert all(reply == replies[0] for reply in replies), f"different answers: {replies}"
        return replies[0]

    def wait(self, *correlation_ids: str, count: int = 1, seconds: float = DEADLINE) -> None:
        """Take replies until each of these requests has so many."""
        deadline = time.monotonic() + seconds
        while any(len(self.replies.get(each, ())) < count for each in correlation_ids):
            assert time.monotonic() < deadline, f"no reply to some of {correlation_ids}"
            self.pump()

    def ask(self, body: dict[str, Any] | bytes, seconds: float = DEADLINE) -> dict[str, Any]:
        """Send one request and return the reply."""
        correlation_id = uuid.uuid4().hex
        self.send(body, correlation_id)
        self.wait(correlation_id, seconds=seconds)
        return self.answer(correlation_id)

    def open_spreads(self) -> list[dict[str, Any]]:
        answer = self.ask({"action": "List Open Spreads"})
        assert (answer["status"], answer["info"]) == ("ACK", "open spreads")
        spreads: list[dict[str, Any]] = answer["open_spreads"]
        return spreads

    def _take(self, _channel: Any, _method: Any, properties: pika.BasicProperties, body: bytes) -> None:
        reply = json.loads(body, parse_float=Decimal)
        self.replies.setdefault(str(properties.correlation_id), []).append(reply)


class Accounts:
    """What the rows of `bybit."order"` come to, worked out apart from the engine."""

    def __init__(self, place: Workspace) -> None:
        rows = place.query(
            "SELECT execution_id, type, channel, symbol_name, price, size, flux, order_id, action, spread_id"
            ' FROM bybit."order" ORDER BY execution_id, type'
        )
        self.orders: list[str] = []
        self.pnl = Decimal(0)
        self.exposure: dict[tuple[str, str], Decimal] = {}
        # The largest exposure that anything but the close of a known spread has grown to.
        self.largest = Decimal(0)
        self._spreads: dict[str, dict[str, Any]] = {}
        assert len(rows) % 2 == 0
        for buy, sell in zip(rows[::2], rows[1::2], strict=True):
            self._account(buy, sell)

    @property
    def open_spreads(self) -> list[dict[str, Any]]:
        return list(self._spreads.values())

    def _account(self, buy: tuple[Any, ...], sell: tuple[Any, ...]) -> None:
        assert (buy[0], buy[5], buy[7:]) == (sell[0], sell[5], sell[7:]), "two rows that are no execution"
        assert (buy[1], sell[1]) == ("buy", "sell")
        _, _, _, _, _, size, _, order_id, action, spread_id = buy
        self.orders.append(order_id)
        for _, side, channel, symbol, price, _, flux, *_ in (buy, sell):
            assert flux == price * size * (-1 if side == "buy" else 1)
            leg = (channel, symbol)
            self.pnl += flux
            before = abs(self.exposure.get(leg, Decimal(0)))
            self.exposure[leg] = self.exposure.get(leg, Decimal(0)) - flux
            if abs(self.exposure[leg]) > before and (action == "Open Spread" or spread_id is None):
                self.largest = max(self.largest, abs(self.exposure[leg]))
        bought, sold = list(buy[2:4]), list(sell[2:4])
        if action == "Open Spread":
            self._spreads[spread_id] = {
                "spread_id": spread_id,
                "long": bought,
                "short": sold,
                "spread": sell[4] - buy[4],
                "long_price": buy[4],
                "short_price": sell[4],
                "quantity": size,
            }
        elif spread_id is not None:
            self._reduce(self._spreads[spread_id], size)
        else:
            for spread in list(self._spreads.values()):
                if size and (spread["long"], spread["short"]) == (sold, bought):
                    part = min(size, spread["quantity"])
                    self._reduce(spread, part)
                    size -= part

    def _reduce(self, spread: dict[str, Any], size: Decimal) -> None:
        spread["quantity"] -= size
        assert spread["quantity"] >= 0, f"more closed than was open of {spread}"
        if not spread["quantity"]:
            del self._spreads[spread["spread_id"]]


def state_at_start(engine: Service) -> tuple[Decimal, dict[tuple[str, str], Decimal]]:
    """Return PnL and exposures with which an engine has begun, as its log says them."""
    _, pnl, _, exposure = READY.findall(engine.output)[-1]
    legs = re.findall(r"'(\w+):(\w+)': '(\S+?)'", exposure)
    return Decimal(pnl), {(channel, symbol): Decimal(amount) for channel, symbol, amount in legs}


def random_orders(rng: random.Random, count: int) -> list[dict[str, Any]]:
    """Return opens of several pairs and closes of some of them; what is refused depends on the limit."""
    legs = [["spot", "BTCUSDT"], ["linear", "BTCPERP"], ["linear", "BTCUSDT"]]
    orders: list[dict[str, Any]] = []
    opens: list[dict[str, Any]] = []
    for number in range(count):
        identifier = f"{number}-{rng.getrandbits(48):x}"
        size = rng.randint(1, 900) / 1000
        if opens and rng.random() < 0.4:
            opened = rng.choice(opens)
            whole = rng.random() < 0.5
            close = closing(opened, order_id=identifier, size=opened["size"] if whole else size)
            if rng.random() < 0.2:
                del close["spread_id"]
            orders.append(close)
        else:
            buy, sell = rng.sample(legs, 2)
            prices = {
                "buy_price": rng.randint(9_000, 11_000) / 100,
                "sell_price": rng.randint(9_000, 11_000) / 100,
            }
            order = new_order(
                order_id=identifier, spread_id=f"s-{identifier}", buy=buy, sell=sell, size=size, **prices
            )
            opens.append(order)
            orders.append(order)
    return orders
