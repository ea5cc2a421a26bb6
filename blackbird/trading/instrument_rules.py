"""What may be ordered of an instrument: steps, ticks, least and most, and whether it trades at all.

Fields: https://bybit-exchange.github.io/docs/v5/market/instrument.
"""

from __future__ import annotations

from decimal import ROUND_DOWN, Context, Decimal
from math import lcm

import msgspec

from blackbird.market.decimals import EXACT
from blackbird.market.instrument import Instrument
from blackbird.trading.leg_order import BUY, Side

TRADING = "Trading"

# Quotients that need not be exact.
_ROUNDED_DOWN = Context(prec=60, rounding=ROUND_DOWN)


class InstrumentRules(msgspec.Struct, frozen=True):
    """The rules of one instrument: quantities in `base` coin, prices and `least_value` in `quote` coin.

    `most_quantity` holds for limit orders, `most_market_quantity` for market orders.
    """

    instrument: Instrument
    base: str
    quote: str
    settle: str
    step: Decimal
    tick: Decimal
    least_quantity: Decimal
    most_quantity: Decimal
    most_market_quantity: Decimal
    least_value: Decimal
    status: str = TRADING

    @property
    def is_tradable(self) -> bool:
        """Return whether orders are taken."""
        return self.status == TRADING

    def round_down(self, quantity: Decimal) -> Decimal:
        """Return the largest multiple of the step that is not above `quantity`."""
        return round_down(quantity, self.step)

    def round_up(self, quantity: Decimal) -> Decimal:
        """Return the smallest multiple of the step that is not below `quantity`."""
        return round_up(quantity, self.step)

    def round_price(self, price: Decimal, side: Side) -> Decimal:
        """Return `price` on the tick: a limit to buy is rounded up, one to sell down."""
        return round_up(price, self.tick) if side == BUY else round_down(price, self.tick)

    def is_enough(self, quantity: Decimal, price: Decimal) -> bool:
        """Return whether an order of `quantity` at `price` reaches the least quantity and value."""
        return quantity >= self.least_quantity and EXACT.multiply(quantity, price) >= self.least_value


def round_down(number: Decimal, step: Decimal) -> Decimal:
    """Return the largest multiple of `step` that is not above `number`, which is not below zero."""
    return EXACT.multiply(EXACT.divide_int(number, step), step)


def round_up(number: Decimal, step: Decimal) -> Decimal:
    """Return the smallest multiple of `step` that is not below `number`, which is not below zero."""
    below = round_down(number, step)
    return below if below == number else EXACT.add(below, step)


def common_step(one: Decimal, other: Decimal) -> Decimal:
    """Return the smallest quantity that is a multiple of both steps."""
    exponent = min(_exponent(one), _exponent(other), 0)
    units = lcm(int(one.scaleb(-exponent, EXACT)), int(other.scaleb(-exponent, EXACT)))
    return Decimal(units).scaleb(exponent, EXACT)


def divide(dividend: Decimal, divisor: Decimal) -> Decimal:
    """Return a quotient, rounded down to 60 digits."""
    return _ROUNDED_DOWN.divide(dividend, divisor)


def _exponent(number: Decimal) -> int:
    exponent = number.as_tuple().exponent
    return exponent if isinstance(exponent, int) else 0


def not_tradable(instrument: Instrument, why: str) -> str:
    """Return the reply text for an order with a leg that no order is sent for."""
    return f"instrument not tradable: {instrument}: {why}"
