"""Storing and syncing the journal behind the replies."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable

import pytest

from blackbird.engine.execution_store import Fenced
from blackbird.engine.journal_loops import StoreLoop, SyncLoop
from blackbird.engine.state import STORE_AT_ONCE
from database_manager import DatabaseUnavailable, RowsRejected


class FakeJournal:
    """Counts records; each call raises the first of `errors`, as long as there are some."""

    def __init__(self) -> None:
        self.pending = 0
        self.stored = 0
        self.portions: list[int] = []
        self.synced = 0
        self.errors: list[Exception] = []

    async def store_pending(self) -> int:
        self._call()
        portion = min(self.pending, STORE_AT_ONCE)
        await asyncio.sleep(0)
        self.pending -= portion
        self.stored += portion
        self.portions.append(portion)
        return portion

    async def sync(self) -> None:
        self._call()
        self.synced += 1

    def _call(self) -> None:
        if self.errors:
            raise self.errors.pop(0)


class Scene:
    def __init__(self) -> None:
        self.journal = FakeJournal()
        self.fenced = 0
        self.storing = StoreLoop(self.journal, self._on_fenced)
        self.syncing = SyncLoop(self.journal)

    async def _on_fenced(self) -> None:
        self.fenced += 1
        self.journal.pending = 0  # it is released

    def grow(self, records: int) -> None:
        self.journal.pending += records
        self.storing.notify()
        self.syncing.notify()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.001)


def play(script: Callable[[Scene], Awaitable[None]]) -> None:
    async def run() -> None:
        scene = Scene()
        loops = [asyncio.create_task(loop.run()) for loop in (scene.storing, scene.syncing)]
        try:
            await script(scene)
            assert not any(loop.done() for loop in loops)
        finally:
            for loop in loops:
                loop.cancel()

    asyncio.run(run())


def test_what_is_journaled_is_stored_and_synced() -> None:
    async def script(scene: Scene) -> None:
        scene.grow(3)
        await scene.until(lambda: scene.journal.stored == 3 and scene.journal.synced == 1)
        scene.grow(2)
        await scene.until(lambda: scene.journal.stored == 5 and scene.journal.synced == 2)

    play(script)


def test_records_that_come_close_together_are_stored_together() -> None:
    async def script(scene: Scene) -> None:
        for _ in range(50):
            scene.grow(1)
            await asyncio.sleep(0)
        await scene.until(lambda: scene.journal.stored == 50)
        assert scene.journal.portions[0] == 50

    play(script)


def test_backlog_is_stored_to_its_end() -> None:
    async def script(scene: Scene) -> None:
        scene.grow(2 * STORE_AT_ONCE + 7)
        await scene.storing.drain(10)
        assert scene.journal.stored == 2 * STORE_AT_ONCE + 7

    play(script)


@pytest.mark.parametrize("error", [DatabaseUnavailable("down"), RowsRejected("row"), sqlite3.Error("disk")])
def test_failure_is_tried_again(error: Exception) -> None:
    async def script(scene: Scene) -> None:
        scene.journal.errors = [error]
        scene.storing.notify()
        scene.journal.pending = 4
        await scene.until(lambda: scene.journal.stored == 4)
        assert scene.fenced == 0

    play(script)


def test_journal_that_cannot_be_synced_is_synced_later() -> None:
    async def script(scene: Scene) -> None:
        scene.journal.errors = [sqlite3.Error("disk")]
        scene.syncing.notify()
        await scene.until(lambda: scene.journal.synced == 1)

    play(script)


def test_fenced_engine_is_told_and_stores_again_when_it_is_active_again() -> None:
    async def script(scene: Scene) -> None:
        scene.journal.errors = [Fenced("another")]
        scene.storing.notify()
        scene.journal.pending = 4
        await scene.until(lambda: scene.fenced == 1)
        scene.grow(2)
        await scene.until(lambda: scene.journal.stored == 2)
        assert scene.fenced == 1

    play(script)


def test_drain_returns_at_once_when_nothing_is_pending() -> None:
    async def script(scene: Scene) -> None:
        await scene.storing.drain(1000)

    play(script)


def test_drain_gives_up_on_a_database_that_takes_nothing() -> None:
    async def script(scene: Scene) -> None:
        scene.journal.errors = [DatabaseUnavailable("down")] * 1000
        scene.grow(1)
        await scene.storing.drain(0.05)
        assert scene.journal.stored == 0

    play(script)
