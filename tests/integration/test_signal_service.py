"""The signal engine as a process; the test is collector and trading engine to it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.support import failing_signal
from tests.support.book_feed import BookFeed, await_dead_letters, dead_letters, now_ms, ready
from tests.support.engine_stand_in import ACK, EngineStandIn
from tests.support.order_client import LINEAR, SPOT
from tests.support.workspace import Service, Workspace, wait_for


@pytest.fixture
def feed(place: Workspace) -> BookFeed:
    return BookFeed(place)


@pytest.fixture
def engine(place: Workspace) -> EngineStandIn:
    return EngineStandIn(place)


@pytest.fixture
def signal(place: Workspace, engine: EngineStandIn) -> Iterator[Service]:
    started = place.start_signal()
    engine.wait_for(lambda: engine.answered, "its question")
    yield started
    assert "Traceback" not in started.output


def spread(identifier: str, size: str = "1", entry: str = "5", **legs: list[str]) -> dict[str, Any]:
    return {
        "spread_id": identifier,
        "long": legs.get("long", LINEAR),
        "short": legs.get("short", SPOT),
        "spread": Decimal(entry),
        "quantity": Decimal(size),
    }


def open_one(engine: EngineStandIn, feed: BookFeed) -> dict[str, Any]:
    feed.crossed_pair()
    return engine.execute()


@pytest.mark.usefixtures("signal")
def test_crossed_books_open_a_spread(engine: EngineStandIn, feed: BookFeed) -> None:
    linear = feed.book("linear", "BTCPERP", [("99", "2")], [("100", "0.75"), ("101.5", "1")])
    spot = feed.book("spot", "BTCUSDT", [("101.25", "3")], [("102", "2")])
    before = now_ms()
    asked = engine.next_order()
    order = asked.order
    assert asked.correlation_id == order["order_id"]
    assert before - 5000 < order.pop("expires_at") - 2000 <= now_ms()
    assert order.pop("order_id") != order.pop("spread_id")
    trail = ("published_buy", "received_buy", "published_sell", "received_sell", "decided_at")
    assert all(before - 5000 < order.pop(time) <= now_ms() for time in trail)
    assert order == {
        "action": "Open Spread",
        "buy": LINEAR,
        "buy_price": 100,
        "sell": SPOT,
        "sell_price": Decimal("101.25"),
        "size": Decimal("0.75"),
        "ts_buy": linear["cts"],
        "ts_sell": spot["cts"],
    }
    engine.reply(asked, ACK)
    # Nothing crosses any more; the exit at 99 against 102 is wider than the entry.
    feed.subscriptions(spot=["BTCUSDT"], linear=["BTCPERP"])
    wait_for(lambda: ready(feed.place, "subscription") == 0)
    assert not engine.asked


@pytest.mark.usefixtures("signal")
def test_spread_closes_when_the_exit_costs_less_than_the_entry_earned(
    engine: EngineStandIn, feed: BookFeed
) -> None:
    opened = open_one(engine, feed)
    feed.book("spot", "BTCUSDT", [("99", "2")], [("99.5", "1.5")])
    order = engine.execute()
    assert order["action"] == "Close Spread"
    assert order["spread_id"] == opened["spread_id"]
    assert (order["buy"], order["buy_price"], order["sell"], order["sell_price"]) == (
        SPOT,
        Decimal("99.5"),
        LINEAR,
        99,
    )
    assert order["size"] == Decimal("1.5")
    feed.book("spot", "BTCUSDT", [("99", "2")], [("99.5", "7")])
    assert engine.execute()["size"] == Decimal("0.5"), "what is left of the spread, exactly"


def test_spreads_of_an_earlier_life_are_asked_for_and_closed(
    place: Workspace, engine: EngineStandIn, feed: BookFeed
) -> None:
    engine.spreads = [spread("older"), spread("younger", "0.5")]
    place.start_signal()
    feed.book("linear", "BTCPERP", [("100", "9")], [("102", "9")])
    feed.book("spot", "BTCUSDT", [("99", "9")], [("101", "9")])
    orders = [engine.execute(), engine.execute()]
    assert [(order["spread_id"], order["size"]) for order in orders] == [
        ("older", 1),
        ("younger", Decimal("0.5")),
    ]


def test_no_order_before_the_open_spreads_are_known_and_the_question_is_asked_again(
    place: Workspace, feed: BookFeed
) -> None:
    engine = EngineStandIn(place, answers_questions=False)
    place.start_signal()
    feed.crossed_pair()
    engine.is_quiet_until(lambda: len(engine.questions) == 2, "the question asked again")
    assert engine.questions[0].correlation_id != engine.questions[1].correlation_id
    engine.questions.reverse()  # the newest question is the one that counts
    engine.answer_question()
    # Books were kept meanwhile: they are looked at once it knows.
    assert engine.next_order().order["buy"] == LINEAR


@pytest.mark.usefixtures("signal")
def test_answer_that_stays_away_is_asked_for_with_the_same_id_and_books_are_kept_meanwhile(
    place: Workspace, engine: EngineStandIn, feed: BookFeed
) -> None:
    feed.crossed_pair()
    first = engine.next_order()
    # While the order is out the market moves: spot's bid goes, linear becomes dear.
    feed.book("spot", "BTCUSDT", [("99", "4")], [("102", "2")])
    feed.book("linear", "BTCPERP", [("101.5", "3")], [("103", "3")])
    again = engine.next_order()
    assert again.order == first.order
    assert again.correlation_id == first.correlation_id
    wait_for(lambda: ready(place, "signal") == 0)
    engine.reply(again, ACK)
    # Everything is looked at once the answer is there: 101.5 for the long leg, 102 for the short one.
    order = engine.next_order().order
    while order["order_id"] == first.order["order_id"]:  # asked once more before the answer arrived
        order = engine.next_order().order
    assert order["action"] == "Close Spread"
    assert (order["sell_price"], order["buy_price"]) == (Decimal("101.5"), 102)
    assert order["spread_id"] == first.order["spread_id"]


@pytest.mark.usefixtures("signal")
def test_messages_that_follow_wait_while_an_order_is_out(engine: EngineStandIn, feed: BookFeed) -> None:
    feed.crossed_pair(size="1")
    first = engine.next_order()
    feed.book("spot", "BTCUSDT", [("105", "1")], [("106", "1")])
    feed.book("linear", "BTCPERP", [("99", "1")], [("100", "2")])
    engine.reply(first, ACK)
    # The one of before is done when ACKed; then 105 comes up: against what is left at linear, nothing.
    second = engine.execute()
    assert (second["buy_price"], second["sell_price"]) == (100, 105)
    assert second["ts_buy"] > first.order["ts_buy"]


@pytest.mark.usefixtures("signal")
def test_order_of_one_group_holds_up_no_other(
    place: Workspace, engine: EngineStandIn, feed: BookFeed
) -> None:
    feed.crossed_pair()
    of_a = engine.next_order()
    feed.book("linear", "ETHPERP", [("9", "1")], [("10", "1")], matching_key="b")
    feed.book("spot", "ETHUSDT", [("11", "1")], [("12", "1")], matching_key="b")
    of_b = engine.next_order()
    assert (of_a.order["buy"], of_b.order["buy"]) == (LINEAR, ["linear", "ETHPERP"])
    # Answered the other way round; both groups go on.
    engine.reply(of_b, ACK)
    feed.book("spot", "ETHUSDT", [("11", "2")], [("12", "1")], matching_key="b")
    feed.book("linear", "ETHPERP", [("9", "1")], [("10", "3")], matching_key="b")
    assert engine.execute()["size"] == 2
    engine.reply(of_a, ACK)
    feed.book("linear", "BTCPERP", [("99", "1")], [("100", "5")])
    feed.book("spot", "BTCUSDT", [("101", "3")], [("102", "1")])
    assert engine.execute()["size"] == 3
    wait_for(lambda: place.waiting("signal") == 0, "everything acknowledged")


@pytest.mark.usefixtures("signal")
def test_instrument_does_not_leave_its_group_while_an_order_is_out(
    place: Workspace, engine: EngineStandIn, feed: BookFeed
) -> None:
    feed.book("linear", "ETHPERP", [("9", "1")], [("100", "1")], matching_key="b")
    feed.crossed_pair()
    asked = engine.next_order()
    feed.book("spot", "BTCUSDT", [("101", "4")], [("102", "1")], matching_key="b")
    feed.book("spot", "BTCUSDT", [("101", "5")], [("102", "1")], matching_key="b")
    feed.book("linear", "ETHPERP", [("9", "1")], [("100", "7")], matching_key="b")
    engine.wait_for(lambda: engine.asked, "the order asked again")
    wait_for(lambda: ready(place, "signal") == 0)
    engine.pump()
    assert all(again.order == asked.order for again in engine.asked)
    # What waits is not acknowledged, nor what came after it: a new signal engine gets them.
    wait_for(lambda: place.waiting("signal") == 3, "three that are not acknowledged")
    engine.reply(asked, ACK)
    orders = [engine.next_order()]
    while orders[-1].order["order_id"] == asked.order["order_id"]:
        orders.append(engine.next_order())
    opened = orders[-1].order
    assert (opened["buy"], opened["sell"], opened["size"]) == (["linear", "ETHPERP"], SPOT, 4)
    engine.reply(orders[-1], ACK)
    assert engine.execute()["size"] == 3, "what is left at 100, though 5 are asked for at 101 again"
    wait_for(lambda: place.waiting("signal") == 0, "everything acknowledged")


@pytest.mark.usefixtures("signal")
def test_refused_order_changes_nothing_and_is_not_repeated_on_the_same_books(
    engine: EngineStandIn, feed: BookFeed
) -> None:
    feed.crossed_pair()
    engine.reply(engine.next_order(), {"status": "NOT ACK", "info": "order not placed"})
    # A change of a third instrument of the group looks at its own pairs alone.
    feed.book("linear", "BTCUSDT", [("90", "1")], [("110", "1")])
    feed.book("spot", "BTCUSDT", [("101", "2")], [("102", "1")])
    assert engine.execute()["size"] == 2


def test_spread_that_the_engine_does_not_know_makes_it_ask_again(
    place: Workspace, engine: EngineStandIn, feed: BookFeed
) -> None:
    engine.spreads = [spread("gone")]
    place.start_signal()
    feed.book("linear", "BTCPERP", [("100", "9")], [("102", "9")])
    feed.book("spot", "BTCUSDT", [("99", "9")], [("101", "9")])
    asked = engine.next_order()
    engine.spreads = [spread("real")]
    engine.reply(asked, {"status": "NOT ACK", "info": "invalid order: spread_id: expected an open spread"})
    engine.wait_for(lambda: engine.answered == 2, "the question asked again")
    # A refused close ends the closes of the pair until one of its books changes.
    feed.book("linear", "BTCPERP", [("100", "8")], [("102", "9")])
    assert engine.execute()["spread_id"] == "real"


def test_old_messages_that_waited_are_not_traded_on(
    place: Workspace, engine: EngineStandIn, feed: BookFeed
) -> None:
    feed.crossed_pair(age_ms=180_000)
    place.start_signal(MAX_BOOK_AGE_MS="10000")
    engine.wait_for(lambda: engine.answered, "its question")
    feed.book("spot", "BTCUSDT", [("103", "1")], [("104", "1")])
    engine.is_quiet_until(lambda: ready(place, "signal") == 0, "the fresh spot message taken")
    # Linear is heard of again: now both are fresh.
    feed.book("linear", "BTCPERP", [("99", "1")], [("100", "1")])
    order = engine.execute()
    assert (order["buy_price"], order["sell_price"]) == (100, 103)


def test_backlog_is_applied_before_it_is_traded_on(
    place: Workspace, engine: EngineStandIn, feed: BookFeed
) -> None:
    for number in range(20):
        feed.crossed_pair(size=f"{number + 2}", age_ms=9000)
    place.start_signal(MAX_LAG_MS="1000")
    engine.wait_for(lambda: engine.answered, "its question")
    engine.is_quiet_until(lambda: ready(place, "signal") == 0, "the backlog taken")
    feed.book("linear", "BTCPERP", [("99", "50")], [("100", "50")])
    assert engine.execute()["size"] == 21, "what spot has left by its last message"


def test_leg_that_stands_still_while_the_other_moves_is_not_traded(
    place: Workspace, engine: EngineStandIn, feed: BookFeed
) -> None:
    signal = place.start_signal(MAX_BOOK_LAG_MS="2000")
    engine.wait_for(lambda: engine.answered, "its question")
    feed.book("spot", "BTCUSDT", [("101", "2")], [("102", "2")], cts=now_ms() - 60_000)
    feed.book("linear", "BTCPERP", [("99", "2")], [("100", "2")])
    engine.is_quiet_until(lambda: "stands still" in signal.output, "the reason told")
    feed.book("spot", "BTCUSDT", [("101.5", "2")], [("102", "2")])
    assert engine.execute()["sell_price"] == Decimal("101.5")


def test_error_in_the_rules_of_one_pair_is_survived_and_told_once(
    place: Workspace, engine: EngineStandIn, feed: BookFeed
) -> None:
    signal = place.start_script(Path(failing_signal.__file__), "signal")
    place.await_ready(signal)
    connections = signal.broker_connections()
    engine.wait_for(lambda: engine.answered, "its question")
    for number in range(5):
        feed.book("linear", "BROKENPERP", [("9", "1")], [("10", f"{number + 1}")], matching_key="b")
        feed.book("spot", "BROKENUSDT", [("11", f"{number + 1}")], [("12", "1")], matching_key="b")
    feed.crossed_pair()
    assert engine.execute()["buy"] == LINEAR, "another group trades on"
    letters = await_dead_letters(place, "signal", 1)
    assert "KeyError" in letters[0][0]
    wait_for(lambda: ready(place, "signal") == 0)
    assert signal.output.count("Traceback") == 1
    assert signal.broker_connections() == connections
    assert signal.stop() == 0


def test_engine_that_is_not_there_is_missed(place: Workspace) -> None:
    signal = place.start_signal()
    assert "nobody consumes `orders`" in signal.first_warning()


def test_time_of_publishing_that_lies_in_the_future_does_not_keep_a_book_young(
    place: Workspace, engine: EngineStandIn, feed: BookFeed
) -> None:
    place.start_signal(MAX_BOOK_AGE_MS="300")
    engine.wait_for(lambda: engine.answered, "its question")
    feed.book("linear", "BTCPERP", [("99", "1")], [("100", "1")], age_ms=-3_600_000)
    began = now_ms()
    wait_for(lambda: now_ms() > began + 600 and ready(place, "signal") == 0)
    feed.book("spot", "BTCUSDT", [("103", "1")], [("104", "1")])
    engine.is_quiet_until(lambda: ready(place, "signal") == 0, "the message taken")
    feed.book("spot", "BTCUSDT", [("99", "1")], [("104", "1")])
    feed.crossed_pair()
    assert engine.execute()["sell_price"] == 101, "the first order of all"


@pytest.mark.usefixtures("signal")
def test_gap_stops_trading_and_asks_for_a_snapshot(
    place: Workspace, engine: EngineStandIn, feed: BookFeed
) -> None:
    resync = place.channel()
    queue = resync.queue_declare("", exclusive=True).method.queue
    resync.queue_bind(queue, "data_feeder", "resync")
    feed.apart_pair()
    feed.book("spot", "BTCUSDT", [("120", "1")], [], u=5, kind="delta")
    _, _, body = wait_for(
        lambda: message_of(resync.basic_get(queue, auto_ack=True)), "a request for a snapshot"
    )
    assert json.loads(body) == {"channel": "spot", "symbol": "BTCUSDT"}
    feed.book("spot", "BTCUSDT", [("121", "1")], [], u=6, kind="delta")
    # It goes on asking while the book waits.
    wait_for(lambda: message_of(resync.basic_get(queue, auto_ack=True)), "another request")
    engine.pump()
    assert not engine.asked
    feed.book("spot", "BTCUSDT", [("122", "1")], [("123", "1")], u=7)
    assert engine.execute()["sell_price"] == 122


def message_of(got: tuple[Any, Any, Any]) -> tuple[Any, Any, bytes] | None:
    return got if got[0] is not None else None


@pytest.mark.usefixtures("signal")
def test_instrument_that_a_map_leaves_out_is_not_traded_until_a_map_names_it(
    place: Workspace, engine: EngineStandIn, feed: BookFeed
) -> None:
    feed.apart_pair()
    feed.subscriptions(linear=["BTCPERP"])
    # Map and books come over one connection: what is published after its delivery is taken after it.
    wait_for(lambda: ready(place, "subscription") == 0)
    feed.book("spot", "BTCUSDT", [("120", "1")], [("121", "1")])
    engine.is_quiet_until(lambda: ready(place, "signal") == 0, "the message of the one removed taken")
    feed.subscriptions(linear=["BTCPERP"], spot=["BTCUSDT"])
    wait_for(lambda: ready(place, "subscription") == 0)
    feed.book("spot", "BTCUSDT", [("122", "1")], [("123", "1")])
    assert engine.execute()["sell_price"] == 122


@pytest.mark.usefixtures("engine")
def test_newest_map_alone_counts_at_start_though_garbage_came_after_it(
    place: Workspace, feed: BookFeed
) -> None:
    signal = place.start_signal()
    feed.subscriptions(spot=["OLD"])
    feed.subscriptions(spot=["BTCUSDT"], linear=["BTCPERP"])
    feed.publish("subscription", b"{not a map")
    wait_for(lambda: dead_letters(place, "subscription"))
    signal.kill()
    resync = place.channel()
    queue = resync.queue_declare("", exclusive=True).method.queue
    resync.queue_bind(queue, "data_feeder", "resync")
    place.start_signal()
    # It asks for full books of what is subscribed at once.
    asked: set[str] = set()

    def both_asked() -> bool:
        message = message_of(resync.basic_get(queue, auto_ack=True))
        if message is not None:
            asked.add(json.loads(message[2])["symbol"])
        return len(asked) == 2

    wait_for(both_asked, "requests for both snapshots")
    assert asked == {"BTCUSDT", "BTCPERP"}


@pytest.mark.usefixtures("signal")
def test_another_matching_key_moves_the_instrument_to_another_group(
    place: Workspace, engine: EngineStandIn, feed: BookFeed
) -> None:
    feed.book("linear", "BTCPERP", [("99", "1")], [("100", "0.4")], matching_key="b")
    feed.book("spot", "BTCUSDT", [("101", "1")], [("102", "1")])
    engine.is_quiet_until(lambda: ready(place, "signal") == 0, "both taken")
    feed.book("linear", "BTCPERP", [("99", "1")], [("100", "3")], matching_key="a")
    assert engine.execute()["size"] == 1


def test_stop_waits_for_the_answer_of_the_order_that_is_out(
    signal: Service, engine: EngineStandIn, feed: BookFeed
) -> None:
    feed.crossed_pair()
    asked = engine.next_order()
    signal.process.terminate()
    engine.reply(asked, ACK)
    assert signal.stop(5) == 0
    assert "cut short" not in signal.output
