"""Properties of delivered messages, decoded when one of them is read, and never failing to decode.

Anyone may publish headers that AMQP allows and pika cannot hold: a timestamp beyond the year 9999, tables
nested a thousand deep. Decoded while a frame is read, such a header ends the connection; the broker
redelivers the message, and it ends the next one too. Here headers that cannot be decoded count as missing.
"""

from __future__ import annotations

import struct
from typing import Any

import pika.exceptions
from pika.spec import BasicProperties

# What pika raises while it decodes headers.
_UNDECODABLE = (
    ValueError,
    ArithmeticError,
    OSError,
    RecursionError,
    struct.error,
    pika.exceptions.AMQPError,
)
_PUBLISHED_AT = b"\x0cpublished_atl"  # the name of a header, and the type of a 64-bit number
_NUMBER = b"\x06numberl"
_unpack_publication = struct.Struct(f">q{len(_NUMBER)}sq").unpack_from
_PUBLICATION_BYTES = 24
_SEQUENCE = b"\x08sequencel"
_FLAGS_BYTES = 2
_flags = struct.Struct(">H")


class DeliveredProperties(BasicProperties):
    """BasicProperties that are decoded from `encoded` when the first of them is read."""

    def __init__(self, encoded: bytes) -> None:  # super() sets every attribute: what is missing gets decoded
        self.encoded = encoded

    def __getattr__(self, name: str) -> Any:
        if "headers" in self.__dict__:
            raise AttributeError(name)
        super().__init__()
        try:
            self.decode(self.encoded)
        except _UNDECODABLE:
            super().__init__()
            self.decode(without_headers(self.encoded))
        return getattr(self, name)


def are_decodable(encoded: bytes) -> bool:
    """Return whether pika can decode these properties."""
    try:
        BasicProperties().decode(encoded)
    except _UNDECODABLE:
        return False
    return True


def without_headers(encoded: bytes) -> bytes:
    """Return encoded properties with the table of headers cut out (AMQP 0-9-1, 4.2.6.1)."""
    flags: int = _flags.unpack_from(encoded)[0]
    start = _FLAGS_BYTES
    for flag in (BasicProperties.FLAG_CONTENT_TYPE, BasicProperties.FLAG_CONTENT_ENCODING):
        if flags & flag:
            start += 1 + encoded[start]
    end = start + 4 + int.from_bytes(encoded[start : start + 4], "big")
    kept_flags = _flags.pack(flags & ~BasicProperties.FLAG_HEADERS)
    return kept_flags + encoded[_FLAGS_BYTES:start] + encoded[end:]


def published_at(properties: BasicProperties) -> int | None:
    """Return the header `published_at` (milliseconds since 1970) where it is a number, else None.

    Found by its bytes where possible: decoding all headers costs as much as the rest of a delivery.
    """
    if isinstance(properties, DeliveredProperties):
        encoded = properties.encoded
        at = encoded.find(_PUBLISHED_AT)
        if at >= 0:
            return int.from_bytes(encoded[at + 14 : at + 22], "big", signed=True)
    return _number_header(properties, "published_at")


def publication(properties: BasicProperties) -> tuple[int | None, int | None]:
    """Return the headers `published_at` (milliseconds) and `number`, each None where it is not a number."""
    if isinstance(properties, DeliveredProperties):
        # As the collector sends them, one after the other.
        _, found, rest = properties.encoded.partition(_PUBLISHED_AT)
        if found and len(rest) >= _PUBLICATION_BYTES:
            published, name, number = _unpack_publication(rest)
            if name == _NUMBER:
                return published, number
    return published_at(properties), _number_header(properties, "number")


def sequence(properties: BasicProperties) -> int | None:
    """Return the header `sequence`, which counts the pushes of a partition, None where it is not a number."""
    if isinstance(properties, DeliveredProperties):
        encoded = properties.encoded
        at = encoded.find(_SEQUENCE)
        if at >= 0:
            return int.from_bytes(encoded[at + 10 : at + 18], "big", signed=True)
    return _number_header(properties, "sequence")


def _number_header(properties: BasicProperties, name: str) -> int | None:
    value = (properties.headers or {}).get(name)
    # pika gives some numbers as a subclass of int, and a bool is an int too.
    if isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63:
        return value
    return None
