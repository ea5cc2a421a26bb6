"""AMQP over a plain socket, with prebuilt frames: what drives a benchmark costs it as little as possible.

One channel, no heartbeats, blocking. Only what the benchmarks need.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Self

import pika.frame
import pika.spec
from pika.spec import BasicProperties

from config import Config

_HEAD = struct.Struct(">BHI").unpack_from
_METHOD, _HEADER, _BODY = 1, 2, 3
_DELIVER = 60 << 16 | 60
CHUNK = 200


class Delivery(NamedTuple):
    """A message as it came; `properties` are decoded when asked for."""

    header: bytes
    body: bytes

    @property
    def properties(self) -> BasicProperties:
        properties = BasicProperties()
        properties.decode(self.header[12:])
        return properties


class RawBroker:
    """A connection to a virtual host."""

    def __init__(self, virtual_host: str, environment: Mapping[str, str]) -> None:
        host = environment.get("RABBITMQ_HOST", Config.RABBITMQ_HOST)
        port = int(environment.get("RABBITMQ_PORT", Config.RABBITMQ_PORT))
        self._socket = socket.create_connection((host, port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""
        self._at = 0
        self._deliveries: list[Delivery] = []
        self._socket.sendall(pika.frame.ProtocolHeader().marshal())
        self._answer()
        login = f"\0{Config.RABBITMQ_USER}\0{Config.RABBITMQ_PASSWORD}"
        start = pika.spec.Connection.StartOk({}, "PLAIN", login, "en_US")
        tune = self._call(start, channel=0)
        self._send(pika.spec.Connection.TuneOk(tune.channel_max, tune.frame_max, 0), channel=0)
        self._frame_max = tune.frame_max - 8
        self._call(pika.spec.Connection.Open(virtual_host, insist=True), channel=0)
        self._call(pika.spec.Channel.Open())

    def declare(self, queue: str, *, durable: bool = True, exclusive: bool = False) -> str:
        declared = self._call(pika.spec.Queue.Declare(queue=queue, durable=durable, exclusive=exclusive))
        return str(declared.queue)

    def bind(self, queue: str, exchange: str, key: str) -> None:
        self._call(pika.spec.Queue.Bind(queue=queue, exchange=exchange, routing_key=key))

    def waiting(self, queue: str) -> int:
        """Return how many messages of `queue` wait to be delivered."""
        return int(self._call(pika.spec.Queue.Declare(queue=queue, passive=True)).message_count)

    def purge(self, queue: str) -> None:
        self._call(pika.spec.Queue.Purge(queue=queue))

    def consume(self, queue: str) -> None:
        """Start a consumer that acknowledges nothing."""
        self._call(pika.spec.Basic.Consume(queue=queue, no_ack=True))

    def confirm_publishes(self) -> None:
        """Have the broker confirm what is published from now on."""
        self._call(pika.spec.Confirm.Select())

    def discard(self) -> None:
        """Read whatever comes, until the connection ends: a thread's work, beside one that only writes."""
        self._socket.settimeout(None)
        while self._socket.recv(262_144):
            pass

    def frames(
        self, exchange: str, key: str, body: bytes, properties: BasicProperties | None = None
    ) -> bytes:
        """Return a message as it goes over the wire."""
        header = properties or BasicProperties(delivery_mode=2)
        parts = [
            pika.frame.Method(1, pika.spec.Basic.Publish(exchange=exchange, routing_key=key)).marshal(),
            pika.frame.Header(1, len(body), header).marshal(),
        ]
        parts += [
            pika.frame.Body(1, body[at : at + self._frame_max]).marshal()
            for at in range(0, len(body), self._frame_max)
        ]
        return b"".join(parts)

    def write(self, frames: bytes) -> None:
        self._socket.sendall(frames)

    def publish(self, queue: str, bodies: Iterable[bytes], properties: BasicProperties) -> int:
        """Publish all bodies to a queue and return how many they were."""
        count = 0
        chunk: list[bytes] = []
        for body in bodies:
            chunk.append(self.frames("", queue, body, properties))
            count += 1
            if len(chunk) == CHUNK:
                self.write(b"".join(chunk))
                chunk.clear()
        self.write(b"".join(chunk))
        return count

    def fill(self, queue: str, bodies: Iterable[bytes], properties: BasicProperties) -> None:
        """Publish all bodies to a queue that was empty; it has them afterwards."""
        count = self.publish(queue, bodies, properties)
        deadline = time.monotonic() + 60
        while (waiting := self.waiting(queue)) != count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"expected {count} messages in {queue}, were {waiting}")
            time.sleep(0.01)

    def take(self, seconds: float = 30) -> Delivery:
        """Return the next message of the consumers; raises TimeoutError."""
        if self._deliveries:
            return self._deliveries.pop(0)
        self._socket.settimeout(seconds)
        while True:
            kind, payload = self._frame()
            if kind == _METHOD:
                if int.from_bytes(payload[:4], "big") == _DELIVER:
                    return self._delivery()
                self._check(payload)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    # --- frames ----------------------------------------------------------------------------------

    def _delivery(self) -> Delivery:
        _, header = self._frame()
        size = int.from_bytes(header[4:12], "big")
        body = b""
        while len(body) < size:
            body += self._frame()[1]
        return Delivery(header, body)

    def _frame(self) -> tuple[int, bytes]:
        while len(self._buffer) - self._at < 7:
            self._receive()
        kind, _, size = _HEAD(self._buffer, self._at)
        end = self._at + 7 + size
        while len(self._buffer) < end + 1:
            before = self._at
            self._receive()
            end -= before - self._at
        payload = self._buffer[self._at + 7 : end]
        self._at = end + 1
        return kind, payload

    def _receive(self) -> None:
        data = self._socket.recv(262_144)
        if not data:
            raise ConnectionError("the broker closed the connection")
        self._buffer = self._buffer[self._at :] + data
        self._at = 0

    def _send(self, method: Any, channel: int = 1) -> None:
        self.write(pika.frame.Method(channel, method).marshal())

    def _call(self, method: Any, channel: int = 1) -> Any:
        self._send(method, channel)
        return self._answer()

    def _answer(self) -> Any:
        """Return the next method that is not a delivery; deliveries before it are kept for `take`."""
        self._socket.settimeout(60)
        while True:
            kind, payload = self._frame()
            if kind != _METHOD:
                continue
            number = int.from_bytes(payload[:4], "big")
            if number == _DELIVER:
                self._deliveries.append(self._delivery())
                continue
            self._check(payload)
            method = pika.spec.methods[number]()
            method.decode(payload, 4)
            return method

    @staticmethod
    def _check(payload: bytes) -> None:
        number = int.from_bytes(payload[:4], "big")
        if number in {pika.spec.Channel.Close.INDEX, pika.spec.Connection.Close.INDEX}:
            closed: Any = pika.spec.methods[number]()
            closed.decode(payload, 4)
            raise ConnectionError(f"the broker closed: {closed.reply_code} {closed.reply_text}")
