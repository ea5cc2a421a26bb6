"""The storage service as a process: every level of every message is a row, every update is stored once."""

from __future__ import annotations

import contextlib
import functools
from decimal import Decimal
from typing import Any

import pytest

from tests.support.book_feed import BookFeed, await_dead_letters, book_message, dead_letters, ready, updates
from tests.support.workspace import Workspace, connect, wait_for


@pytest.fixture
def feed(place: Workspace) -> BookFeed:
    return BookFeed(place)


def done(place: Workspace, matching_key: str) -> bool:
    return any(row[4] == "DONE" and row[-1] == matching_key for row in rows(place))


def rows(place: Workspace) -> list[tuple[Any, ...]]:
    return place.query("SELECT * FROM bybit.orderbook ORDER BY ts_orderbook, side, price")


def test_message_is_one_row_a_level_with_every_column(place: Workspace, feed: BookFeed) -> None:
    place.start_storage()
    message = book_message(
        "BTCUSDT",
        7,
        bids=[("61837.24", "0"), ("61837.10", "0.00000001")],
        asks=[("61837.640", "1.20")],
        kind="delta",
        cts=1_723_161_255_600,
    )
    feed.publish("storage", message)
    wait_for(lambda: updates(place) == 1)
    head = ("orderbook.50.BTCUSDT", "delta", 1_723_161_255_601, "spot", "BTCUSDT", 7, 70)
    tail = (1_723_161_255_600, "a")
    assert rows(place) == [
        (*head, "ask", Decimal("61837.64"), Decimal("1.2"), *tail),
        (*head, "bid", Decimal("61837.1"), Decimal("0.00000001"), *tail),
        (*head, "bid", Decimal("61837.24"), Decimal(0), *tail),
    ]


def test_headers_of_a_message_are_stored_with_its_update_where_it_has_them(
    place: Workspace, feed: BookFeed
) -> None:
    sent: list[tuple[int | None, int | None]] = [
        (1_795_395_127_162, 1_795_395_127_162_000_001),
        (5, None),
        (None, 7),
        (None, None),
        (-(2**63), 2**63 - 1),
    ]
    for u, (published_at, number) in enumerate(sent, 1):
        headers = {"published_at": published_at, "number": number}
        given = {name: value for name, value in headers.items() if value is not None}
        feed.publish("storage", book_message("BTCUSDT", u, bids=[("1", "2")], cts=u), headers=given or None)
    # A copy by another way: the first one counts.
    copy = book_message("BTCUSDT", 1, bids=[("1", "2")], cts=1)
    feed.publish("storage", copy, headers={"published_at": 1, "number": 1})
    place.start_storage()
    wait_for(lambda: updates(place) == len(sent) and not place.waiting("storage"))
    stored = place.query("SELECT published_at, number FROM bybit.orderbook_update ORDER BY update_id")
    assert stored == sent


def test_copy_of_an_update_is_stored_once_and_what_differs_is_another_update(
    place: Workspace, feed: BookFeed
) -> None:
    storage = place.start_storage()
    one = book_message("BTCUSDT", 7, bids=[("1", "2")], cts=1000)
    others = [
        book_message("BTCUSDT", 8, bids=[("1", "2")], cts=1000),
        book_message("BTCUSDT", 7, bids=[("1", "2")], cts=1001),
        book_message("BTCUSDT", 7, bids=[("1", "2")], cts=1000, channel="linear"),
        book_message("BTCUSDT", 7, bids=[("1", "2")], cts=1000, kind="delta"),
        book_message("ETHUSDT", 7, bids=[("1", "2")], cts=1000),
        {**one, "topic": "orderbook.1.BTCUSDT"},
        {**one, "data": {**one["data"], "seq": 71}},
    ]
    for message in (one, one, *others, one):
        feed.publish("storage", message)
    wait_for(lambda: updates(place) == 8)
    # The same again in batches of their own, after a restart, and under another matching key.
    for again in (one, {**one, "matching_key": "b"}):
        feed.publish("storage", again)
        feed.publish(
            "storage", book_message("DONE", 1, bids=[("1", "1")], matching_key=again["matching_key"])
        )
        wait_for(functools.partial(done, place, again["matching_key"]))
        assert storage.stop() == 0
        storage = place.start_storage()
    assert len([row for row in rows(place) if row[4] != "DONE"]) == 8


def test_text_that_copy_would_read_as_its_own_is_stored_as_it_is(place: Workspace, feed: BookFeed) -> None:
    place.start_storage()
    names = ["back\\slash", "\\N", "\\.", "tab\there", "line\nbreak", "quote'\"", "Ω€𝄞", "null", "a;--"]
    for number, name in enumerate(names):
        feed.publish("storage", book_message(name, 1, bids=[("1", "1")], cts=number, matching_key=name))
    wait_for(lambda: updates(place) == len(names))
    stored = place.query("SELECT symbol_name, matching_key, topic FROM bybit.orderbook ORDER BY ts_orderbook")
    assert stored == [(name, name, f"orderbook.50.{name}") for name in names]


def test_message_that_the_database_refuses_is_put_aside_and_the_others_are_stored(
    place: Workspace, feed: BookFeed
) -> None:
    place.query("ALTER TABLE bybit.orderbook ADD CHECK (price <> 666)")
    for number in range(40):
        price = "666" if number in {3, 17, 18} else "1"
        feed.publish("storage", book_message("BTCUSDT", number, bids=[("2", "1"), (price, "1")], cts=number))
    place.start_storage()
    wait_for(lambda: updates(place) == 37)
    letters = await_dead_letters(place, "storage", 3)
    assert len(letters) == 3
    assert all("refused by the database" in reason and b"666" in body for reason, body in letters)
    assert len(rows(place)) == 74


class Rejection:
    """A trigger that raises an SQLSTATE for rows of `bybit.orderbook` that fulfil a condition."""

    def __init__(self, place: Workspace, sqlstate: str, condition: str) -> None:
        self._place = place
        place.query("CREATE SEQUENCE raised")
        place.query(
            "CREATE FUNCTION reject() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            f" IF {condition} THEN PERFORM nextval('raised');"
            f" RAISE EXCEPTION 'rejected by the test' USING ERRCODE = '{sqlstate}'; END IF;"
            " RETURN NEW; END $$"
        )
        place.query(
            "CREATE TRIGGER reject BEFORE INSERT ON bybit.orderbook FOR EACH ROW EXECUTE FUNCTION reject()"
        )

    def wait_until_raised(self, times: int) -> None:
        wait_for(lambda: self._place.query("SELECT last_value >= %s FROM raised", times)[0][0])

    def end(self) -> None:
        self._place.query("DROP TRIGGER reject ON bybit.orderbook")


@pytest.mark.parametrize("sqlstate", ["0A000", "XX000", "53100", "22003", "23514"])
def test_database_that_rejects_every_row_for_a_while_costs_no_message(
    place: Workspace, feed: BookFeed, sqlstate: str
) -> None:
    place.start_storage()
    rejection = Rejection(place, sqlstate, "true")
    for number in range(200):
        feed.publish("storage", book_message("BTCUSDT", number, bids=[("1", "1")], cts=number))
    rejection.wait_until_raised(3)
    rejection.end()
    wait_for(lambda: updates(place) == 200)
    assert len(rows(place)) == 200
    assert dead_letters(place, "storage") == []


def test_one_row_at_fault_among_200_messages_is_one_dead_letter(place: Workspace, feed: BookFeed) -> None:
    Rejection(place, "22003", "NEW.price = 666")
    for number in range(200):
        price = "666" if number == 117 else "1"
        feed.publish("storage", book_message("BTCUSDT", number, bids=[("2", "1"), (price, "1")], cts=number))
    place.start_storage()
    wait_for(lambda: updates(place) == 199)
    ((reason, body),) = await_dead_letters(place, "storage", 1)
    assert "rejected by the test" in reason
    assert b"666" in body
    wait_for(lambda: place.waiting("storage") == 0)
    assert dead_letters(place, "storage") == []
    assert len(rows(place)) == 398


def test_row_at_fault_is_waited_with_until_another_shows_that_the_database_takes_rows(
    place: Workspace, feed: BookFeed
) -> None:
    rejection = Rejection(place, "22003", "NEW.price = 666")
    feed.publish("storage", book_message("BTCUSDT", 1, bids=[("666", "1")]))
    place.start_storage()
    rejection.wait_until_raised(3)
    assert dead_letters(place, "storage") == []
    feed.publish("storage", book_message("BTCUSDT", 2, bids=[("1", "1")]))
    assert len(await_dead_letters(place, "storage", 1)) == 1
    wait_for(lambda: updates(place) == 1)


def test_database_that_is_read_only_for_a_while_costs_no_message(place: Workspace, feed: BookFeed) -> None:
    place.query(f'ALTER DATABASE "{place.name}" SET default_transaction_read_only = on')
    place.start_storage()
    failed = place.rollbacks()
    for number in range(30):
        feed.publish("storage", book_message("BTCUSDT", number, bids=[("1", "1")], cts=number))
    wait_for(lambda: place.rollbacks() > failed, "an attempt to store them")
    with contextlib.closing(connect(place.environment, "postgres")) as elsewhere:
        elsewhere.cursor().execute(f'ALTER DATABASE "{place.name}" RESET default_transaction_read_only')
    wait_for(lambda: updates(place) == 30)
    assert dead_letters(place, "storage") == []


def test_without_the_dump_messages_are_acknowledged_and_thrown_away(place: Workspace, feed: BookFeed) -> None:
    storage = place.start_storage(DUMP_ORDERBOOK_TO_DB="false", POSTGRES_PORT="1")
    assert "DUMP_ORDERBOOK_TO_DB is off" in storage.output
    for number in range(50):
        feed.publish("storage", book_message("BTCUSDT", number, bids=[("1", "1")]))
    wait_for(lambda: ready(place, "storage") == 0)
    assert storage.stop() == 0
    assert ready(place, "storage") == 0
    assert updates(place) == 0


def test_emptied_table_takes_the_same_updates_again(place: Workspace, feed: BookFeed) -> None:
    storage = place.start_storage()
    message = book_message("BTCUSDT", 1, bids=[("1", "1")], asks=[("2", "1")])
    feed.publish("storage", message)
    wait_for(lambda: updates(place) == 1)
    assert storage.stop() == 0
    place.query("INSERT INTO bybit.quote VALUES (1000, 'spot', 'A', 'a', 'in sync', 1, 1, 2, 1, 900, 7)")
    place.query('TRUNCATE bybit.orderbook, bybit."order"')
    assert updates(place) == 0
    assert place.query("SELECT count(*) FROM bybit.quote") == [(0,)]
    feed.publish("storage", message)
    place.start_storage()
    wait_for(lambda: len(rows(place)) == 2)


def test_table_not_there_yet_is_waited_for(place: Workspace, feed: BookFeed) -> None:
    place.query("ALTER TABLE bybit.orderbook RENAME TO elsewhere")
    place.start_storage()
    failed = place.rollbacks()
    feed.publish("storage", book_message("BTCUSDT", 1, bids=[("1", "1")]))
    wait_for(lambda: place.rollbacks() > failed, "an attempt to store it")
    place.query("ALTER TABLE bybit.elsewhere RENAME TO orderbook")
    wait_for(lambda: len(rows(place)) == 1)
