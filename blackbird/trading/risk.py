"""The largest exposure of a leg, and what an order would make of it."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

from blackbird.market.decimals import EXACT, ZERO
from blackbird.market.instrument import Instrument
from blackbird.trading.ledger import Ledger
from blackbird.trading.orders import RISK_LIMIT_EXCEED, Order, Refused
from blackbird.trading.reservations import Reservations

RiskModel = Literal["cash", "position"]


class RiskLimit:
    """Refuses orders that would take a leg's exposure beyond `limit`, in quote coin, and make it larger.

    By the `model` "cash", the owner's formula, the exposure of a leg is the cash paid for it less the cash
    received, which drifts by what each round trip earns; by "position" it is the position in base coin times
    the order's price. Leftovers count, and running trades as if only what enlarges the exposure were filled.
    """

    def __init__(
        self,
        limit: Decimal,
        model: RiskModel,
        ledger: Ledger,
        reservations: Reservations,
    ) -> None:
        self._limit = limit
        self._exposure = self._cash if model == "cash" else self._value
        self._ledger = ledger
        self._reservations = reservations

    def check(self, order: Order, buy_price: Decimal, sell_price: Decimal) -> None:
        """Raise Refused where the order, bought and sold at these prices, must not be executed."""
        long = self._exposure(order.buy, buy_price)
        short = self._exposure(order.sell, sell_price)
        if self._reservations.trades:
            long = EXACT.add(long, self._reservations.buying(order.buy))
            short = EXACT.subtract(short, self._reservations.selling(order.sell))
        longer = EXACT.add(long, EXACT.multiply(buy_price, order.size))
        shorter = EXACT.subtract(short, EXACT.multiply(sell_price, order.size))
        limit = self._limit
        if (longer.copy_abs() > limit and longer.copy_abs() > long.copy_abs()) or (
            shorter.copy_abs() > limit and shorter.copy_abs() > short.copy_abs()
        ):
            raise Refused(RISK_LIMIT_EXCEED)

    def _cash(self, leg: Instrument, _price: Decimal) -> Decimal:
        exposure = self._ledger.risks.get(leg, ZERO)
        leftovers = self._ledger.leftovers
        return EXACT.add(exposure, leftovers.paid(leg)) if leftovers.sizes else exposure

    def _value(self, leg: Instrument, price: Decimal) -> Decimal:
        position = self._ledger.positions.get(leg, ZERO)
        leftovers = self._ledger.leftovers
        if leftovers.sizes:
            position = EXACT.add(position, leftovers.size(leg))
        return EXACT.multiply(position, price)
