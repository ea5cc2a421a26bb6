"""Order-book messages of a test's own making, published as the collector publishes them."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingChannel

from blackbird.broker.feed_layout import FeedLayout, queue_arguments
from blackbird.broker.topology import EXCHANGE
from tests.support.workspace import Workspace, encode, wait_for

Side = Sequence[tuple[str, str]]


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def book_message(
    symbol: str,
    u: int,
    *,
    channel: str = "spot",
    bids: Side = (),
    asks: Side = (),
    kind: str = "snapshot",
    cts: int | None = None,
    matching_key: str = "a",
) -> dict[str, Any]:
    """Return a push of Bybit's order-book topic with the collector's two fields."""
    time_of_match = now_ms() if cts is None else cts
    data = {"s": symbol, "b": [list(level) for level in bids], "a": [list(level) for level in asks]}
    return {
        "topic": f"orderbook.50.{symbol}",
        "type": kind,
        "ts": time_of_match + 1,
        "data": {**data, "u": u, "seq": 10 * u},
        "cts": time_of_match,
        "channel": channel,
        "matching_key": matching_key,
    }


def mutated(rng: random.Random, good: bytes, count: int) -> list[bytes]:
    """Return copies with bytes cut, changed, doubled; some of them may still be good."""
    bodies = []
    for _ in range(count):
        body = bytearray(good)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(body))
            kind = rng.randrange(3)
            if kind == 0:
                body[at] = rng.randrange(256)
            elif kind == 1:
                del body[at : at + rng.randint(1, 20)]
            else:
                body[at:at] = body[at : at + rng.randint(1, 20)]
        bodies.append(bytes(body))
    return bodies


def declare_feed(channel: BlockingChannel, layout: FeedLayout | None = None) -> None:
    """Declare what the services declare, for a test that starts before them."""
    channel.exchange_declare(EXCHANGE, exchange_type="topic", durable=True)
    for queue, key in (layout or FeedLayout()).bindings().items():
        channel.queue_declare(queue, durable=True, arguments=queue_arguments(queue))
        channel.queue_bind(queue, EXCHANGE, key)


class BookFeed:
    """Publishes to the exchange over one connection; each publish is confirmed, unless it is to be fast."""

    def __init__(self, place: Workspace, *, confirm: bool = True, declare: bool = True) -> None:
        self.place = place
        self.channel = place.channel()
        if declare:
            declare_feed(self.channel)
        if confirm:
            self.channel.confirm_delivery()
        self._last: dict[tuple[str, str], int] = {}

    def publish(self, key: str, body: bytes | dict[str, Any], **properties: Any) -> None:
        given = {"delivery_mode": pika.DeliveryMode.Persistent, **properties}
        self.channel.basic_publish(
            EXCHANGE,
            key,
            body if isinstance(body, bytes) else encode(body),
            pika.BasicProperties(**given),
        )

    def book(
        self, channel: str, symbol: str, bids: Side, asks: Side, *, age_ms: int = 0, **fields: Any
    ) -> dict[str, Any]:
        """Publish the next message of an instrument to the signal engine; return it."""
        u = fields.pop("u", None) or self._last.get((channel, symbol), 0) + 1
        self._last[channel, symbol] = u
        message = book_message(symbol, u, channel=channel, bids=bids, asks=asks, **fields)
        self.publish("signal", message, headers={"published_at": now_ms() - age_ms})
        return message

    def crossed_pair(self, size: str = "2", **fields: Any) -> None:
        """Publish two books of group a: spot's bid is above linear's ask."""
        self.book("linear", "BTCPERP", [("99", size)], [("100", size)], **fields)
        self.book("spot", "BTCUSDT", [("101", size)], [("102", size)], **fields)

    def apart_pair(self, size: str = "2", **fields: Any) -> None:
        """Publish the same two books where nothing crosses and a spread of 1 may not close."""
        self.book("linear", "BTCPERP", [("90", size)], [("100", size)], **fields)
        self.book("spot", "BTCUSDT", [("99", size)], [("110", size)], **fields)

    def subscriptions(self, **symbols: list[str]) -> None:
        self.publish("subscription", encode(symbols))


def ready(place: Workspace, queue: str) -> int:
    """Return how many messages wait in `queue` for a consumer."""
    channel = place.channel()
    count = int(channel.queue_declare(queue, passive=True).method.message_count)
    channel.connection.close()
    return count


def dead_letters(place: Workspace, queue: str) -> list[tuple[str, bytes]]:
    """Take all dead letters of `queue`: reason and body of each."""
    channel = place.channel()
    letters = []
    while True:
        method, properties, body = channel.basic_get(f"{queue}.dead", auto_ack=True)
        if method is None or properties is None or body is None:
            break
        letters.append((str((properties.headers or {})["reason"]), body))
    channel.connection.close()
    return letters


def await_dead_letters(place: Workspace, queue: str, count: int) -> list[tuple[str, bytes]]:
    """Take dead letters of `queue` until there were so many."""
    letters: list[tuple[str, bytes]] = []

    def all_there() -> bool:
        letters.extend(dead_letters(place, queue))
        return len(letters) >= count

    wait_for(all_there, f"{count} dead letters of {queue}")
    return letters


def updates(place: Workspace) -> int:
    """Return how many updates are stored."""
    return int(place.query("SELECT count(*) FROM bybit.orderbook_update")[0][0])
