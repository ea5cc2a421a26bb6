"""When old order books are removed, and when a disk that fills up is warned of."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from blackbird.storage.retention import DAY_MS, DiskUsage, DiskWatch, Retention, Upkeep
from database_manager import DatabaseUnavailable

NOON = 20_000 * DAY_MS + DAY_MS // 2


class FakeStore:
    """Has so many portions to remove; each call raises the first of `errors`, as long as there are some."""

    def __init__(self, portions: int = 0) -> None:
        self.portions = portions
        self.asked: list[tuple[int, bool]] = []
        self.errors: list[Exception] = []
        self.oldest_ms = NOON

    def forget_before(self, before: int, *, only_archived: bool) -> int:
        self.asked.append((before, only_archived))
        if self.errors:
            raise self.errors.pop(0)
        self.portions = max(0, self.portions - 1)
        return self.portions

    def oldest(self) -> int:
        return self.oldest_ms


def retention(store: FakeStore, days: int = 7, *, only_archived: bool = False) -> Retention:
    return Retention(store, days, only_archived=only_archived, clock=lambda: NOON)


def play(
    upkeep: Upkeep, script: Callable[[], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> asyncio.Task[None]:
    for name in ("INTERVAL_SECONDS", "RETRY_SECONDS", "SAMPLE_SECONDS"):
        monkeypatch.setattr(f"blackbird.storage.retention.{name}", 0.001)

    async def run() -> asyncio.Task[None]:
        running = asyncio.create_task(upkeep.run())
        try:
            async with asyncio.timeout(10):
                await script()
            assert not running.done()
        finally:
            running.cancel()
        return running

    return asyncio.run(run())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def test_whole_days_before_the_retention_are_removed_portion_by_portion_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = FakeStore(portions=3)

    async def script() -> None:
        await until(lambda: store.portions == 0)
        store.portions = 2
        await until(lambda: store.portions == 0)

    play(Upkeep(retention(store), None), script, monkeypatch)
    assert set(store.asked) == {(20_000 * DAY_MS - 7 * DAY_MS, False)}


def test_removal_that_fails_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    store = FakeStore(portions=2)
    store.errors = [DatabaseUnavailable("away"), DatabaseUnavailable("away")]

    async def script() -> None:
        await until(lambda: store.portions == 0)

    play(Upkeep(retention(store), None), script, monkeypatch)


def test_upkeep_with_nothing_to_do_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script() -> None:
        await asyncio.sleep(0)

    play(Upkeep(None, None), script, monkeypatch)


@pytest.mark.parametrize(("days_old", "warned"), [(7, False), (8, True)])
def test_days_that_wait_for_their_export_are_named(
    caplog: pytest.LogCaptureFixture, days_old: int, *, warned: bool
) -> None:
    store = FakeStore()
    store.oldest_ms = NOON - days_old * DAY_MS
    retention(store, only_archived=True).report(0)
    assert ("not in the archive" in caplog.text) is warned
    caplog.clear()
    retention(store).report(0)
    assert caplog.text == ""


class Disk:
    """A disk of 1 TB, a database on it, and a clock in hours."""

    def __init__(self, folder: Path) -> None:
        self.hours = 0.0
        self.size = 10**11
        self.free = 10**12
        self.watch = DiskWatch(
            folder,
            lambda: self.size,
            lambda: NOON + int(self.hours * 3_600_000),
            lambda _: DiskUsage(10**12, 10**12 - self.free, self.free),
        )


@pytest.fixture
def disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Disk:
    caplog.set_level(logging.WARNING)
    return Disk(tmp_path)


def test_low_disk_is_warned_of_once_an_hour_with_the_days_left(
    disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    disk.free = 10**11
    disk.watch.check()
    assert caplog.messages == [], "a tenth is enough"
    disk.free = 6 * 10**10
    disk.hours, disk.size = 1, disk.size + 5 * 10**8
    disk.watch.check()
    # 0.5 GB an hour, 60 GB free.
    assert "60.0 GB (6 %) free, 5.0 days left at 12.00 GB a day" in caplog.messages[0]
    disk.hours = 1.5
    disk.watch.check()
    assert len(caplog.messages) == 1
    disk.hours = 2
    disk.watch.check()
    assert len(caplog.messages) == 2


def test_space_that_retention_frees_does_not_hide_the_growth(
    disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    for hours, size in ((0, 100), (12, 106), (12.2, 80), (24, 86)):
        disk.hours, disk.size = hours, size * 10**9
        disk.watch.check()
    disk.free, disk.hours = 24 * 10**9, 24.0001
    disk.watch.check()
    assert "2.0 days left at 12.00 GB a day" in caplog.messages[0]


def test_days_left_are_not_guessed_from_one_sample_nor_without_growth(
    disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    disk.free = 1
    disk.watch.check()
    assert "known in ten minutes" in caplog.messages[0]
    disk.hours = 1
    disk.watch.check()
    assert "does not grow" in caplog.messages[1]


def test_disk_of_a_folder_that_is_not_here_is_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disk = Disk(tmp_path / "elsewhere")
    disk.free = 1
    disk.watch.check()
    assert caplog.messages == []
