"""The view of the other services over sessions whose queues a test sets as it likes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pika.spec import BasicProperties

from blackbird.broker.errors import DeclaredOtherwise
from blackbird.broker.feed_layout import FeedLayout
from blackbird.broker.session import OnMessage, Session, SessionLost
from blackbird.collector.stranded_spreads import stranded_spreads, stranded_warning
from blackbird.collector.system_view import (
    ANSWER_SECONDS,
    BACKLOG_SECONDS,
    STALE_SECONDS,
    EngineNotAsked,
    SystemView,
)
from blackbird.market.instrument import Instrument
from blackbird.trading.orders import ACK, NOT_ACK, OpenSpread, Reply, encode_reply

SPOT = Instrument("spot", "BTCUSDT")
PERP = Instrument("linear", "BTCPERP")
SPREAD = OpenSpread("1", PERP, SPOT, Decimal(10), Decimal("0.25"))


class FakeBroker:
    """Queues with (messages, consumers), and an engine that answers `reply`, None for never."""

    def __init__(self) -> None:
        self.queues: dict[str, tuple[int, int]] = {"storage": (0, 1), "signal": (0, 1), "orders": (0, 1)}
        self.arguments: dict[str, object] = {}
        self.sessions: list[FakeSession] = []
        self.rounds = 0  # how often the last of the observed queues was declared
        self.reply: bytes | None = encode_reply(Reply(ACK, "open spreads", [SPREAD]))

    async def connect(self) -> Session:
        self.sessions.append(FakeSession(self))
        return cast("Session", self.sessions[-1])


class FakeSession:
    def __init__(self, broker: FakeBroker) -> None:
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.channel = self
        self._broker = broker
        self._on_reply: OnMessage | None = None

    def queue_declare(
        self, queue: str, *, passive: bool, arguments: object, callback: Callable[[Any], None], **_: object
    ) -> None:
        queues = self._broker.queues
        self._broker.rounds += queue == "orders.dead"
        if self.lost.done():
            raise SessionLost("gone")
        if passive and queue not in queues:
            self.end(f"404 NOT_FOUND - no queue '{queue}' in vhost '/'")
        elif not passive and self._broker.arguments.get(queue) != arguments and queue in queues:
            self.end("406 PRECONDITION_FAILED - inequivalent arg 'x-max-length'")
        else:
            messages, consumers = queues.setdefault(queue, (0, 0))
            self._broker.arguments.setdefault(queue, arguments)
            method = SimpleNamespace(message_count=messages, consumer_count=consumers)
            callback(SimpleNamespace(method=method))

    def end(self, reason: str) -> None:
        self.lost.set_exception(
            DeclaredOtherwise(reason) if "inequivalent" in reason else SessionLost(reason)
        )

    async def consume(self, _queue: str, on_message: OnMessage, *, auto_ack: bool, label: str) -> str:
        assert auto_ack
        assert label
        self._on_reply = on_message
        return "tag"

    def publish(self, exchange: str, key: str, body: bytes, properties: BasicProperties) -> None:
        assert (exchange, key, body) == ("", "orders", b'{"action":"List Open Spreads"}')
        assert properties.reply_to == "amq.rabbitmq.reply-to"
        # An engine that comes later is not to answer questions of the past.
        assert int(properties.expiration or 0) == ANSWER_SECONDS * 1000
        if self._broker.reply is not None and self._on_reply is not None:
            unknown = BasicProperties(correlation_id="another's")
            known = BasicProperties(correlation_id=properties.correlation_id)
            for reply in (unknown, known, known):
                self._on_reply(cast("Any", None), cast("Any", None), reply, self._broker.reply)

    async def closed(self) -> None:
        pass


class Scene:
    def __init__(self) -> None:
        self.broker = FakeBroker()
        self.now = 1000.0
        self.view = SystemView(self.broker.connect, lambda: self.now)

    async def observe(self) -> None:
        """Wait until the queues were looked at after what was set before this call."""
        seen = self.broker.rounds
        async with asyncio.timeout(10):
            # One round may have begun before, and one may not be finished.
            while self.broker.rounds < seen + 3:
                await asyncio.sleep(0.001)


def run(check: Callable[[Scene], Awaitable[None]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a check with a view that watches, an observation every few milliseconds."""
    monkeypatch.setattr("blackbird.collector.system_view.INTERVAL_SECONDS", 0.002)

    async def watched() -> None:
        scene = Scene()
        watching = asyncio.create_task(scene.view.watch())
        try:
            await check(scene)
        finally:
            watching.cancel()
            await asyncio.wait([watching])
        assert watching.cancelled()

    asyncio.run(watched())


def test_of_a_divided_feed_each_partition_without_a_consumer_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def check(scene: Scene) -> None:
        scene.view = SystemView(scene.broker.connect, lambda: scene.now, FeedLayout(2))
        busy = dict.fromkeys(("storage.0", "storage.1", "signal.0", "orders"), (0, 1))
        scene.broker.queues = busy | {"signal.dead": (3, 0)}
        watching = asyncio.create_task(scene.view.watch())
        async with asyncio.timeout(10):
            while not scene.view.queues:
                await asyncio.sleep(0.001)
        watching.cancel()
        assert scene.view.down() == ["signal.1: no consumer (signal engine), 0 messages waiting"]
        assert scene.view.queues["signal.0"].dead_letters == 3
        assert set(scene.broker.arguments) >= {"signal.1"}

    run(check, monkeypatch)


def test_queues_with_consumers_that_keep_up_are_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(scene: Scene) -> None:
        assert scene.view.down() == ["RabbitMQ: the queues have not been seen yet"]
        scene.broker.queues["storage.dead"] = (7, 0)
        await scene.observe()
        assert scene.view.down() == []
        assert scene.view.queues["storage"][:3] == (1, 0, 7)
        # However deep a queue is, it is in order as long as it falls.
        for depth in range(50_000, 49_990, -1):
            scene.broker.queues["storage"] = (depth, 1)
            scene.now += BACKLOG_SECONDS / 3
            await scene.observe()
            assert scene.view.down() == []

    run(check, monkeypatch)


@pytest.mark.parametrize("queue", ["storage", "signal", "orders"])
def test_a_queue_without_a_consumer_is_named(monkeypatch: pytest.MonkeyPatch, queue: str) -> None:
    async def check(scene: Scene) -> None:
        scene.broker.queues[queue] = (5, 0)
        await scene.observe()
        (down,) = scene.view.down()
        assert down.startswith(f"{queue}: no consumer")
        assert "5 messages" in down
        scene.broker.queues[queue] = (0, 1)
        await scene.observe()
        assert scene.view.down() == []

    run(check, monkeypatch)


def test_a_queue_that_is_not_worked_off_is_named_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(scene: Scene) -> None:
        for second in range(int(BACKLOG_SECONDS)):
            scene.broker.queues["storage"] = (100 + second // 2, 1)
            await scene.observe()
            assert scene.view.down() == []
            scene.now += 1
        await scene.observe()
        assert scene.view.down() == ["storage: 104 messages waiting, not falling for 10 s"]
        scene.broker.queues["storage"] = (103, 1)
        await scene.observe()
        assert scene.view.down() == []

    run(check, monkeypatch)


def test_an_observation_that_is_too_old_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(scene: Scene) -> None:
        await scene.observe()
        scene.now += STALE_SECONDS + 2
        # Still: nothing was observed since.
        assert scene.view.down() == ["RabbitMQ: the queues have not been seen for 7 s"]
        # What a queue held before the gap is not held against its consumer.
        scene.broker.queues["storage"] = (9, 1)
        await scene.observe()
        assert scene.view.down() == []

    run(check, monkeypatch)


def test_a_lost_session_and_a_missing_queue_are_followed_by_a_new_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def check(scene: Scene) -> None:
        await scene.observe()
        scene.broker.sessions[-1].end("connection reset")
        await scene.observe()
        assert len(scene.broker.sessions) == 2
        del scene.broker.queues["storage"]
        await scene.observe()
        assert scene.view.down() == [
            (
                "storage: no consumer (data storage: not running, or the database takes no messages),"
                " 0 messages waiting"
            )
        ]
        assert scene.broker.arguments["storage"] == {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000}

    run(check, monkeypatch)


def test_a_dead_letter_queue_with_other_arguments_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(scene: Scene) -> None:
        scene.broker.queues["signal.dead"] = (3, 0)
        scene.broker.arguments["signal.dead"] = {"x-max-length": 5}
        await scene.observe()
        assert scene.view.queues["signal"].dead_letters == 3

    run(check, monkeypatch)


# --- open spreads --------------------------------------------------------------------------------


def test_the_engine_says_what_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(scene: Scene) -> None:
        await scene.observe()
        assert await scene.view.open_spreads() == [SPREAD]

    run(check, monkeypatch)


async def ask_in_vain(scene: Scene) -> str:
    with pytest.raises(EngineNotAsked) as error:
        await scene.view.open_spreads()
    return str(error.value)


def test_an_engine_that_can_not_be_asked_is_an_error_that_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blackbird.collector.system_view.ANSWER_SECONDS", 0.05)
    monkeypatch.setattr("tests.unit.collector.test_system_view.ANSWER_SECONDS", 0.05)

    async def check(scene: Scene) -> None:
        assert "no connection" in await ask_in_vain(scene)
        await scene.observe()
        for reply, why in (
            (None, "no answer within 0.05 s"),
            (b"{", "malformed reply"),
            (encode_reply(Reply(NOT_ACK, "internal error")), "internal error"),
        ):
            scene.broker.reply = reply
            assert why in await ask_in_vain(scene)
        scene.broker.queues["orders"] = (0, 0)
        assert "not running" in await ask_in_vain(scene)

    run(check, monkeypatch)


def test_where_there_never_was_an_engine_nothing_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(scene: Scene) -> None:
        del scene.broker.queues["orders"]
        await scene.observe()
        assert await scene.view.open_spreads() == []
        scene.broker.queues["orders"] = (0, 1)
        await scene.observe()
        # Now there was one.
        scene.broker.queues["orders"] = (0, 0)
        assert "not running" in await ask_in_vain(scene)

    run(check, monkeypatch)


# --- stranded spreads ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("groups", "stranded"),
    [
        ({SPOT: "a", PERP: "a"}, False),
        ({SPOT: "a", PERP: "b"}, True),
        ({PERP: "a"}, True),
        ({SPOT: "a"}, True),
        ({}, True),
    ],
)
def test_a_spread_is_stranded_unless_both_legs_are_in_one_group(
    groups: dict[tuple[str, str], str], *, stranded: bool
) -> None:
    assert bool(stranded_spreads([SPREAD], SPOT, groups)) is stranded
    assert stranded_spreads([SPREAD], Instrument("spot", "ETHUSDT"), groups) == []


def test_exposure_is_summed_exactly_and_written_plainly() -> None:
    spreads = [OpenSpread(str(i), PERP, SPOT, Decimal(1), Decimal("0.1")) for i in range(3)]
    assert "3 open spreads with an exposure of 0.3 short in spot:BTCUSDT" in stranded_warning(spreads, SPOT)
    large = [OpenSpread("1", SPOT, PERP, Decimal(1), Decimal("1E+6"))]
    assert "1 open spread with an exposure of 1000000 long" in stranded_warning(large, SPOT)


def test_exposure_is_given_in_quote_coin_where_the_engine_gives_all_entry_prices() -> None:
    prices = Decimal(60000), Decimal(60010)
    spreads = [
        OpenSpread("1", PERP, SPOT, Decimal(10), Decimal("0.25"), *prices),
        OpenSpread("2", SPOT, PERP, Decimal(10), Decimal("0.5"), *prices),
    ]
    # 0.25 sold at 60010 and 0.5 bought at 60000.
    assert "spot:BTCUSDT, 45002.5 in quote coin at the entry prices, can't" in stranded_warning(spreads, SPOT)
    without = OpenSpread("3", PERP, SPOT, Decimal(10), Decimal("0.25"))
    assert "quote coin" not in stranded_warning([*spreads, without], SPOT)
