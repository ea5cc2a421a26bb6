"""Statuses on their way to the broker, with a session and a service that do what the test wants."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

import msgspec
from pika.spec import BasicProperties

from blackbird.broker.errors import SessionLost
from blackbird.broker.session import Session
from blackbird.broker.status_publisher import StatusPublisher
from blackbird.runtime.status_report import Identity, StatusReport
from blackbird.status.histogram import Counts
from blackbird.status.messages import Status, StorageStatus
from tests.support import virtual_time


class FakeSession:
    """Keeps what is published on it."""

    def __init__(self) -> None:
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.blocked: str | None = None
        self.published: list[tuple[str, str, Status, BasicProperties]] = []
        self.declared = 0
        self.close_seconds = 0.0

    async def declare_exchange(self) -> None:
        self.declared += 1

    def publish(self, exchange: str, key: str, body: bytes, properties: BasicProperties) -> None:
        if self.lost.done():
            raise SessionLost("gone")
        self.published.append((exchange, key, msgspec.json.decode(body, type=Status), properties))

    async def closed(self) -> None:
        await asyncio.sleep(self.close_seconds)


class Service:
    """Data storage, as a status is made of it; fails while `error` is set."""

    is_connected = True
    failure_counts: dict[str, int] = {"KeyError in f:1": 2}  # noqa: RUF012 - not changed

    def __init__(self) -> None:
        self.stored = 0
        self.described = 0
        self.error: Exception | None = None

    async def describe(self) -> StorageStatus:
        self.described += 1
        if self.error is not None:
            raise self.error
        return StorageStatus("storing", self.stored, self.stored, 0, 0, Counts(), 0, 0, 0)


class Scene:
    def __init__(self) -> None:
        self.service = Service()
        self.sessions: list[FakeSession] = []
        self.attempts = 0
        self.is_down = False
        report = StatusReport(Identity("storage", "simulated", "SIMULATED ORDERS"), self.service, 0.5)
        self.publisher = StatusPublisher(report, self._connect, summary_seconds=0)

    async def _connect(self) -> Session:
        self.attempts += 1
        if self.is_down:
            raise SessionLost("no broker")
        self.sessions.append(FakeSession())
        return cast("Session", self.sessions[-1])

    @property
    def numbers(self) -> list[int]:
        return [status.number for session in self.sessions for _, _, status, _ in session.published]


def play(script: Callable[[Scene], Awaitable[None]]) -> Scene:
    """Run a script while statuses are published, in virtual time."""

    async def run() -> Scene:
        scene = Scene()
        publishing = asyncio.create_task(scene.publisher.run())
        await script(scene)
        assert not publishing.done()
        publishing.cancel()
        await asyncio.wait([publishing])
        return scene

    return virtual_time.run(run())


def test_a_status_is_published_at_each_interval_to_the_key_and_not_persistent() -> None:
    async def script(scene: Scene) -> None:
        await asyncio.sleep(0.1)
        scene.service.stored = 7
        await asyncio.sleep(2)

    scene = play(script)
    (session,) = scene.sessions
    assert session.declared == 1
    assert len(session.published) == 4
    exchange, key, status, properties = session.published[-1]
    assert (exchange, key, properties.delivery_mode) == ("data_feeder", "status", None)
    assert (status.service, status.mode, status.interval_seconds) == ("storage", "simulated", 0.5)
    assert status.storage is not None
    assert status.storage.stored == 7
    assert (status.signal, status.engine, status.collector) == (None, None, None)
    assert status.failures == {"KeyError in f:1": 2}
    assert status.resident_bytes > 1_000_000
    assert status.cpu_seconds > 0


def test_without_a_broker_the_service_is_described_on_and_published_when_it_is_back() -> None:
    async def script(scene: Scene) -> None:
        scene.is_down = True
        await asyncio.sleep(10.1)
        assert scene.service.described == 21
        assert 5 <= scene.attempts <= 20
        scene.is_down = False
        await asyncio.sleep(3)

    scene = play(script)
    assert scene.numbers
    assert scene.numbers == list(range(scene.numbers[0], scene.numbers[0] + len(scene.numbers)))
    assert scene.numbers[0] > 20, "old statuses are not kept"


def test_a_session_that_ends_is_replaced() -> None:
    async def script(scene: Scene) -> None:
        await asyncio.sleep(1.1)
        scene.sessions[0].lost.set_exception(SessionLost("gone"))
        await asyncio.sleep(1)

    assert len(play(script).sessions) == 2


def test_nothing_is_given_to_a_blocked_connection() -> None:
    async def script(scene: Scene) -> None:
        await asyncio.sleep(0.1)
        scene.sessions[0].blocked = "low on memory"
        await asyncio.sleep(5)
        assert not scene.sessions[0].published
        scene.sessions[0].blocked = None
        await asyncio.sleep(0.5)

    assert play(script).numbers == [12]


def test_an_error_in_a_status_costs_that_status_alone() -> None:
    async def script(scene: Scene) -> None:
        await asyncio.sleep(0.6)
        scene.service.error = ZeroDivisionError()
        await asyncio.sleep(1)
        scene.service.error = None
        await asyncio.sleep(0.5)

    scene = play(script)
    assert scene.service.described == 5
    assert scene.numbers == [2, 3]


def test_the_end_does_not_wait_for_a_broker_that_does_not_answer() -> None:
    async def run() -> float:
        scene = Scene()
        publishing = asyncio.create_task(scene.publisher.run())
        await asyncio.sleep(0.1)
        scene.sessions[0].close_seconds = 100
        begin = asyncio.get_running_loop().time()
        publishing.cancel()
        await asyncio.wait([publishing])
        return asyncio.get_running_loop().time() - begin

    assert virtual_time.run(run()) < 0.5


def test_without_an_interval_statuses_are_made_and_not_published() -> None:
    async def run() -> Service:
        service = Service()
        report = StatusReport(Identity("storage", "simulated", ""), service, 10)
        publishing = asyncio.create_task(StatusPublisher(report, None, summary_seconds=10).run())
        await asyncio.sleep(25)
        publishing.cancel()
        await asyncio.wait([publishing])
        return service

    assert virtual_time.run(run()).described == 3
