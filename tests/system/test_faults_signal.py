"""The signal engine when things die: open spreads stay known, outcomes are asked for, never guessed."""

from __future__ import annotations

import json
import random

from tests.support.book_feed import BookFeed, now_ms, ready
from tests.support.broker_proxy import BrokerProxy
from tests.support.order_client import Accounts, OrderClient
from tests.support.workspace import Workspace, wait_for


def opened(place: Workspace) -> int:
    return len(place.query("SELECT 1 FROM bybit.\"order\" WHERE action = 'Open Spread' AND type = 'buy'"))


def expires(place: Workspace) -> int:
    """Return when the next order in the queue expires."""
    channel = place.channel()
    _, _, body = channel.basic_get("orders")
    channel.connection.close()
    assert body is not None
    return int(json.loads(body)["expires_at"])


def closed(place: Workspace) -> int:
    return len(place.query("SELECT 1 FROM bybit.\"order\" WHERE action = 'Close Spread' AND type = 'buy'"))


# Two instruments of a group of their own.
WARM = (("linear", "WARMPERP"), ("spot", "WARMUSDT"))


def trade_once(place: Workspace, feed: BookFeed) -> None:
    """Have a spread opened: then the signal engine knows what is open, and sends orders."""
    long, short = WARM
    feed.book(*long, [("9", "1")], [("10", "1")], matching_key="warm")
    feed.book(*short, [("11", "1")], [("19", "1")], matching_key="warm")
    wait_for(lambda: opened(place) == 1)


def test_killed_with_spreads_open_it_goes_on_closing_them(place: Workspace) -> None:
    place.start_engine()
    feed = BookFeed(place)
    first = place.start_signal()
    feed.crossed_pair(size="3")
    wait_for(lambda: opened(place) == 1)
    first.kill()
    place.start_signal()
    feed.book("linear", "BTCPERP", [("99", "1")], [("103", "1")])
    feed.book("spot", "BTCUSDT", [("98", "5")], [("99.5", "5")])
    wait_for(lambda: closed(place) == 1)
    feed.book("linear", "BTCPERP", [("99", "2")], [("103", "1")])
    wait_for(lambda: closed(place) == 2)
    assert Accounts(place).open_spreads == OrderClient(place).open_spreads() == []


def test_engine_dead_while_an_order_is_out_books_are_kept_and_the_order_is_not_doubled(
    place: Workspace,
) -> None:
    engine = place.start_engine()
    feed = BookFeed(place)
    signal = place.start_signal(ORDER_TIMEOUT_MS="60000")
    trade_once(place, feed)
    engine.kill()
    feed.crossed_pair(size="1")
    wait_for(lambda: ready(place, "orders") >= 2, "the order asked again")
    # The books move on without an answer; what crosses now is another price.
    feed.book("spot", "BTCUSDT", [("104", "1")], [("105", "1")])
    feed.book("linear", "BTCPERP", [("99", "1")], [("102", "1")])
    wait_for(lambda: ready(place, "signal") == 0)
    place.start_engine()
    wait_for(lambda: opened(place) == 3)
    prices = place.query(
        """SELECT type, price FROM bybit."order" WHERE symbol_name LIKE 'BTC%' ORDER BY execution_id, type"""
    )
    assert prices == [("buy", 100), ("sell", 101), ("buy", 102), ("sell", 104)]
    assert signal.process.poll() is None


def test_order_that_nobody_answered_in_time_is_never_executed(place: Workspace) -> None:
    engine = place.start_engine()
    feed = BookFeed(place)
    place.start_signal(ORDER_TIMEOUT_MS="2000")
    trade_once(place, feed)
    engine.kill()
    feed.crossed_pair(size="1")
    wait_for(lambda: ready(place, "orders") >= 2, "the order asked again")
    wait_for(lambda: expires(place) < now_ms(), "the order expired")
    feed.book("spot", "BTCUSDT", [("99", "1")], [("105", "1")])
    wait_for(lambda: ready(place, "signal") == 0)
    place.start_engine()
    wait_for(lambda: place.query("SELECT info FROM bybit.refused_order") == [("expired",)])
    assert opened(place) == 1
    # It knows that the order came to nothing, and trades on.
    feed.book("spot", "BTCUSDT", [("107", "1")], [("108", "1")])
    wait_for(lambda: opened(place) == 2)


def test_engine_paused_and_killed_at_random_leaves_both_with_the_same_open_spreads(place: Workspace) -> None:
    rng = random.Random(6)
    engine = place.start_engine()
    feed = BookFeed(place)
    signal = place.start_signal(ORDER_TIMEOUT_MS="400")
    for number in range(120):
        bid = rng.randint(96, 104)
        leg = rng.choice([("linear", "BTCPERP"), ("spot", "BTCUSDT")])
        size = f"0.{rng.randint(1, 99)}"
        feed.book(*leg, [(str(bid), size)], [(str(bid + 1), size)])
        if number % 30 == 10:
            engine.pause()
        elif number % 30 == 15:
            engine.go_on()
        elif number % 40 == 25:
            engine.kill()
            engine = place.start("trading_engine")
    engine.go_on()
    wait_for(lambda: ready(place, "signal") == 0 and ready(place, "orders") == 0)
    # Everything that is open closes at once: what the signal engine has is what the engine has.
    feed.book("linear", "BTCPERP", [("100", "1000")], [("101", "0.001")])
    feed.book("spot", "BTCUSDT", [("100", "1000")], [("100.5", "1000")])
    feed.book("linear", "BTCPERP", [("100", "1000")], [("100.5", "1000")])
    client = OrderClient(place)
    wait_for(lambda: client.open_spreads() == [] or signal.process.poll() is not None)
    assert opened(place) > 0
    wait_for(lambda: Accounts(place).open_spreads == [])
    assert "invalid order" not in engine.output


def test_second_signal_engine_waits_says_so_and_takes_over(place: Workspace) -> None:
    place.start_engine()
    feed = BookFeed(place)
    first = place.start_signal()
    second = place.start("signal")
    assert "another process does this work already" in second.first_warning()
    feed.crossed_pair(size="3")
    wait_for(lambda: opened(place) == 1)
    assert place.consumers("signal") == 1
    first.kill()
    feed.crossed_pair(size="4")
    # Books that the first one had not acknowledged come again, and may be traded on once more.
    wait_for(lambda: opened(place) >= 2)


def test_signal_engine_that_was_overtaken_stands_by_and_later_knows_what_the_other_opened(
    place: Workspace,
) -> None:
    place.start_engine()
    feed = BookFeed(place)
    with BrokerProxy(place) as proxy:
        first = place.start_signal(RABBITMQ_PORT=proxy.port)
        trade_once(place, feed)
        first.pause()
        assert proxy.cut() == 1
        second = place.start_signal()
        feed.crossed_pair(size="3")
        wait_for(lambda: opened(place) == 2)
        first.go_on()
        wait_for(first.broker_connections, "the first is back")
        second.kill()
        feed.book("linear", "BTCPERP", [("99", "3")], [("103", "1")])
        feed.book("spot", "BTCUSDT", [("98", "5")], [("99.5", "5")])
        wait_for(lambda: closed(place) == 1)
        assert [spread["long"] for spread in OrderClient(place).open_spreads()] == [list(WARM[0])]
        first.kill()


def test_cut_connections_neither_lose_nor_double_an_order(place: Workspace) -> None:
    rng = random.Random(7)
    feed = BookFeed(place)
    with BrokerProxy(place) as proxy:
        engine = place.start_engine(RABBITMQ_PORT=proxy.port)
        signal = place.start_signal(RABBITMQ_PORT=proxy.port, ORDER_TIMEOUT_MS="20000")
        for number in range(300):
            bid = rng.randint(96, 104)
            leg = rng.choice([("linear", "BTCPERP"), ("spot", "BTCUSDT")])
            feed.book(*leg, [(str(bid), "0.5")], [(str(bid + 1), "0.5")])
            if number % 50 == 20:
                proxy.cut()
            elif number % 50 == 30:
                wait_for(lambda: ready(place, "signal") == 0)
        wait_for(lambda: ready(place, "signal") == 0 and ready(place, "orders") == 0)

        def trades() -> bool:
            # How many of the books above were traded on depends on how long each session took to come back.
            size = f"0.{rng.randint(1, 999)}"
            feed.book("linear", "BTCPERP", [("96", size)], [("97", size)])
            feed.book("spot", "BTCUSDT", [("103", size)], [("104", size)])
            return opened(place) > 5

        wait_for(trades, "trading after the cuts")
        # Everything that is open closes: what the signal engine has is what the engine has.
        for _ in range(2):
            feed.book("linear", "BTCPERP", [("100", "1000")], [("100.5", "1000")])
            feed.book("spot", "BTCUSDT", [("100", "1000")], [("100.5", "1000")])
        client = OrderClient(place)
        wait_for(lambda: client.open_spreads() == [])
        wait_for(lambda: Accounts(place).open_spreads == [])
        assert engine.stop() == signal.stop() == 0


def test_stop_under_load_exits_0_within_5_seconds(place: Workspace) -> None:
    place.start_engine()
    feed = BookFeed(place)
    signal = place.start_signal()
    for number in range(600):
        bid = 100 + number % 5
        leg = ("linear", "BTCPERP") if number % 2 else ("spot", "BTCUSDT")
        feed.book(*leg, [(str(bid), "0.5")], [(str(bid + 1), "0.5")])
    wait_for(lambda: opened(place))
    assert signal.stop(seconds=5) == 0
    client = OrderClient(place)
    wait_for(lambda: Accounts(place).open_spreads == client.open_spreads())
    place.start_signal()
    # Everything that is open closes: it has been told what is.
    feed.book("linear", "BTCPERP", [("100", "1000")], [("100.5", "1000")])
    feed.book("spot", "BTCUSDT", [("100", "1000")], [("100.5", "1000")])
    wait_for(lambda: client.open_spreads() == [])
