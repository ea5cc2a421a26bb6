"""Exact decimals: what adds up to a balance is never rounded without a word."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_UP, Context, Decimal, Inexact, InvalidOperation

# Far more digits than a sum of prices times sizes has; running out of them is an error, not a rounding.
EXACT = Context(prec=60, traps=[Inexact, InvalidOperation])
# Fees and results of linear contracts have 8 decimals; which way they are rounded is not confirmed.
SATOSHI = Decimal("0.00000001")


def plain(number: Decimal) -> str:
    """Write a number without exponent and without zeros at the end, as linear rows have it."""
    text = f"{number:f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in {"", "-0"} else text


def padded(number: Decimal, step: Decimal) -> str:
    """Write a number with the decimals of a step, as many spot numbers are."""
    return f"{number.quantize(step):f}"


def floor_to(number: Decimal, step: Decimal) -> Decimal:
    """Return the largest multiple of `step` that is not above `number`."""
    return (number / step).to_integral_value(ROUND_FLOOR) * step


def ceil_to(number: Decimal, step: Decimal) -> Decimal:
    """Return the smallest multiple of `step` that is not below `number`."""
    return (number / step).to_integral_value(ROUND_CEILING) * step


def is_multiple(number: Decimal, step: Decimal) -> bool:
    """Return whether `number` is a whole number of steps."""
    return number % step == 0


def to_satoshi(number: Decimal) -> Decimal:
    """Round to the 8 decimals of linear contracts."""
    return number.quantize(SATOSHI, ROUND_HALF_UP)


def total(*numbers: Decimal) -> Decimal:
    """Add without rounding."""
    result = Decimal(0)
    for number in numbers:
        result = EXACT.add(result, number)
    return result


def times(one: Decimal, other: Decimal) -> Decimal:
    """Multiply without rounding."""
    return EXACT.multiply(one, other)
