"""One connection to the broker: pika's, over the stream of stream.py."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from pika.adapters.asyncio_connection import AsyncioConnection
from pika.channel import Channel
from pika.frame import Method
from pika.spec import Connection as ConnectionMethods

from blackbird.broker.errors import SessionLost, session_loss
from blackbird.broker.io_services import IOServices
from blackbird.broker.parameters import BrokerParameters
from blackbird.broker.rpc import Rpc
from blackbird.broker.stream import Stream

logger = logging.getLogger(__name__)

# A broker that does not answer a close in this time is not waited for.
CLOSE_SECONDS = 2.0

# Nothing is bound to it.
ALARM_PROBE = "blackbird.alarm-probe"

OnBlocked = Callable[[str | None], None]


class Connection:
    """A connection from its first attempt to its end, which `on_lost` is told."""

    def __init__(self, parameters: BrokerParameters, on_lost: Callable[[SessionLost], None]) -> None:
        # Why the broker takes no messages of this connection, None while it does.
        self.blocked: str | None = None
        self.on_blocked: list[OnBlocked] = []
        self.parameters = parameters
        self._on_lost = on_lost
        self._services = IOServices()
        self._pika: AsyncioConnection | None = None
        self._alarm_probe: Channel | None = None
        # Set when the socket is closed, which is some time after the channel has reported the loss.
        self._gone = asyncio.Event()

    @property
    def stream(self) -> Stream:
        """The stream of an open connection."""
        stream = self._services.stream
        assert stream is not None  # noqa: S101 - only of one that has been opened
        return stream

    async def open(self, rpc: Rpc) -> Channel:
        """Connect, and return a channel; raises SessionLost."""

        def connect(done: Callable[..., None]) -> None:
            self._pika = AsyncioConnection(
                self.parameters,
                on_open_callback=done,
                on_open_error_callback=self._on_gone,
                on_close_callback=self._on_gone,
                custom_ioloop=self._services,
            )

        pika_connection: AsyncioConnection = await rpc(connect)
        self.stream.frame_max = int(pika_connection.params.frame_max)
        pika_connection.add_on_connection_blocked_callback(self._block)
        pika_connection.add_on_connection_unblocked_callback(self._unblock)
        return await self.channel(rpc)

    async def channel(self, rpc: Rpc) -> Channel:
        """Open one more channel; raises SessionLost."""
        connection = self._pika
        assert connection is not None  # noqa: S101 - only of one that has been opened
        channel: Channel = await rpc(lambda done: connection.channel(on_open_callback=done))
        return channel

    async def open_alarm_probe(self, rpc: Rpc) -> None:
        """Open a channel for `probe_alarm`; raises SessionLost."""
        self._alarm_probe = await self.channel(rpc)

    def probe_alarm(self) -> None:
        """Publish something, where a probe was opened: the broker tells those of an alarm that publish."""
        if self._alarm_probe is not None and self._alarm_probe.is_open:
            self._alarm_probe.basic_publish("", ALARM_PROBE, b"")

    def close(self) -> None:
        """Begin to close it; what is not acknowledged is requeued."""
        if self._services.stream is not None:
            self._services.stream.unregister_all()
        if self._pika is not None and not (self._pika.is_closing or self._pika.is_closed):
            self._pika.close()

    async def closed(self) -> None:
        """Close it once the broker has seen what was sent before; end it where the broker does not answer."""
        if self._pika is None:
            return
        self.close()
        if not await self._gone_in_time() and self._services.stream is not None:
            self._services.stream.abort()
            await self._gone_in_time()

    async def _gone_in_time(self) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._gone.wait()
        return self._gone.is_set()

    def _on_gone(self, _: AsyncioConnection, error: BaseException) -> None:
        self._gone.set()
        stream = self._services.stream
        self._on_lost(session_loss(error if stream is None or stream.error is None else stream.error))

    def _block(self, _: AsyncioConnection, frame: Method[ConnectionMethods.Blocked]) -> None:
        logger.warning("connection blocked by the broker (memory or disk alarm): %s", frame.method.reason)
        self._set_blocked(str(frame.method.reason))

    def _unblock(self, *_: object) -> None:
        logger.info("connection unblocked by the broker")
        self._set_blocked(None)

    def _set_blocked(self, reason: str | None) -> None:
        self.blocked = reason
        for callback in self.on_blocked:
            callback(reason)
