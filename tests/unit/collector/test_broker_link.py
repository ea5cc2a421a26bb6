"""What the collector does with each new session, on sessions that keep what is asked of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pika.spec import BasicProperties

from blackbird.broker.properties import publication
from blackbird.broker.session import Session, SessionLost
from blackbird.collector.broker_link import BrokerLink
from blackbird.collector.publisher import FeedPublisher
from blackbird.market.instrument import Instrument
from blackbird.market.saved_subscriptions import SavedSubscription

SPOT = Instrument("spot", "BTCUSDT")
SAVED = b'{"spot":[{"symbol":"BTCUSDT","matching_key":"a"}]}'


class FakeSession:
    """Keeps the calls in order; the test delivers to its consumer."""

    def __init__(
        self, saved: bytes | None = None, *, numbers: bytes | None = None, lost_at: str = ""
    ) -> None:
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_open = True
        self.calls: list[str] = []
        self.dead: list[bytes] = []
        self.deliver: Callable[[bytes], None] = print
        self.on_failure: Callable[..., None] = print
        self.acknowledged: list[int] = []
        self._kept = {"collector.subscriptions": saved, "collector.numbers": numbers}
        self.published: list[BasicProperties] = []
        self._lost_at = lost_at

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name == self._lost_at:
            raise SessionLost(name)

    async def declare_feed(self) -> None:
        self._call("declare_feed")

    async def declare_queue(self, name: str) -> int:
        self._call(f"declare {name}")
        return 0

    async def peek(self, name: str) -> tuple[BasicProperties, bytes] | None:
        self._call(f"peek {name}")
        kept = self._kept[name]
        return None if kept is None else (BasicProperties(), kept)

    async def declare_private_queue(self) -> str:
        return "private"

    async def bind(self, queue: str, key: str) -> None:
        self._call(f"bind {queue} to {key}")

    def publish(self, _exchange: str, _key: str, _body: bytes, properties: BasicProperties) -> None:
        self.published.append(properties)

    async def confirm_publishes(self, _on_confirm: object) -> None:
        self._call("publish")

    async def consume(
        self, queue: str, on_message: Callable[..., None], *, label: str, dead_letter: Callable[..., None]
    ) -> str:
        self._call(f"consume {queue} as {label}")
        self.on_failure = dead_letter
        tags = iter(range(1, 100))
        self.deliver = lambda body: on_message(
            None, SimpleNamespace(delivery_tag=next(tags)), BasicProperties(), body
        )
        return "tag"

    def acknowledge(self, delivery_tag: int) -> None:
        self.acknowledged.append(delivery_tag)

    def dead_letter(self, _queue: str, _reason: str, _properties: object, body: bytes) -> None:
        self.dead.append(body)


class Scene:
    def __init__(self, *, restore: bool = True) -> None:
        self.restored: list[list[SavedSubscription]] = []
        self.wanted: list[Instrument] = []
        self.publisher = FeedPublisher(lambda _: None, buffer=10)
        self.link = BrokerLink(
            self.publisher,
            restore=restore,
            on_restore=self.restored.append,
            on_resync=self._on_resync,
        )

    def _on_resync(self, instruments: Iterable[Instrument]) -> None:
        self.wanted += instruments

    async def serve(self, session: FakeSession) -> FakeSession:
        await self.link.serve(cast("Session", session))
        return session


def play(act: Callable[[], Any]) -> None:
    asyncio.run(act())


def test_a_session_is_declared_then_restored_from_then_published_on() -> None:
    async def act() -> None:
        scene = Scene()
        session = await scene.serve(FakeSession(SAVED))
        assert session.calls == [
            "declare_feed",
            "declare collector.subscriptions",
            "declare collector.numbers",
            "peek collector.subscriptions",
            "peek collector.numbers",
            "publish",
            "bind private to resync",
            "consume private as resync",
        ]
        assert scene.restored == [[SavedSubscription(SPOT, "a")]]

    play(act)


def test_the_saved_subscriptions_are_restored_once() -> None:
    async def act() -> None:
        scene = Scene()
        with pytest.raises(SessionLost):
            await scene.serve(FakeSession(SAVED, lost_at="peek collector.subscriptions"))
        assert scene.restored == []
        await scene.serve(FakeSession(SAVED))
        await scene.serve(FakeSession(b"{}"))
        assert scene.restored == [[SavedSubscription(SPOT, "a")]]

    play(act)


@pytest.mark.parametrize("saved", [None, b'{"moon": 5}', b""])
def test_nothing_or_malformed_saved_subscriptions_restore_nothing(saved: bytes | None) -> None:
    async def act() -> None:
        scene = Scene()
        await scene.serve(FakeSession(saved))
        assert scene.restored == [[]]

    play(act)


def test_saved_subscriptions_are_not_read_with_restoring_off() -> None:
    async def act() -> None:
        scene = Scene(restore=False)
        session = await scene.serve(FakeSession(SAVED))
        assert "peek collector.subscriptions" not in session.calls
        assert scene.restored == [[]]

    play(act)


def test_message_numbers_go_on_above_those_that_the_broker_has_reserved() -> None:
    async def act() -> None:
        scene = Scene()
        session = await scene.serve(FakeSession(numbers=b"%d" % 2**62))
        scene.publisher.publish_book(SPOT, b"body", 1, 1)
        await asyncio.sleep(0)
        _reservation, message = session.published
        assert publication(BasicProperties().decode(b"".join(message.encode())))[1] == 2**62

    play(act)


def test_requests_for_snapshots_are_passed_on_and_malformed_ones_dead_lettered() -> None:
    async def act() -> None:
        scene = Scene()
        session = await scene.serve(FakeSession())
        session.deliver(b"no JSON")
        session.deliver(b'{"channel": "spot", "symbol": "BTCUSDT"}')
        assert scene.wanted == [SPOT]
        assert session.dead == [b"no JSON"]
        assert session.acknowledged == [1, 2]
        session.on_failure("a fault", BasicProperties(), b"poison")
        assert session.dead == [b"no JSON", b"poison"]

    play(act)
