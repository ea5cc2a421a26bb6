"""One order at the exchange for a leg of a trade, and what is reported of it."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

import msgspec

from blackbird.market.instrument import Instrument

Side = Literal["Buy", "Sell"]
BUY: Literal["Buy"] = "Buy"
SELL: Literal["Sell"] = "Sell"


class LegOrder(msgspec.Struct, frozen=True):
    """An order for one leg: immediate or cancel, so that nothing of it ever rests at the exchange.

    A limit order where `limit` is set, else a market order that may not trade further than `slippage_percent`
    from the best price it meets. `quantity` is in base coin. The same `link_id` again is the same order.
    """

    link_id: str
    instrument: Instrument
    side: Side
    quantity: Decimal
    limit: Decimal | None = None
    slippage_percent: Decimal | None = None
    reduce_only: bool = False


class Taken(msgspec.Struct, frozen=True, tag=True):
    """The exchange has the order: it was accepted, was found, or an order with its link id exists already."""

    link_id: str
    order_id: str = ""


class LegRefused(msgspec.Struct, frozen=True, tag=True):
    """The exchange has proven not to have the order: an answer with a code that says so, or never sent."""

    link_id: str
    code: int
    reason: str


class Unknown(msgspec.Struct, frozen=True, tag=True):
    """The exchange may have the order or not: no answer, or one that proves nothing."""

    link_id: str
    why: str


class Fill(msgspec.Struct, frozen=True, tag=True):
    """One execution of one of our orders, as the exchange reported it.

    `quantity` is in base coin, above zero; `fee` in `fee_coin`, below zero for a rebate; `time` the
    exchange's milliseconds.
    """

    exec_id: str
    link_id: str
    instrument: Instrument
    side: Side
    price: Decimal
    quantity: Decimal
    fee: Decimal
    fee_coin: str
    time: int
    exec_type: str = "Trade"


class Final(msgspec.Struct, frozen=True, tag=True):
    """The order is over; `cumulative` base coin of it was filled, whatever the fills that came so far say."""

    link_id: str
    cumulative: Decimal


class NotFound(msgspec.Struct, frozen=True, tag=True):
    """The exchange was asked for the order and answered that it has none: neither open, closed nor filled."""

    link_id: str


LegEvent = Taken | LegRefused | Unknown | Fill | Final | NotFound
