"""When the storage service consumes its queue and when it leaves it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from blackbird.broker.session import OnMessage, SessionLost
from blackbird.storage.intake import STALLED_SECONDS, Intake


class FakeWriter:
    """Says what it is told to, and counts how often it was asked."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.asked = 0
        self.requeued = 0

    @property
    def stalled_seconds(self) -> float:
        self.asked += 1
        return self.seconds

    def requeue(self) -> None:
        self.requeued += 1


class FakeSession:
    """Notes what a session is told; with `lost` it has ended without anybody having noticed."""

    def __init__(self) -> None:
        self.log: list[tuple[str, str]] = []
        self.is_open = True
        self.lost = False

    async def consume(self, queue: str, on_message: OnMessage) -> str:
        assert on_message is ignore
        self._note("consume", queue)
        return f"tag {len(self.log)}"

    async def cancel(self, consumer_tag: str) -> None:
        self._note("cancel", consumer_tag)

    def _note(self, *entry: str) -> None:
        if self.lost:
            raise SessionLost("gone")
        self.log.append((entry[0], entry[1]))


def ignore(*_: object) -> None:
    pass


class Scene:
    def __init__(self) -> None:
        self.writer = FakeWriter()
        self.intake = Intake(self.writer, ignore)

    async def start_session(self) -> FakeSession:
        session = FakeSession()
        await self.intake.start_session(session)
        return session

    async def look(self) -> None:
        """Return when the intake has looked at what was set before this call."""
        asked = self.writer.asked
        await self.until(lambda: self.writer.asked >= asked + 2)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.001)


def play(script: Callable[[Scene], Awaitable[None]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blackbird.storage.intake.CHECK_SECONDS", 0.001)

    async def run() -> None:
        scene = Scene()
        following = asyncio.create_task(scene.intake.run())
        try:
            await script(scene)
            assert not following.done()
        finally:
            following.cancel()

    asyncio.run(run())


def test_queue_is_left_while_the_database_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(scene: Scene) -> None:
        session = await scene.start_session()
        assert session.log == [("consume", "storage")]
        scene.writer.seconds = STALLED_SECONDS / 2
        await scene.look()
        scene.writer.seconds = STALLED_SECONDS
        await scene.until(lambda: len(session.log) == 2)
        await scene.look()
        assert scene.writer.requeued == 1
        scene.writer.seconds = 0.0
        await scene.until(lambda: len(session.log) == 3)
        assert session.log == [("consume", "storage"), ("cancel", "tag 1"), ("consume", "storage")]

    play(script, monkeypatch)


def test_session_that_begins_without_a_database_consumes_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def script(scene: Scene) -> None:
        scene.writer.seconds = 60
        session = await scene.start_session()
        await scene.look()
        assert session.log == []
        scene.writer.seconds = 0.0
        await scene.until(lambda: session.log == [("consume", "storage")])

    play(script, monkeypatch)


def test_session_that_ends_is_left_alone_and_the_next_one_consumes(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(scene: Scene) -> None:
        first = await scene.start_session()
        first.lost = True
        scene.writer.seconds = 60
        await scene.look()
        first.is_open = False
        scene.writer.seconds = 0
        second = await scene.start_session()
        assert second.log == [("consume", "storage")]
        assert first.log == [("consume", "storage")]

    play(script, monkeypatch)


def test_stopped_intake_leaves_the_queue_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(scene: Scene) -> None:
        session = await scene.start_session()
        await scene.intake.stop()
        await scene.intake.stop()
        assert scene.writer.requeued == 0
        assert session.log == [("consume", "storage"), ("cancel", "tag 1")]

    play(script, monkeypatch)
