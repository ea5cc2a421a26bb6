"""Which trading engine may work on a history: one at a time, by a lease in the row that fences the others.

The engine that works renews the lease; another one stands by, and takes it over once it has watched the lease
for its whole duration without seeing a renewal. No two clocks are compared.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

from blackbird.runtime.throttled_log import ThrottledLog
from blackbird.runtime.worker_thread import WorkerThread
from database_manager import DatabaseUnavailable, RowsRejected

logger = logging.getLogger(__name__)

RENEWALS = 5  # in the duration of a lease
# How long orders wait for the database to say which engine has the lease.
ASK_SECONDS = 1.0


def boot_seconds() -> float:
    """Return seconds that go on while the machine is suspended: another engine may take over meanwhile."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Holder(NamedTuple):
    """Who has the lease of a history, None: nobody. `renewals` counts up."""

    history_id: str
    engine: str | None
    journal: str | None  # see Journal.identity; None: of an engine that is older than leases
    place: str | None  # host and process, for people
    renewals: int


MayClaim = Callable[[Holder, str], bool]


def from_anybody(_: Holder, __: str) -> bool:
    """Say that a history may be claimed, whoever has it."""
    return True


class LeaseHeld(Exception):
    """Another trading engine has the lease."""


class LeaseTable(Protocol):
    """The lease as it is stored, see StoredLease. The methods raise DatabaseUnavailable or RowsRejected."""

    @property
    def engine(self) -> str:
        """The name of this engine."""

    def look(self) -> Holder:
        """Return who has the lease, and let that engine know that another one stands by."""

    def renew(self) -> bool | None:
        """Renew the lease; return whether another engine stands by, None: the lease is another engine's."""

    def give_back(self) -> None:
        """Let anybody have the lease at once."""


class Lease:
    """The lease of a history, as one engine has it or waits for it. `seconds` is its duration.

    With `inherits` another engine's lease may run out; without it only what was given back, or was held with
    the same journal, is taken over: then what was decided last is in that journal alone.
    """

    def __init__(
        self,
        table: LeaseTable,
        seconds: float,
        *,
        inherits: bool = True,
        clock: Callable[[], float] = boot_seconds,
    ) -> None:
        self.waits_for: str | None = None  # whom a standby waits for
        self._table = table
        self._seconds = seconds
        self._inherits = inherits
        self._clock = clock
        self._thread = WorkerThread("lease")
        self._watched: Holder | None = None
        self._watched_since = 0.0
        # When the last renewal that the database took was asked for; None without the lease.
        self.renewed_at: float | None = None
        self._has_standby = False

    async def look(self, journal_of: Callable[[str], str]) -> bool:
        """Return whether this engine may claim the history, its journal being `journal_of` the history's id.

        Raises DatabaseUnavailable or RowsRejected, and what `journal_of` raises.
        """
        holder = await self._thread.run(self._table.look)
        may_claim = self.may_claim(holder, journal_of(holder.history_id))
        self.waits_for = None if may_claim else holder.place or "another trading engine"
        return may_claim

    def may_claim(self, holder: Holder, journal: str) -> bool:
        """Return whether the holder is gone for all that this engine has seen. Call it from one thread."""
        # Who has the journal's lock has it because the process that had it before is dead.
        if holder.engine in {None, self._table.engine} or holder.journal in {None, journal}:
            return True
        now = self._clock()
        if holder != self._watched:
            self._watched, self._watched_since = holder, now
        return self._inherits and now - self._watched_since >= self._seconds

    def claimed(self, asked: float) -> None:
        """Take note that the lease is this engine's, since a claim at `asked` of the clock."""
        self.renewed_at, self._watched, self.waits_for = asked, None, None

    def lost(self) -> None:
        """Take note that the lease is not this engine's, or that it leaves it."""
        self.renewed_at, self._has_standby = None, False

    def now(self) -> float:
        """Return the time of the lease's clock."""
        return self._clock()

    async def is_certain(self) -> bool:
        """Return whether orders may be answered; asks the database where the last renewal is too old.

        A database that does not answer counts as yes where nobody stands by: whoever would take over needs it
        too. Raises LeaseHeld where another engine has the lease.
        """
        if self.renewed_at is not None and self._clock() - self.renewed_at < self._seconds:
            return True
        try:
            async with asyncio.timeout(ASK_SECONDS):
                await self.renew()
        except (DatabaseUnavailable, RowsRejected, TimeoutError):
            return not self._has_standby
        return True

    async def renew(self) -> None:
        """Renew the lease; raises LeaseHeld, DatabaseUnavailable or RowsRejected."""
        asked = self._clock()
        has_standby = await self._thread.run(self._table.renew)
        if has_standby is None:
            raise LeaseHeld("another trading engine works on this database now")
        self.renewed_at, self._has_standby = asked, has_standby

    async def keep(self, on_lost: Callable[[], Awaitable[None]]) -> None:
        """Renew the lease while this engine has it, until cancelled; call `on_lost` once another has it."""
        outage = ThrottledLog()
        while True:
            await asyncio.sleep(self._seconds / RENEWALS)
            if self.renewed_at is None:
                continue
            try:
                await self.renew()
            except (DatabaseUnavailable, RowsRejected) as error:
                outage.warn("the lease of the history can't be renewed: %s", error)
            except LeaseHeld as error:
                logger.warning("no orders are answered: %s", error)
                self.lost()
                await on_lost()
            else:
                outage.resolved("the lease of the history is renewed again")

    async def give_back(self, seconds: float) -> None:
        """Let a standby take over at once; gives up after `seconds`, when the lease has to run out."""
        if self.renewed_at is None:
            return
        self.lost()
        try:
            async with asyncio.timeout(seconds):
                await self._thread.run(self._table.give_back)
        except (DatabaseUnavailable, RowsRejected, TimeoutError) as error:
            logger.warning("the lease of the history was not given back: %s", error)
