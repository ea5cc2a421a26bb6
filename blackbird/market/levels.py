"""The levels of one side of a book: read one by one, or checked all at once."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from blackbird.market.decimals import PRICES, SIZES
from blackbird.market.fields import InvalidMessage

FAST_PATH_MIN_BYTES = 200  # bytes: reading so few levels costs less than asking whether they are plain


TextLevels = list[tuple[str, str]]
Levels = list[tuple[Decimal, Decimal]]


def text_levels(side: bytes | msgspec.Raw) -> TextLevels:
    """Return the levels in the JSON of one side as (price, size) texts, as `decimal_levels` takes them.

    Raises InvalidMessage on anything but decimal texts, and on numbers too large or too fine.
    """
    levels = _texts(side)
    for price, size in levels:
        PRICES[price]
        SIZES[size]
    return levels


def decimal_levels(side: bytes | msgspec.Raw | Levels) -> Levels:
    """Return the levels in the JSON of one side as exact decimals: price above zero, size zero or above.

    What is a list has been read before, by this function, and is returned as it is.
    Raises InvalidMessage on anything but decimal texts, and on numbers too large or too fine.
    """
    if isinstance(side, list):
        return side
    return [(PRICES[price], SIZES[size]) for price, size in _texts(side)]


def _texts(side: bytes | msgspec.Raw) -> TextLevels:
    try:
        return _decode_levels(side)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidMessage(f"levels: {error}") from None


_decode_levels = msgspec.json.Decoder(TextLevels).decode


def canonical_prices(side: bytes, min_bytes: int | None = None) -> list[float] | None:
    """Return the prices in the JSON of one side, to the precision of floats, if it is plain, else None.

    Plain means no blanks, and nothing but levels that `decimal_levels` takes, in digits and dots: nearly all
    that come are. What has to hold for each number is asked of all of them at once, which costs a third of
    reading them, less where the numbers are new. Also None for a side of fewer than `min_bytes`, which is
    FAST_PATH_MIN_BYTES if not given.
    """
    if len(side) < (FAST_PATH_MIN_BYTES if min_bytes is None else min_bytes):
        return None
    # Without its digits and dots the side is nothing but pairs of quotes ...
    pairs = side.translate(None, b"0123456789.")
    if pairs != b'[["",""]%b]' % (b',["",""]' * (len(pairs) // 8 - 1)):
        return None
    # ... and without quotes and brackets nothing but numbers, none of them too long.
    alone = side.translate(None, b'"[]')
    if _TOO_LONG in alone.translate(_AS_ZERO):
        return None
    try:
        numbers = _decode_numbers_alone(b"[%b]" % alone)
    except msgspec.DecodeError:
        return None
    prices = numbers[::2]
    return prices if all(prices) else None


_AS_ZERO = bytes.maketrans(b"123456789", b"000000000")
_TOO_LONG = b"0" * 21
_decode_numbers_alone = msgspec.json.Decoder(list[float]).decode


def best_level(side: bytes, *, highest: bool) -> tuple[Decimal, Decimal] | None:
    """Return price and size of the first level of a plain side whose first level is its best, else None."""
    prices = canonical_prices(side)
    if prices is None or prices != sorted(prices, reverse=highest) or prices[0] in prices[1:2]:
        return None
    _, price, _, text, _ = side.split(b'"', 4)
    size = SIZES[text.decode()]
    return (PRICES[price.decode()], size) if size else None
