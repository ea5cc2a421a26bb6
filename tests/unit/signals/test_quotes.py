"""Quotes of the books, at whole seconds of a clock that the test sets."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest
from pika.spec import BasicProperties

from blackbird.broker.topology import PERSISTENT
from blackbird.market.fields import InvalidMessage
from blackbird.market.quotes import Quote, Quotes, decode_quotes, encode_quotes
from blackbird.signals.group_lane import PendingUpdate
from blackbird.signals.quotes import QuotePublisher
from blackbird.trading.book_keeper import BookKeeper
from tests.support import virtual_time
from tests.support.market import PERP, SPOT, book_message

D = Decimal


class Scene:
    """Books of a keeper; each message has the number 1000 + u."""

    def __init__(self) -> None:
        self.keeper = BookKeeper()
        self.published: list[bytes] = []
        self.last: dict[tuple[str, str], PendingUpdate] = {}
        self.quotes = QuotePublisher(self.keeper, self.last.get, self.published.append, lambda: 0)

    def book(self, kind: str, u: int, bids: Any = (), asks: Any = (), **rest: Any) -> None:
        message = book_message(kind, u, bids, asks, **rest)
        headers = {"published_at": 5, "number": 1000 + u}
        properties = BasicProperties(delivery_mode=PERSISTENT, headers=headers)
        self.keeper.on_book(message.instrument, message, 100 + u)
        self.last[message.instrument] = PendingUpdate(u, message, 100 + u, 100 + u, b"", properties)

    def take(self) -> list[Quote]:
        """Publish the quotes and return what anybody reads of them."""
        self.quotes.publish(7000)
        message = decode_quotes(self.published.pop())
        assert message.time == 7000
        return message.quotes


def test_quote_has_the_best_levels_and_the_number_of_the_last_message() -> None:
    scene = Scene()
    scene.book("snapshot", 1, [("100.10", "1"), ("99", "2")], [("101", "1.50"), ("102", "9")])
    scene.book("delta", 2, [("99", "3")], [("101", "0")])
    scene.book("snapshot", 8, [("50", "1")], [], instrument=PERP, key="b")
    assert scene.take() == [
        Quote("spot", "BTCUSDT", "a", "in sync", 102, 1002, D("100.10"), D(1), D(102), D(9)),
        Quote("linear", "BTCPERP", "b", "in sync", 108, 1008, D(50), D(1)),
    ]


def test_book_that_waits_for_a_snapshot_has_no_prices() -> None:
    scene = Scene()
    scene.book("snapshot", 1, [("100", "1")], [("101", "1")])
    scene.book("delta", 3, [("99", "3")])
    assert scene.take() == [Quote("spot", "BTCUSDT", "a", "waits for snapshot", 101, 1003)]


def test_size_that_was_consumed_is_quoted_as_the_exchange_has_it() -> None:
    scene = Scene()
    scene.book("snapshot", 1, [("100", "1"), ("99", "2")], [("101", "1"), ("102", "2")])
    book = scene.keeper.books[SPOT]
    book.bids.consume(book.bids.best(), D(1))
    book.asks.consume(book.asks.best(), D("0.25"))
    (quote,) = scene.take()
    assert (quote.bid, quote.bid_size, quote.ask, quote.ask_size) == (D(100), D(1), D(101), D(1))


def test_nothing_is_published_without_books() -> None:
    scene = Scene()
    scene.quotes.publish(7000)
    assert scene.published == []


def test_seconds_are_whole_ones_of_the_clock_and_none_comes_early() -> None:
    async def act() -> list[tuple[int, int]]:
        loop = asyncio.get_running_loop()

        def clock() -> int:
            # It runs behind the loop's by a thousandth: each sleep ends too early.
            return int(loop.time() * 999)

        quotes = QuotePublisher(BookKeeper(), dict[Any, Any]().get, lambda _: None, clock)
        return [(await quotes.wait(), clock()) for _ in range(3)]

    seconds = virtual_time.run(act())
    first = seconds[0][0]
    assert [second for second, _ in seconds] == [first, first + 1000, first + 2000]
    assert first % 1000 == 0
    assert all(second <= now < second + 1000 for second, now in seconds)


@pytest.mark.parametrize(
    "change",
    [
        {"bid": D("NaN")},
        {"bid": D(0)},
        {"ask": D("-1")},
        {"ask_size": D("1E+30")},
        {"symbol": "a\0b"},
        {"symbol": ""},
        {"state": "fine"},
        {"number": 2**63},
        {"received_at": -1},
    ],
)
def test_quote_that_no_table_can_hold_is_refused(change: dict[str, Any]) -> None:
    good = {"channel": "spot", "symbol": "A", "group": "a", "state": "in sync", "received_at": 1, "bid": D(1)}
    assert decode_quotes(encode_quotes({"time": 1, "quotes": [good]})).quotes[0].bid == 1
    with pytest.raises(InvalidMessage):
        decode_quotes(encode_quotes({"time": 1, "quotes": [{**good, **change}]}))


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"time": 1.5, "quotes": []}', b'{"time": 1}', b"\xff"])
def test_body_that_is_no_quotes_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidMessage):
        decode_quotes(body)


def test_prices_are_written_exactly() -> None:
    quote = Quote("spot", "A", None, "in sync", 1, None, D("0.1000000000000000000001"), D("1E+3"))
    assert decode_quotes(encode_quotes(Quotes(1, [quote]))).quotes == [quote]
