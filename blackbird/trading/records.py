"""What became of orders, as the trading engine accounts for it and as the journal and the database keep it.

A simulated order is executed whole at its prices: its `Execution` says nothing more than the order. A real
one is what its fills make of it (settlement.py): the `Execution` of the size that both legs have, an `Unwind`
for what was bought and sold again of one instrument, and a `Leftover` for what could not be made equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Final, Literal

import msgspec

from blackbird.market.decimals import EXACT
from blackbird.market.instrument import Instrument
from blackbird.trading.leg_order import Fill
from blackbird.trading.orders import Order
from blackbird.trading.spreads import Pair

# A leftover of this reason is too small to be traded: it counts, and blocks nothing.
DUST: Final = "dust"

# What became of a leftover. One that was traded away is part of an Unwind now; the others still count.
TRADED_AWAY: Final = "traded away"
ACCEPTED: Final = "accepted"
Resolution = Literal["dust", "traded away", "accepted"]


class Part(msgspec.Struct, frozen=True):
    """What was bought, or what was sold, of one instrument.

    `flux` is signed cash in quote coin, minus for bought; `fee` is in quote coin too, above zero where it was
    paid, None where it was taken in a coin whose price is not known. Fees taken in base coin count at the
    price of their fill.
    """

    instrument: Instrument
    flux: Decimal
    fee: Decimal | None


class Traded(msgspec.Struct, frozen=True):
    """What both legs of a real order have in common: `size` bought of one and sold of the other."""

    trade_id: str
    size: Decimal
    buy: Part
    sell: Part

    @property
    def buy_price(self) -> Decimal:
        """The average price of the buy leg, in at most 12 decimals."""
        return average_price(self.buy.flux, self.size)

    @property
    def sell_price(self) -> Decimal:
        """The average price of the sell leg, in at most 12 decimals."""
        return average_price(self.sell.flux, self.size)

    @property
    def fee(self) -> Decimal | None:
        """The fees of both legs together, None where one of them is not known."""
        return sum_of_fees(self.buy.fee, self.sell.fee)


class Unwound(msgspec.Struct, frozen=True):
    """`size` of one instrument that was bought and sold again, or the other way round.

    `bought_at` and `sold_at` are the exchange's times of the last fills in ms.
    """

    trade_id: str
    size: Decimal
    bought: Part
    sold: Part
    bought_at: int
    sold_at: int

    @property
    def instrument(self) -> Instrument:
        """What was bought and sold."""
        return self.bought.instrument


class Leftover(msgspec.Struct, frozen=True, tag=True):
    """What a trade left of one instrument: `size` above zero bought, below zero sold, `flux` its signed cash.

    It blocks opens of `pair`, of every pair of its instrument where that is None, until it is resolved; dust
    blocks nothing. `number` tells the leftovers of one trade apart, `since` is in ms.
    """

    trade_id: str
    number: int
    instrument: Instrument
    size: Decimal
    flux: Decimal
    fee: Decimal | None
    reason: str
    since: int
    pair: Pair | None = None

    @property
    def key(self) -> tuple[str, int]:
        """What no other leftover has."""
        return self.trade_id, self.number

    @property
    def blocks(self) -> bool:
        """Return whether it keeps spreads from being opened until it is resolved."""
        return self.reason != DUST


class Resolved(msgspec.Struct, frozen=True, tag=True):
    """What became of a leftover, and when in ms."""

    trade_id: str
    number: int
    resolution: Resolution
    resolved_at: int

    @property
    def key(self) -> tuple[str, int]:
        """The leftover's key."""
        return self.trade_id, self.number


class TradeOutcome(msgspec.Struct, frozen=True):
    """What became of a trade whose legs are over: one of `traded` and `refusal`, the reply's `info`.

    `ended_at` is in ms. `fills` are all of the trade's, in any order.
    """

    trade_id: str
    order: Order
    request_key: str | None
    traded: Traded | None
    refusal: str | None
    unwound: tuple[Unwound, ...]
    leftovers: tuple[Leftover, ...]
    fills: tuple[Fill, ...]
    ended_at: int


class Amendment(msgspec.Struct, frozen=True):
    """What became of a trade after it was booked: leftovers that are resolved, or fills that came late.

    `leftovers` are new: what is still left of a resolved one, or what the late fills have moved.
    """

    trade_id: str
    resolved: tuple[Resolved, ...]
    unwound: tuple[Unwound, ...]
    leftovers: tuple[Leftover, ...]
    fills: tuple[Fill, ...]
    ended_at: int


# --- records: the journal keeps them, in the order of their ids, until the database has them -----------


class Execution(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """An executed order. `execution_id` rises in the order of execution; `placed_at` is in milliseconds.

    Without `traded` it was simulated: executed whole at its prices. `fees` are those of a simulation that
    charges some, of the buy leg and of the sell leg, in quote coin.
    """

    execution_id: int
    order: Order
    placed_at: int
    request_key: str | None = None
    traded: Traded | None = None
    fees: tuple[Decimal | None, Decimal | None] | None = None

    @property
    def buy_flux(self) -> Decimal:
        """The signed cash of the buy leg, without fees: below zero."""
        if self.traded is None:
            # Exact: a unary minus would round to the 28 digits of the default context.
            return EXACT.multiply(self.order.buy_price, self.order.size).copy_negate()
        return self.traded.buy.flux

    @property
    def sell_flux(self) -> Decimal:
        """The cash of the sell leg, without fees."""
        if self.traded is None:
            return EXACT.multiply(self.order.sell_price, self.order.size)
        return self.traded.sell.flux


class Unwind(msgspec.Struct, frozen=True, tag=True):
    """An unwound part of a trade: an execution that bought and sold one instrument. `placed_at` is in ms."""

    execution_id: int
    placed_at: int
    unwound: Unwound


class Refusal(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """An order that was answered NOT ACK, with the answer. `answered_at` is in milliseconds.

    With `trade_id` its legs were sent, and nothing that both have in common came of it.
    """

    execution_id: int
    info: str
    answered_at: int
    order_id: str | None = None
    request_key: str | None = None
    trade_id: str | None = None


class Booking(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """All that came of a real trade, kept together.

    Either `execution` or `refusal` is its answer; an amendment has neither. `execution_id`
    is the largest of the ids in it.
    """

    execution_id: int
    trade_id: str
    execution: Execution | None = None
    refusal: Refusal | None = None
    unwinds: tuple[Unwind, ...] = ()
    leftovers: tuple[Leftover, ...] = ()
    resolved: tuple[Resolved, ...] = ()
    fills: tuple[Fill, ...] = ()

    @property
    def answer(self) -> Execution | Refusal | None:
        """What the sender of the order is told."""
        return self.execution or self.refusal

    def parts(self) -> Iterator[Execution | Refusal | Unwind | Resolved | Leftover]:
        """Return what it books, in order; new leftovers after those that they are the rest of."""
        if self.answer is not None:
            yield self.answer
        yield from self.unwinds
        yield from self.resolved
        yield from self.leftovers


Record = Execution | Refusal | Booking
# What the database gives back: a booking comes in its parts.
Stored = Record | Unwind | Leftover | Resolved


# --- arithmetic ----------------------------------------------------------------------------------


_PRICE_STEP = Decimal("1E-12")
# Enough for the largest flux by the smallest size; rounded to 12 decimals afterwards.
_DIVISION = EXACT.copy()
_DIVISION.clear_traps()


def average_price(flux: Decimal, size: Decimal) -> Decimal:
    """Return `flux` by `size` without its sign, rounded half-even to 12 decimals: no basis for sums."""
    price = _DIVISION.divide(flux.copy_abs(), size).quantize(_PRICE_STEP, context=_DIVISION)
    whole = price.to_integral_value()
    return whole if price == whole else price.normalize(_DIVISION)


def sum_of_fees(*fees: Decimal | None) -> Decimal | None:
    """Return the sum of fees in quote coin, None where one of them is not known."""
    total = Decimal(0)
    for fee in fees:
        if fee is None:
            return None
        total = EXACT.add(total, fee)
    return total
