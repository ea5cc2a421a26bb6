"""One WebSocket connection of a client."""

from __future__ import annotations

import asyncio
import socket
import struct
import uuid
from collections import deque
from typing import TYPE_CHECKING, Any

from websockets.asyncio.server import ServerConnection
from websockets.protocol import State

from local_exchange.instrument import text_frame

if TYPE_CHECKING:
    from collections.abc import Callable

    from local_exchange.instrument import Subscription


class Socket(ServerConnection):
    """A connection whose pushes are written past the library, straight to the transport.

    Frames of a server carry no state, so one frame serves all sockets of a topic; the library
    keeps the handshake, the requests, and the answers to PING and close.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.number = 0
        self.channel = ""
        self.conn_id = str(uuid.uuid4())
        self.subscriptions: dict[str, Subscription] = {}
        # Topics without a feed: those of the private stream, and those of which nothing ever comes.
        self.other_topics: set[str] = set()
        # Called once when nothing may be written any more.
        self.on_end: Callable[[Socket], None] | None = None
        # See the faults `silence`, `no_pong` and `no_close_answer`.
        self.silent = False
        # Whether a private socket has shown its API key.
        self.authorised = False
        self.no_pong = False
        self.no_close_answer = False
        self._answering = False
        # Answers that are due at a time of the event loop, in the order of the requests.
        self._answers: deque[tuple[float, Callable[[], None]]] = deque()

    @property
    def topics(self) -> list[str]:
        """Topics that the client has subscribed."""
        return [*self.subscriptions, *self.other_topics]

    @property
    def unread(self) -> int:
        """Bytes that wait for the client to read."""
        return self.transport.get_write_buffer_size()

    @property
    def open(self) -> bool:
        """Whether frames may be written."""
        return self.protocol.state is State.OPEN

    def reply(self, payload: bytes) -> None:
        """Write a text frame now."""
        if self.open:
            self.transport.write(text_frame(payload))

    def after(self, seconds: float, answer: Callable[[], None]) -> None:
        """Give an answer after `seconds`, but never before those of earlier requests."""
        if seconds <= 0 and not self._answers:
            answer()
            return
        loop = asyncio.get_running_loop()
        self._answers.append((loop.time() + seconds, answer))
        if len(self._answers) == 1:
            loop.call_later(seconds, self._give_answers)

    def _give_answers(self) -> None:
        loop = asyncio.get_running_loop()
        while self._answers:
            due, answer = self._answers[0]
            # Timers of the event loop are whole milliseconds.
            if due > loop.time() + 0.001:
                loop.call_at(due, self._give_answers)
                return
            # Taken out last: what it adds comes after it, and needs no timer of its own.
            answer()
            self._answers.popleft()

    def write_binary(self, payload: bytes) -> None:
        """Write a binary frame now."""
        if self.open:
            self.protocol.send_binary(payload)
            self.send_data()

    def end(self) -> None:
        """Let the exchange forget the socket, before anything follows the close frame."""
        if self.on_end is not None:
            on_end, self.on_end = self.on_end, None
            on_end(self)

    def finish(self) -> None:
        """Close the TCP connection with FIN, without a close frame."""
        self.end()
        self.transport.close()

    def reset(self) -> None:
        """Close the TCP connection with RST."""
        self.end()
        raw = self.transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Take bytes in; the library answers PING and close frames meanwhile."""
        self._answering = True
        super().data_received(data)
        self._answering = False
        if not self.open and self.number:
            self.end()

    def eof_received(self) -> None:
        """Take the client's FIN; nothing can be written once it is answered."""
        self.end()
        super().eof_received()

    def send_data(self) -> None:
        """Write what the library has to send, unless a fault swallows its answer."""
        closing = self.protocol.close_rcvd is not None
        muted = self.no_close_answer if closing else self.no_pong
        if self._answering and self.number and muted:
            self.protocol.data_to_send()
            return
        super().send_data()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let the exchange forget the socket."""
        super().connection_lost(exc)
        self.end()
