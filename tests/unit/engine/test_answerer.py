"""The order of work: decide, journal, reply, acknowledge; and what becomes of requests when one fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pika.spec import BasicProperties

from blackbird.broker.session import SessionLost
from blackbird.engine.answerer import Answerer
from blackbird.engine.execution_store import Fenced, TooLate
from blackbird.engine.replies import Replies
from blackbird.engine.requests import Request
from blackbird.engine.state import EngineState
from blackbird.trading.engine import TradingEngine
from blackbird.trading.orders import Order, Reply, decode_reply, encode_order
from blackbird.trading.records import Record
from database_manager import DatabaseUnavailable
from tests.support.fake_history import FakeHistory, new_engine, new_order

PLACED = Reply("ACK", "order placed")


class FakeSession:
    """Notes in order what a session is told, and how many records were journaled by then."""

    def __init__(self, state: EngineState) -> None:
        self._state = state
        self.log: list[tuple[Any, ...]] = []
        self.lost = False

    def publish(self, exchange: str, key: str, body: bytes, properties: BasicProperties) -> None:
        self._check()
        assert exchange == ""
        self.log.append(("reply", key, properties.correlation_id, decode_reply(body), self.journaled))

    def dead_letter(self, queue: str, reason: str, properties: BasicProperties, body: bytes) -> None:
        self._check()
        del properties
        self.log.append(("dead letter", queue, reason, body))

    def acknowledge(self, delivery_tag: int, *, multiple: bool = False) -> None:
        self.log.append(("acknowledge", delivery_tag, multiple))

    async def declare_queue(self, name: str) -> int:
        self._check()
        self.log.append(("round trip", name))
        return 0

    def close(self) -> None:
        self.log.append(("close",))

    def _check(self) -> None:
        if self.lost:
            raise SessionLost("gone")

    @property
    def journaled(self) -> int:
        assert self._state.journal is not None
        return len(self._state.journal.pending(1000))


class Scene:
    def __init__(self, state: EngineState) -> None:
        self.state = state
        self.session = FakeSession(state)
        self.journaled = 0
        self.replies = Replies(remembered=100)
        self.answerer = Answerer(state, self.replies, self._on_journaled, disk_pause=0)

    def _on_journaled(self) -> None:
        self.journaled += 1

    async def answer(self, *requests: Request) -> list[tuple[Any, ...]]:
        """Return what the session is told for these requests."""
        assert self.state.engine is not None
        begin = len(self.session.log)
        await self.answerer.answer(self.state.engine, self.session, requests)
        return self.session.log[begin:]


class CrashingEngine(TradingEngine):
    """Crashes on orders of size 666, after it has begun to account for them."""

    def execute(self, order: Order, request_key: str | None = None) -> Record:
        if order.size == 666:
            self.risks[order.buy] = Decimal(1)
            raise ZeroDivisionError
        return super().execute(order, request_key)


def crashing_engine() -> TradingEngine:
    return CrashingEngine(limit=Decimal(1_000_000), unique_order=True, clock=lambda: 1000)


@pytest.fixture
def play(tmp_path: Path) -> Callable[..., Scene]:
    def start(
        script: Callable[[Scene], Any],
        make: Callable[[], TradingEngine] = new_engine,
    ) -> Scene:
        async def run() -> Scene:
            state = EngineState(make, FakeHistory(), tmp_path)
            await state.recover(asyncio.get_running_loop().create_future())
            scene = Scene(state)
            try:
                await script(scene)
            finally:
                state.close()
            return scene

        return asyncio.run(run())

    return start


def request(
    tag: int, body: bytes | Order, *, redelivered: bool = False, reply_to: str | None = "client"
) -> Request:
    properties = BasicProperties(reply_to=reply_to, correlation_id=f"c{tag}")
    return Request(tag, redelivered, properties, encode_order(body) if isinstance(body, Order) else body)


def test_requests_are_journaled_together_then_answered_in_order_then_acknowledged(
    play: Callable[..., Scene],
) -> None:
    async def script(scene: Scene) -> None:
        assert await scene.answer(request(4, new_order()), request(5, new_order())) == [
            ("reply", "client", "c4", PLACED, 2),
            ("reply", "client", "c5", PLACED, 2),
            ("acknowledge", 5, True),
        ]

    assert play(script).journaled == 1


def test_request_that_is_known_is_answered_and_nothing_journaled(play: Callable[..., Scene]) -> None:
    order = new_order()

    async def script(scene: Scene) -> None:
        first = await scene.answer(request(1, order))
        again = await scene.answer(request(1, order))
        assert again == first
        assert scene.journaled == 1

    play(script)


def test_request_without_reply_address_is_executed_and_acknowledged(play: Callable[..., Scene]) -> None:
    async def script(scene: Scene) -> None:
        assert await scene.answer(request(1, new_order(), reply_to=None)) == [("acknowledge", 1, True)]
        assert scene.journaled == 1

    play(script)


def test_body_that_is_not_a_request_is_dead_lettered_and_answered(play: Callable[..., Scene]) -> None:
    async def script(scene: Scene) -> None:
        dead, reply, acknowledged = await scene.answer(request(1, b"[]"))
        why = "body: expected an object, was list"
        assert dead == ("dead letter", "orders", why, b"[]")
        assert reply[3] == Reply("NOT ACK", f"invalid order: {why}")
        assert acknowledged == ("acknowledge", 1, True)
        assert scene.journaled == 0

    play(script)


def test_answers_of_a_lost_session_are_journaled_and_given_again(play: Callable[..., Scene]) -> None:
    order = new_order()

    async def script(scene: Scene) -> None:
        scene.session.lost = True
        assert await scene.answer(request(1, order)) == []
        assert scene.journaled == 1
        scene.session.lost = False
        reply, _ = await scene.answer(request(1, order, redelivered=True))
        assert reply[3] == PLACED
        assert scene.journaled == 1

    play(script)


def test_journal_that_takes_nothing_leaves_requests_with_the_broker_and_the_state_unknown(
    play: Callable[..., Scene],
) -> None:
    async def script(scene: Scene) -> None:
        assert scene.state.journal is not None
        scene.state.journal.close()
        assert await scene.answer(request(1, new_order())) == [("close",)]
        assert scene.state.engine is None
        assert scene.journaled == 0

    play(script)


def test_order_that_crashes_leaves_all_requests_with_the_broker_and_the_state_unknown(
    play: Callable[..., Scene], caplog: pytest.LogCaptureFixture
) -> None:
    async def script(scene: Scene) -> None:
        answered = await scene.answer(request(1, new_order()), request(2, new_order(666)))
        assert answered == [("close",)]
        assert scene.state.engine is None
        assert scene.journaled == 0

    play(script, crashing_engine)
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.exc_info is not None, "with its traceback"


def test_order_that_crashes_again_is_refused_and_the_others_are_answered(play: Callable[..., Scene]) -> None:
    async def script(scene: Scene) -> None:
        first, dead, crashed, last, acknowledged, closed = await scene.answer(
            request(1, new_order(), redelivered=True),
            request(2, new_order(666), redelivered=True),
            request(3, new_order(), redelivered=True),
        )
        assert [first[3], crashed[3], last[3]] == [PLACED, Reply("NOT ACK", "internal error"), PLACED]
        assert dead[2] == "crashed the handler twice"
        assert (acknowledged, closed) == (("acknowledge", 3, True), ("close",))
        assert scene.journaled == 1
        assert scene.state.engine is None, "the crash may have left anything in memory"

    play(script, crashing_engine)


def test_suspected_reply_address_is_tried_by_itself(play: Callable[..., Scene]) -> None:
    address = "amq.rabbitmq.reply-to.made-up"

    async def script(scene: Scene) -> None:
        question = msgspec.json.encode({"action": "List Open Spreads"})
        await scene.answer(request(1, question, reply_to=address))
        scene.replies.session_ended(SessionLost("541 INTERNAL_ERROR"))
        reply, round_trip, acknowledged = await scene.answer(request(1, question, reply_to=address))
        assert (reply[1], round_trip, acknowledged[0]) == (address, ("round trip", "orders"), "acknowledge")

    play(script)


def test_with_the_database_as_journal_records_are_stored_together_before_any_answer(tmp_path: Path) -> None:
    async def script(scene: Scene, history: FakeHistory) -> None:
        orders = [msgspec.structs.replace(new_order(), expires_at=at) for at in (7000, 5000, None)]
        answers = await scene.answer(*[request(tag, order) for tag, order in enumerate(orders, 1)])
        assert [answer[:3] for answer in answers] == [
            ("reply", "client", "c1"),
            ("reply", "client", "c2"),
            ("reply", "client", "c3"),
            ("acknowledge", 3, True),
        ]
        assert (history.added, history.deadlines) == ([3], [5000])
        assert scene.session.journaled == 0

    with_database_as_journal(tmp_path, script)


@pytest.mark.parametrize(
    "error", [DatabaseUnavailable("away"), Fenced("another engine"), TooLate("expired")], ids=repr
)
def test_orders_that_the_database_did_not_take_in_time_are_not_answered(
    tmp_path: Path, error: Exception
) -> None:
    async def script(scene: Scene, history: FakeHistory) -> None:
        history.errors.append(error)
        assert await scene.answer(request(1, new_order())) == [("close",)]
        assert scene.state.engine is None
        assert history.records == []

    with_database_as_journal(tmp_path, script)


def with_database_as_journal(
    folder: Path, script: Callable[[Scene, FakeHistory], Coroutine[Any, Any, None]]
) -> None:
    async def run() -> None:
        history = FakeHistory()
        state = EngineState(new_engine, history, folder, stores_first=True)
        await state.recover(asyncio.get_running_loop().create_future())
        try:
            await script(Scene(state), history)
        finally:
            state.close()

    asyncio.run(run())
