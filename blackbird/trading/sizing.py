"""How much of an order is sent, and at which limits.

Both legs trade the same size, so it is on the steps of both; it reaches the minimums of both at the limit
prices, and is no more than what the account has free. A spot buy pays its fee in what it buys: more of it is
sent, so that what arrives is at least the size.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import NamedTuple

import msgspec

from blackbird.market.decimals import EXACT, ZERO
from blackbird.trading.instrument_rules import (
    InstrumentRules,
    common_step,
    divide,
    not_tradable,
    round_down,
    round_up,
)
from blackbird.trading.leg_order import BUY, SELL
from blackbird.trading.orders import OPEN_SPREAD, Order, Refused

# Returns the free amount of a coin, of `MARGIN` in USD.
Free = Callable[[str], Decimal]
MARGIN = "margin"
TEN_THOUSAND = Decimal(10_000)
HALF = Decimal("0.5")
ONE = Decimal(1)


class NotEnough(Refused):
    """The account has too little of something."""


class Limits(msgspec.Struct, frozen=True):
    """The prices beyond which the legs are not traded."""

    buy: Decimal
    sell: Decimal


class MarginTerms(NamedTuple):
    """What an order needs of the free margin: nothing for `reducing` base coin, `rate` x its value beyond."""

    reducing: Decimal
    rate: Decimal


class Margins(NamedTuple):
    """What both legs need of the free margin, None where that is not known, as for spot, which needs none."""

    buy: MarginTerms | None = None
    sell: MarginTerms | None = None

    def needed(self, size: Decimal, limits: Limits) -> Decimal:
        """Return what `size` of both legs needs, in USD; the quote coins count as such."""
        total = ZERO
        for terms, price in zip(self, limits_of(limits), strict=True):
            if terms is not None:
                beyond = max(EXACT.subtract(size, terms.reducing), ZERO)
                total = EXACT.add(total, EXACT.multiply(EXACT.multiply(beyond, price), terms.rate))
        return total

    def most(self, free: Decimal, limits: Limits) -> Decimal:
        """Return a size of both legs that `free` is enough for: the largest one where one leg needs some."""
        known = [(terms, price) for terms, price in zip(self, limits_of(limits), strict=True) if terms]
        per_unit = sum((EXACT.multiply(price, terms.rate) for terms, price in known), ZERO)
        return EXACT.add(min(terms.reducing for terms, _ in known), divide(max(free, ZERO), per_unit))


NO_MARGINS = Margins()


def limits_of(limits: Limits) -> tuple[Decimal, Decimal]:
    """Return the limits as those of the buy leg and of the sell leg."""
    return limits.buy, limits.sell


class Sizes(msgspec.Struct, frozen=True):
    """What is sent: `size` is what each leg is to trade, in base coin.

    `buy_quantity` exceeds it where the fee is taken from what is bought.
    """

    size: Decimal
    buy_quantity: Decimal
    sell_quantity: Decimal
    buy_limit: Decimal
    sell_limit: Decimal


def size_order(
    order: Order,
    buy: InstrumentRules,
    sell: InstrumentRules,
    *,
    tolerance_bps: Decimal,
    base_fee: Decimal,
    free: Free,
    margins: Margins = NO_MARGINS,
) -> Sizes:
    """Return what to send of `order` by the rules of its legs; raises Refused with the reply's text.

    `tolerance_bps` is how far from the order's prices the limits are, `base_fee` the fraction that the
    exchange takes out of what a spot buy buys. A close is not measured by its margin: it frees some.
    """
    check_tradable(buy, sell)
    limits = limit_prices(order, buy, sell, tolerance_bps)
    fee = base_fee if buy.instrument.channel == "spot" else ZERO
    step = common_step(buy.step, sell.step)
    size = min(round_down(order.size, step), _most(buy, sell, step, fee))
    _check_minimum(size, order.size, buy, sell, limits)
    affordable = _affordable(size, step, buy, sell, limits.buy, fee, free)
    if affordable < size:
        coin = _scarce_coin(buy, sell, size, free)
        size = affordable
        if not _is_enough(size, buy, sell, limits):
            raise NotEnough(f"not enough {coin}")
    if order.action == OPEN_SPREAD and any(margins):
        size = min(size, round_down(margins.most(free(MARGIN), limits), step))
        if not _is_enough(size, buy, sell, limits):
            raise NotEnough(f"not enough {MARGIN}")
    return Sizes(size, gross_up(size, buy.step, fee), size, limits.buy, limits.sell)


def check_tradable(buy: InstrumentRules, sell: InstrumentRules) -> None:
    """Raise Refused where the legs cannot be traded, or not against each other."""
    for rules in (buy, sell):
        if rules.instrument.channel not in {"spot", "linear"}:
            raise Refused(not_tradable(rules.instrument, "expected spot or linear"))
        if not rules.is_tradable:
            raise Refused(not_tradable(rules.instrument, f"its status is {rules.status}"))
    if buy.base != sell.base:
        raise Refused(
            not_tradable(
                sell.instrument, f"expected {buy.base} as base coin like {buy.instrument}, was {sell.base}"
            )
        )


def limit_prices(order: Order, buy: InstrumentRules, sell: InstrumentRules, tolerance_bps: Decimal) -> Limits:
    """Return the limits: the order's prices with a tolerance, on the ticks.

    Those of an open do not cross the middle of its spread: what both legs fill at never costs money.
    """
    share = divide(tolerance_bps, TEN_THOUSAND)
    to_buy = buy.round_price(EXACT.multiply(order.buy_price, EXACT.add(ONE, share)), BUY)
    to_sell = sell.round_price(EXACT.multiply(order.sell_price, EXACT.subtract(ONE, share)), SELL)
    if order.action != OPEN_SPREAD:
        return Limits(to_buy, max(to_sell, sell.tick))
    if order.sell_price <= order.buy_price:
        # A third-party client's open that loses from the start: what it asked for, and nothing worse.
        return Limits(round_down(order.buy_price, buy.tick), round_up(order.sell_price, sell.tick))
    middle = EXACT.multiply(EXACT.add(order.buy_price, order.sell_price), HALF)
    return Limits(min(to_buy, round_down(middle, buy.tick)), max(to_sell, round_up(middle, sell.tick)))


def gross_up(size: Decimal, step: Decimal, fee: Decimal) -> Decimal:
    """Return the smallest quantity on `step` of which at least `size` is left after the fraction `fee`."""
    # 60 digits are more than sizes, steps and fees have together: rounding the quotient crosses no step.
    return round_up(divide(size, EXACT.subtract(ONE, fee)), step)


def net_of_fee(quantity: Decimal, fee: Decimal) -> Decimal:
    """Return what is left of `quantity` after the fraction `fee`."""
    return EXACT.multiply(quantity, EXACT.subtract(ONE, fee))


def _most(buy: InstrumentRules, sell: InstrumentRules, step: Decimal, fee: Decimal) -> Decimal:
    """Return the largest size that one order of each leg may have."""
    size = round_down(min(net_of_fee(buy.most_quantity, fee), sell.most_quantity), step)
    return (
        size if gross_up(size, buy.step, fee) <= buy.most_quantity else max(EXACT.subtract(size, step), ZERO)
    )


def _is_enough(size: Decimal, buy: InstrumentRules, sell: InstrumentRules, limits: Limits) -> bool:
    return size > ZERO and buy.is_enough(size, limits.buy) and sell.is_enough(size, limits.sell)


def _check_minimum(
    size: Decimal, asked: Decimal, buy: InstrumentRules, sell: InstrumentRules, limits: Limits
) -> None:
    if size == ZERO:
        coarser = max(buy, sell, key=lambda rules: rules.step)
        raise Refused(_below_minimum(asked, coarser))
    for rules, price in ((buy, limits.buy), (sell, limits.sell)):
        if not rules.is_enough(size, price):
            raise Refused(_below_minimum(size, rules))


def _below_minimum(size: Decimal, rules: InstrumentRules) -> str:
    return f"size below minimum: {size.normalize(EXACT):f} of {rules.instrument}"


def _affordable(
    size: Decimal,
    step: Decimal,
    buy: InstrumentRules,
    sell: InstrumentRules,
    buy_limit: Decimal,
    fee: Decimal,
    free: Free,
) -> Decimal:
    """Return how much of `size` the account has the coins for."""
    if sell.instrument.channel == "spot":
        size = min(size, round_down(max(free(sell.base), ZERO), step))
    if buy.instrument.channel == "spot":
        money = max(free(buy.quote), ZERO)
        if EXACT.multiply(gross_up(size, buy.step, fee), buy_limit) > money:
            size = min(size, round_down(net_of_fee(divide(money, buy_limit), fee), step))
            # What is sent is rounded up.
            while size > ZERO and EXACT.multiply(gross_up(size, buy.step, fee), buy_limit) > money:
                size = EXACT.subtract(size, step)
    return size


def _scarce_coin(buy: InstrumentRules, sell: InstrumentRules, size: Decimal, free: Free) -> str:
    """Return the coin of which there is not enough for `size`."""
    if sell.instrument.channel == "spot" and free(sell.base) < size:
        return sell.base
    return buy.quote
