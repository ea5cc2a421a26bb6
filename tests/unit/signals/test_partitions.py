"""When a partition begins anew, who is wanted for it, and what its beginning leaves alone."""

from __future__ import annotations

import asyncio
from collections import Counter
from decimal import Decimal
from typing import Any, cast

import pytest
from pika.spec import Basic, BasicProperties

from blackbird.broker.feed_layout import FeedLayout
from blackbird.broker.session import OnMessage, Session
from blackbird.market.instrument import Instrument
from blackbird.market.saved_subscriptions import SavedSubscription, encode_saved
from blackbird.runtime.failure_log import FailureLog
from blackbird.signals.ack_tracker import AckTracker
from blackbird.signals.division import Division
from blackbird.signals.group_lane import GroupLanes, LaneContext
from blackbird.signals.partitions import IDLE_SECONDS, Partitions, priority
from blackbird.trading.orders import OpenSpread, Reply
from blackbird.trading.signal import Signal
from tests.support.market import book_message

LAYOUT = FeedLayout(2)
# A group in each partition.
KEYS = [next(key for key in "abcdef" if LAYOUT.partition_of(key) == number) for number in range(2)]
SPOT, PERP = Instrument("spot", "A"), Instrument("linear", "A")
OTHERS = Instrument("spot", "B"), Instrument("linear", "B")
LIST = [SavedSubscription(each, KEYS[0]) for each in (SPOT, PERP)] + [
    SavedSubscription(each, KEYS[1]) for each in OTHERS
]


class Broker:
    """A session: which consumers it has, and deliveries by hand."""

    def __init__(self, version: tuple[int, int]) -> None:
        self.broker_version = version
        self.consumers: dict[str, tuple[OnMessage, dict[str, Any]]] = {}
        self.acknowledged: list[int] = []

    async def consume(self, queue: str, on_message: OnMessage, *, arguments: dict[str, Any]) -> str:
        self.consumers[queue] = on_message, arguments
        return queue

    def acknowledge(self, tag: int) -> None:
        self.acknowledged.append(tag)

    def deliver(self, queue: str, body: bytes = b"", count: int = 0, *, redelivered: bool = False) -> None:
        deliver = Basic.Deliver("tag", 1, redelivered)
        properties = BasicProperties(headers={"sequence": count} if count else {})
        self.consumers[queue][0](cast("Any", None), deliver, properties, body)


class Scene:
    """Engine 0 of two, on two partitions."""

    def __init__(self, version: tuple[int, int] = (4, 0)) -> None:
        self.now = 0.0
        self.signal = Signal(clock=lambda: 1000)
        self.questions: list[Any] = []
        self.requested: list[Instrument] = []
        self.messages = 0
        division = Division(LAYOUT, self.signal.keeper)
        context = LaneContext(
            self.signal, cast("Any", self), AckTracker(lambda _: None), FailureLog(), lambda *_: None
        )
        self.lanes = GroupLanes(context, division)
        self.partitions = Partitions(
            self.signal,
            self.lanes,
            division,
            self.requested.append,
            partitions=2,
            engines=2,
            clock=lambda: self.now,
        )
        self.version = version
        self.open()

    def open(self) -> None:
        self.broker = Broker(self.version)
        self.lanes.restart()
        asyncio.run(self.partitions.open(cast("Session", self.broker), self._on_message))

    def _on_message(self, *_: Any) -> None:
        self.messages += 1

    def open_spreads(self, on_reply: Any) -> None:
        self.questions.append(on_reply)

    def answer(self, *spreads: OpenSpread) -> None:
        """Answer the newest question, as the only one that counts."""
        self.questions[-1](Reply("ACK", "open spreads", list(spreads)))
        self.questions.clear()

    def list(self, subscriptions: list[SavedSubscription]) -> None:
        self.broker.deliver("feeds", encode_saved(subscriptions))

    def book(self, instrument: Instrument, key: str) -> None:
        message = book_message("snapshot", 1, [("1", "1")], [("2", "1")], instrument=instrument, key=key)
        self.signal.on_book(message, 1000)

    def may_trade(self, number: int) -> bool:
        return self.lanes.gate(number).is_open


@pytest.mark.parametrize("engines", [1, 2, 3, 5])
def test_each_partition_has_one_favorite_and_the_shares_of_a_dead_engine_are_spread(engines: int) -> None:
    wanted = [[priority(number, engine, engines) for engine in range(engines)] for number in range(60)]
    ranks = [2, 1, *[0] * engines][:engines]
    assert all(sorted(each, reverse=True) == ranks for each in wanted)
    if engines > 1:
        backups = Counter(each.index(1) for each in wanted if each.index(2) == 0)
        assert max(backups.values()) - min(backups.values()) <= 1
        assert len(backups) == engines - 1


def test_from_rabbitmq_4_on_an_engine_consumes_all_partitions_by_priority() -> None:
    scene = Scene((4, 0))
    priorities = {queue: arguments for queue, (_, arguments) in scene.broker.consumers.items()}
    assert priorities == {
        "feeds": {"x-stream-offset": "last"},
        "signal.0": {"x-priority": 2},
        "signal.1": {"x-priority": 1},
    }


def test_before_rabbitmq_4_an_engine_consumes_its_own_partitions_alone() -> None:
    assert set(Scene((3, 13)).broker.consumers) == {"feeds", "signal.0"}


def test_a_partition_trades_once_its_open_spreads_are_known_and_the_other_is_not_touched() -> None:
    scene = Scene()
    scene.list(LIST)
    assert scene.questions == []
    scene.broker.deliver("signal.0", count=1)
    assert not scene.may_trade(0)
    assert scene.requested == [SPOT, PERP]
    scene.answer()
    assert (scene.may_trade(0), scene.may_trade(1)) == (True, False)
    scene.broker.deliver("signal.1", count=7)
    assert (scene.may_trade(0), scene.may_trade(1)) == (True, False)
    scene.answer()
    assert (scene.may_trade(0), scene.may_trade(1)) == (True, True)
    assert scene.messages == 2


def test_a_partition_goes_on_as_long_as_nothing_is_missed() -> None:
    scene = Scene()
    scene.broker.deliver("signal.0", count=1)
    scene.answer()
    for count in (2, 3, 4):
        scene.broker.deliver("signal.0", count=count)
    scene.broker.deliver("signal.0")
    assert scene.questions == []
    assert scene.may_trade(0)


def test_a_gap_makes_a_partition_begin_anew_with_books_that_are_not_traded_on() -> None:
    scene = Scene()
    scene.list(LIST)
    scene.broker.deliver("signal.0", count=1)
    scene.broker.deliver("signal.1", count=1)
    scene.answer()
    scene.book(SPOT, KEYS[0])
    scene.book(OTHERS[0], KEYS[1])
    scene.broker.deliver("signal.0", count=3)
    assert (scene.may_trade(0), scene.may_trade(1)) == (False, True)
    assert not scene.signal.keeper.books[SPOT].in_sync
    assert scene.signal.keeper.books[OTHERS[0]].in_sync
    assert len(scene.questions) == 1


def test_what_another_engine_may_have_had_makes_a_partition_begin_anew_once() -> None:
    scene = Scene()
    scene.broker.deliver("signal.0", count=1)
    scene.answer()
    for count in (2, 3, 4):
        scene.broker.deliver("signal.0", count=count, redelivered=True)
    scene.broker.deliver("signal.0", count=5)
    assert len(scene.questions) == 1


def test_a_new_session_trades_nothing_before_a_partition_delivers_again() -> None:
    scene = Scene()
    scene.broker.deliver("signal.0", count=1)
    scene.answer()
    scene.open()
    assert not scene.may_trade(0)
    assert scene.questions == []
    scene.broker.deliver("signal.0", count=2)
    assert len(scene.questions) == 1


def test_the_answer_for_one_partition_leaves_the_spreads_of_another_as_they_are() -> None:
    scene = Scene()
    scene.list(LIST)
    ours = OpenSpread("ours", SPOT, PERP, Decimal(1), Decimal(2))
    others = OpenSpread("others", *OTHERS, Decimal(1), Decimal(2))
    scene.broker.deliver("signal.0", count=1)
    scene.answer(ours, others)
    assert [spread.spread_id for spread in scene.signal.spreads] == ["ours"]
    known = next(iter(scene.signal.spreads))
    scene.broker.deliver("signal.1", count=1)
    scene.answer(others)
    assert [spread.spread_id for spread in scene.signal.spreads] == ["ours", "others"]
    assert next(iter(scene.signal.spreads)) is known


def test_an_instrument_that_joins_a_partition_may_have_spreads_open() -> None:
    scene = Scene()
    scene.list(LIST[:2])
    scene.broker.deliver("signal.0", count=1)
    scene.answer()
    scene.list(LIST[:2])
    assert scene.questions == []
    scene.list([*LIST[:2], SavedSubscription(OTHERS[0], KEYS[0])])
    assert len(scene.questions) == 1
    assert not scene.may_trade(0)
    scene.answer()
    scene.list([*LIST[:2], SavedSubscription(OTHERS[0], KEYS[1])])
    assert scene.questions == []


def test_a_partition_of_another_engine_that_is_silent_is_forgotten() -> None:
    scene = Scene()
    scene.list(LIST)
    for queue in ("signal.0", "signal.1"):
        scene.broker.deliver(queue, count=1)
    scene.answer(OpenSpread("others", *OTHERS, Decimal(1), Decimal(2)))
    scene.book(SPOT, KEYS[0])
    scene.book(OTHERS[0], KEYS[1])
    scene.now += IDLE_SECONDS + 1
    scene.partitions.release_idle()
    assert set(scene.signal.keeper.books) == {SPOT}
    assert len(scene.signal.spreads) == 0
    assert (scene.may_trade(0), scene.may_trade(1)) == (True, False)
    scene.broker.deliver("signal.1", count=2)
    assert len(scene.questions) == 1


def test_a_malformed_list_is_ignored() -> None:
    scene = Scene()
    scene.list(LIST)
    scene.broker.deliver("feeds", b"[]")
    scene.broker.deliver("signal.0", count=1)
    assert scene.requested == [SPOT, PERP]
    assert scene.broker.acknowledged == [1, 1]
