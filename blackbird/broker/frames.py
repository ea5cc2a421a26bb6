"""AMQP 0-9-1 frames of messages: delivered ones read from bytes, published ones written to bytes.

A frame (4.2.3) is type, channel and size, then the payload, then an end octet. A message is a method frame
(Basic.Deliver or Basic.Publish), a header frame (size of the body, properties), and the body frames, as many
as it needs.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import TypeVar

from pika.spec import Basic, BasicProperties

from blackbird.broker.properties import DeliveredProperties, are_decodable, without_headers

METHOD, HEADER, BODY = 1, 2, 3
FRAME_TYPES = frozenset({METHOD, HEADER, BODY, 8})
HEARTBEAT_FRAME = b"\x08\0\0\0\0\0\0\xce"
# Type, channel, size and end octet.
OVERHEAD = 8

_END = 0xCE
_DELIVER, _BASIC = Basic.Deliver.INDEX, BasicProperties.INDEX
_PROTOCOL_HEADER = b"AMQP"
# Offsets in a header frame: after type, channel and size come class, weight, body size and the properties.
_PROPERTIES_AT = 19

_method_start = struct.Struct(">BHIIB").unpack_from  # ... class and method, length of the consumer tag
_header_start = struct.Struct(">BHIHHQ").unpack_from  # ... class, weight, size of the body
_body_start = struct.Struct(">BHI").unpack_from
_after_consumer_tag = struct.Struct(">QBB").unpack_from  # delivery tag, redelivered, length of the exchange
_method_head = struct.Struct(">BHII").pack
_header_head = struct.Struct(">BHIHHQ").pack
_body_head = struct.Struct(">BHI").pack

ConsumerKey = tuple[int, bytes]
T = TypeVar("T")
Delivery = tuple[T, Basic.Deliver, DeliveredProperties, bytes, int]


class IncompleteFrame(Exception):
    """What begins here has not arrived completely yet."""


class NotAMQP(Exception):
    """What the peer sends is not AMQP."""


def consumer_key(channel: int, consumer_tag: str) -> ConsumerKey:
    """Return what a consumer is found by."""
    return channel, consumer_tag.encode()


def read_delivery(data: bytes, at: int, consumers: Mapping[ConsumerKey, T]) -> Delivery[T] | None:
    """Return the delivery that begins at `at` if it is for one of `consumers`: consumer, message, its end.

    None where something else begins, or the body comes in several frames. Raises IncompleteFrame.
    """
    if data[at] != METHOD:
        return None
    try:
        _, channel, size, method, length = _method_start(data, at)
        if method != _DELIVER:
            return None
        after_tag = at + 12 + length
        consumer_tag = data[at + 12 : after_tag]
        consumer = consumers.get((channel, consumer_tag))
        if consumer is None:
            return None
        header = at + OVERHEAD + size
        _, _, size, _, _, body_size = _header_start(data, header)
        end: int = header + OVERHEAD + size
        properties = data[header + _PROPERTIES_AT : end - 1]
        body = b""
        if body_size:
            start = end + 7
            _, _, size = _body_start(data, end)
            if size != body_size:
                return None
            end += OVERHEAD + size
            body = data[start : end - 1]
        if data[end - 1] != _END:
            raise NotAMQP("a frame without its end octet")
        delivery_tag, redelivered, length = _after_consumer_tag(data, after_tag)
    except (struct.error, IndexError):
        raise IncompleteFrame from None
    key = after_tag + 10 + length
    deliver = Basic.Deliver(
        consumer_tag.decode(),
        delivery_tag,
        bool(redelivered),
        data[after_tag + 10 : key].decode(),
        data[key + 1 : header - 1].decode(),
    )
    return consumer, deliver, DeliveredProperties(properties), body, end


def frame_end(data: bytes, at: int) -> int:
    """Return where the frame that begins at `at` ends; raises IncompleteFrame, NotAMQP."""
    if data[at] not in FRAME_TYPES:
        if not _PROTOCOL_HEADER.startswith(data[at : at + 4]):
            raise NotAMQP(f"expected an AMQP frame, was {data[at : at + 20]!r}")
        end = at + OVERHEAD  # a broker that speaks another version names it
    elif len(data) - at < OVERHEAD:
        raise IncompleteFrame
    else:
        end = at + OVERHEAD + int.from_bytes(data[at + 3 : at + 7], "big")
    if end > len(data):
        raise IncompleteFrame
    return end


def decodable_frame(frame: bytes) -> bytes:
    """Return a frame that pika can decode: without headers where it is one whose headers pika cannot."""
    if frame[0] != HEADER or are_decodable(encoded := frame[_PROPERTIES_AT:-1]):
        return frame
    properties = without_headers(encoded)
    _, channel, _, index, weight, body_size = _header_start(frame)
    head = _header_head(HEADER, channel, 12 + len(properties), index, weight, body_size)
    return head + properties + frame[-1:]


def publish_frames(
    channel: int, frame_max: int, exchange: str, key: str, body: bytes, properties: BasicProperties
) -> bytes:
    """Return the frames that publish a message; no frame is larger than `frame_max`."""
    size, largest = len(body), frame_max - OVERHEAD
    encoded = b"".join(properties.encode())
    header = _header_head(HEADER, channel, 12 + len(encoded), _BASIC, 0, size)
    start = _publish_method(channel, exchange, key)
    if 0 < size <= largest:
        return b"".join((start, header, encoded, b"\xce", _body_head(BODY, channel, size), body, b"\xce"))
    parts = [start, header, encoded, b"\xce"]
    for at in range(0, size, largest):
        part = body[at : at + largest]
        parts += (_body_head(BODY, channel, len(part)), part, b"\xce")
    return b"".join(parts)


@lru_cache(1000)
def _publish_method(channel: int, exchange: str, key: str) -> bytes:
    method = b"".join(Basic.Publish(exchange=exchange, routing_key=key).encode())
    return _method_head(METHOD, channel, 4 + len(method), Basic.Publish.INDEX) + method + b"\xce"
