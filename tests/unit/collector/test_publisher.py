"""The publisher on sessions that a test confirms, refuses and ends as it likes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

from pika.spec import Basic, BasicProperties

from blackbird.broker.feed_layout import FeedLayout, Share
from blackbird.broker.session import Session, SessionLost
from blackbird.collector.publisher import CONFIRM_SAMPLE, MOST_UNCONFIRMED, BrokerState, FeedPublisher
from blackbird.market.instrument import Instrument

A = Instrument("spot", "A")
B = Instrument("linear", "B")


class FakeSession:
    """Keeps what is published; the test answers for the broker."""

    def __init__(self) -> None:
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.blocked: str | None = None
        self.bodies: list[bytes] = []
        self.properties: list[BasicProperties] = []
        self.reservations: list[bytes] = []
        # Delivery tags of the bodies, and of reservations that are not confirmed yet.
        self._tags: list[int] = []
        self._reservation_tags: list[int] = []
        self._on_confirm: Callable[[Any], None] = print

    @property
    def is_open(self) -> bool:
        return not self.lost.done()

    async def confirm_publishes(self, on_confirm: Callable[[Any], None]) -> None:
        self._on_confirm = on_confirm

    def publish(self, _exchange: str, key: str, body: bytes, properties: BasicProperties) -> None:
        if self.lost.done():
            raise SessionLost("gone")
        tag = 1 + len(self.bodies) + len(self.reservations)
        if key == "collector.numbers":
            self.reservations.append(body)
            self._reservation_tags.append(tag)
        else:
            self.bodies.append(body)
            self.properties.append(properties)
            self._tags.append(tag)

    def dead_letter(self, *_: object) -> None:
        self.publish("", "x.dead", b"dead", BasicProperties())

    def confirm(self, count: int, *, multiple: bool = False) -> None:
        """Confirm the reservations of numbers, and the body that is the `count`th."""
        for tag in self._reservation_tags:
            self._on_confirm(SimpleNamespace(method=Basic.Ack(tag)))
        self._reservation_tags.clear()
        self._on_confirm(SimpleNamespace(method=Basic.Ack(self._tags[count - 1], multiple)))

    def refuse(self, count: int) -> None:
        self._on_confirm(SimpleNamespace(method=Basic.Nack(self._tags[count - 1])))

    async def end(self) -> None:
        self.lost.set_result(None)
        await asyncio.sleep(0)


def session() -> Session:
    return cast("Session", FakeSession())


def fake(session: Session) -> FakeSession:
    return cast("FakeSession", session)


class Scene:
    def __init__(self, buffer: int) -> None:
        self.gaps: list[set[Instrument]] = []
        self.publisher = FeedPublisher(self.gaps.append, buffer=buffer)

    async def begin(self) -> FakeSession:
        begun = session()
        await self.publisher.start(begun)
        return fake(begun)

    async def publish(self, *numbers: int, instrument: Instrument = A) -> None:
        for number in numbers:
            self.publisher.publish_book(instrument, b"%d" % number, number, number)
        await asyncio.sleep(0)


def play(scene: Callable[[Scene], Awaitable[None]], *, buffer: int = 20_000) -> None:
    async def act() -> None:
        await scene(Scene(buffer))

    asyncio.run(act())


def number_of(properties: BasicProperties) -> int:
    number = (as_received(properties).headers or {})["number"]
    assert isinstance(number, int)
    return number


def as_received(properties: BasicProperties) -> BasicProperties:
    decoded = BasicProperties()
    decoded.decode(b"".join(properties.encode()))
    return decoded


def numbers(*values: int) -> list[bytes]:
    return [b"%d" % value for value in values]


def test_pushes_are_published_in_order_with_the_time_they_were_received() -> None:
    async def act(scene: Scene) -> None:
        broker = await scene.begin()
        await scene.publish(1, 2, 1795395127162)
        assert broker.bodies == numbers(1, 2, 1795395127162)
        decoded = [as_received(properties) for properties in broker.properties]
        headers = decoded[2].headers or {}
        number = headers["number"]
        assert headers == {"CC": ["signal"], "published_at": 1795395127162, "number": number}
        assert decoded[2] == BasicProperties(
            delivery_mode=2, content_type="application/json", headers=headers
        )

    play(act)


def test_pushes_of_a_divided_feed_go_to_the_queues_of_their_partition_too_and_are_counted_there() -> None:
    layout = FeedLayout(4)
    # "a" and "c" are in one partition.
    assert [layout.partition_of(key) for key in "abc"] == [3, 1, 3]

    async def act(scene: Scene) -> None:
        scene.publisher = FeedPublisher(scene.gaps.append, buffer=10, share=Share(layout))
        scene.publisher.assign(A, "a")
        scene.publisher.assign(B, "b")
        broker = await scene.begin()
        await scene.publish(1, 2)
        await scene.publish(3, instrument=B)
        scene.publisher.assign(B, "c")
        await scene.publish(4, instrument=B)
        headers: list[dict[str, Any]] = [dict(as_received(each).headers or {}) for each in broker.properties]
        assert [each["CC"] for each in headers] == [
            ["signal", "signal.3", "storage.3"],
            ["signal", "signal.3", "storage.3"],
            ["signal", "signal.1", "storage.1"],
            ["signal", "signal.3", "storage.3"],
        ]
        assert [each["published_at"] for each in headers] == [1, 2, 3, 4]
        assert sorted(each["number"] for each in headers) == [each["number"] for each in headers]
        first = headers[0]["sequence"]
        assert [headers[index]["sequence"] - first for index in (0, 1, 3)] == [0, 1, 2]

    play(act)


def test_numbers_are_the_time_and_rise_with_every_message_however_the_clock_stands() -> None:
    clock = iter([1_800_000_000_000_000_005, 1_800_000_000_000_000_005, 0, 1_800_000_000_000_000_100, 7])

    async def act(scene: Scene) -> None:
        publisher = FeedPublisher(scene.gaps.append, buffer=10, clock_ns=lambda: next(clock))
        broker = session()
        await publisher.start(broker)
        for number in range(5):
            publisher.publish_book(A, b"%d" % number, number, number)
        await asyncio.sleep(0)
        found = [number_of(each) for each in fake(broker).properties]
        assert [number - 1_800_000_000_000_000_000 for number in found] == [5, 6, 7, 100, 101]

    play(act)


def test_numbers_rise_over_sessions_and_go_on_from_the_time_of_a_restart() -> None:
    async def act(scene: Scene) -> None:
        broker = await scene.begin()
        await scene.publish(1, 2)
        await broker.end()
        again = await scene.begin()
        await scene.publish(3)
        restarted = Scene(10)
        latest = await restarted.begin()
        await restarted.publish(4)
        sessions = (broker, again, latest)
        found = [number_of(properties) for each in sessions for properties in each.properties]
        assert len(found) == 6
        assert found == sorted(set(found))

    play(act)


def test_what_comes_at_once_is_published_in_the_order_in_which_it_was_made() -> None:
    async def act(scene: Scene) -> None:
        broker = await scene.begin()
        for instrument, made in ((A, 10), (A, 12), (A, 12), (B, 9), (B, 11), (B, 12)):
            scene.publisher.publish_book(
                instrument, b"%s at %d" % (instrument.symbol.encode(), made), 20, made
            )
        assert broker.bodies == []
        await asyncio.sleep(0)
        assert broker.bodies == [b"B at 9", b"A at 10", b"B at 11", b"A at 12", b"A at 12", b"B at 12"]
        await scene.publish(1)
        assert broker.bodies[-1] == b"1"

    play(act)


def test_what_is_not_confirmed_is_published_again_first_and_in_order() -> None:
    async def act(scene: Scene) -> None:
        broker = await scene.begin()
        await scene.publish(1, 2, 3, 4, 5, 6)
        broker.confirm(2, multiple=True)
        broker.confirm(4)
        await broker.end()
        await scene.publish(7)
        assert scene.publisher.backlog == 4
        broker = await scene.begin()
        assert broker.bodies == numbers(3, 5, 6, 7)
        broker.confirm(4, multiple=True)
        assert scene.publisher.backlog == 0
        assert scene.gaps == []

    play(act)


def test_confirms_of_a_session_that_ended_mean_nothing() -> None:
    async def act(scene: Scene) -> None:
        first = await scene.begin()
        await scene.publish(1)
        await first.end()
        await scene.begin()
        first.confirm(1)
        assert scene.publisher.backlog == 1

    play(act)


def test_a_refused_push_is_published_again() -> None:
    async def act(scene: Scene) -> None:
        broker = await scene.begin()
        await scene.publish(1, 2)
        broker.refuse(1)
        assert broker.bodies == numbers(1, 2, 1)
        broker.confirm(3, multiple=True)
        assert scene.publisher.backlog == 0

    play(act)


def test_only_so_many_are_on_their_way() -> None:
    async def act(scene: Scene) -> None:
        broker = await scene.begin()
        await scene.publish(*range(MOST_UNCONFIRMED + 150))
        assert len(broker.bodies) == MOST_UNCONFIRMED
        assert scene.publisher.dropped == 50
        assert scene.gaps == []
        broker.confirm(MOST_UNCONFIRMED, multiple=True)
        left = range(MOST_UNCONFIRMED + 50, MOST_UNCONFIRMED + 150)
        assert broker.bodies[MOST_UNCONFIRMED:] == numbers(*left)
        assert scene.gaps == [{A}]

    play(act, buffer=100)


def test_the_oldest_are_dropped_without_a_broker_and_their_instruments_named() -> None:
    async def act(scene: Scene) -> None:
        await scene.publish(1, 2)
        await scene.publish(3, 4, 5, instrument=B)
        assert scene.publisher.dropped == 2
        broker = await scene.begin()
        assert broker.bodies == numbers(3, 4, 5)
        assert scene.gaps == [{A}]

    play(act, buffer=3)


def test_only_the_newest_subscriptions_are_published_when_the_broker_comes() -> None:
    async def act(scene: Scene) -> None:
        scene.publisher.publish_subscriptions(b"old map", b"old")
        scene.publisher.publish_subscriptions(b"new map", b"new")
        await scene.publish(1)
        broker = await scene.begin()
        assert broker.bodies == [b"new map", b"new", b"1"]
        await broker.end()
        assert (await scene.begin()).bodies == [b"new map", b"new", b"1"]

    play(act)


def test_subscriptions_are_with_the_broker_when_both_their_messages_are_confirmed() -> None:
    async def act(scene: Scene) -> None:
        broker = await scene.begin()
        scene.publisher.dead_letter("resync", "why", BasicProperties(), b"body")
        done = scene.publisher.publish_subscriptions(b"map", b"kept")
        await scene.publish(9)
        broker.confirm(1)
        broker.confirm(2)
        assert not done.done()
        broker.confirm(3)
        assert done.done()
        assert scene.publisher.backlog == 1
        broker.confirm(4)
        assert scene.publisher.backlog == 0

    play(act)


def test_subscriptions_are_confirmed_by_whichever_session_the_broker_confirms_them_on() -> None:
    async def act(scene: Scene) -> None:
        confirmed = [scene.publisher.subscriptions_confirmed]
        waiting = scene.publisher.publish_subscriptions(b"map", b"kept")
        await (await scene.begin()).end()
        broker = await scene.begin()
        confirmed.append(scene.publisher.subscriptions_confirmed)
        broker.confirm(2, multiple=True)
        assert waiting.done()
        confirmed.append(scene.publisher.subscriptions_confirmed)
        # A session that publishes them once more takes nothing of that back.
        await broker.end()
        broker = await scene.begin()
        confirmed.append(scene.publisher.subscriptions_confirmed)
        broker.confirm(2, multiple=True)
        scene.publisher.publish_subscriptions(b"new map", b"new")
        confirmed.append(scene.publisher.subscriptions_confirmed)
        assert confirmed == [True, False, True, True, False]

    play(act)


def test_the_state_says_whether_the_broker_takes_messages() -> None:
    async def act(scene: Scene) -> None:
        states = [scene.publisher.state]
        broker = await scene.begin()
        states.append(scene.publisher.state)
        broker.blocked = "low on memory"
        states.append(scene.publisher.state)
        await broker.end()
        states.append(scene.publisher.state)
        assert states == [
            BrokerState.NOT_CONNECTED,
            BrokerState.CONNECTED,
            BrokerState.BLOCKED,
            BrokerState.NOT_CONNECTED,
        ]

    play(act)


# --- counters ------------------------------------------------------------------------------------


def test_each_push_is_counted_as_waiting_confirmed_or_dropped() -> None:
    async def act(scene: Scene) -> None:
        publisher = scene.publisher
        await scene.publish(1, 2, 3, instrument=A)
        await scene.publish(4, instrument=B)
        assert publisher.received == 4
        assert publisher.pending() == {A: 1, B: 1}
        assert (publisher.drops, publisher.dropped) == ({A: 2}, 2)
        broker = await scene.begin()
        assert publisher.pending() == {A: 1, B: 1}
        broker.confirm(2, multiple=True)
        assert not publisher.pending()
        assert publisher.confirm_age.counts().total == 0
        assert publisher.push_age.counts().total == 2, "one for each turn of the event loop"

    play(act, buffer=2)


def test_what_is_no_push_is_not_counted_as_one() -> None:
    async def act(scene: Scene) -> None:
        await scene.begin()
        scene.publisher.publish_subscriptions(b"map", b"saved")
        assert scene.publisher.backlog == 2
        assert not scene.publisher.pending()

    play(act)


def test_the_confirmation_of_a_sample_of_the_pushes_is_timed() -> None:
    async def act(scene: Scene) -> None:
        broker = await scene.begin()
        await scene.publish(*range(2 * CONFIRM_SAMPLE + 1))
        for tag in range(1, 2 * CONFIRM_SAMPLE + 2):
            broker.confirm(tag)
        assert scene.publisher.confirm_age.counts().total == 2

    play(act)
