"""The bytes of a connection to the broker: asyncio's protocol on one side, pika's transport on the other.

pika documents how to give it other I/O ("Extending to support additional I/O frameworks" in its README). Here
that makes a fast path: deliveries to registered consumers are read and handed over without pika, messages are
published without pika, and what is written in one turn of the event loop is sent in one write. All other
frames are pika's. Where nothing is registered the stream only carries bytes, and pika does all of AMQP.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

import pika.exceptions
from pika.adapters.utils import nbio_interface as nbio
from pika.channel import Channel
from pika.spec import FRAME_MIN_SIZE, Basic, BasicProperties

from blackbird.broker.frames import (
    HEARTBEAT_FRAME,
    ConsumerKey,
    IncompleteFrame,
    NotAMQP,
    consumer_key,
    decodable_frame,
    frame_end,
    publish_frames,
    read_delivery,
)

logger = logging.getLogger(__name__)

OnMessage = Callable[[Channel, Basic.Deliver, BasicProperties, bytes], None]

# Of one read. asyncio's own reads are of 256 kB, for each of which malloc asks the system for memory.
RECEIVE_BYTES = 65_536
# pika judges by what it is given whether the broker lives, and sees no deliveries of the fast path.
ALIVE_SECONDS = 1.0


class Stream(asyncio.BufferedProtocol, nbio.AbstractStreamTransport):
    """One connected socket, plain or TLS.

    `on_linked` is called once, when both sides are linked. `frame_max` is what client and broker have agreed
    on; every broker takes frames of the least size.
    """

    def __init__(self, pika_side: nbio.AbstractStreamProtocol, on_linked: Callable[[], None]) -> None:
        self.frame_max = FRAME_MIN_SIZE
        # Why the connection was ended from here; pika only passes its text on.
        self.error: Exception | None = None
        self._pika = pika_side
        self._on_linked = on_linked
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._buffer = memoryview(bytearray(RECEIVE_BYTES))
        self._consumers: dict[ConsumerKey, tuple[Channel, OnMessage]] = {}
        self._unread = b""
        self._unsent: list[bytes] = []
        self._alive_until = 0.0
        self._linked = False
        self._ended = False

    def give_up(self) -> None:
        """Never link: pika has given this connection up while it was made."""
        self._ended = True

    # --- the fast path ---------------------------------------------------------------------------

    def register(self, channel: Channel, consumer_tag: str, on_message: OnMessage) -> None:
        """Hand a consumer its deliveries without pika, which must know the consumer too."""
        self._consumers[consumer_key(channel.channel_number, consumer_tag)] = (channel, on_message)

    def unregister(self, channel: Channel, consumer_tag: str) -> None:
        """Leave a consumer's deliveries to pika, which requeues those that follow a cancel."""
        self._consumers.pop(consumer_key(channel.channel_number, consumer_tag), None)

    def unregister_all(self) -> None:
        """Leave all deliveries to pika, which drops those that follow a close."""
        self._consumers.clear()

    def publish(
        self, channel: Channel, exchange: str, key: str, body: bytes, properties: BasicProperties
    ) -> None:
        """Send a message on a channel that is open."""
        self.write(publish_frames(channel.channel_number, self.frame_max, exchange, key, body, properties))

    # --- asyncio's side --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Link pika with the transport."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for mypy: this is a stream's
        self._transport = transport
        if self._ended:
            transport.abort()
            return
        self._linked = True
        self._pika.connection_made(self)
        # At once: pika's connector has to know before anything else can happen to the connection.
        self._on_linked()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell pika that the connection has ended, and why where that is known here."""
        self._ended = True
        if self._linked:
            self._pika.connection_lost(self.error or exc)

    def eof_received(self) -> bool | None:
        """End the connection at once: a close would first wait for what is still to be sent."""
        self._pika.eof_received()
        self.abort()
        return None

    def get_buffer(self, _: int) -> memoryview:
        """Return where asyncio puts what it reads next."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Process what was read; the edge for errors of pika and its callbacks, which end the connection."""
        try:
            self.feed(bytes(self._buffer[:nbytes]))
        except (NotAMQP, pika.exceptions.AMQPError) as error:
            self._end(error)
        except Exception as error:
            logger.exception("what the broker sent could not be processed: the connection is closed")
            self._end(error)

    def feed(self, chunk: bytes) -> None:
        """Hand whole deliveries to their consumers and all other whole frames to pika, in order."""
        data = self._unread + chunk if self._unread else chunk
        at = 0
        with contextlib.suppress(IncompleteFrame):
            while at < len(data) and not self._ended:
                at = self._process(data, at)
        self._unread = data[at:]
        if self._consumers and self._loop.time() > self._alive_until and not self._ended:
            self._alive_until = self._loop.time() + ALIVE_SECONDS
            self._pika.data_received(HEARTBEAT_FRAME)

    def _process(self, data: bytes, at: int) -> int:
        """Process the delivery or the frame that begins at `at` and return where it ends."""
        delivery = read_delivery(data, at, self._consumers)
        if delivery is None:
            end = frame_end(data, at)
            self._pika.data_received(decodable_frame(data[at:end]))
            return end
        (channel, on_message), deliver, properties, body, end = delivery
        on_message(channel, deliver, properties, body)
        return end

    def _end(self, error: Exception) -> None:
        self.error = error
        self.abort()

    # --- pika's side -----------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send `data` at the end of this turn of the event loop."""
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(data)

    def _flush(self) -> None:
        data = b"".join(self._unsent)
        self._unsent.clear()
        if data and not self._transport.is_closing():
            self._transport.write(data)

    def abort(self) -> None:
        """End the connection now; of what was written the system sends what it can take."""
        if not self._ended:
            self._flush()
            self._ended = True
        self._transport.abort()

    def get_protocol(self) -> nbio.AbstractStreamProtocol:
        """Return pika's side."""
        return self._pika

    def get_write_buffer_size(self) -> int:
        """Return how many bytes wait to be sent."""
        return self._transport.get_write_buffer_size() + sum(map(len, self._unsent))
