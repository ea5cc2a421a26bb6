"""Upkeep of the order books in the database: old days are removed, and a disk that fills up is warned of."""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import logging
import shutil
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from blackbird.runtime.clock import milliseconds
from blackbird.runtime.worker_thread import WorkerThread
from database_manager import Cursor, DatabaseManager, DatabaseUnavailable, RowsRejected

logger = logging.getLogger(__name__)

DAY_MS = 86_400_000
INTERVAL_SECONDS = 3600.0
# Where it failed, as while the database is away.
RETRY_SECONDS = 60.0
GAPS_SECONDS = 60.0
# How often size and disk are looked at, and over how long the growth is averaged.
SAMPLE_SECONDS = 600.0
SAMPLES = 144
LOW_DISK = 0.1


class RetentionStore:
    """What retention does in the database; the methods raise DatabaseUnavailable or RowsRejected."""

    def __init__(self, database: DatabaseManager) -> None:
        self._database = database

    def forget_before(self, before: int, *, only_archived: bool) -> int:
        """Remove a portion of the order books before the millisecond `before`; return 0 when nothing is left.

        Whole UTC days, see bybit.forget_before in init.sql.
        """
        return self._number("SELECT bybit.forget_before(%s, %s)", before, only_archived)

    def oldest(self) -> int:
        """Return the exchange time (ms) of the oldest message, the greatest number where there is none."""
        return self._number("SELECT coalesce(min(ts_orderbook), %s) FROM bybit.orderbook_update", 2**63 - 1)

    def check_gaps(self) -> bool:
        """Work out a portion of bybit.gaps, and return whether there may be more."""
        return bool(self._number("SELECT bybit.check_gaps()::integer"))

    def size(self) -> int:
        """Return the bytes of the database."""
        return self._number("SELECT pg_database_size(current_database())")

    def _number(self, query: str, *arguments: object) -> int:
        def work(cursor: Cursor) -> int:
            cursor.execute(query, arguments)
            row = cursor.fetchone()
            return int(row[0]) if row is not None else 0

        return self._database.transaction(work)


class Trimming(Protocol):
    """The part of RetentionStore that Retention needs."""

    def forget_before(self, before: int, *, only_archived: bool) -> int:
        """Remove a portion; return 0 when nothing is left."""

    def oldest(self) -> int:
        """Return the exchange time (ms) of the oldest message."""


class Retention:
    """Removes order books older than `days`, portion by portion; with `only_archived` only exported days."""

    def __init__(
        self, store: Trimming, days: int, *, only_archived: bool, clock: Callable[[], int] = milliseconds
    ) -> None:
        self._store = store
        self._days = days
        self._only_archived = only_archived
        self._clock = clock

    def remove_portion(self) -> bool:
        """Remove a portion, and return whether there may be more."""
        return self._store.forget_before(self._horizon(), only_archived=self._only_archived) > 0

    def report(self, portions: int) -> None:
        """Log what was removed in so many portions, and what is kept because it is not exported."""
        horizon = self._horizon()
        if portions:
            logger.info("removed order books before %s", _date(horizon))
        if self._only_archived and (oldest := self._store.oldest()) < horizon:
            logger.warning(
                "order books from %s to %s are kept beyond RETENTION_DAYS: they are not in the archive",
                _date(oldest),
                _date(horizon - 1),
            )

    def _horizon(self) -> int:
        """Return the beginning of the oldest UTC day to keep, in milliseconds."""
        before = self._clock() - self._days * DAY_MS
        return before - before % DAY_MS


class DiskUsage(NamedTuple):
    """Bytes of a file system."""

    total: int
    used: int
    free: int


class DiskWatch:
    """Warns while less than a tenth of the disk of `folder` is free, with the days left at today's growth.

    `size` returns the bytes of the database, `clock` milliseconds. What retention removes is not counted as
    growth: its space is used again.
    """

    def __init__(
        self,
        folder: Path,
        size: Callable[[], int],
        clock: Callable[[], int] = milliseconds,
        usage: Callable[[Path], DiskUsage] = lambda folder: DiskUsage(*shutil.disk_usage(folder)),
    ) -> None:
        self._folder = folder
        self._size = size
        self._clock = clock
        self._usage = usage
        self._samples: deque[tuple[int, int]] = deque(maxlen=SAMPLES)
        self._quiet_until = 0

    def check(self) -> None:
        """Take a sample, and warn at most once an hour; a folder that is not here is left alone."""
        if not self._folder.is_dir():
            return
        now = self._clock()
        self._samples.append((now, self._size()))
        disk = self._usage(self._folder)
        if disk.free >= LOW_DISK * disk.total or now < self._quiet_until:
            return
        self._quiet_until = now + int(INTERVAL_SECONDS * 1000)
        logger.warning(
            "the disk of the database is nearly full: %.1f GB (%.0f %%) free, %s; see docs/capacity.md",
            disk.free / 1e9,
            100 * disk.free / disk.total,
            self._left(disk.free),
        )

    def _left(self, free: int) -> str:
        times = [time for time, _ in self._samples]
        sizes = [size for _, size in self._samples]
        grown = sum(max(0, later - earlier) for earlier, later in itertools.pairwise(sizes))
        elapsed = times[-1] - times[0]
        if not elapsed:
            return "the days left are known in ten minutes"
        if not grown:
            return "the database does not grow"
        per_day = grown * DAY_MS / elapsed
        return f"{free / per_day:.1f} days left at {per_day / 1e9:.2f} GB a day"


class Upkeep:
    """Runs retention at start and once an hour, the watch of the disk every ten minutes.

    `check_gaps` works out a portion, and returns whether there may be more: at start and once a minute.
    """

    def __init__(
        self,
        retention: Retention | None,
        disk: DiskWatch | None,
        check_gaps: Callable[[], bool] = lambda: False,
    ) -> None:
        self._retention = retention
        self._disk = disk
        self._check_gaps = check_gaps
        self._thread = WorkerThread("upkeep")

    async def run(self) -> None:
        """Run until cancelled."""
        jobs: list[Coroutine[Any, Any, object]] = [self._look_for_gaps()]
        if self._retention is not None:
            jobs.append(self._trim(self._retention))
        if self._disk is not None:
            jobs.append(self._watch(self._disk))
        await asyncio.gather(*jobs)

    async def _trim(self, retention: Retention) -> None:
        loop = asyncio.get_running_loop()
        while True:
            portions = 0
            try:
                begun = loop.time()
                while await self._thread.run(retention.remove_portion):
                    portions += 1
                    # Half of the time is left to the messages that arrive.
                    await asyncio.sleep(loop.time() - begun)
                    begun = loop.time()
                await self._thread.run(partial(retention.report, portions))
            except (DatabaseUnavailable, RowsRejected) as error:
                logger.warning("old order books are not removed yet: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                await asyncio.sleep(INTERVAL_SECONDS)

    async def _look_for_gaps(self) -> None:
        while True:
            try:
                while await self._thread.run(self._check_gaps):
                    pass
            except (DatabaseUnavailable, RowsRejected) as error:
                logger.debug("gaps were not looked for: %s", error)
            await asyncio.sleep(GAPS_SECONDS)

    async def _watch(self, disk: DiskWatch) -> None:
        while True:
            try:
                await self._thread.run(disk.check)
            except (DatabaseUnavailable, RowsRejected, OSError) as error:
                logger.debug("the disk was not looked at: %s", error)
            await asyncio.sleep(SAMPLE_SECONDS)


def _date(ms: int) -> str:
    return dt.datetime.fromtimestamp(ms / 1000, dt.UTC).date().isoformat()
