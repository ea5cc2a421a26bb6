"""The trading engine's state: its core, and the journal and history that it is recovered from."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from blackbird.engine.execution_store import Fenced
from blackbird.engine.journal import Journal, JournalInUse
from blackbird.runtime.backoff import Backoff
from blackbird.runtime.throttled_log import ThrottledLog
from blackbird.runtime.worker_thread import WorkerThread
from blackbird.trading.engine import TradingEngine
from blackbird.trading.leftover_trade import OpenTrade
from blackbird.trading.records import Record, Stored
from database_manager import DatabaseUnavailable, RowsRejected

logger = logging.getLogger(__name__)

STORE_AT_ONCE = 1000
SHORTEST_PAUSE = 0.1
LONGEST_PAUSE = 2.0
# How long orders wait for the database to say which engine is active, after a session was lost.
ASK_OWNER_SECONDS = 1.0


class History(Protocol):
    """What is stored of all that was decided, see ExecutionStore."""

    def claim(self) -> str:
        """Make this engine the active one, and return the history's id."""

    def enter_mode(self) -> None:
        """Mark the history as made in this engine's mode."""

    def is_owned(self) -> bool:
        """Return whether no other engine has claimed the history since this one did."""

    def add(self, records: Sequence[Record]) -> None:
        """Store records, all or none; raises Fenced where another engine is active."""

    def replay(self, recover: Callable[[Iterable[Stored]], None]) -> None:
        """Give everything stored to `recover`."""


class EngineState:
    """The engine's core and its journal; both are None until recovered, and when released.

    Without a `history` there is no journal either, and the core lives in memory alone.
    """

    def __init__(
        self, new_engine: Callable[[], TradingEngine], history: History | None, journals: Path
    ) -> None:
        self.engine: TradingEngine | None = None
        self.journal: Journal | None = None
        self.history_id = ""
        self._has_engine = asyncio.Event()
        self._new_engine = new_engine
        self._history = history
        self._journals = journals
        self._database = WorkerThread("database")
        self._disk = WorkerThread("journal")

    def invalidate(self) -> None:
        """Have the core recovered again: what it holds may be ahead of the journal."""
        self.engine = None
        self._has_engine.clear()

    async def wait_for_engine(self) -> TradingEngine:
        """Return the core, once it is recovered."""
        while self.engine is None:
            await self._has_engine.wait()
        return self.engine

    async def recover(self, lost: asyncio.Future[None]) -> TradingEngine:
        """Recover the core, as often as it takes; raises what the session was `lost` by meanwhile."""
        backoff = Backoff(SHORTEST_PAUSE, LONGEST_PAUSE)
        waiting = ThrottledLog()
        while True:
            try:
                self.engine = await self._recovered()
                self._has_engine.set()
            except (DatabaseUnavailable, RowsRejected, JournalInUse, Fenced, sqlite3.Error, OSError) as error:
                waiting.warn("recovery pending, orders are held: %s", error)
            else:
                return self.engine
            await asyncio.wait([lost], timeout=backoff.next())
            if lost.done():
                lost.result()

    async def _recovered(self) -> TradingEngine:
        history = self._history
        engine = self._new_engine()
        if history is not None:
            self.history_id = await self._database.run(history.claim)
            if self.journal is None:
                self.journal = Journal(self._journals / f"{self.history_id}.sqlite")
            while await self.store_pending():
                pass
            await self._database.run(history.enter_mode)
            await self._database.run(partial(history.replay, engine.recover))
        return engine

    async def is_active(self) -> bool:
        """Return whether no other engine has taken the history over while this one had no session.

        A database that does not say so counts as yes: another engine has to reach it too to take over.
        """
        if self.engine is None or self._history is None:
            return True
        with contextlib.suppress(DatabaseUnavailable, RowsRejected, TimeoutError):
            async with asyncio.timeout(ASK_OWNER_SECONDS):
                return await self._database.run(self._history.is_owned)
        return True

    async def release(self) -> None:
        """Leave history and journal to the engine that is active next."""
        if self._history is None:
            return
        self.invalidate()
        journal, self.journal = self.journal, None
        if journal is not None:
            # In the thread that syncs it, which may be about to.
            await self._disk.run(journal.close)

    def append(self, records: Sequence[Record], ended: str | None = None) -> bool:
        """Write records to the journal, all or none, and return whether there is something to store.

        With them goes the open trade `ended`. Raises sqlite3.Error.
        """
        if self.journal is None or not (records or ended):
            return False
        self.journal.append(records, ended)
        return True

    async def intend(self, trade: OpenTrade) -> None:
        """Bring what a trade is about to do to the disk itself; raises sqlite3.Error or Fenced."""
        journal = self.journal
        if journal is None:
            raise Fenced("the journal was left to another trading engine")
        journal.put_trade(trade)
        await self._disk.run(journal.sync)

    def open_trades(self) -> list[OpenTrade]:
        """Return the trades in the journal that have no outcome, oldest first."""
        return [] if self.journal is None else self.journal.open_trades()

    async def store_pending(self) -> int:
        """Move the oldest records, at most `STORE_AT_ONCE`, from the journal to the history; return how many.

        Raises DatabaseUnavailable, RowsRejected, Fenced or sqlite3.Error.
        """
        history, journal = self._history, self.journal
        if history is None or journal is None:
            return 0
        pending = journal.pending(STORE_AT_ONCE)
        if pending:
            await self._database.run(partial(history.add, pending))
            # Where it was released meanwhile, its next owner stores them again, which changes nothing.
            if self.journal is journal:
                journal.forget(pending[-1].execution_id)
        return len(pending)

    async def sync(self) -> None:
        """Bring the journal to the disk itself; raises sqlite3.Error."""
        if self.journal is not None:
            await self._disk.run(self.journal.sync)

    def close(self) -> None:
        """Close the journal."""
        if self.journal is not None:
            self.journal.close()
