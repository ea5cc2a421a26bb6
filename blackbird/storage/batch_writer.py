"""Gathers deliveries into batches, writes them to the database, and acknowledges them after the commit."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Generic, Protocol, TypeVar

from blackbird.broker.topology import STORAGE
from blackbird.runtime.backoff import Backoff
from blackbird.runtime.throttled_log import ThrottledLog
from blackbird.runtime.worker_thread import WorkerThread
from blackbird.storage.batch import Batch, Deliverer
from blackbird.storage.isolation import UpdateStore, store_updates
from blackbird.storage.storage_status import Progress
from database_manager import DatabaseUnavailable

# How long a batch may fill before it is written: a commit costs the same for one message as for many.
GATHER_SECONDS = 0.03
SHORTEST_PAUSE = 0.1
LONGEST_PAUSE = 2.0


K = TypeVar("K")


class Store(UpdateStore[K], Protocol[K]):
    """Where updates are stored, and whether it takes any; each method raises DatabaseUnavailable."""

    def ping(self) -> None:
        """Return when the database answers and has the tables."""


class BatchWriter(Generic[K]):
    """Writes one batch of `queue` while the next one fills; each is kept until the database has taken it.

    A batch is written when it has `batch_size` messages or is `gather_seconds` old. With nothing to write the
    database is pinged every `ping_seconds`, None for never.
    """

    def __init__(
        self,
        store: Store[K],
        batch_size: int,
        gather_seconds: float = GATHER_SECONDS,
        *,
        queue: str = STORAGE,
        ping_seconds: float | None = None,
    ) -> None:
        self.progress: Progress[K] = Progress()
        self._store = store
        self._batch_size = batch_size
        self._queue = queue
        self._gather_seconds = gather_seconds
        self._ping_seconds = ping_seconds
        self._busy_since: float | None = None
        self._database = WorkerThread("database")
        self._session: Deliverer | None = None
        self._batch: Batch[K] = Batch(queue)
        self._last_tag = 0
        self._arrived = asyncio.Event()
        self._full = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._outage = ThrottledLog()

    @property
    def stalled_seconds(self) -> float:
        """For how long the database has been busy with the same batch or ping, 0 when it is not."""
        if self._busy_since is None:
            return 0.0
        return asyncio.get_running_loop().time() - self._busy_since

    @property
    def gathered(self) -> int:
        """How many messages the batch has that fills."""
        return self._batch.messages

    def start_session(self, session: Deliverer) -> None:
        """Gather the deliveries of `session` from now on; what an earlier one brought is redelivered."""
        self._session = session
        self._batch = Batch(self._queue, session)
        self._last_tag = 0

    def requeue(self) -> None:
        """Give the deliveries that are not acknowledged back to the broker.

        What the database is busy with is not stopped: redelivered, it is stored already.
        """
        if self._session is not None:
            self._session.requeue(self._last_tag)
            self._batch = Batch(self._queue, self._session)

    def count(self, delivery_tag: int) -> Batch[K]:
        """Count a delivery and return the batch that its update belongs to."""
        batch = self._batch
        if not batch.messages:
            batch.begun = asyncio.get_running_loop().time()
            self._arrived.set()
        batch.count(delivery_tag)
        self._last_tag = delivery_tag
        if batch.messages >= self._batch_size:
            self._full.set()
        return batch

    async def run(self) -> None:
        """Write batch after batch until cancelled."""
        while True:
            await self._await_arrival()
            await self._gather()
            self._arrived.clear()
            self._full.clear()
            batch = self._next_batch()
            if batch.messages:
                self._idle.clear()
                with self._busy():
                    await self._write(batch)
                self._idle.set()

    async def drain(self, seconds: float) -> None:
        """Return when everything gathered is written and acknowledged, after `seconds` at the latest."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._batch.messages or not self._idle.is_set():
                    await asyncio.sleep(0.01)

    async def _await_arrival(self) -> None:
        while not self._arrived.is_set():
            try:
                async with asyncio.timeout(self._ping_seconds):
                    await self._arrived.wait()
            except TimeoutError:
                with self._busy():
                    await self._ping()

    async def _ping(self) -> None:
        """Ask the database whether it would take a message, until it would."""
        backoff = Backoff(SHORTEST_PAUSE, LONGEST_PAUSE)
        failed = False
        while True:
            try:
                await self._database.run(self._store.ping)
            except DatabaseUnavailable as error:
                failed = self.progress.is_failing = True
                self._outage.warn("the database takes no messages: %s", error)
                await asyncio.sleep(backoff.next())
            else:
                break
        if failed:
            self.progress.is_failing = False
            self._outage.resolved("the database takes messages again")

    @contextlib.contextmanager
    def _busy(self) -> Iterator[None]:
        self._busy_since = asyncio.get_running_loop().time()
        try:
            yield
        finally:
            self._busy_since = None

    async def _gather(self) -> None:
        # Under load the batch is due already, and each turn of the event loop would read more messages first.
        due = self._batch.begun + self._gather_seconds
        if not self._full.is_set() and asyncio.get_running_loop().time() < due:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self._full.wait()

    def _next_batch(self) -> Batch[K]:
        batch, self._batch = self._batch, Batch(self._queue, self._session)
        return batch

    async def _write(self, batch: Batch[K]) -> None:
        backoff = Backoff(SHORTEST_PAUSE, LONGEST_PAUSE)
        failed = False
        began = asyncio.get_running_loop().time()
        self.progress.begun(batch)
        while batch.updates:
            try:
                at_fault = await self._database.run(partial(store_updates, self._store, batch.updates))
            except DatabaseUnavailable as error:
                failed = True
                self._outage.warn("%d messages wait for the database: %s", len(batch.updates), error)
                await asyncio.sleep(backoff.next())
                # With what has arrived since: one that is taken shows that those rejected are at fault.
                batch = batch.followed_by(self._next_batch())
                self.progress.begun(batch, failed=True)
            else:
                for key, reason in at_fault.items():
                    batch.dead_letter(key, f"refused by the database: {reason}")
                break
        if failed:
            self._outage.resolved("the database takes messages again")
        self.progress.done(batch, asyncio.get_running_loop().time() - began)
        batch.acknowledge()
