"""A stretch of network between services and broker that a test can cut or silence."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import Self

from config import Config
from tests.support.workspace import Workspace

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with RST


class BrokerProxy:
    """Listens on `port` and passes everything on to the broker of the test's workspace."""

    def __init__(self, place: Workspace) -> None:
        host = place.environment.get("RABBITMQ_HOST", Config.RABBITMQ_HOST)
        self._broker = (host, int(place.environment.get("RABBITMQ_PORT", Config.RABBITMQ_PORT)))
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = str(self._listening.getsockname()[1])
        self._sockets: list[socket.socket] = []
        self._passing = threading.Event()
        self._passing.set()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._passing.set()
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._threads[0].join()
        self.cut()
        for thread in self._threads[1:]:
            thread.join()

    def cut(self) -> int:
        """Reset every connection, and return how many there were; new ones may come."""
        sockets, self._sockets = self._sockets, []
        for one in sockets:
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        return len(sockets) // 2

    def silence(self) -> None:
        """Let nothing through any more, without a word to either side."""
        self._passing.clear()

    def go_on(self) -> None:
        """Let everything through again."""
        self._passing.set()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            try:
                broker = socket.create_connection(self._broker, timeout=5)
            except OSError:
                client.close()
                continue
            broker.settimeout(None)
            self._sockets += (client, broker)
            for source, target in ((client, broker), (broker, client)):
                thread = threading.Thread(target=self._pass_on, args=(source, target))
                self._threads.append(thread)
                thread.start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._passing.wait()
                target.sendall(data)
        # The end of one direction is the end of both: neither side hangs.
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
