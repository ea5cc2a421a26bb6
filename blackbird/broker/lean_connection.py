"""pika's asyncio connection with a short way for what is nearly all of the traffic.

For each message that comes pika reads the socket twice, decodes three frames, a method and a table into
objects, and looks for callbacks a dozen times; for each that goes it has the event loop say when the socket
takes something, and writes three times. Here a delivery that is whole in the buffer goes straight to its
consumer, with properties that are decoded when somebody asks for them, and what is sent in one turn of the
event loop goes out at its end in one write. Everything else, a delivery that is not whole included, goes
pika's own way.

The methods and attributes with an underscore are pika's: the exact pin of its version keeps them so.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Sequence
from datetime import MAXYEAR, datetime, tzinfo
from typing import Any, Self

import pika.data
import pika.frame
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.spec import Basic, BasicProperties

RECEIVE_BYTES = 65_536  # of one read; pika's are 4096, and above 128 kB each takes memory from the system

# AMQP 0-9-1, 4.2.3: type, channel, size, then the payload and an end octet.
_METHOD, _HEADER, _BODY, _END = 1, 2, 3, 0xCE
_method_start = struct.Struct(">BHIIB").unpack_from  # ... class and method, length of the consumer tag
_header_start = struct.Struct(">BHIHHQ").unpack_from  # ... class, weight, body size
_body_start = struct.Struct(">BHI").unpack_from
_method_head = struct.Struct(">BHII").pack
_header_head = struct.Struct(">BHIHHQ").pack
_body_head = struct.Struct(">BHI").pack
_tags = struct.Struct(">QBB").unpack_from  # delivery tag, redelivered, length of the exchange's name
_DELIVER = Basic.Deliver.INDEX
_PUBLISHED_AT = b"\x0cpublished_atl"  # a header's name, and the type of a 64-bit number


class _Timestamp(datetime):
    """The type that pika makes of AMQP's timestamps; one that it can't hold becomes the latest that it can.

    Otherwise a header with such a time would break the connection of whoever the message is delivered to, and
    the next one, for ever.
    """

    @classmethod
    def fromtimestamp(cls, timestamp: float, tz: tzinfo | None = None) -> Self:
        try:
            return super().fromtimestamp(timestamp, tz)
        except (ValueError, OverflowError, OSError):
            return cls(MAXYEAR, 12, 31, tzinfo=tz)


pika.data.datetime = _Timestamp  # type: ignore[attr-defined]


class DeliveredProperties(BasicProperties):
    """Properties of a delivery, decoded when one of them is asked for."""

    def __init__(self, encoded: bytes) -> None:  # pika's own sets every attribute: what is missing is decoded
        self.encoded = encoded

    def __getattr__(self, name: str) -> Any:
        if "headers" in self.__dict__:
            raise AttributeError(name)
        super().__init__()
        self.decode(self.encoded)
        return getattr(self, name)


def published_at(properties: BasicProperties) -> int | None:
    """Return the header `published_at` where it is a number; mostly without decoding the others."""
    if isinstance(properties, DeliveredProperties):
        encoded = properties.encoded
        at = encoded.find(_PUBLISHED_AT)
        if at >= 0:
            return int.from_bytes(encoded[at + 14 : at + 22], "big", signed=True)
    value = (properties.headers or {}).get("published_at")
    # pika gives some numbers as a subclass of int, and so is True.
    return value if isinstance(value, int) and not isinstance(value, bool) else None


_Pika: Any = AsyncioConnection  # its stubs name only what is public


class LeanConnection(_Pika):  # type: ignore[misc]
    """An AsyncioConnection that spends less on each message."""

    _frame_buffer: bytes

    def _proto_connection_made(self, transport: Any) -> None:
        self._outgoing: list[bytes] = []
        self._loop = asyncio.get_running_loop()
        super()._proto_connection_made(transport)
        if (connected := self._socket) is not None:
            self._loop.add_reader(connected, self._read)

    def cut_off(self) -> None:
        """End at once: a close would wait for an answer, and abandoned the socket would stay open."""
        self._adapter_disconnect_stream()

    # --- the socket ------------------------------------------------------------------------------

    @property
    def _socket(self) -> socket.socket | None:
        """The connected socket, None before and after."""
        transport = self._transport
        if transport is None or transport._state != transport._STATE_ACTIVE:  # noqa: SLF001
            return None
        connected: socket.socket = transport._sock  # noqa: SLF001
        return connected

    def _read(self) -> None:
        connected = self._socket
        if connected is None:
            return
        try:
            data = connected.recv(RECEIVE_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._transport._on_socket_readable()  # noqa: SLF001 - it finds the end too, and says so
            return
        try:
            self._on_data_available(data)
        except Exception as error:  # noqa: BLE001 - as pika does: it ends the connection with its reason
            self._transport._initiate_abort(error)  # noqa: SLF001

    def _adapter_emit_data(self, data: bytes) -> None:
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(data)

    def _flush(self) -> None:
        data = b"".join(self._outgoing)
        self._outgoing.clear()
        connected = self._socket
        if connected is None or not data:
            return
        if not self._transport.get_write_buffer_size():
            with contextlib.suppress(OSError):  # what it can't send now pika sends later, or finds out why
                data = data[connected.send(data) :]
        if data:
            self._transport.write(data)

    def _adapter_disconnect_stream(self) -> None:
        if self._transport is not None:
            self._flush()
        super()._adapter_disconnect_stream()

    # --- what comes ------------------------------------------------------------------------------

    def _on_data_available(self, data_in: bytes) -> None:
        if not self.is_open:
            super()._on_data_available(data_in)
            return
        data = self._frame_buffer + data_in
        at = 0
        while True:
            end = self._deliver(data, at)
            if end == at:
                end = at + 8 + int.from_bytes(data[at + 3 : at + 7], "big")
                if end > len(data) or at + 8 > len(data):
                    break
                _, frame = pika.frame.decode_frame(data[at:end])
                self.bytes_received += end - at
                self._process_frame(frame)
            at = end
        self._frame_buffer = data[at:]

    def _deliver(self, data: bytes, at: int) -> int:
        """Hand over the delivery that begins at `at` and return its end; `at` where pika has to see to it."""
        try:
            kind, number, size, method, length = _method_start(data, at)
            if kind != _METHOD or method != _DELIVER:
                return at
            header = at + 8 + size
            _, _, header_size, _, _, body_size = _header_start(data, header)
            body = header + 8 + header_size
            kind, _, size = _body_start(data, body)
            end: int = body + 8 + size
            if kind != _BODY or size != body_size or data[end - 1] != _END:
                return at
            after_tag = at + 12 + length
            tag = data[at + 12 : after_tag].decode()
            delivery_tag, redelivered, length = _tags(data, after_tag)
            key = after_tag + 10 + length
            exchange = data[after_tag + 10 : key].decode()
            routing_key = data[key + 1 : header - 1].decode()
        except (struct.error, IndexError, UnicodeDecodeError):
            return at
        channel = self._channels.get(number)
        if channel is None or tag in channel._cancelled or tag not in channel._consumers:  # noqa: SLF001
            return at
        deliver = Basic.Deliver(tag, delivery_tag, bool(redelivered), exchange, routing_key)
        self.frames_received += 3
        self.bytes_received += end - at
        properties = DeliveredProperties(data[header + 19 : body - 1])
        channel._consumers[tag](channel, deliver, properties, data[body + 7 : end - 1])  # noqa: SLF001
        return end

    # --- what goes -------------------------------------------------------------------------------

    def _send_message(self, channel_number: int, method_frame: Any, content: tuple[Any, bytes]) -> None:
        properties, body = content
        if not 0 < len(body) <= self._body_max_length:
            super()._send_message(channel_number, method_frame, content)
            return
        method = b"".join(method_frame.encode())
        header = b"".join(properties.encode())
        frames = (
            _method_head(_METHOD, channel_number, 4 + len(method), method_frame.INDEX) + method,
            _header_head(_HEADER, channel_number, 12 + len(header), properties.INDEX, 0, len(body)) + header,
            _body_head(_BODY, channel_number, len(body)) + body,
        )
        data = b"\xce".join((*frames, b""))
        self.frames_sent += 3
        self.bytes_sent += len(data)
        self._adapter_emit_data(data)

    def _output_marshaled_frames(self, marshaled_frames: Sequence[bytes]) -> None:
        data = b"".join(marshaled_frames)
        self.frames_sent += len(marshaled_frames)
        self.bytes_sent += len(data)
        self._adapter_emit_data(data)
