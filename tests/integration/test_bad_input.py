"""Garbage on every queue: put aside with a reason or answered clearly, and the good traffic is all there."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pika
import pytest
from pika.spec import BasicProperties

from tests.support.book_feed import (
    BookFeed,
    await_dead_letters,
    book_message,
    dead_letters,
    mutated,
    ready,
    updates,
)
from tests.support.order_client import ACK, OrderClient, new_order
from tests.support.workspace import Workspace, encode, wait_for

NO_JSON = [
    b"",
    b"nonsense",
    b"{",
    b"null",
    b"[]",
    b"[1, 2, 3]",
    b"42",
    b'"text"',
    b"{}",
    b"\x00" * 100,
    b"\xff\xfe\xfd",
    b'{"a": "\xed\xa0\x80"}',
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b'{"padding": "' + b"x" * 10_000_000 + b'"}',
]
WRONG_NUMBERS: list[Any] = [None, True, "1", [], {}, -1, 0.5, 1e30, 2**63, -(2**63), 10**400]
WRONG_TEXTS: list[Any] = [None, True, 7, [], {}, "", "x" * 300, "nul\0", "\ud800", ["a"]]
WRONG_PRICES = [
    "",
    "0",
    "-1",
    "NaN",
    "Infinity",
    "1e400",
    "0x10",
    "1,5",
    " 1",
    "1_000",
    "٣",
    "1" * 50,
    "1e-30",
]


class Garbled(BasicProperties):
    """Properties with a header that AMQP allows and Python's datetime can't hold."""

    def encode(self) -> list[bytes]:
        table = b"\x04whenT" + struct.pack(">Q", 2**63 - 1)
        return [struct.pack(">H", 1 << 13), struct.pack(">I", len(table)), table]


def changed(message: dict[str, Any], path: Sequence[Any], value: Any) -> bytes:
    """Return the message with one value replaced, or taken out where `value` is `...`."""
    message = json.loads(encode(message))
    inner = message
    for step in path[:-1]:
        inner = inner[step]
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return json.dumps(message).encode()


def wrong_books() -> list[bytes]:
    """Return bodies that are no order-book message, each wrong in one way."""
    good = book_message("BTCUSDT", 5, bids=[("1", "2")], asks=[("3", "4")])
    bodies = list(NO_JSON)
    for path in (["ts"], ["cts"], ["data", "u"], ["data", "seq"]):
        bodies += [changed(good, path, value) for value in (..., *WRONG_NUMBERS)]
    for path in (["topic"], ["type"], ["channel"], ["matching_key"], ["data", "s"]):
        bodies += [changed(good, path, value) for value in (..., *WRONG_TEXTS)]
    no_data: list[Any] = [..., None, 7, "text", [], {}]
    bodies += [changed(good, ["data"], value) for value in no_data]
    for side in ("b", "a"):
        levels: list[Any] = [
            ...,
            None,
            7,
            "ab",
            {},
            [7],
            [[]],
            [["1"]],
            [["1", "1", "1"]],
            [[1, 2]],
            [[None, "1"]],
        ]
        levels += [[[price, "1"]] for price in WRONG_PRICES]
        levels += [[["1", size]] for size in WRONG_PRICES if size != "0"]
        bodies += [changed(good, ["data", side], value) for value in levels]
    # One wrong level behind forty good ones, written as the exchange writes them.
    many = [[str(price), "1"] for price in range(99, 59, -1)]
    long = [changed(good, ["data", "b"], [*many, [price, "1"]]) for price in WRONG_PRICES]
    bodies += [json.dumps(json.loads(body), separators=(",", ":")).encode() for body in long]
    text = encode(good)
    bodies += [
        text.replace(b'"cts": ', b'"cts": NaN, "x": '),
        text.replace(b'"cts": ', b'"cts": 1e999, "x": '),
    ]
    bodies += [changed(good, ["channel"], "moon"), changed(good, ["type"], "gossip")]
    return bodies


def test_garbage_on_storage_is_put_aside_with_its_reason_and_every_good_message_is_stored(
    place: Workspace,
) -> None:
    storage = place.start_storage()
    feed = BookFeed(place, confirm=False)
    garbage = wrong_books()
    for number, body in enumerate(garbage):
        feed.publish("storage", body)
        feed.publish("storage", book_message("GOOD", number, bids=[("1", "1")], cts=number))
    wait_for(lambda: updates(place) >= len(garbage), seconds=40)
    letters = await_dead_letters(place, "storage", len(garbage))
    assert [body for _, body in letters] == garbage
    assert all(reason for reason, _ in letters)
    assert place.query("SELECT count(*), count(DISTINCT update_id) FROM bybit.orderbook") == [
        (len(garbage), len(garbage))
    ]
    assert storage.stop() == 0
    assert ready(place, "storage") == 0


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_mutated_messages_neither_stop_storage_nor_spoil_the_good_ones(place: Workspace, count: int) -> None:
    storage = place.start_storage()
    feed = BookFeed(place, confirm=False)
    good = encode(
        book_message("BTCUSDT", 5, bids=[("61837.24", "2")], asks=[("3e2", "4")], cts=1_723_161_255_600)
    )
    for number, body in enumerate(mutated(random.Random(9), good, count)):
        feed.publish("storage", body)
        feed.publish(
            "storage", book_message("GOOD", number, bids=[("1", "1")], cts=1_723_161_000_000 + number)
        )
    counted = "SELECT count(*), count(DISTINCT update_id) FROM bybit.orderbook WHERE symbol_name = 'GOOD'"
    wait_for(lambda: place.query(counted) == [(count, count)], seconds=60 + count / 100)
    assert storage.process.poll() is None
    assert "Traceback" not in storage.output


@pytest.mark.parametrize("count", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_garbage_on_signal_is_put_aside_and_the_books_stay_right(place: Workspace, count: int) -> None:
    place.start_engine()
    signal = place.start_signal()
    feed = BookFeed(place, confirm=False)
    feed.apart_pair(size="3")
    wrong = wrong_books()
    nobody = encode(book_message("NOBODY", 3, matching_key="other"))
    garbage = wrong + mutated(random.Random(10), nobody, count)
    for body in garbage:
        feed.publish("signal", body)
    feed.book("spot", "BTCUSDT", [("105", "0.5")], [], kind="delta")
    # Only a book that is as before, its next delta applied, opens at this price and size.
    wait_for(lambda: len(place.query('SELECT 1 FROM bybit."order"')) == 2, seconds=40)
    assert place.query('SELECT type, price, size FROM bybit."order" ORDER BY type') == [
        ("buy", 100, Decimal("0.5")),
        ("sell", 105, Decimal("0.5")),
    ]
    letters = await_dead_letters(place, "signal", len(wrong))
    assert [body for _, body in letters[: len(wrong)]] == wrong
    assert all(reason for reason, _ in letters)
    assert signal.stop() == 0
    assert "Traceback" not in signal.output
    assert ready(place, "signal") == 0


def test_garbage_on_subscription_is_put_aside_and_the_map_before_it_holds(place: Workspace) -> None:
    place.start_engine()
    place.start_signal()
    feed = BookFeed(place)
    feed.subscriptions(spot=["BTCUSDT"], linear=["BTCPERP"])
    garbage = [
        *NO_JSON[:8],
        *NO_JSON[9:],
        b'{"moon": ["BTCUSDT"]}',
        b'{"spot": "BTCUSDT"}',
        b'{"spot": [7]}',
        b'{"spot": [""]}',
        b'{"spot": [null]}',
        encode({"spot": ["x" * 300]}),
    ]
    for body in garbage:
        feed.publish("subscription", body)
    letters = await_dead_letters(place, "subscription", len(garbage))
    assert [body for _, body in letters] == garbage
    feed.crossed_pair()
    wait_for(lambda: len(place.query('SELECT 1 FROM bybit."order"')) == 2)


@pytest.mark.parametrize("count", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_mutated_maps_leave_the_signal_engine_able_to_take_the_next_good_one(
    place: Workspace, count: int
) -> None:
    place.start_engine()
    signal = place.start_signal()
    feed = BookFeed(place, confirm=False)
    for body in mutated(
        random.Random(12), encode({"spot": ["BTCUSDT", "ETH"], "linear": ["BTCPERP"]}), count
    ):
        feed.publish("subscription", body)
    feed.subscriptions(spot=["BTCUSDT"], linear=["BTCPERP"])
    wait_for(lambda: ready(place, "subscription") == 0, seconds=60)
    # Removed by the earlier maps or not, both are traded now.
    wait_for(lambda: traded(feed), seconds=60)
    assert signal.stop() == 0
    assert "Traceback" not in signal.output
    assert ready(place, "subscription") == 0


def traded(feed: BookFeed) -> bool:
    feed.crossed_pair()
    return len(feed.place.query('SELECT 1 FROM bybit."order"')) >= 2


def wrong_orders() -> list[tuple[bytes, str]]:
    """Return bodies that are no order, and what the reply names."""
    good = new_order()
    bodies = [(body, "action" if body == b"{}" else "body") for body in NO_JSON]
    numbers: list[Any] = [
        None,
        True,
        "1",
        [],
        {},
        -1,
        0,
        1e30,
        1e-30,
        float("nan"),
        float("inf"),
        float("-inf"),
    ]
    for name in ("buy_price", "sell_price", "size"):
        bodies += [(changed(good, [name], value), name) for value in (..., *numbers, 10**400)]
        bodies.append(
            (encode(good).replace(f'"{name}": '.encode(), f'"{name}": 1e9999999, "x": '.encode()), name)
        )
        bodies.append((changed(good, [name], 0).replace(b": 0", b": 1." + b"3" * 60), name))
    for name in ("ts_buy", "ts_sell"):
        bodies += [(changed(good, [name], value), name) for value in (..., *WRONG_NUMBERS)]
    bodies += [(changed(good, ["expires_at"], value), "expires_at") for value in WRONG_NUMBERS[1:]]
    legs: list[Any] = [None, 7, "linear", {}, [], ["linear"], ["linear", "A", "B"], ["moon", "BTCPERP"]]
    legs += [["linear", value] for value in (None, 7, "", "x" * 300, "nul\0", "\ud800")]
    for name in ("buy", "sell"):
        bodies += [(changed(good, [name], value), name) for value in (..., *legs)]
    bodies.append((changed(good, ["sell"], good["buy"]), "sell"))
    actions: list[Any] = [..., None, 7, [], {}, "open spread", "\ud800"]
    bodies += [(changed(good, ["action"], value), "action") for value in actions]
    identifiers: list[Any] = [True, 7, [], {}, "", "x" * 300, "nul\0", "\ud800"]
    for name in ("order_id", "spread_id"):
        bodies += [(changed(good, [name], value), name) for value in identifiers]
    return bodies


def test_malformed_order_is_answered_with_field_and_reason_and_changes_nothing(
    place: Workspace,
) -> None:
    engine = place.start_engine()
    client = OrderClient(place)
    wrong = wrong_orders()
    for number, (body, _) in enumerate(wrong):
        client.send(body, f"wrong {number}")
        client.send(new_order(order_id=f"good {number}", spread_id=f"s {number}"), f"good {number}")
    for number, (body, field) in enumerate(wrong):
        client.wait(f"wrong {number}", f"good {number}")
        answer = client.answer(f"wrong {number}")
        assert answer["status"] == "NOT ACK", body[:200]
        assert answer["info"].startswith(f"invalid order: {field}: "), (body[:200], answer)
        assert client.answer(f"good {number}") == ACK
    # Nobody hears of these, and nothing stops.
    silent = place.channel()
    for body, _ in wrong:
        silent.basic_publish("", "orders", body)
    letters = await_dead_letters(place, "orders", 2 * len(wrong))
    assert sorted(body for _, body in letters) == sorted(2 * [body for body, _ in wrong])
    assert len(client.open_spreads()) == len(wrong)
    wait_for(lambda: len(place.query('SELECT 1 FROM bybit."order"')) == 2 * len(wrong))
    assert "Traceback" not in engine.output


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_mutated_orders_all_get_an_answer_and_the_accounts_stay_exact(place: Workspace, count: int) -> None:
    engine = place.start_engine()
    client = OrderClient(place)
    rng = random.Random(11)
    for number in range(count):
        body = mutated(rng, encode(new_order(order_id=f"id {number}")), 1)[0]
        client.send(body, f"c {number}")
    for number in range(count):
        client.wait(f"c {number}", seconds=60)
        client.answer(f"c {number}")
    spreads = client.open_spreads()
    engine.kill()
    place.start_engine()
    assert client.open_spreads() == spreads


def test_reply_address_that_is_none_costs_nobody_else_an_answer(place: Workspace) -> None:
    place.start_engine()
    client = OrderClient(place)
    strange = place.channel()
    addresses: list[Any] = [
        "nobody.is.here",
        "orders",
        "storage",
        "x" * 255,
        b"\xff\xfe",
        "amq.rabbitmq.reply-to.nonsense",
        "amq.rabbitmq.reply-to.g1h2AA5yZXBseUAxMjM0NTY3OAAAC",
        b"amq.rabbitmq.reply-to.\xff",
        "amq.rabbitmq.trace",
    ]
    for address in addresses:
        correlation_ids: list[Any] = ["c", b"\xff\xfe", None]
        for correlation_id in correlation_ids:
            properties = pika.BasicProperties(reply_to=address, correlation_id=correlation_id)
            strange.basic_publish("", "orders", encode(new_order()), properties)
    assert client.ask(new_order(), seconds=30) == ACK
    wait_for(lambda: len(client.open_spreads()) == 3 * len(addresses) + 1)


def test_header_that_breaks_the_client_library_stops_no_service(place: Workspace) -> None:
    feed = BookFeed(place)
    services = [place.start_storage(), place.start_engine(), place.start_signal()]
    good = {
        "storage": encode(book_message("BTCUSDT", 1, bids=[("1", "1")])),
        "signal": encode(book_message("BTCUSDT", 1, bids=[("1", "1")])),
        "subscription": b'{"spot": ["BTCUSDT"]}',
        "orders": encode(new_order()),
    }
    for queue, body in good.items():
        for garbled in (body, b"nonsense"):
            feed.channel.basic_publish("", queue, garbled, Garbled(headers={}))
        feed.channel.basic_publish("", queue, b"more nonsense")
    for queue in good:
        letters: list[bytes] = []

        def seen(queue: str = queue, letters: list[bytes] = letters) -> bool:
            letters.extend(body for _, body in dead_letters(place, queue))
            return b"more nonsense" in letters

        wait_for(seen, f"what came after it on {queue}")
        assert letters == [b"nonsense", b"more nonsense"]
    wait_for(lambda: updates(place) == 1)
    assert [service.stop() for service in services] == [0, 0, 0]
    assert [ready(place, queue) for queue in good] == [0, 0, 0, 0]
