"""Exact decimals: prices, sizes and money, within stated bounds."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Context, Decimal, DivisionByZero, Inexact, InvalidOperation, Overflow

from blackbird.market.fields import InvalidMessage

# What a price or size may be: below 10^20, zero or at least 10^-20, at most 40 significant digits.
# Products and sums of such numbers fit EXACT, which raises instead of rounding.
LARGEST = Decimal("1E+20")
SMALLEST = Decimal("1E-20")
MAX_DIGITS = 40
EXACT = Context(prec=200, traps=[InvalidOperation, DivisionByZero, Overflow, Inexact])
ZERO = Decimal(0)
DECIMAL_CACHE_SIZE = 100_000
# Numbers as the exchange writes them, within the bounds by their length alone; and all that we take.
_PLAIN_DECIMAL = re.compile(r"[0-9]{1,20}(?:\.[0-9]{1,20})?").fullmatch
_DECIMAL = re.compile(r"[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,2})?").fullmatch


class _Decimals(dict[str, Decimal]):
    """Decimals by their texts, which come again and again: a look-up costs a fifth of making the decimal."""

    def __init__(self, make: Callable[[str], Decimal]) -> None:
        self._make = make

    def __missing__(self, text: str) -> Decimal:
        if len(self) >= DECIMAL_CACHE_SIZE:
            self.clear()
        number = self[text] = self._make(text)
        return number


def _price(text: str) -> Decimal:
    price = _size(text)
    if price == ZERO:
        raise InvalidMessage(f"expected a price above zero, was {text!r}")
    return price


def _size(text: str) -> Decimal:
    if _PLAIN_DECIMAL(text):
        return Decimal(text)
    if len(text) > MAX_DIGITS or not _DECIMAL(text):
        raise InvalidMessage(f"expected a decimal number, was {text[:MAX_DIGITS]!r}")
    size = Decimal(text)
    if size != ZERO and not SMALLEST <= size < LARGEST:
        raise InvalidMessage(f"expected {SMALLEST} to {LARGEST}, was {text!r}")
    return size


PRICES = _Decimals(_price)
SIZES = _Decimals(_size)
