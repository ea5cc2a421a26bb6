"""Sessions that end are replaced: with which pauses, which words, and what is done while one lives."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import cast

import pytest

from blackbird.broker.errors import BrokerUnreachable, QueueInUse, SessionLost
from blackbird.broker.parameters import BrokerParameters, connection_parameters
from blackbird.broker.session import LONGEST_PAUSE, SHORTEST_PAUSE, Session, keep_session

WHERE = connection_parameters(
    host="h", port=1, virtual_host="v", user="u", password="p", heartbeat=10, fast_path=True
)


class FakeSession:
    """A session that ends when the test says so."""

    def __init__(self) -> None:
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.redeclared = 0
        self.closings = 0

    @property
    def is_open(self) -> bool:
        return not self.lost.done()

    async def redeclare(self) -> None:
        self.redeclared += 1

    async def closed(self) -> None:
        self.closings += 1

    def end(self, error: SessionLost | None = None) -> None:
        self.lost.set_exception(error or SessionLost("gone"))
        self.lost.exception()


class Scene:
    """Runs `keep_session` on the outcomes that a test gives, until they are used up.

    An outcome is what `serve` does with the session; an exception instead is what opening raises.
    """

    def __init__(self, *outcomes: Exception | Callable[[FakeSession], Awaitable[None]]) -> None:
        self.now = 0.0
        self.pauses: list[float] = []
        self.sessions: list[FakeSession] = []
        self._outcomes = list(outcomes)
        self._used_up = asyncio.Event()

    async def run(self) -> None:
        keeping = asyncio.create_task(
            keep_session(
                WHERE, self._serve, open_session=self._open, sleep=self._sleep, clock=lambda: self.now
            )
        )
        used_up = asyncio.create_task(self._used_up.wait())
        done, _ = await asyncio.wait([keeping, used_up], return_when=asyncio.FIRST_COMPLETED, timeout=10)
        for task in (keeping, used_up):
            task.cancel()
        await asyncio.wait([keeping, used_up])
        assert done
        if keeping in done:
            keeping.result()

    async def _open(self, parameters: BrokerParameters) -> Session:
        assert parameters is WHERE
        if isinstance(self._outcomes[0], Exception):
            raise self._outcomes.pop(0)  # type: ignore[misc]
        self.sessions.append(FakeSession())
        return cast("Session", self.sessions[-1])

    async def _serve(self, session: Session) -> None:
        outcome = self._outcomes.pop(0)
        assert not isinstance(outcome, Exception)
        await outcome(cast("FakeSession", session))

    async def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        if not self._outcomes:
            self._used_up.set()
            await asyncio.Event().wait()


def play(make: Callable[[], Scene]) -> Scene:
    """Run a scene that has to be made on the event loop."""

    async def run() -> Scene:
        scene = make()
        await scene.run()
        return scene

    return asyncio.run(run())


async def ends_at_once(session: FakeSession) -> None:
    session.end()


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_pauses_double_to_the_longest_while_the_broker_is_away() -> None:
    scene = play(lambda: Scene(*[BrokerUnreachable("Connection refused")] * 9))
    assert scene.pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0]
    assert (SHORTEST_PAUSE, LONGEST_PAUSE) == (0.05, 2.0)


def test_a_session_that_ends_as_soon_as_it_has_begun_does_not_shorten_the_pause() -> None:
    scene = play(lambda: Scene(*[ends_at_once] * 4))
    assert scene.pauses == [0.05, 0.1, 0.2, 0.4]
    assert [session.closings for session in scene.sessions] == [1, 1, 1, 1]


def test_after_a_session_that_lasted_the_pauses_begin_anew() -> None:
    def make() -> Scene:
        async def lasts(session: FakeSession) -> None:
            # After `serve` has returned, which is when a session has begun.
            def end() -> None:
                scene.now += 1
                session.end()

            asyncio.get_running_loop().call_soon(end)

        away = SessionLost("away")
        scene = Scene(away, away, away, lasts, away)
        return scene

    assert play(make).pauses == [0.05, 0.1, 0.2, 0.05, 0.1]


def test_what_a_session_declared_is_declared_again_at_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blackbird.broker.session.REDECLARE_SECONDS", 0.001)

    def make() -> Scene:
        async def until_redeclared(session: FakeSession) -> None:
            async def watch() -> None:
                while session.redeclared < 3:
                    await asyncio.sleep(0)
                session.end()

            watchers.append(asyncio.create_task(watch()))

        watchers: list[asyncio.Task[None]] = []
        return Scene(until_redeclared)

    assert play(make).sessions[0].redeclared >= 3


def test_each_cause_is_logged_as_what_it_is_and_the_return_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        play(lambda: Scene(BrokerUnreachable("Connection refused"), SessionLost("x"), ends_at_once))
    assert messages(caplog) == [
        "no broker at h:1 (Connection refused); trying again",
        "connected to the broker at h:1",
        "connection to the broker lost (gone); trying again",
    ]


def test_a_queue_that_another_process_has_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    async def is_second(_: FakeSession) -> None:
        raise QueueInUse("queue 'orders' in exclusive use")

    scene = play(lambda: Scene(is_second, is_second))
    assert scene.pauses == [0.05, 0.1]
    assert [session.closings for session in scene.sessions] == [1, 1]
    assert messages(caplog) == [
        "another process does this work already (queue 'orders' in exclusive use); waiting until it ends"
    ]


def test_an_error_of_the_service_is_not_taken_for_an_outage() -> None:
    async def fails(_: FakeSession) -> None:
        raise KeyError("in serve")

    with pytest.raises(KeyError):
        play(lambda: Scene(fails))


def test_cancelling_closes_the_session() -> None:
    async def run() -> FakeSession:
        sessions: list[FakeSession] = []

        async def open_session(_: BrokerParameters) -> Session:
            sessions.append(FakeSession())
            return cast("Session", sessions[-1])

        served = asyncio.Event()

        async def serve(_: Session) -> None:
            served.set()

        keeping = asyncio.create_task(keep_session(WHERE, serve, open_session=open_session))
        await served.wait()
        keeping.cancel()
        await asyncio.wait([keeping])
        return sessions[0]

    assert asyncio.run(run()).closings == 1
