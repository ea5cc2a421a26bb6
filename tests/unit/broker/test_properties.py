"""Properties of deliveries: like those that pika decodes, without headers where it cannot decode them."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from pika.spec import BasicProperties

from blackbird.broker.properties import (
    DeliveredProperties,
    are_decodable,
    publication,
    published_at,
    without_headers,
)

ALL = BasicProperties(
    content_type="application/json",
    content_encoding="utf-8",
    headers={"published_at": 2**40, "CC": ["signal"]},
    delivery_mode=2,
    correlation_id="c",
    reply_to="r",
    timestamp=5,
    app_id="a",
)


def encoded(properties: BasicProperties) -> bytes:
    return b"".join(properties.encode())


def with_table(table: bytes) -> bytes:
    """Return properties whose headers are this table, with others before and after it."""
    whole = encoded(ALL)
    own = encoded(BasicProperties(headers=ALL.headers))[2:]
    assert own in whole
    return whole.replace(own, struct.pack(">I", len(table)) + table)


def fields(properties: BasicProperties) -> dict[str, Any]:
    return {name: getattr(properties, name) for name in vars(ALL)}


def test_delivered_properties_are_those_that_pika_decodes() -> None:
    delivered = DeliveredProperties(encoded(ALL))
    assert fields(delivered) == fields(ALL)
    assert encoded(delivered) == encoded(ALL)
    with pytest.raises(AttributeError):
        delivered.no_such_property  # noqa: B018


@pytest.mark.parametrize(
    "value",
    [
        b"T" + struct.pack(">Q", 2**63),
        b"d" + struct.pack(">d", float("nan")),
        b"d" + struct.pack(">d", float("inf")),
        b"?",
        b"S" + struct.pack(">I", 5),
    ],
)
def test_headers_that_pika_cannot_decode_count_as_missing_and_the_rest_is_read(value: bytes) -> None:
    garbled = with_table(b"\x01x" + value)
    assert not are_decodable(garbled)
    without = fields(ALL) | {"headers": None}
    assert fields(DeliveredProperties(garbled)) == without
    assert fields(BasicProperties().decode(without_headers(garbled))) == without


def test_published_at_is_read_from_a_header_of_any_type() -> None:
    for value in (1_723_161_255_608, -1, 5, 2**40, True, "text", None):
        headers = BasicProperties(headers={"published_at": value})
        number = None if value is True or not isinstance(value, int) else value
        assert published_at(DeliveredProperties(encoded(headers))) == number
        assert published_at(BasicProperties().decode(encoded(headers))) == number
    assert published_at(BasicProperties()) is None
    assert published_at(DeliveredProperties(encoded(BasicProperties()))) is None


def test_published_at_is_read_beside_a_header_that_cannot_be_decoded() -> None:
    garbled = with_table(b"\x0cpublished_atl" + struct.pack(">q", 7) + b"\x01x?")
    assert published_at(DeliveredProperties(garbled)) == 7


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"CC": ["signal"], "published_at": 2**40, "number": 2**60}, (2**40, 2**60)),
        ({"number": 2**60, "published_at": 2**40}, (2**40, 2**60)),
        ({"published_at": 2**40, "x": 1, "number": 7}, (2**40, 7)),
        ({"published_at": 2**40}, (2**40, None)),
        ({"number": 2**60}, (None, 2**60)),
        ({"published_at": 5, "number": -5}, (5, -5)),
        ({"published_at": "text", "number": True}, (None, None)),
        ({}, (None, None)),
        (None, (None, None)),
    ],
)
def test_publication_is_read_from_headers_in_any_order_and_of_any_type(
    headers: dict[str, Any] | None, expected: tuple[int | None, int | None]
) -> None:
    properties = encoded(BasicProperties(headers=headers))
    assert publication(DeliveredProperties(properties)) == expected
    assert publication(BasicProperties().decode(properties)) == expected


def test_number_that_no_column_of_64_bits_holds_counts_as_missing() -> None:
    properties = BasicProperties(headers={"published_at": 2**63, "number": -(2**63) - 1})
    assert publication(properties) == (None, None)
