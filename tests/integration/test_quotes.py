"""Quotes from the `quote` queue to the table."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from blackbird.market.quotes import Quote, Quotes, encode_quotes
from tests.support.book_feed import BookFeed, await_dead_letters
from tests.support.workspace import Workspace, wait_for


def quote(symbol: str, bid: str | None = "61837.240", **fields: Any) -> Quote:
    price = None if bid is None else Decimal(bid)
    return Quote("spot", symbol, "a", "in sync", 5, 7, price, Decimal("0.5"), **fields)


def quotes(place: Workspace) -> list[tuple[Any, ...]]:
    return place.query("SELECT * FROM bybit.quote ORDER BY quoted_at, symbol_name")


def test_each_quote_is_a_row_and_a_copy_is_stored_once(place: Workspace) -> None:
    place.start_storage()
    feed = BookFeed(place)
    odd = "tab\there \\N"
    first = Quotes(1000, [quote("A"), Quote("linear", odd, None, "waits for snapshot", 4)])
    for message in (first, first, Quotes(2000, [quote("A", None, ask=Decimal(9), ask_size=Decimal(1))])):
        feed.publish("quote", encode_quotes(message))
    wait_for(lambda: len(quotes(place)) == 3)
    wait_for(lambda: not place.waiting("quote"))
    assert quotes(place) == [
        (1000, "spot", "A", "a", "in sync", Decimal("61837.24"), Decimal("0.5"), None, None, 5, 7),
        (1000, "linear", odd, None, "waits for snapshot", None, None, None, None, 4, None),
        (2000, "spot", "A", "a", "in sync", None, Decimal("0.5"), 9, 1, 5, 7),
    ]


def test_quotes_wait_for_a_storage_service_and_garbage_is_put_aside(place: Workspace) -> None:
    feed = BookFeed(place)
    for second in range(1, 4):
        feed.publish("quote", encode_quotes(Quotes(second * 1000, [quote("A")])))
        feed.publish("quote", b"garbage")
    storage = place.start_storage()
    assert [body for _, body in await_dead_letters(place, "quote", 3)] == [b"garbage"] * 3
    wait_for(lambda: len(quotes(place)) == 3)
    assert storage.stop() == 0
    assert not place.waiting("quote")


def test_row_that_the_database_refuses_costs_its_message_alone(place: Workspace) -> None:
    place.query("ALTER TABLE bybit.quote ADD CHECK (bid <> 666)")
    feed = BookFeed(place)
    for second in range(1, 11):
        price = "666" if second in {2, 7} else "1"
        feed.publish("quote", encode_quotes(Quotes(second * 1000, [quote("A"), quote("B", price)])))
    place.start_storage()
    letters = await_dead_letters(place, "quote", 2)
    assert all("refused by the database" in reason for reason, _ in letters)
    wait_for(lambda: len(quotes(place)) == 16)


def test_quotes_are_discarded_with_the_order_books(place: Workspace) -> None:
    place.start_storage(DUMP_ORDERBOOK_TO_DB="false")
    feed = BookFeed(place)
    feed.publish("quote", encode_quotes(Quotes(1000, [quote("A")])))
    wait_for(lambda: place.consumers("quote") and not place.waiting("quote"))
    assert quotes(place) == []
