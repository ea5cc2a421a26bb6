"""Order-book messages: the exchange's pushes with `channel` and `matching_key` added."""

from __future__ import annotations

from typing import Literal

import msgspec

from blackbird.market.fields import InvalidMessage, Text, UnsignedBigint, is_db_safe
from blackbird.market.instrument import Instrument

# Larger bodies are refused unread: Bybit's deepest book (1000 levels a side) is about 50 kB.
MAX_BOOK_BYTES = 1_000_000


class BookData(msgspec.Struct, frozen=True, gc=False):
    """`data` of a push: bids and asks as the JSON that came, update id `u`, cross sequence `seq`."""

    s: Text
    b: msgspec.Raw
    a: msgspec.Raw
    u: UnsignedBigint
    seq: UnsignedBigint


class BookMessage(msgspec.Struct, frozen=True, gc=False):
    """A push of Bybit's order-book topic plus `channel` and `matching_key`. Times are milliseconds."""

    topic: Text
    type: Literal["snapshot", "delta"]
    ts: UnsignedBigint
    data: BookData
    cts: UnsignedBigint
    channel: Literal["spot", "linear", "inverse", "option"]
    matching_key: Text

    @property
    def instrument(self) -> Instrument:
        """Return the instrument whose book this updates."""
        return Instrument(self.channel, self.data.s)


_decode_book = msgspec.json.Decoder(BookMessage).decode


def decode_book(body: bytes) -> BookMessage:
    """Return the order-book message in `body`; its levels are checked when they are read.

    Raises InvalidMessage on anything that is not one.
    """
    if len(body) > MAX_BOOK_BYTES:
        raise InvalidMessage(f"expected at most {MAX_BOOK_BYTES} bytes, was {len(body)}")
    try:
        message = _decode_book(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidMessage(str(error)) from None
    if b"\\" in body:
        for text in (message.topic, message.data.s, message.matching_key):
            if not is_db_safe(text):
                raise InvalidMessage(f"expected text without NUL and lone surrogates, was {text!r}")
    return message
