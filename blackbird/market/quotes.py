"""Quotes: the best prices of all books at a whole second, as the signal engine publishes them."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated, Literal

import msgspec

from blackbird.market.decimals import LARGEST, SMALLEST
from blackbird.market.fields import LARGEST_BIGINT, InvalidMessage, Text, UnsignedBigint, is_db_safe
from blackbird.market.instrument import Instrument
from blackbird.market.order_book import OrderBook

MAX_QUOTES_BYTES = 10_000_000

BookState = Literal["in sync", "waits for snapshot"]


class Quote(msgspec.Struct, frozen=True, omit_defaults=True):
    """The best level of each side of an instrument's book, sizes as the exchange has reported them.

    A side without levels has neither price nor size, nor has a book that waits for a snapshot. `number` is
    that of the last message that the book has seen, `received_at` (milliseconds) is when the collector
    received the last one that agreed with it.
    """

    channel: Text
    symbol: Text
    group: Text | None
    state: BookState
    received_at: UnsignedBigint
    number: Annotated[int, msgspec.Meta(ge=-(2**63), le=LARGEST_BIGINT)] | None = None
    bid: Decimal | None = None
    bid_size: Decimal | None = None
    ask: Decimal | None = None
    ask_size: Decimal | None = None


class Quotes(msgspec.Struct, frozen=True):
    """The quotes of all books at `time`, milliseconds of a whole second."""

    time: UnsignedBigint
    quotes: list[Quote]


encode_quotes = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Quotes).decode


def quote_of(instrument: Instrument, book: OrderBook, group: str | None, number: int | None) -> Quote:
    """Return the quote of an instrument's book as it is now; `number` is of the last message it has seen."""
    channel, symbol = instrument
    if not book.in_sync:
        return Quote(channel, symbol, group, "waits for snapshot", book.received_ms, number)
    bid, bid_size = book.bids.best_reported() or (None, None)
    ask, ask_size = book.asks.best_reported() or (None, None)
    return Quote(channel, symbol, group, "in sync", book.received_ms, number, bid, bid_size, ask, ask_size)


def decode_quotes(body: bytes) -> Quotes:
    """Return the quotes in `body`; raises InvalidMessage."""
    if len(body) > MAX_QUOTES_BYTES:
        raise InvalidMessage(f"expected at most {MAX_QUOTES_BYTES} bytes, was {len(body)}")
    try:
        message = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidMessage(str(error)) from None
    for quote in message.quotes:
        _check(quote)
    return message


def _check(quote: Quote) -> None:
    for text in (quote.channel, quote.symbol, quote.group or ""):
        if not is_db_safe(text):
            raise InvalidMessage(f"expected text without NUL and lone surrogates, was {text!r}")
    for number in _numbers(quote):
        if number is not None and not (number.is_finite() and SMALLEST <= number < LARGEST):
            raise InvalidMessage(f"expected {SMALLEST} to {LARGEST}, was {number!s:.80}")


def _numbers(quote: Quote) -> Sequence[Decimal | None]:
    return quote.bid, quote.bid_size, quote.ask, quote.ask_size
