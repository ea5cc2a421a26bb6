"""Publishes a service's status at an interval, on a connection of its own.

The broker reads nothing from a connection that it blocks, and what a service publishes must not wait behind a
status, nor a status behind it. Without a broker a status is simply absent: nothing here is retried, kept or
waited for, and no error of it reaches the service.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
from pika.spec import BasicProperties

from blackbird.broker.errors import SessionLost
from blackbird.broker.parameters import BrokerParameters
from blackbird.broker.session import Session, session_opener
from blackbird.broker.topology import EXCHANGE, STATUS
from blackbird.runtime.backoff import Backoff
from blackbird.runtime.failure_log import FailureLog
from blackbird.runtime.status_report import Identity, StatusReport, StatusSource
from blackbird.status.messages import Status
from blackbird.status.summary import summary

logger = logging.getLogger(__name__)

# Of the statuses that are not published: what is counted by the millisecond is sorted into buckets with each.
UNPUBLISHED_INTERVAL = 10.0
SHORTEST_PAUSE = 0.1
LONGEST_PAUSE = 2.0
# How long the end of a service waits for the broker to close the connection.
CLOSE_SECONDS = 0.2

_encode = msgspec.json.Encoder().encode
_PROPERTIES = BasicProperties(content_type="application/json")


class StatusPublisher:
    """Makes the statuses of `report` and publishes them; logs a summary of them every `summary_seconds`.

    `connect` returns a session or raises SessionLost; None: nothing is published. With `summary_seconds` at 0
    no summary is logged.
    """

    def __init__(
        self,
        report: StatusReport,
        connect: Callable[[], Awaitable[Session]] | None,
        *,
        summary_seconds: float,
    ) -> None:
        self._report = report
        self._connect = connect
        self._summary_seconds = summary_seconds
        self._failures = FailureLog()
        self._session: Session | None = None
        self._summarised: Status | None = None

    async def run(self) -> None:
        """Publish until cancelled."""
        keeping = self._keep_connected(self._connect) if self._connect is not None else asyncio.sleep(0)
        connecting = asyncio.create_task(keeping)
        loop = asyncio.get_running_loop()
        due = loop.time()
        try:
            while True:
                await self._publish()
                due = max(due + self._report.interval_seconds, loop.time())
                await asyncio.sleep(due - loop.time())
        finally:
            connecting.cancel()
            await asyncio.wait([connecting], timeout=CLOSE_SECONDS)

    async def _publish(self) -> None:
        try:
            status = await self._report.make()
            self._summarise(status)
            # A blocked connection would keep what it is given, and hand it over when it is long outdated.
            if self._session is not None and self._session.blocked is None:
                with contextlib.suppress(SessionLost):
                    self._session.publish(EXCHANGE, STATUS, _encode(status), _PROPERTIES)
        except Exception as error:  # noqa: BLE001 - the edge: this status is missing, the service goes on
            self._failures.log("making a status", error)

    def _summarise(self, status: Status) -> None:
        if not self._summary_seconds:
            return
        before = self._summarised
        if before is None:
            self._summarised = status
        elif status.published_ms - before.published_ms >= self._summary_seconds * 1000:
            self._summarised = status
            logger.info("%s", summary(before, status))

    async def _keep_connected(self, connect: Callable[[], Awaitable[Session]]) -> None:
        backoff = Backoff(SHORTEST_PAUSE, LONGEST_PAUSE, jitter=0.5)
        while True:
            session = None
            try:
                session = await connect()
                await session.declare_exchange()
                self._session = session
                backoff.reset()
                await asyncio.wait([session.lost])
            except SessionLost as error:
                logger.debug("no connection to publish the status on: %s", error)
            except Exception as error:  # noqa: BLE001 - the edge: the next attempt is a new one
                self._failures.log("connecting to publish the status", error)
            finally:
                self._session = None
                if session is not None:
                    await session.closed()
            await asyncio.sleep(backoff.next())


@contextlib.asynccontextmanager
async def reporting(
    identity: Identity,
    source: StatusSource,
    broker: BrokerParameters,
    *,
    interval_ms: int,
    summary_seconds: float,
) -> AsyncIterator[None]:
    """Publish the status of `source` every `interval_ms` while the block runs, with 0 never.

    `broker` should have a name of its own.
    """
    report = StatusReport(identity, source, interval_ms / 1000 if interval_ms else UNPUBLISHED_INTERVAL)
    connect = session_opener(broker) if interval_ms else None
    publisher = StatusPublisher(report, connect, summary_seconds=summary_seconds)
    publishing = asyncio.create_task(publisher.run(), name="status")
    try:
        yield
    finally:
        publishing.cancel()
        await asyncio.wait([publishing])
