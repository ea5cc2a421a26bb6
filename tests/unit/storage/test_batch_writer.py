"""How deliveries are gathered, written and acknowledged, without broker and database."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
from pika.spec import BasicProperties

from blackbird.broker.session import SessionLost
from blackbird.storage.batch import Batch
from blackbird.storage.batch_writer import BatchWriter
from blackbird.storage.orderbook_store import UpdateKey
from blackbird.storage.update import Update
from database_manager import DatabaseUnavailable, RowsRejected

PROPERTIES = BasicProperties()


class FakeSession:
    """Notes what a session is told."""

    def __init__(self) -> None:
        self.acknowledged: list[int] = []
        self.requeued: list[int] = []
        self.dead: list[tuple[str, bytes]] = []
        self.lost = False

    def acknowledge(self, delivery_tag: int, *, multiple: bool = False) -> None:
        assert multiple
        self.acknowledged.append(delivery_tag)

    def requeue(self, delivery_tag: int) -> None:
        self.requeued.append(delivery_tag)

    def dead_letter(self, queue: str, reason: str, properties: BasicProperties, body: bytes) -> None:
        assert (queue, properties) == ("storage", PROPERTIES)
        if self.lost:
            raise SessionLost("gone")
        self.dead.append((reason, body))


class FakeStore:
    """Keeps batches; while `down` it is unavailable, and it rejects the lines in `bad`."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.tags: list[int] = []
        self.attempts = 0
        self.pings = 0
        self.down = False
        self.bad: set[str] = set()
        self.may_write = threading.Event()
        self.may_write.set()

    @property
    def lines(self) -> list[str]:
        return [lines for batch in self.batches for lines in batch]

    def add(self, batch: Mapping[UpdateKey, Update]) -> None:
        self.attempts += 1
        self.may_write.wait()
        if self.down:
            raise DatabaseUnavailable("down")
        lines = [update.lines for update in batch.values()]
        if self.bad & set(lines):
            raise RowsRejected("bad line")
        self.batches.append(lines)
        self.tags += [int(update.body.split()[1]) for update in batch.values()]

    def trial(self, lines: str) -> None:
        assert lines in self.lines

    def ping(self) -> None:
        self.pings += 1
        self.may_write.wait()
        if self.down:
            raise DatabaseUnavailable("down")


class Scene:
    """A writer with its store and session; `deliver` brings messages as the broker does."""

    def __init__(self, **settings: Any) -> None:
        self.store = FakeStore()
        self.writer = BatchWriter(self.store, **{"batch_size": 1000, **settings})
        self.session = self.start_session()
        self._tag = 0

    def start_session(self) -> FakeSession:
        self.session = FakeSession()
        self.writer.start_session(self.session)
        self._tag = 0
        return self.session

    def deliver(self, *names: str) -> None:
        for name in names:
            self._tag += 1
            batch = self.writer.count(self._tag)
            body = f"{name} {self._tag}".encode()
            batch.add((0, 0, 0, "spot", name, "delta"), Update(name, PROPERTIES, body))

    def deliver_unreadable(self) -> None:
        self._tag += 1
        self.writer.count(self._tag)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.001)

    async def until_attempted(self, more: int) -> None:
        attempts = self.store.attempts + more
        await self.until(lambda: self.store.attempts >= attempts)


def play(script: Callable[[Scene], Awaitable[None]], **settings: Any) -> Scene:
    """Run a script while the writer runs, and return what became of it."""

    async def run() -> Scene:
        scene = Scene(**settings)
        writing = asyncio.create_task(scene.writer.run())
        try:
            await script(scene)
            assert not writing.done() or writing.result() is None
        finally:
            scene.store.may_write.set()
            writing.cancel()
        return scene

    return asyncio.run(run())


def test_messages_that_arrive_together_are_written_and_acknowledged_together() -> None:
    async def script(scene: Scene) -> None:
        scene.deliver("a", "b", "c")
        await scene.until(lambda: scene.session.acknowledged == [3])

    assert play(script).store.batches == [["a", "b", "c"]]


def test_copies_in_a_batch_are_written_once_and_all_acknowledged() -> None:
    async def script(scene: Scene) -> None:
        scene.deliver("a", "b", "a")
        await scene.until(lambda: scene.session.acknowledged == [3])

    scene = play(script)
    assert scene.store.batches == [["a", "b"]]
    assert scene.store.tags == [1, 2]


def test_copy_that_arrives_while_the_database_is_unavailable_leaves_the_first_one() -> None:
    async def script(scene: Scene) -> None:
        scene.store.down = True
        scene.deliver("a")
        await scene.until_attempted(1)
        scene.deliver("b", "a")
        scene.store.down = False
        await scene.until(lambda: scene.session.acknowledged == [3])

    assert sorted(play(script).store.tags) == [1, 2]


def test_message_without_an_update_is_acknowledged_and_nothing_written() -> None:
    async def script(scene: Scene) -> None:
        scene.deliver_unreadable()
        await scene.until(lambda: scene.session.acknowledged == [1])

    assert play(script).store.attempts == 0


def test_full_batch_is_written_while_the_next_one_fills() -> None:
    async def script(scene: Scene) -> None:
        scene.store.may_write.clear()
        scene.deliver("a", "b")
        await scene.until_attempted(1)
        scene.deliver("c")
        assert scene.session.acknowledged == []
        scene.store.may_write.set()
        await scene.until(lambda: scene.session.acknowledged == [2, 3])

    assert play(script, batch_size=2).store.batches == [["a", "b"], ["c"]]


def test_batch_is_written_when_it_is_full_however_long_it_may_fill() -> None:
    async def script(scene: Scene) -> None:
        scene.deliver("a")
        await asyncio.sleep(0)
        scene.deliver("b")
        await scene.until(lambda: scene.session.acknowledged == [2])

    assert play(script, batch_size=2, gather_seconds=1000).store.batches == [["a", "b"]]


def test_batch_is_kept_while_the_database_is_unavailable() -> None:
    async def script(scene: Scene) -> None:
        scene.store.down = True
        scene.deliver("a")
        await scene.until_attempted(2)
        scene.deliver("b")
        await scene.until_attempted(1)
        assert scene.session.acknowledged == []
        scene.store.down = False
        await scene.until(lambda: scene.session.acknowledged == [2])

    assert sorted(play(script).store.lines) == ["a", "b"]


def test_message_at_fault_is_dead_lettered_once_and_acknowledged_with_the_others() -> None:
    async def script(scene: Scene) -> None:
        scene.store.bad = {"bad"}
        scene.deliver("a", "bad", "b")
        await scene.until(lambda: scene.session.acknowledged == [3])
        scene.deliver("c")
        await scene.until(lambda: scene.session.acknowledged == [3, 4])

    scene = play(script)
    assert scene.session.dead == [("refused by the database: bad line", b"bad 2")]
    assert sorted(scene.store.lines) == ["a", "b", "c"]


def test_message_rejected_alone_waits_for_another_that_is_taken() -> None:
    async def script(scene: Scene) -> None:
        scene.store.bad = {"bad"}
        scene.deliver("bad")
        await scene.until_attempted(2)
        assert (scene.session.dead, scene.session.acknowledged) == ([], [])
        scene.deliver("good")
        await scene.until(lambda: scene.session.acknowledged == [2])

    scene = play(script)
    assert [body for _, body in scene.session.dead] == [b"bad 1"]
    assert scene.store.lines == ["good"]


def test_rejection_of_everything_that_ends_costs_no_message() -> None:
    async def script(scene: Scene) -> None:
        scene.store.bad = {"a", "b", "c"}
        scene.deliver("a", "b", "c")
        await scene.until_attempted(5)
        scene.store.bad = set()
        await scene.until(lambda: scene.session.acknowledged == [3])

    scene = play(script)
    assert scene.session.dead == []
    assert sorted(scene.store.lines) == ["a", "b", "c"]


def test_what_an_ended_session_brought_is_left_to_the_broker() -> None:
    async def script(scene: Scene) -> None:
        scene.store.down = True
        first = scene.session
        scene.deliver("a", "b")
        await scene.until_attempted(1)
        second = scene.start_session()
        scene.deliver("b")
        scene.store.down = False
        await scene.until(lambda: second.acknowledged == [1])
        assert first.acknowledged == []

    assert play(script).store.lines == ["b"]


def test_message_at_fault_of_a_session_that_is_lost_stays_with_the_broker() -> None:
    async def script(scene: Scene) -> None:
        scene.store.bad = {"bad"}
        scene.session.lost = True
        scene.deliver("a", "bad")
        await scene.until(lambda: scene.session.acknowledged == [2])

    assert play(script).session.dead == []


def test_drain_returns_when_everything_is_acknowledged() -> None:
    async def script(scene: Scene) -> None:
        scene.store.may_write.clear()
        scene.deliver("a")
        await scene.until_attempted(1)
        scene.deliver("b")
        draining = asyncio.create_task(scene.writer.drain(10))
        scene.store.may_write.set()
        await draining
        assert scene.session.acknowledged == [1, 2]

    play(script)


def test_drain_gives_up_on_a_database_that_takes_nothing() -> None:
    async def script(scene: Scene) -> None:
        scene.store.down = True
        scene.deliver("a")
        await scene.writer.drain(0.05)
        assert scene.session.acknowledged == []

    play(script)


@pytest.mark.parametrize("later_messages", [0, 2])
def test_batch_is_acknowledged_up_to_the_last_message_of_what_followed_it(later_messages: int) -> None:
    session = FakeSession()
    first: Batch[int] = Batch("storage", session)
    later: Batch[int] = Batch("storage", session)
    first.count(1)
    for tag in range(2, 2 + later_messages):
        later.count(tag)
    first.followed_by(later).acknowledge()
    assert session.acknowledged == [1 + later_messages]


# --- an idle writer, and a database that is away -------------------------------------------------


def test_idle_writer_pings_the_database_and_notices_when_it_is_away_and_back() -> None:
    async def script(scene: Scene) -> None:
        await scene.until(lambda: scene.store.pings >= 2 and scene.writer.stalled_seconds == 0)
        scene.store.down = True
        await scene.until(lambda: scene.writer.stalled_seconds > 0.05)
        # What arrives meanwhile is written when the database is back.
        scene.deliver("a")
        scene.store.down = False
        await scene.until(lambda: scene.session.acknowledged == [1])
        await scene.until(lambda: scene.writer.stalled_seconds == 0)

    assert play(script, ping_seconds=0.001).store.lines == ["a"]


def test_writer_without_a_database_to_watch_does_not_ping() -> None:
    async def script(scene: Scene) -> None:
        scene.deliver_unreadable()
        await scene.until(lambda: scene.session.acknowledged == [1])

    assert play(script).store.pings == 0


def test_deliveries_are_given_back_and_come_again_without_being_gathered_twice() -> None:
    async def script(scene: Scene) -> None:
        scene.store.down = True
        scene.deliver("a", "b")
        await scene.until_attempted(1)
        scene.deliver("c")
        scene.writer.requeue()
        assert scene.session.requeued == [3]
        scene.store.down = False
        await scene.until(lambda: scene.store.lines == ["a", "b"])
        scene.deliver("a", "b", "c")
        await scene.until(lambda: scene.session.acknowledged == [2, 6])

    assert play(script).store.batches == [["a", "b"], ["a", "b", "c"]]


@pytest.mark.parametrize("hanging", [False, True], ids=["unavailable", "hanging"])
def test_writer_is_stalled_until_the_database_has_taken_the_batch(hanging: bool) -> None:
    async def script(scene: Scene) -> None:
        scene.store.down = not hanging
        if hanging:
            scene.store.may_write.clear()
        scene.deliver("a")
        await scene.until_attempted(1)
        await scene.until(lambda: scene.writer.stalled_seconds > 0.05)
        scene.store.down = False
        scene.store.may_write.set()
        await scene.until(lambda: scene.writer.stalled_seconds == 0)
        assert scene.session.acknowledged == [1]

    play(script)
