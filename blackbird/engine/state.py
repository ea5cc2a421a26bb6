"""The trading engine's state: its core, and the journal and history that it is recovered from."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from blackbird.engine.execution_store import Fenced, Recovering
from blackbird.engine.journal import Journal, JournalInUse
from blackbird.engine.lease import Lease, LeaseHeld, MayClaim, from_anybody
from blackbird.engine.lookups import StoredTrade
from blackbird.runtime.backoff import Backoff
from blackbird.runtime.throttled_log import ThrottledLog
from blackbird.runtime.worker_thread import WorkerThread
from blackbird.trading.books import Books
from blackbird.trading.engine import TradingEngine
from blackbird.trading.leftover_trade import OpenTrade
from blackbird.trading.orders import Order
from blackbird.trading.records import Execution, Record, Refusal
from database_manager import DatabaseUnavailable, RowsRejected

logger = logging.getLogger(__name__)

STORE_AT_ONCE = 1000
# A start reads what was decided since the last checkpoint: some 20 us a record. Where many spreads are open,
# writing them costs more.
CHECKPOINT_RECORDS = 20_000
CHECKPOINT_SPREADS = 5
SHORTEST_PAUSE = 0.1
LONGEST_PAUSE = 2.0
# How long orders wait for the database to say which engine is active, after a session was lost.
ASK_OWNER_SECONDS = 1.0
STANDBY_PAUSE = 0.5


class History(Protocol):
    """What is stored of all that was decided, see ExecutionStore."""

    def claim(self, journal: str = "", may_claim: MayClaim = from_anybody) -> str:
        """Make this engine the active one, and return the history's id; raises LeaseHeld."""

    def enter_mode(self) -> None:
        """Mark the history as made in this engine's mode."""

    def is_owned(self) -> bool:
        """Return whether no other engine has claimed the history since this one did."""

    def add(self, records: Sequence[Record], deadline_ms: int | None = None) -> None:
        """Store records, all or none, before `deadline_ms`.

        Raises Fenced where another engine is active, and TooLate.
        """

    def replay(self, engine: Recovering) -> Books | None:
        """Give the checkpoint and everything stored since to `engine`; return the checkpoint."""

    def agrees(self, books: Books) -> bool:
        """Return whether what is stored adds up to the books of the checkpoint; remove it where not."""

    def find(self, keys: Sequence[str], copies: Sequence[Order]) -> list[Execution | Refusal]:
        """Return the records of orders and requests known by `keys`, and those that may equal `copies`."""

    def find_trade(self, link_id: str) -> StoredTrade:
        """Return what is stored of the real trade that an order at the exchange belongs to."""

    def save_checkpoint(self, books: Books) -> None:
        """Write the checkpoint; raises Fenced where another engine is active."""


class EngineState:
    """The engine's core and its journal; both are None until recovered, and when released.

    Without a `history` there is no journal either, and the core lives in memory alone. `lease` says whether
    this engine may work on the history; None: it is the only one. With `stores_first` what was decided is in
    the history, not in the journal, before it is answered.
    """

    def __init__(
        self,
        new_engine: Callable[[], TradingEngine],
        history: History | None,
        journals: Path,
        lease: Lease | None = None,
        *,
        stores_first: bool = False,
    ) -> None:
        self.engine: TradingEngine | None = None
        self.journal: Journal | None = None
        self.history_id = ""
        self._has_engine = asyncio.Event()
        self._new_engine = new_engine
        self._history = history
        self._lease = lease
        self._stores_first = stores_first
        self._is_storing = False
        self._journals = journals
        self._checkpoint_id = 0
        self._restored: Books | None = None
        self._snapshot: Books | None = None
        self._database = WorkerThread("database")
        self._disk = WorkerThread("journal")

    @property
    def stands_by(self) -> bool:
        """Whether another engine works on the history, and this one waits for its turn."""
        return self._lease is not None and self._lease.waits_for is not None

    @property
    def is_all_stored(self) -> bool:
        """Whether the journal has nothing that the database lacks."""
        return self.journal is None or not (self.journal.records or self.journal.open_trades())

    def invalidate(self) -> None:
        """Have the core recovered again: what it holds may be ahead of the journal."""
        self.engine = None
        self._snapshot = None
        self._has_engine.clear()

    async def wait_for_engine(self) -> TradingEngine:
        """Return the core, once it is recovered."""
        while self.engine is None:
            await self._has_engine.wait()
        return self.engine

    async def await_turn(self, lost: asyncio.Future[None]) -> None:
        """Return when no other engine works on the history, as far as the database says who does.

        Raises what the session was `lost` by meanwhile.
        """
        if self._lease is None:
            return
        waiting = ThrottledLog()
        while True:
            try:
                if await self._lease.look(self._identity_of_journal):
                    return
                waiting.warn("standing by: %s works on this database", self._lease.waits_for)
            except (DatabaseUnavailable, RowsRejected, sqlite3.Error, OSError):
                return  # recovery waits for it, and asks again
            except JournalInUse as error:
                self._lease.waits_for = str(error)
                waiting.warn("standing by: %s", error)
            await asyncio.wait([lost], timeout=STANDBY_PAUSE)
            if lost.done():
                lost.result()

    def _identity_of_journal(self, history_id: str) -> str:
        return self._open_journal(history_id).identity

    def _open_journal(self, history_id: str) -> Journal:
        path = self._journals / f"{history_id}.sqlite"
        if self.journal is not None and self.journal.path != path:
            self.journal.close()  # of a history that was emptied
            self.journal = None
        if self.journal is None:
            self.journal = Journal(path)
        return self.journal

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
            self.history_id = await self._claim(history)
            while await self.store_pending():
                pass
            await self._database.run(history.enter_mode)
            self._restored = await self._database.run(partial(history.replay, engine))
            self._checkpoint_id = self._restored.execution_id if self._restored else 0
        return engine

    async def _claim(self, history: History) -> str:
        lease = self._lease
        if lease is None:
            history_id = await self._database.run(history.claim)
        else:
            if self.journal is None and not await lease.look(self._identity_of_journal):
                raise LeaseHeld(f"{lease.waits_for} works on this database")
            assert self.journal is not None  # noqa: S101 - opened to look at the lease
            asked = lease.now()
            claim = partial(history.claim, self.journal.identity, lease.may_claim)
            history_id = await self._database.run(claim)
            lease.claimed(asked)
        self._open_journal(history_id)
        return history_id

    async def checkpoint_agrees(self) -> bool:
        """Return whether what is stored adds up to the checkpoint that the core began with, if any.

        It takes seconds, in a thread of its own; a database that does not say so counts as yes.
        """
        history, books = self._history, self._restored
        self._restored = None
        if history is None or books is None:
            return True
        try:
            return await WorkerThread("checkpoint").run(partial(history.agrees, books))
        except (DatabaseUnavailable, RowsRejected) as error:
            logger.warning("the checkpoint was not compared with the executions: %s", error)
            return True

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
        if self._lease is not None:
            self._lease.lost()
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

    async def keep(self, records: Sequence[Record]) -> bool:
        """Write down what was decided, all or none, and return whether there is something to do behind it.

        Raises sqlite3.Error; where it goes to the history DatabaseUnavailable, RowsRejected, Fenced, TooLate.
        """
        if not self._stores_first or self._history is None:
            return self.append(records)
        if not records:
            return False
        self._is_storing = True
        try:
            await self._database.run(partial(self._history.add, records, _deadline(records)))
        finally:
            self._is_storing = False
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
        if self.engine is not None and not self._is_storing:
            await self._checkpoint(self.engine, history, pending[-1].execution_id if pending else None)
        return len(pending)

    async def _checkpoint(self, engine: TradingEngine, history: History, stored: int | None) -> None:
        """Save the books once they are due and all that they are made of is stored; None: everything is."""
        stored = engine.last_id if stored is None else stored
        engine.orders.stored(stored)
        due = max(CHECKPOINT_RECORDS, CHECKPOINT_SPREADS * len(engine.spreads))
        if self._snapshot is None and engine.last_id - self._checkpoint_id >= due:
            self._snapshot = engine.books()
        books = self._snapshot
        if books is not None and books.execution_id <= stored:
            await self._database.run(partial(history.save_checkpoint, books))
            self._checkpoint_id, self._snapshot = books.execution_id, None

    async def find(self, keys: Sequence[str], copies: Sequence[Order]) -> list[Execution | Refusal]:
        """Look up what was decided earlier, see History; raises DatabaseUnavailable or RowsRejected."""
        assert self._history is not None  # noqa: S101 - nothing is forgotten without one
        return await self._database.run(partial(self._history.find, keys, copies))

    async def find_trade(self, link_id: str) -> StoredTrade:
        """Look up the real trade that an order belongs to, see History.

        Raises DatabaseUnavailable or RowsRejected.
        """
        assert self._history is not None  # noqa: S101 - no real order is sent without one
        return await self._database.run(partial(self._history.find_trade, link_id))

    async def sync(self) -> None:
        """Bring the journal to the disk itself; raises sqlite3.Error."""
        if self.journal is not None:
            await self._disk.run(self.journal.sync)

    def close(self) -> None:
        """Close the journal."""
        if self.journal is not None:
            self.journal.close()


def _deadline(records: Sequence[Record]) -> int | None:
    """Return when the first of the executed orders expires, in milliseconds; None: none of them does."""
    return min(
        (
            record.order.expires_at
            for record in records
            if isinstance(record, Execution) and record.order.expires_at is not None
        ),
        default=None,
    )
