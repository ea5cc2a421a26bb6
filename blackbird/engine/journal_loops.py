"""What happens to the journal behind the replies: it is stored in the database and brought to the disk."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Awaitable, Callable
from typing import Protocol

from blackbird.engine.execution_store import Fenced
from blackbird.engine.journal import SYNC_SECONDS
from blackbird.engine.state import LONGEST_PAUSE, STORE_AT_ONCE
from blackbird.runtime.backoff import Backoff
from blackbird.runtime.throttled_log import ThrottledLog
from database_manager import DatabaseUnavailable, RowsRejected

logger = logging.getLogger(__name__)

# Executions are stored in batches of this many seconds: a commit per order would cost the database more than
# the orders cost the engine.
STORE_PAUSE = 0.1


class Journaled(Protocol):
    """The part of EngineState that the loops work on."""

    async def store_pending(self) -> int:
        """Store the oldest records, at most `STORE_AT_ONCE`, and return how many."""

    async def sync(self) -> None:
        """Bring the journal to the disk itself."""


class StoreLoop:
    """Stores what is in the journal; calls `on_fenced` when another engine has become the active one."""

    def __init__(self, state: Journaled, on_fenced: Callable[[], Awaitable[None]]) -> None:
        self._state = state
        self._on_fenced = on_fenced
        self._unstored = asyncio.Event()
        self._stored = asyncio.Event()
        self._stored.set()
        self._behind_since: float | None = None

    @property
    def lag_seconds(self) -> float:
        """For how long, at most, the oldest record has been waiting to be stored."""
        since = self._behind_since
        return 0.0 if since is None else asyncio.get_running_loop().time() - since

    def notify(self) -> None:
        """Take note that the journal has grown."""
        if self._behind_since is None:
            self._behind_since = asyncio.get_running_loop().time()
        self._stored.clear()
        self._unstored.set()

    async def drain(self, seconds: float) -> None:
        """Return when everything is stored, after `seconds` at the latest."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stored.wait()

    async def run(self) -> None:
        """Store, until cancelled."""
        backoff = Backoff(2 * STORE_PAUSE, LONGEST_PAUSE)
        outage = ThrottledLog()
        failed = False
        pause = STORE_PAUSE
        while True:
            await self._unstored.wait()
            await asyncio.sleep(pause)
            began = asyncio.get_running_loop().time()
            try:
                stored = await self._state.store_pending()
            except (DatabaseUnavailable, RowsRejected) as error:
                outage.warn("executions wait in the journal for the database: %s", error)
                failed, pause = True, backoff.next()
            except sqlite3.Error as error:
                outage.warn("what is stored can't be removed from the journal: %s", error)
                failed, pause = True, backoff.next()
            except Fenced as error:
                logger.warning("executions stay in the journal: %s", error)
                await self._on_fenced()
            else:
                if failed:
                    outage.resolved("executions are stored again")
                    backoff.reset()
                failed, pause = False, STORE_PAUSE if stored < STORE_AT_ONCE else 0.0
                if stored < STORE_AT_ONCE:
                    self._behind_since = began if stored else None
                if not stored:
                    self._unstored.clear()
                    self._stored.set()


class SyncLoop:
    """Brings the journal to the disk within `SYNC_SECONDS` and one sync of its growth."""

    def __init__(self, state: Journaled) -> None:
        self._state = state
        self._grown = asyncio.Event()

    def notify(self) -> None:
        """Take note that the journal has grown."""
        self._grown.set()

    async def run(self) -> None:
        """Sync, until cancelled."""
        outage = ThrottledLog()
        while True:
            await self._grown.wait()
            await asyncio.sleep(SYNC_SECONDS)
            self._grown.clear()
            try:
                await self._state.sync()
            except sqlite3.Error as error:
                self._grown.set()
                outage.warn("the journal can't be brought to the disk: %s", error)
