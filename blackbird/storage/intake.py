"""The consumers of `storage`, which are there only while the database takes messages."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Protocol

from blackbird.broker.session import OnMessage, SessionLost
from blackbird.broker.topology import STORAGE

# A database that has taken nothing for so long counts as away. A batch takes a tenth of a second.
STALLED_SECONDS = 3.0
CHECK_SECONDS = 0.25


class ConsumingSession(Protocol):
    """The broker session that the messages come from; both coroutines raise SessionLost."""

    @property
    def is_open(self) -> bool:
        """Return whether the session still lives."""

    async def consume(self, queue: str, on_message: OnMessage) -> str:
        """Start a consumer and return its tag."""

    async def cancel(self, consumer_tag: str) -> None:
        """Stop a consumer; what it was given stays to be acknowledged."""


class Writing(Protocol):
    """The part of BatchWriter that the intake follows."""

    @property
    def stalled_seconds(self) -> float:
        """For how long the database has been busy with the same work, 0 when it is not."""

    def requeue(self) -> None:
        """Give the deliveries that are not acknowledged back to the broker."""


class Intake:
    """Consumes `storage` or its partitions for `on_message`, and leaves them while `writer` is stalled.

    A queue without a consumer is what others see of a database that is away: they see no more of this
    service than the broker shows. What was delivered is given back: the broker counts a cancelled consumer
    of a quorum queue for as long as it holds messages.
    """

    def __init__(self, writer: Writing, on_message: OnMessage, queues: Sequence[str] = (STORAGE,)) -> None:
        self._writer = writer
        self._on_message = on_message
        self._queues = queues
        self._session: ConsumingSession | None = None
        self._consumers: list[str] = []
        self._stopped = False
        self._adjusting = asyncio.Lock()

    async def start_session(self, session: ConsumingSession) -> None:
        """Consume on this session from now on; raises SessionLost."""
        self._session, self._consumers = session, []
        await self._adjust()

    async def run(self) -> None:
        """Leave the queue and come back to it as the database does, until cancelled."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            # The next session begins anew.
            with contextlib.suppress(SessionLost):
                await self._adjust()

    async def stop(self) -> None:
        """Leave the queue for good."""
        self._stopped = True
        with contextlib.suppress(SessionLost):
            await self._adjust()

    async def _adjust(self) -> None:
        async with self._adjusting:
            session = self._session
            if session is None or not session.is_open:
                return
            stalled = self._writer.stalled_seconds >= STALLED_SECONDS
            if not self._consumers:
                if not stalled and not self._stopped:
                    self._consumers = [
                        await session.consume(queue, self._on_message) for queue in self._queues
                    ]
            elif stalled or self._stopped:
                consumers, self._consumers = self._consumers, []
                for consumer in consumers:
                    await session.cancel(consumer)
                if not self._stopped:
                    self._writer.requeue()
