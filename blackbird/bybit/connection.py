"""A connection to one of the exchange's public WebSocket streams, on the event loop from first to last."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import time
from collections.abc import Callable

import picows
from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport

from blackbird.bybit.protocol import PING, InvalidFrame
from blackbird.runtime.name_lookup import NameLookup

logger = logging.getLogger(__name__)

# A whole attempt, the lookup of the name and TLS included, and of it the WebSocket handshake.
CONNECT_SECONDS = 15.0
HANDSHAKE_SECONDS = 5.0
CLOSE_SECONDS = 0.4
# https://bybit-exchange.github.io/docs/v5/ws/connect
PING_SECONDS = 20.0
# Bybit's deepest book is about 50 kB.
LARGEST_MESSAGE = 1_000_000
# picows doubles it with each read that fills it and never shrinks it: a backlog leaves megabytes a stream.
READ_BUFFER_BYTES = 65_536

# picows logs a fault of the peer's several times, at ERROR; the stream says it in one line.
logging.getLogger("picows").setLevel(logging.CRITICAL)

# A text message and the milliseconds since 1970 at which it was received; raises InvalidFrame.
OnFrame = Callable[[bytes, int], None]


class ConnectFailed(Exception):
    """A connection attempt failed; `reached` says whether the exchange took part in it.

    Bybit counts new connections, and does not count what never arrived there.
    """

    def __init__(self, reason: str, *, reached: bool) -> None:
        super().__init__(reason)
        self.reached = reached


class ConnectionClosed(Exception):
    """The connection has ended; the text says why."""


class Connection(WSListener):
    """A WebSocket connection whose text messages go to `on_frame` as they are read.

    `closed` is done, with the reason, as soon as nothing more will come.
    """

    def __init__(self, on_frame: OnFrame, ping_seconds: float) -> None:
        self._on_frame = on_frame
        self._loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[str] = self._loop.create_future()
        self._transport: WSTransport | None = None
        self._fragments: list[bytes] = []
        self._fragments_type = WSMsgType.TEXT
        self._ping_seconds = ping_seconds

    @property
    def is_open(self) -> bool:
        """Whether the handshake was made and the connection has not ended since."""
        return self._transport is not None and not self.closed.done()

    def send(self, text: str) -> None:
        """Send a text message; on a connection that has ended nothing happens."""
        if self._transport is not None:
            self._transport.send(WSMsgType.TEXT, text)

    async def close(self) -> None:
        """Close with a close frame, and abort where the exchange does not answer it in time."""
        self._end("closed")
        transport = self._transport
        if transport is None:
            return
        try:
            transport.send_close(WSCloseCode.OK)
            with contextlib.suppress(TimeoutError, picows.WSError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await transport.wait_disconnected()
        finally:
            transport.disconnect(graceful=False)

    def abort(self) -> None:
        """Close at once, without a close frame; also a handshake that is still under way."""
        self._end("aborted")
        if self._transport is not None:
            self._transport.disconnect(graceful=False)

    # --- what picows calls -------------------------------------------------------------------

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Take the connection over; the handshake of an attempt that was given up can still succeed."""
        self._transport = transport
        if self.closed.done():
            transport.disconnect(graceful=False)
            return
        self._loop.call_later(self._ping_seconds, self._ping)
        # The event loop keeps no reference to its tasks.
        self._watching = self._loop.create_task(self._watch(transport))

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Hand a message over; picows answers pings."""
        kind = frame.msg_type
        if self.closed.done():  # what lies in the read buffer still comes
            if kind == WSMsgType.CLOSE:
                transport.disconnect(graceful=False)
        elif frame.rsv1 or frame.rsv2 or frame.rsv3:
            self._fail("expected a frame without extensions")
        elif kind == WSMsgType.TEXT and frame.fin and not self._fragments:
            self._hand_over(frame.get_payload_as_bytes())
        elif kind == WSMsgType.CLOSE:
            code = frame.get_close_code()
            transport.send_close(WSCloseCode.OK)
            named = "" if code == WSCloseCode.NO_INFO else f" with code {code.value}"
            self._fail(f"closed by the exchange{named}")
        elif kind in {WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.CONTINUATION}:
            self._take_fragment(kind, frame)

    def pause_writing(self) -> None:
        """Go on: requests and pings are few, and a peer that does not read is silent too."""

    def resume_writing(self) -> None:
        """See pause_writing."""

    # --- inside ------------------------------------------------------------------------------

    def _take_fragment(self, kind: WSMsgType, frame: WSFrame) -> None:
        """Put the fragments of a message together, which picows leaves to its user (RFC 6455, 5.4)."""
        if (kind == WSMsgType.CONTINUATION) != bool(self._fragments):
            self._fail("expected the fragments of a message one after the other")
            return
        if kind != WSMsgType.CONTINUATION:
            self._fragments_type = kind
        self._fragments.append(frame.get_payload_as_bytes())
        if sum(map(len, self._fragments)) > LARGEST_MESSAGE:
            self._fail(f"expected a message of at most {LARGEST_MESSAGE} bytes")
        elif frame.fin:
            message, self._fragments = b"".join(self._fragments), []
            if self._fragments_type == WSMsgType.TEXT:
                self._hand_over(message)
            else:
                self._fail(f"expected a text message, was the binary {message[:40]!r}")

    def _hand_over(self, message: bytes) -> None:
        try:
            self._on_frame(message, int(time.time() * 1000))
        except InvalidFrame as error:
            self._fail(f"expected a frame of the exchange, was {message[:80]!r} ({error})")
        except Exception:
            # The library would drop the traceback and go on with the next frame.
            logger.exception("unhandled exception at %r, connecting again", message[:80])
            self._fail("unhandled exception in the handler of its frames")

    def _ping(self) -> None:
        if not self.closed.done():
            self.send(PING)
            self._loop.call_later(self._ping_seconds, self._ping)

    async def _watch(self, transport: WSTransport) -> None:
        reason = "closed by the exchange"
        try:
            await transport.wait_disconnected()
        except picows.WSProtocolError as error:
            reason = str(error.args[1])
        finally:
            self._end(reason)

    def _fail(self, reason: str) -> None:
        self._end(reason)
        if self._transport is not None:
            self._transport.disconnect(graceful=False)

    def _end(self, reason: str) -> None:
        if not self.closed.done():
            self.closed.set_result(reason)


class Connector:
    """Makes connections: what they share is one TLS context and the lookup of names."""

    def __init__(self, tls: ssl.SSLContext | None = None, *, ping_seconds: float = PING_SECONDS) -> None:
        self._tls = tls
        self._ping_seconds = ping_seconds
        self._lookup = NameLookup()

    async def connect(self, url: str, on_frame: OnFrame) -> Connection:
        """Return an open connection; raises ConnectFailed."""
        connection = Connection(on_frame, self._ping_seconds)
        reason = "closed in the handshake"
        reached = True
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._open(url, connection)
        except TimeoutError as error:
            reason = str(error) or f"no connection within {CONNECT_SECONDS:.0f} s"
        except OSError as error:
            reason = str(error) or type(error).__name__
            reached = isinstance(error, ssl.SSLError | ConnectionResetError)
        except picows.WSError as error:
            reason = str(error.args[0])
        # picows returns normally where the exchange closes in the middle of the handshake.
        if not connection.is_open:
            raise ConnectFailed(reason, reached=reached)
        return connection

    async def _open(self, url: str, connection: Connection) -> None:
        """Make the handshake; one that fails or is cancelled leaves no socket behind."""
        opened: socket.socket | None = None

        async def connect_socket(parsed: picows.WSParsedURL) -> socket.socket:
            nonlocal opened
            opened = await self._lookup.connect(parsed.host, parsed.port)
            return opened

        try:
            await picows.ws_connect(
                lambda: connection,
                url,
                ssl_context=self._tls if url.startswith("wss:") else None,
                websocket_handshake_timeout=HANDSHAKE_SECONDS,
                max_frame_size=LARGEST_MESSAGE,
                max_redirects=0,
                read_buffer_init_size=READ_BUFFER_BYTES,
                socket_factory=connect_socket,
            )
        finally:
            if not connection.is_open:
                connection.abort()
                # Cancelled, picows goes on with the handshake until its own limit.
                if opened is not None:
                    with contextlib.suppress(OSError):
                        opened.shutdown(socket.SHUT_RDWR)
