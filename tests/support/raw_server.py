"""A WebSocket server that sends whatever bytes a test wants, one thread a client."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import queue
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Self

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def frame(opcode: int, payload: bytes, *, final: bool = True) -> bytes:
    """Return a frame as a server sends it."""
    size = len(payload)
    if size < 126:
        length = bytes([size])
    elif size < 65536:
        length = b"\x7e" + size.to_bytes(2, "big")
    else:
        length = b"\x7f" + size.to_bytes(8, "big")
    return bytes([(0x80 if final else 0) | opcode]) + length + payload


def accepting(request: bytes) -> bytes:
    """Return the answer that completes a handshake."""
    key = next(
        line.split(b":", 1)[1].strip()
        for line in request.split(b"\r\n")
        if line.lower().startswith(b"sec-websocket-key")
    )
    accept = base64.b64encode(hashlib.sha1(key + GUID).digest())  # noqa: S324 - RFC 6455 wants it
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )


OnText = Callable[["Client", bytes], None]


class Client:
    """What the server has of one client."""

    def __init__(self, connection: socket.socket, on_text: OnText | None) -> None:
        self.connection = connection
        self.received: list[tuple[int, bytes]] = []
        self.ended = threading.Event()
        self._on_text = on_text

    def send(self, *chunks: bytes) -> None:
        for chunk in chunks:
            self.connection.sendall(chunk)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        self.connection.close()

    def read(self) -> None:
        """Take the client's frames until it closes."""
        with contextlib.suppress(OSError, ValueError):
            while head := self._exactly(2):
                size = head[1] & 0x7F
                assert size < 126
                mask = self._exactly(4)
                payload = bytes(b ^ mask[i % 4] for i, b in enumerate(self._exactly(size)))
                self.received.append((head[0] & 0x0F, payload))
                if self._on_text is not None and head[0] & 0x0F == 1:
                    self._on_text(self, payload)
        self.ended.set()

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            chunk = self.connection.recv(size - len(data))
            if not chunk:
                return b""
            data += chunk
        return data


class RawServer:
    """Listens while it is entered.

    `answer` is sent to each client's request instead of the right one; `on_text` is called with each text
    message, in the thread of its client.
    """

    def __init__(
        self,
        context: ssl.SSLContext | None = None,
        *,
        answer: bytes | None = None,
        on_text: OnText | None = None,
    ) -> None:
        self._context = context
        self._answer = answer
        self._on_text = on_text
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._clients: queue.Queue[Client] = queue.Queue()
        self._all: list[Client] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)

    @property
    def url(self) -> str:
        port = self._listening.getsockname()[1]
        return f"ws://127.0.0.1:{port}" if self._context is None else f"wss://localhost:{port}"

    def client(self) -> Client:
        """Wait for the next client whose handshake is made."""
        return self._clients.get(timeout=10)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()
        for client in self._all:
            client.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
            client = Client(connection, self._on_text)
            self._all.append(client)
            request = b""
            while b"\r\n\r\n" not in request:
                chunk = connection.recv(4096)
                if not chunk:
                    return
                request += chunk
            if self._answer is not None:
                connection.sendall(self._answer)
                client.close()
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(accepting(request))
            self._clients.put(client)
            client.read()
