"""Figures as the page shows them: exact decimals in, text out."""

from __future__ import annotations

import datetime as dt
from decimal import ROUND_HALF_UP, Context, Decimal

MINUS = "−"
NOTHING = "–"
_ROUND = Context(prec=200, rounding=ROUND_HALF_UP)
_SIZES = ("B", "kB", "MB", "GB", "TB")


def figure(value: Decimal | None, places: int | None = None, *, signed: bool = False) -> str:
    """Return `value` with thousands separators and a true minus sign.

    With `places` it is rounded half away from zero, as SQL's round(); without, every digit is shown and
    trailing zeros are not.
    """
    if value is None:
        return NOTHING
    if places is None:
        shown = f"{value:,f}"
        if "." in shown:
            shown = shown.rstrip("0").rstrip(".")
    else:
        shown = f"{_ROUND.quantize(value, Decimal(1).scaleb(-places)):,f}"
    if not shown.strip("-0.,"):
        shown = shown.lstrip("-")
    elif signed and value > 0:
        shown = f"+{shown}"
    return shown.replace("-", MINUS)


def places_of(*values: Decimal | None) -> int:
    """Return how many decimal places the longest of these has: figures below each other have the same."""
    exponents = [value.normalize().as_tuple().exponent for value in values if value is not None]
    return max([0, *(-exponent for exponent in exponents if isinstance(exponent, int))])


def trimmed(value: Decimal | None, places: int = 2, *, signed: bool = False) -> str:
    """Return what was computed of fees, whose digits run long: at most so many places, and at least two."""
    return figure(value, min(places_of(value), max(places, 2)), signed=signed)


def count(value: float | None, places: int = 0) -> str:
    """Return a count or rate."""
    return NOTHING if value is None else f"{value:,.{places}f}".replace("-", MINUS)


def percent(part: Decimal, whole: Decimal) -> Decimal:
    """Return what per cent of `whole` `part` is, to one place; 0 where there is no whole."""
    return _ROUND.quantize(part / whole * 100, Decimal("0.1")) if whole else Decimal(0)


def duration(seconds: float) -> str:
    """Return how long something took, in the two units that matter."""
    seconds = max(seconds, 0.0)
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} m {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} m"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours:02d} h"


def milliseconds(seconds: float | None) -> str:
    """Return a duration in milliseconds, with the digits that mean something."""
    if seconds is None:
        return NOTHING
    value = seconds * 1000
    return count(value, 1 if value < 100 else 0)


def size(octets: float | None) -> str:
    """Return an amount of memory or disk."""
    if octets is None:
        return NOTHING
    value = float(octets)
    for unit in _SIZES[:-1]:
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.1f} {_SIZES[-1]}"


def clock(at_ms: int) -> str:
    """Return the time of day in UTC, to the millisecond."""
    at = dt.datetime.fromtimestamp(at_ms / 1000, dt.UTC)
    return f"{at:%H:%M:%S}.{at_ms % 1000:03d}"


def date(at_ms: int) -> str:
    """Return the date in UTC."""
    return f"{dt.datetime.fromtimestamp(at_ms / 1000, dt.UTC):%a %d %b %Y}"
