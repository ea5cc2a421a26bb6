"""Matching of an order with the book of the exchange: levels are walked as far as the limit allows."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from local_exchange.private.decimals import floor_to, plain, times

if TYPE_CHECKING:
    from local_exchange.instrument import Instrument
    from local_exchange.private.orders import Order


@dataclass(frozen=True)
class Match:
    """What a walk of the book came to."""

    # Price and size of each level, in the order of the walk.
    fills: tuple[tuple[Decimal, Decimal], ...]
    # By place, what a level has left as it is written; "" where it is gone.
    left: dict[float, str]


NOTHING = Match((), {})


def walk(instrument: Instrument, order: Order, share: Decimal = Decimal(1)) -> Match:
    """Return what an order trades with the book as it is; neither is changed.

    Args:
        instrument: of the order.
        order: it takes levels up to its price, in whole quantity steps.
        share: of its quantity that is traded at most.
    """
    rules = order.rules
    wanted = times(order.unfilled, share)
    if not order.in_quote:
        wanted = floor_to(wanted, rules.step)
    fills: list[tuple[Decimal, Decimal]] = []
    left: dict[float, str] = {}
    for place, price_text, size_text in instrument.side(bid=not order.is_buy).sizes():
        price = Decimal(price_text)
        if price > order.price if order.is_buy else price < order.price:
            break
        most = floor_to(wanted / price, rules.step) if order.in_quote else wanted
        size = min(most, floor_to(Decimal(size_text), rules.step))
        if size <= 0:
            # Either nothing more is wanted, or the level is smaller than a step.
            if most <= 0:
                break
            continue
        fills.append((price, size))
        left[place] = _written(Decimal(size_text) - size, is_padded=rules.category != "spot")
        wanted -= times(price, size) if order.in_quote else size
    if order.time_in_force == "FOK" and wanted > 0:
        return NOTHING
    return Match(tuple(fills), left)


def would_trade(instrument: Instrument, order: Order) -> bool:
    """Return whether an order takes something of the book at once."""
    return bool(walk(instrument, order).fills)


def _written(size: Decimal, *, is_padded: bool) -> str:
    """Write what is left of a level the way its book writes sizes, "" for nothing."""
    if size <= 0:
        return ""
    return f"{size:f}" if is_padded else plain(size)
