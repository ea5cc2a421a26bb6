"""Orders and the question for open spreads: asked until they are answered, over any number of sessions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from decimal import Decimal

import msgspec
import pytest
from pika.spec import BasicProperties

from blackbird.broker.topology import DIRECT_REPLY, ORDERS
from blackbird.runtime.failure_log import FailureLog
from blackbird.signals.order_manager import OrderManager
from blackbird.trading.orders import OPEN_SPREAD, QUESTION, OpenSpread, Order, Reply, encode_reply
from tests.support.fake_session import FakeSession
from tests.support.market import PERP, PLACED, SPOT

ORDER = Order(OPEN_SPREAD, PERP, Decimal(100), SPOT, Decimal(101), Decimal(1), 1, 2, order_id="o1")
SPREADS = Reply("ACK", "open spreads", [OpenSpread("s", PERP, SPOT, Decimal(1), Decimal(1))])


class Desk:
    """An order manager that asks again after 10 ms, with a session; `replies` is what came of them."""

    def __init__(self, seconds: float = 0.01) -> None:
        self.failures = FailureLog()
        self.orders = OrderManager(self.failures, ask_again_seconds=seconds, ask_spreads_seconds=seconds)
        self.session = FakeSession()
        self.replies: list[Reply] = []

    async def attach(self) -> None:
        await self.orders.attach(self.session.as_session)

    def reply(self, reply: Reply, to: int = -1) -> None:
        """Answer one of the requests."""
        asked = self.session.published[to][3]
        assert asked.reply_to == DIRECT_REPLY
        properties = BasicProperties(correlation_id=asked.correlation_id)
        self.session.deliver(DIRECT_REPLY, encode_reply(reply), properties)

    async def published(self, count: int) -> None:
        """Wait until so many requests are out."""
        there = asyncio.Event()

        def check() -> None:
            if len(self.session.published) >= count:
                there.set()

        self.session.on_publish = check
        check()
        async with asyncio.timeout(10):
            await there.wait()

    @property
    def bodies(self) -> list[bytes]:
        assert {key for _, key, _, _ in self.session.published} <= {ORDERS}
        return [body for _, _, body, _ in self.session.published]


def play(scene: Callable[[Desk], Awaitable[None]], seconds: float = 0.01) -> None:
    async def act() -> None:
        desk = Desk(seconds)
        await desk.attach()
        try:
            await scene(desk)
        finally:
            desk.orders.close()

    asyncio.run(act())


def test_order_is_asked_about_with_the_same_id_until_its_reply_which_is_given_once() -> None:
    async def scene(desk: Desk) -> None:
        desk.orders.send(ORDER, desk.replies.append)
        await desk.published(3)
        assert set(desk.bodies) == {desk.bodies[0]}
        assert msgspec.json.decode(desk.bodies[0])["order_id"] == "o1"
        assert {properties.correlation_id for *_, properties in desk.session.published} == {"o1"}
        desk.reply(PLACED)
        desk.reply(PLACED)
        assert desk.replies == [PLACED]
        count = len(desk.bodies)
        desk.orders.send(msgspec.structs.replace(ORDER, order_id="o2"), desk.replies.append)
        await desk.published(count + 2)
        assert b"o1" not in b"".join(desk.bodies[count:]), "nobody asks about the first one any more"

    play(scene)


def test_question_is_asked_again_under_another_id_and_the_newest_answer_counts() -> None:
    async def scene(desk: Desk) -> None:
        desk.orders.open_spreads(desk.replies.append)
        await desk.published(2)
        assert set(desk.bodies) == {QUESTION}
        desk.reply(SPREADS, 0)
        assert desk.replies == [], "an answer to the question before may be older than an order since"
        desk.reply(SPREADS)
        desk.reply(SPREADS)
        assert desk.replies == [SPREADS]

    play(scene)


def test_question_that_is_refused_is_asked_again() -> None:
    async def scene(desk: Desk) -> None:
        desk.orders.open_spreads(desk.replies.append)
        desk.reply(Reply("NOT ACK", "internal error"))
        await desk.published(2)
        assert desk.replies == []

    play(scene)


def test_new_session_asks_again_at_once_what_was_in_flight() -> None:
    async def scene(desk: Desk) -> None:
        desk.session.is_lost = True
        desk.orders.send(ORDER, desk.replies.append)
        desk.orders.open_spreads(desk.replies.append)
        desk.session = FakeSession()
        await desk.attach()
        assert len(desk.bodies) == 2
        desk.reply(PLACED, 0)
        desk.reply(SPREADS, 1)
        assert desk.replies == [PLACED, SPREADS]

    play(scene, seconds=60)


def test_without_a_session_nothing_is_sent_and_nothing_fails() -> None:
    async def act() -> None:
        orders = OrderManager()
        orders.send(ORDER, lambda _: None)
        orders.open_spreads(lambda _: None)
        orders.close()

    asyncio.run(act())


def test_malformed_reply_is_ignored() -> None:
    async def scene(desk: Desk) -> None:
        desk.orders.send(ORDER, desk.replies.append)
        desk.session.deliver(DIRECT_REPLY, b"{", BasicProperties(correlation_id="o1"))
        desk.session.deliver(DIRECT_REPLY, encode_reply(PLACED), BasicProperties(correlation_id="other"))
        assert desk.replies == []
        desk.reply(PLACED)
        assert desk.replies == [PLACED]

    play(scene, seconds=60)


def test_reply_whose_handler_fails_is_logged_and_the_next_one_is_taken() -> None:
    def fail(_: Reply) -> None:
        raise ZeroDivisionError

    async def scene(desk: Desk) -> None:
        desk.orders.send(ORDER, fail)
        desk.reply(PLACED)
        desk.orders.send(ORDER, desk.replies.append)
        desk.reply(PLACED)
        assert desk.replies == [PLACED]

    play(scene, seconds=60)


def test_list_of_spreads_that_could_not_be_taken_is_asked_for_again() -> None:
    async def scene(desk: Desk) -> None:
        def take(reply: Reply) -> None:
            desk.replies.append(reply)
            if len(desk.replies) == 1:
                raise ZeroDivisionError

        desk.orders.open_spreads(take)
        desk.reply(SPREADS)
        await desk.published(2)
        desk.reply(SPREADS)
        assert desk.replies == [SPREADS, SPREADS]

    play(scene)


@pytest.mark.parametrize("request_is_order", [False, True])
@pytest.mark.parametrize(("consumers", "said"), [(0, True), (1, False)])
def test_unanswered_request_says_so_where_nobody_consumes_the_queue(
    caplog: pytest.LogCaptureFixture, request_is_order: bool, consumers: int, said: bool
) -> None:
    async def scene(desk: Desk) -> None:
        counted = asyncio.Queue[None]()
        desk.session.consumers[ORDERS] = consumers
        desk.session.on_count = lambda: counted.put_nowait(None)
        if request_is_order:
            desk.orders.send(ORDER, desk.replies.append)
        else:
            desk.orders.open_spreads(desk.replies.append)
        async with asyncio.timeout(10):
            for _ in range(3):
                await counted.get()

    with caplog.at_level(logging.WARNING):
        play(scene)
    lines = [record for record in caplog.records if "nobody consumes `orders`" in record.getMessage()]
    assert len(lines) == said, "one line, however often it was asked"
