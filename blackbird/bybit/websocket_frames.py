"""Reading a WebSocket's frames on the event loop, from a connection that a client library has made."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

# Bybit's deepest book is about 50 kB.
LARGEST_MESSAGE = 1_000_000
CHUNK = 65_536  # of one read: above 128 kB each takes memory from the system


class InvalidFrame(ValueError):
    """Bytes that are no frame of a server, or more of them than is taken."""


class FrameParser:
    """Cuts a stream of bytes into messages (RFC 6455, section 5), as a client without extensions sees it.

    `on_message` is called with opcode and payload; text and binary messages are whole.
    """

    def __init__(self, on_message: Callable[[int, bytes], None]) -> None:
        self._on_message = on_message
        self._rest = b""
        self._fragments: list[bytes] = []
        self._fragments_opcode = 0

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes; raises InvalidFrame, after which there is no going on."""
        data = self._rest + chunk if self._rest else chunk
        size = len(data)
        position = 0
        while size - position >= 2:
            head, length = data[position], data[position + 1]
            start = position + 2
            if length == 126:
                start += 2
                length = int.from_bytes(data[start - 2 : start], "big")
            elif length >= 127:
                # Above 127 is the mask bit, which a server must not set.
                if length > 127:
                    raise InvalidFrame("expected a frame without mask")
                start += 8
                length = int.from_bytes(data[start - 8 : start], "big")
            if start <= size and length > LARGEST_MESSAGE:
                raise InvalidFrame(f"expected at most {LARGEST_MESSAGE} bytes, was {length}")
            end = start + length
            if size < end:
                break
            if head == 0x80 | TEXT and not self._fragments:
                self._on_message(TEXT, data[start:end])
            else:
                self._take(head, data[start:end])
            position = end
        self._rest = data[position:]

    def _take(self, head: int, payload: bytes) -> None:
        final, reserved, opcode = head & 0x80, head & 0x70, head & 0x0F
        if reserved or opcode not in {CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG}:
            raise InvalidFrame(f"expected a frame without extensions, began with {head:#x}")
        if opcode in {CLOSE, PING, PONG}:
            self._on_message(opcode, payload)
            return
        if (opcode == CONTINUATION) != bool(self._fragments):
            raise InvalidFrame("expected the fragments of a message one after the other")
        if opcode != CONTINUATION:
            self._fragments_opcode = opcode
        self._fragments.append(payload)
        if sum(map(len, self._fragments)) > LARGEST_MESSAGE:
            raise InvalidFrame(f"expected at most {LARGEST_MESSAGE} bytes")
        if final:
            whole, self._fragments = b"".join(self._fragments), []
            self._on_message(self._fragments_opcode, whole)


class SocketReader:
    """Reads a connected socket on the event loop until it ends or is let go.

    `on_end` is called once, with the reason, when nothing more will come.
    """

    def __init__(
        self, sock: socket.socket, on_message: Callable[[int, bytes], None], on_end: Callable[[str], None]
    ) -> None:
        self._socket = sock
        self._parser = FrameParser(on_message)
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._reading = True
        sock.setblocking(False)
        self._loop.add_reader(sock, self._read)
        # TLS may hold back what came with the handshake.
        self._loop.call_soon(self._read)

    def let_go(self) -> None:
        """Read no more."""
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._socket)

    def _read(self) -> None:
        while self._reading:
            try:
                chunk = self._socket.recv(CHUNK)
                if not chunk:
                    self._end("closed by the exchange")
                    return
                self._parser.feed(chunk)
            except (BlockingIOError, InterruptedError, ssl.SSLWantReadError):
                return
            except (OSError, InvalidFrame) as error:
                self._end(str(error) or type(error).__name__)
                return
            if not isinstance(self._socket, ssl.SSLSocket) or not self._socket.pending():
                return

    def _end(self, reason: str) -> None:
        if self._reading:
            self.let_go()
            self._on_end(reason)
