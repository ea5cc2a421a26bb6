"""What data storage says of itself, and the counters that this is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Generic, Literal, TypeVar

from blackbird.runtime.clock import milliseconds
from blackbird.runtime.failure_log import FailureLog
from blackbird.status.histogram import Histogram
from blackbird.status.messages import StorageStatus
from blackbird.storage.batch import Batch
from blackbird.storage.orderbook_store import UpdateKey

K = TypeVar("K")


class Progress(Generic[K]):
    """Counts what became of the deliveries. `clock` returns milliseconds since 1970.

    `newest` is the key of the update that was stored last.
    """

    def __init__(self, clock: Callable[[], int] = milliseconds) -> None:
        self.stored = 0
        self.dead_letters = 0
        self.waiting = 0  # in the batch that is being written
        self.is_failing = False  # the database took nothing the last time
        self.write_times = Histogram()
        self.newest: K | None = None
        self.stored_ms = 0
        self._clock = clock

    def begun(self, batch: Batch[K], *, failed: bool = False) -> None:
        """Note that a batch is being written, with `failed` once more."""
        self.waiting = batch.messages
        self.is_failing = failed

    def done(self, batch: Batch[K], seconds: float) -> None:
        """Count a batch that is committed, or that held nothing to store, after so many seconds."""
        self.waiting = 0
        self.is_failing = False
        self.stored += batch.messages
        self.dead_letters += batch.dead_letters
        if batch.updates:
            self.write_times.observe(seconds)
            self.newest = next(reversed(batch.updates))
            self.stored_ms = self._clock()


class StorageStatusSource:
    """Describes a storage service; `rows` returns how many were written, `gathered` how many updates wait."""

    def __init__(
        self,
        progress: Progress[UpdateKey],
        failures: FailureLog,
        *,
        rows: Callable[[], int],
        gathered: Callable[[], int],
        is_connected: Callable[[], bool],
        discard: bool,
    ) -> None:
        self._progress = progress
        self._failures = failures
        self._rows = rows
        self._gathered = gathered
        self._is_connected = is_connected
        self._discard = discard

    @property
    def is_connected(self) -> bool:
        """Whether there is a session to work on."""
        return self._is_connected()

    @property
    def failure_counts(self) -> Mapping[str, int]:
        """How often which programming error was survived."""
        return self._failures.counts

    async def describe(self) -> StorageStatus:
        """Return what data storage does."""
        progress = self._progress
        waiting = progress.waiting + self._gathered()
        state: Literal["storing", "database unavailable", "discarding"] = "storing"
        if self._discard:
            state = "discarding"
        elif progress.is_failing:
            state = "database unavailable"
        return StorageStatus(
            state=state,
            messages=progress.stored + waiting,
            stored=progress.stored,
            rows=self._rows(),
            waiting=waiting,
            batch_write=progress.write_times.counts(),
            stored_cts_ms=0 if progress.newest is None else progress.newest[0],
            stored_ms=progress.stored_ms,
            dead_letters=progress.dead_letters,
        )
